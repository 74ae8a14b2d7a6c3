"""`plumb feedback prompts`: what users of the served model asked, as prompts of the next round."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plumbline.cli.agreement import DatabaseUrl, opened
from plumbline.cli.terminal import AsJson, note, print_json
from plumbline.errors import UserError


def prompts(
    out: Annotated[Path, typer.Option("--out", help="A .jsonl file, for `plumb sample`.", metavar="FILE")],
    cap: Annotated[int, typer.Option("--cap", help="Prompts of one user at most.", min=1)] = 200,
    keep_personal_data: Annotated[
        bool, typer.Option("--keep-personal-data", help="Leave personal data as it is; else [EMAIL] and so on.")
    ] = False,
    plain_ids: Annotated[bool, typer.Option("--plain-ids", help="Write users as they are, without an alias.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Write what users asked the served model, where they agreed that it may be trained on.

    In the playground that is a box to tick; applications send `"metadata": {"consent": "yes"}`. Each prompt is there
    once for each user; of one user the first ones are taken, up to the cap.
    """
    from plumbline.feedback.privacy import Aliases, Replacer, salt_of
    from plumbline.feedback.traffic import consented
    from plumbline.project import Project
    from plumbline.records import write_jsonl

    if out.exists() and not force:
        raise UserError(f"{str(out)!r} is there already: name another file, or --force replaces it")
    replacer = None if keep_personal_data else Replacer()
    aliases = None if plain_ids else Aliases(salt_of(Project.require().folder))
    with opened(database) as store:
        found = consented(store, cap)
        records = found.prompts
        for change in (replacer, aliases):
            records = [change(record) for record in records] if change else records
    written = write_jsonl(out, records)
    kinds = dict(replacer.kinds()) if replacer else None
    if as_json:
        print_json({"prompts": written, "users": found.users, "over_the_cap": found.over, "personal_data": kinds})
        return
    note(f"{written:,} prompts of {found.users:,} users in {out}; {found.over:,} over the cap of {cap}")
    if replacer is not None:
        note(f"personal data replaced: {sum((kinds or {}).values()):,}")
