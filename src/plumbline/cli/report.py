"""`plumb report`: a version's model card, and a self-report over a list of transparency indicators."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plumbline.cli.terminal import note
from plumbline.cli.versions import Ref
from plumbline.errors import UserError


def report(
    ref: Ref,
    indicators: Annotated[
        Path | None,
        typer.Option(
            "--indicators",
            help="CSV file of transparency indicators (Domain, Subdomain, Indicator) to answer from the records.",
            metavar="FILE",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write README.md (and TRANSPARENCY.md) into this folder.", metavar="FOLDER"),
    ] = None,
) -> None:
    """Write a version's model card from what is on record.

    The card has the form of the Hugging Face hub: lineage, data with hashes, figures with n and interval, releases, and
    a list of what nobody recorded. With --indicators a self-report answers each of them, or says that it is unanswered.
    """
    from plumbline.card import gather, write_card
    from plumbline.project import Project
    from plumbline.transparency import read_indicators, write_report

    listed = read_indicators(indicators) if indicators else None
    facts = gather(Project.require(), ref)
    pages = {"README.md": write_card(facts)}
    if listed is not None:
        pages["TRANSPARENCY.md"] = write_report(facts, listed)
    if out is None:
        typer.echo("\n".join(pages.values()), nl=False)
        return
    if out.is_file():
        raise UserError(f"--out is {str(out)!r}, which is a file: name a folder")
    out.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (out / name).write_text(text, encoding="utf-8")
        note(f"{out / name}")
