"""`plumb versions`, `plumb promote`, `plumb rollback`: what a project has made, and which of it is in force."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plumbline.cli.terminal import AsJson, note, print_json, screen, table

if TYPE_CHECKING:
    from plumbline.project import Version

Ref = Annotated[str, typer.Argument(metavar="REF", help="A version, name@n; a name alone is its newest.")]


def versions(as_json: AsJson = False) -> None:
    """List the project's model versions."""
    from rich.markup import escape

    from plumbline.project import Project

    project = Project.require()
    found, promoted = project.versions(), project.promoted()
    if as_json:
        print_json([as_data(each, promoted) for each in found])
        return
    if not found:
        note(f"no version in {project.models} yet: training makes them")
        return
    rows = table("version", "", "base", "parents", "mode", "made")
    for each in found:
        mark = "[green]promoted" if each == promoted else ""
        rows.add_row(each.ref, mark, escape(each.base), ", ".join(each.parents), each.engine_mode, each.created[:16])
    screen().print(rows)


def promote(ref: Ref, as_json: AsJson = False) -> None:
    """Make a version the one that is served."""
    from plumbline.project import Project

    project = Project.require()
    before = project.promoted()
    tell(project.promote(ref), before, as_json)


def rollback(as_json: AsJson = False) -> None:
    """Go back to the version promoted before."""
    from plumbline.project import Project

    project = Project.require()
    before = project.promoted()
    tell(project.rollback(), before, as_json)


def tell(now: Version | None, before: Version | None, as_json: bool) -> None:
    """What is in force now, and what was."""
    if as_json:
        print_json({"promoted": now and now.ref, "before": before and before.ref})
        return
    typer.echo(now.ref if now else "nothing is promoted")
    if before != now:
        note(f"before: {before.ref if before else 'nothing'}")


def as_data(version: Version, promoted: Version | None) -> dict[str, Any]:
    return {"version": version.ref, **asdict(version), "folder": str(version.folder), "promoted": version == promoted}
