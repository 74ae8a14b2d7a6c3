"""`plumb label`: the ranking room, on this machine, until Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plumbline.cli.agreement import DatabaseUrl
from plumbline.cli.terminal import note
from plumbline.errors import UserError

if TYPE_CHECKING:
    from plumbline.feedback.store import Labeler, Store

MANAGER = "manager"
LINK_DAYS = 7
HERE = ("127.0.0.1", "localhost", "::1")


def label(
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="Comparison sets to add first, from `plumb sample`. May be given again."),
    ] = None,
    labelers: Annotated[
        str, typer.Option("--labelers", help="Who ranks: names with commas between. New ones are added.")
    ] = "",
    overlap: Annotated[
        int | None, typer.Option("--overlap", help="How many people rank each set; 3 unless it was changed.", min=1)
    ] = None,
    again: Annotated[
        float | None,
        typer.Option(
            "--again", help="The share of sets that people see a second time, to tell how steady they are.", metavar="X"
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="The port; 7586 or, where that is taken, any free one.")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="The address to listen at. Others than this machine need HTTPS before it.")
    ] = "127.0.0.1",
    database: DatabaseUrl = None,
) -> None:
    """Open the ranking room: people rank answers in a browser.

    Prints one sign-in link for each labeler and one for the manager. A link works once, for seven days. What people
    rank is kept in the project's database, the file plumb.db unless plumb.toml names another.
    """
    from plumbline.feedback.queue import Queue
    from plumbline.feedback.room.app import create_app
    from plumbline.feedback.store import Store
    from plumbline.project import Project
    from plumbline.web.server import serve

    project = Project.require()
    with Store.open(project, url=database) as store:
        for path in data or ():
            add_sets(store, path, project.config.criterion)
        queue = Queue(store)
        set_overlap(store, overlap, again)
        people = present(store, labelers)
        if not store.count():
            note("there is nothing to rank yet: make sets with `plumb sample`, and add them with --data FILE")

        def tell(address: str) -> None:
            for each in people:
                typer.echo(f"{each.name}  {address}/sign-in/{new_link(store, each)}")
            if all(each.role == "manager" for each in people):
                note("add people with --labelers ann,ben, or on the manager's page")
            if host not in HERE:
                note(f"whoever reads the traffic to {host} reads everything: put a server with HTTPS before it")
            note("Ctrl-C ends the room; what was ranked is kept")

        serve(create_app(store, queue), host=host, port=port, ready=tell)


def add_sets(store: Store, path: Path, criterion: str) -> None:
    """Adds the sets of a file; a bad one is named and the others go on."""
    from plumbline.feedback.instructions import FIRST
    from plumbline.records import BadLine, ComparisonSet, read_jsonl

    def bad_line(line: BadLine) -> None:
        note(str(line))

    def bad_set(each: ComparisonSet, why: str) -> None:
        note(f"{path}: the set {each.set_id!r} is left out: {why}")

    if not store.criteria():
        store.add_criterion("helpful", f"{criterion}\n\n{FIRST}".strip())
    added = store.add_sets(read_jsonl(path, ComparisonSet, on_bad=bad_line), on_bad=bad_set)
    note(f"{path}: new sets {added.new}, known ones {added.known}")


def set_overlap(store: Store, each: int | None, again: float | None) -> None:
    """Changes what was said; the rest stays as it was."""
    from dataclasses import replace

    if again is not None and not 0 <= again <= 1:
        raise UserError(f"--again is {again!r}: it is a share between 0 and 1")
    now = store.overlap()
    share = now.again_share if again is None else again
    store.set_overlap(replace(now, each=each or now.each, again_share=share))


def present(store: Store, names: str) -> list[Labeler]:
    """Everybody, the named ones added where they are new, and a manager in any case."""
    there = {each.name: each for each in store.labelers()}
    if not any(each.role == "manager" for each in there.values()):
        store.add_labeler(MANAGER, "manager")
    for name in filter(None, (name.strip() for name in names.split(","))):
        if name not in there:
            store.add_labeler(name)
    return store.labelers()


def new_link(store: Store, labeler: Labeler) -> str:
    from datetime import timedelta

    return store.new_link(labeler.labeler_id, timedelta(days=LINK_DAYS))
