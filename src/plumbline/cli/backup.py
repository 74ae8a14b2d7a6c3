"""`plumb backup` and `plumb restore`: a copy of all that people said."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plumbline.cli.agreement import DatabaseUrl, opened
from plumbline.cli.terminal import note
from plumbline.errors import UserError


def backup(
    out: Annotated[Path, typer.Argument(help="The copy.", metavar="FILE")],
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    database: DatabaseUrl = None,
) -> None:
    """Copy all that people said into one file, also while they go on."""
    if out.exists() and not force:
        raise UserError(f"{str(out)!r} is there already: name another, or replace it with --force")
    if not out.absolute().parent.is_dir():
        raise UserError(f"there is no folder {str(out.parent)!r} to put the copy in: make it first")
    with opened(database) as store:
        store.backup(out)
    note(f"{out}: {out.stat().st_size:,} bytes")


def restore(
    path: Annotated[Path, typer.Argument(help="A file that `plumb backup` wrote.", metavar="FILE")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    database: DatabaseUrl = None,
) -> None:
    """Put a copy in the place of all that the project's people said."""
    if not yes:
        typer.confirm(f"Replace all that people said in this project by {str(path)!r}?", abort=True, err=True)
    with opened(database) as store:
        store.restore(path)
        note(f"restored: {store.count():,} sets")
