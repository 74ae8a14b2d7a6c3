"""`plumb audit`: whether a run's reward is being gamed, as far as one can look."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plumbline.cli.loading import Label, Reads, open_scorer
from plumbline.cli.terminal import AsJson, note, print_json, printable, progress, screen, table, waiting
from plumbline.errors import UserError

if TYPE_CHECKING:
    from plumbline.align.audit import Audit

STYLES = {"alarm": "bold red", "changed": "yellow", "look": "yellow", "quiet": "green"}


def audit(
    run: Annotated[Path, typer.Argument(help="Folder of a run that samples answers.", metavar="RUN")],
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            help="Scorer that had no part in the training: a reward model of another seed, a classifier, a function. "
            "Give it several times for several.",
            metavar="SCORER",
        ),
    ] = None,
    answers: Annotated[int, typer.Option("--answers", help="Answers of a step that a scorer sees.", metavar="N")] = 64,
    again: Annotated[bool, typer.Option("--again", help="Ask the scorers anew, also where scores are kept.")] = False,
    label: Label = None,
    reads: Reads = None,
    as_json: AsJson = False,
) -> None:
    """Look whether a run's reward is being gamed.

    Holds the trained reward against scorers that had no part in the training, and counts what changed in the answers:
    length, endings, repetition, variety, phrases. Writes a page, a picture and the numbers to RUN/audit. Scores are
    kept there too, so a second audit is quick. It tells what it found, and cannot prove that nothing is wrong.
    """
    from plumbline.align.audit import audit as look_at
    from plumbline.align.audit_page import numbers, write_audit

    if len(by or []) != 1 and (label or reads):
        raise UserError("--label and --reads are about one scorer: give exactly one --by with them")
    scorers = [open_scorer(name, label, reads) for name in by or []]
    with ExitStack() as stack:

        def advance(scorer: str, total: int) -> Callable[[int], object]:
            stack.close()  # one bar at a time
            return stack.enter_context(progress(scorer, total=total, unit="answers"))

        found = look_at(run, scorers, answers=answers, again=again, advance=advance)
    with waiting("drawing"):
        page = write_audit(found)
    if as_json:
        print_json(numbers(found))
    else:
        print_findings(found)
    note(f"page: {page}")


def print_findings(found: Audit) -> None:
    """A verdict for each question, with its n."""
    from rich.text import Text

    from plumbline.align.audit_page import STATES

    rows = table("", "")
    for each in found.findings:
        said = Text.assemble((each.question, "bold"), f"\n{printable(each.verdict)} ", (f"n: {each.n}", "dim"))
        rows.add_row(Text(STATES[each.state], STYLES.get(each.state, "dim"), no_wrap=True), said)
    screen().print(rows)
    for line in found.notes:
        note(line)
    note(found.summary)
