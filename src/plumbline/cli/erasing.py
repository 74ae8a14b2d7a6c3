"""`plumb feedback erase`: what came from a user, or who a labeler is, for good."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from plumbline.cli.agreement import DatabaseUrl, opened
from plumbline.cli.terminal import AsJson, note, print_json, screen, table
from plumbline.errors import UserError

if TYPE_CHECKING:
    from plumbline.feedback.store import Erased, Store


def erase(
    user: Annotated[
        str | None,
        typer.Argument(help="The user's id, as the application gave it.", metavar="USER", show_default=False),
    ] = None,
    labeler: Annotated[
        str | None, typer.Option("--labeler", help="A labeler instead, by name, id, or id:ID.", metavar="NAME")
    ] = None,
    with_rankings: Annotated[
        bool, typer.Option("--with-rankings", help="What the labeler said goes, too; else it stays, of nobody.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Remove all that came from a user, or who a labeler is, and say which models have seen it.

    Of a user: thumbs, edits, and the sets of their prompts with everybody's rankings of those. Of a labeler: name,
    sign-in, links and drafts, and with --with-rankings all that they said. No exported file changes; those that hold
    it are named. It cannot be undone.
    """
    if (user is None) == (labeler is None):
        raise UserError("who is to be erased? Give a USER, or --labeler NAME")
    if with_rankings and labeler is None:
        raise UserError("--with-rankings goes with --labeler NAME: of a user, all rankings of their prompts go anyway")
    with opened(database) as store:
        if labeler is not None:
            erased = erase_labeler(store, labeler, with_rankings, yes)
        else:
            erased = erase_user(store, str(user), yes)
    if as_json:
        print_json({**asdict(erased), "rows": dict(erased.rows)})
    else:
        show_erased(str(user or labeler), erased)


def erase_user(store: Store, user: str, yes: bool) -> Erased:
    from plumbline.feedback.selection import prompts_of, read_splits, write_splits

    confirm(f"Remove all that came from {user!r}, for good?", yes)
    assert store.project is not None
    if store.project.config.cache:
        from plumbline.serve.shared_cache import forget

        forget(store.project.config.cache, store.where, user)
    erased = store.erase(user)
    if splits := read_splits(store.project.folder):
        write_splits(store.project.folder, prompts_of(store, splits))
    return erased


def erase_labeler(store: Store, named: str, with_rankings: bool, yes: bool) -> Erased:
    who = store.person(named)
    what = "and all that they said" if with_rankings else "and keep what they said, without a name"
    confirm(f"Remove the labeler {who.name!r} {what}, for good?", yes)
    return store.erase_labeler(who.labeler_id, with_rankings=with_rankings)


def confirm(question: str, yes: bool) -> None:
    if not yes:
        typer.confirm(question, abort=True, err=True)


def show_erased(who: str, erased: Erased) -> None:
    gone = {name: count for name, count in erased.rows.items() if count}
    if not gone:
        note(f"there is nothing of {who!r}: is it the id that the application gave?")
        return
    rows = table("removed", ">rows")
    for name, count in gone.items():
        rows.add_row(name.replace("_", " "), f"{count:,}")
    screen().print(rows)
    if erased.data_hashes:
        note(f"exported files that may hold it still: {len(erased.data_hashes)}; delete those with these SHA-256")
        for each in erased.data_hashes:
            note(f"  {each}")
    if erased.versions:
        note(f"trained on it: {', '.join(erased.versions)}")
