"""`plumb versions`, `promote`, `rollback`, `lineage`: what a project has made, of what, and which of it is in force."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plumbline.cli.terminal import AsJson, note, print_json, screen, table

if TYPE_CHECKING:
    from rich.tree import Tree

    from plumbline.lineage import DataFile, Node
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


def promote(
    ref: Ref,
    force: Annotated[
        str,
        typer.Option(
            "--force", help="Promote it though it is worse or was not compared, for this reason.", metavar="REASON"
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Make a version the one that is served.

    It must not be worse than the promoted one on the tasks that `guarded` in plumb.toml names: its latest evaluation
    beside that one decides, by the interval of the difference. A promotion that is forced is recorded with who, when,
    why, and what spoke against it. Who serves the promoted version switches by itself.
    """
    from plumbline.project import Project
    from plumbline.promotion import promote as pass_gate

    project = Project.require()
    before = project.in_force()
    version, found = pass_gate(project, ref, force=force.strip(), by=person())
    for finding in found:
        note(finding.said)
    if before and not project.config.guarded:
        note("no task is guarded in plumb.toml, so nothing was compared")
    tell(version, before, as_json)


def rollback(
    why: Annotated[str, typer.Option("--why", help="The reason, for the record.", metavar="REASON")] = "",
    as_json: AsJson = False,
) -> None:
    """Go back to the version promoted before."""
    from plumbline.project import Project

    project = Project.require()
    before = project.in_force()
    tell(project.rollback(by=person(), why=why), before, as_json)


def person() -> str:
    """Who runs the command, as the system knows it."""
    import getpass
    import os

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run a user without a name
        return f"user {os.getuid()}"


def lineage(
    ref: Ref,
    ids: Annotated[bool, typer.Option("--ids", help="List the ids of every row.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a version was made of, down to the rows of its data.

    Its base and parents, the reward and the reference that trained it, and of each the data files with the ids of their
    sets, prompts and labelers. A file that moved is found by its content; one that changed is said to have.
    """
    from plumbline.lineage import lineage as walk
    from plumbline.project import Project

    found = walk(Project.require(), ref)
    if as_json:
        print_json(json.loads(json.dumps(asdict(found), default=str)))
        return
    from rich.tree import Tree

    tree = Tree(node_title(found))
    grow(tree, found, ids)
    screen().print(tree)


def grow(tree: Tree, node: Node, ids: bool) -> None:
    """The node's data and its parents as branches."""
    from rich.markup import escape

    for file in node.data:
        branch = tree.add(file_title(file))
        for row in file.ids if ids else ():
            branch.add(escape(" ".join(f"{name} {value}" for name, value in row.items()) or "a row without an id"))
    for parent in node.parents:
        grow(tree.add(node_title(parent)), parent, ids)


def node_title(node: Node) -> str:
    from rich.markup import escape

    role = f"[dim]{node.role}[/] " if node.role else ""
    if node.version is None:
        return f"{role}{escape(node.name)} [dim]not made in this project"
    made = f"made {node.version.created[:16]} by plumbline {node.version.code_version}"
    return f"{role}[bold]{node.name}[/] [dim]{made}, {node.version.digest[:12]}"


STATES = {"there": "", "moved": ", found elsewhere", "changed": ", CHANGED SINCE", "gone": ", GONE"}


def file_title(file: DataFile) -> str:
    """A data file with its rows and how many different ids of each kind they hold."""
    from rich.markup import escape

    held: dict[str, set[str]] = {}
    for row in file.ids:
        for name, value in row.items():
            held.setdefault(name.removesuffix("_id"), set()).add(value)
    counts = ", ".join(f"{len(values):,} {name}{'s' * (len(values) != 1)}" for name, values in held.items())
    rows = "" if file.rows is None else f"{file.rows:,} row{'s' * (file.rows != 1)}"
    rows += f" ({counts})" if counts else ""
    return f"{escape(file.path)} [dim]{file.digest[:12]}[/] {rows}{STATES[file.state]}"


def tell(now: Version | None, before: str, as_json: bool) -> None:
    """What is in force now, and what was."""
    ref = now.ref if now else ""
    if as_json:
        print_json({"promoted": ref or None, "before": before or None})
        return
    typer.echo(ref or "nothing is promoted")
    if before != ref:
        note(f"before: {before or 'nothing'}")


def as_data(version: Version, promoted: Version | None) -> dict[str, Any]:
    return {"version": version.ref, **asdict(version), "folder": str(version.folder), "promoted": version == promoted}
