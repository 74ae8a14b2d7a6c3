"""`plumb feedback prompts`: what users of the served model asked, as prompts of the next round."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plumbline.cli.agreement import DatabaseUrl, opened
from plumbline.cli.terminal import AsJson, note, print_json
from plumbline.errors import UserError

if TYPE_CHECKING:
    from plumbline.project import Project


def prompts(
    out: Annotated[Path, typer.Option("--out", help="A .jsonl file, for `plumb sample`.", metavar="FILE")],
    cap: Annotated[int, typer.Option("--cap", help="Prompts of one user at most.", min=1)] = 200,
    keep_personal_data: Annotated[
        bool, typer.Option("--keep-personal-data", help="Leave personal data as it is; else [EMAIL] and so on.")
    ] = False,
    answers: Annotated[
        bool, typer.Option("--answers", help="With the answers of the larger model, for the small one to learn.")
    ] = False,
    plain_ids: Annotated[bool, typer.Option("--plain-ids", help="Write users as they are, without an alias.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Write what users asked the served model, where they agreed that it may be trained on.

    In the playground that is a box to tick; applications send `"metadata": {"consent": "yes"}`. Each prompt is there
    once for each user; of one user the first ones are taken, up to the cap. With --answers they are demonstrations:
    what the larger model of [route] answered, without what got a thumb down, and only where plumb.toml says with
    `teaches = true` that its licence lets its answers be trained on.
    """
    from plumbline.feedback.privacy import Aliases, Replacer, salt_of
    from plumbline.feedback.routes import Taught, taught
    from plumbline.feedback.traffic import Consented, consented
    from plumbline.project import Project
    from plumbline.records import write_jsonl

    if out.exists() and not force:
        raise UserError(f"{str(out)!r} is there already: name another file, or --force replaces it")
    replacer = None if keep_personal_data else Replacer()
    aliases = None if plain_ids else Aliases(salt_of(Project.require().folder))
    teacher = teacher_of(Project.require()) if answers else None
    with opened(database) as store:
        found: Consented | Taught = consented(store, cap) if teacher is None else taught(store, teacher, cap)
        records: Sequence[Any] = found.prompts if isinstance(found, Consented) else found.demonstrations
        for change in (replacer, aliases):
            records = [change(record) for record in records] if change else records
    written = write_jsonl(out, records)
    kinds = dict(replacer.kinds()) if replacer else None
    disliked = found.disliked if isinstance(found, Taught) else None
    if as_json:
        told = {"prompts": written, "users": found.users, "over_the_cap": found.over, "personal_data": kinds}
        print_json(told if disliked is None else {**told, "disliked": disliked})
        return
    note(f"{written:,} prompts of {found.users:,} users in {out}; {found.over:,} over the cap of {cap}")
    if disliked is not None:
        note(f"with the answers of {teacher}; {disliked:,} left out that got a thumb down")
    if replacer is not None:
        note(f"personal data replaced: {sum((kinds or {}).values()):,}")


def teacher_of(project: Project) -> str:
    """The larger model, where its answers may be trained on."""
    from plumbline.serve.route import read_route

    route = read_route(project.config.route)
    if route is None:
        raise UserError("--answers takes those of a larger model, and plumb.toml names none: it has no [route]")
    if not route.teaches:
        raise UserError(
            f"plumb.toml does not say that the answers of {route.large!r} may be trained on: read its licence, and "
            "where it allows that, put `teaches = true` into [route]"
        )
    return route.large
