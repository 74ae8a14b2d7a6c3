"""`plumb init`: a project folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder; it is made if it is not there.")],
) -> None:
    """Make a project folder."""
    from plumbline.project import Project

    project = Project.create(folder)
    typer.echo(project.folder)
