"""The vector of a question, by which one that is alike may get the answer of this one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("exchange", sa.Column("alike_key", sa.Text(), nullable=True))
    op.add_column("exchange", sa.Column("vector", sa.LargeBinary(), nullable=True))
    op.create_index("ix_exchange_alike_key", "exchange", ["alike_key"])
