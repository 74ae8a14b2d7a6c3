"""Which model a request was routed to, and what the exchange cost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("exchange", sa.Column("route", sa.Text(), nullable=True))
    op.add_column("exchange", sa.Column("cost", sa.Double(), nullable=True))
