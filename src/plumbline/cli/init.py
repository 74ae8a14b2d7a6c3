"""`plumb init`: a project folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plumbline.cli.terminal import note


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder; it is made if it is not there.")],
) -> None:
    """Make a project folder.

    It holds the settings (plumb.toml), the models and the runs. In a folder that is a project already, nothing changes.
    """
    from plumbline.project import Project

    project = Project.create(folder)
    typer.echo(project.folder)
    note("its settings are in plumb.toml; commands run inside it use them")
