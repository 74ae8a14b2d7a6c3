"""The steps that bring a database up to date, in order. `m0001_first.py` makes the tables; a new step names the last.

A step says what to do in full and imports nothing from `schema`, since that goes on changing.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection


def upgrade(connection: Connection, to: str = "head") -> None:
    """Brings the tables up to the revision `to`, within the transaction that the connection is in."""
    from alembic.migration import MigrationContext
    from alembic.operations import Operations
    from alembic.script import ScriptDirectory

    here = str(Path(__file__).parent)
    steps = ScriptDirectory(here, version_locations=[here])
    context = MigrationContext.configure(connection, opts={"fn": lambda now, _: steps._upgrade_revs(to, now)})
    with Operations.context(context):
        context.run_migrations()
