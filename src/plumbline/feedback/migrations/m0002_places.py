"""Those who are left out take no place, so the counts of their sets are made again; and a share is shown twice."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

EXCLUDED = """
SELECT labeler_id FROM exclusion_event
WHERE excluded AND number IN (SELECT max(number) FROM exclusion_event GROUP BY labeler_id)
"""


def upgrade() -> None:
    op.add_column("overlap", sa.Column("again_share", sa.Double(), nullable=False, server_default="0"))
    op.execute(f"""
        UPDATE comparison_set SET counted = (
            SELECT count(DISTINCT labeler_id) FROM ranking_event
            WHERE ranking_event.set_id = comparison_set.set_id AND NOT again AND labeler_id NOT IN ({EXCLUDED})
        )
        WHERE set_id IN (SELECT set_id FROM ranking_event WHERE labeler_id IN ({EXCLUDED}))
    """)
