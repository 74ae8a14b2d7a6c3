"""`plumb score`: a number for each answer in a file."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plumbline.cli.loading import Label, Reads, open_scorer
from plumbline.cli.output import Force, Output
from plumbline.cli.terminal import AsJson, print_json, progress, screen, table
from plumbline.errors import UserError

if TYPE_CHECKING:
    from plumbline.cli.scored import Scored

AT_ONCE = 64
"""Answers of one call."""


def score(
    data: Annotated[
        Path,
        typer.Argument(help="JSON Lines with a prompt and a completion in each, as generate writes.", metavar="DATA"),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--by",
            "--model",
            help="refusal, refusal-judge or toxicity, which ship; or a classifier: a folder, a hub id or a version.",
            metavar="SCORER",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the lines with their scores here.", metavar="FILE")
    ] = None,
    label: Label = None,
    reads: Reads = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Give each answer in a file a score.

    A score is the log-odds of the classifier's label. Every line is written as it was, with `score` and `scorer`
    added: to --out, with a summary on the screen, or to stdout. Stopped in between, the same command goes on.
    """
    from plumbline.cli.scored import Scored
    from plumbline.records import read_jsonl

    lines = list(read_jsonl(data, Scored))
    output = Output(out, force=force)
    scorer = open_scorer(model, label, reads)
    there = scored_lines(output, lines, scorer.name)
    scores = [line.score for line in there if line.score is not None]
    try:
        with progress(scorer.name, total=len(lines), done=len(scores), unit="answers") as advance:
            for begin in range(len(scores), len(lines), AT_ONCE):
                batch = lines[begin : begin + AT_ONCE]
                numbers = scorer([line.prompt for line in batch], [line.completion for line in batch])
                pairs = zip(batch, numbers, strict=True)
                output.write([line.model_copy(update={"score": n, "scorer": scorer.name}) for line, n in pairs])
                scores += numbers
                advance(len(batch))
    finally:
        output.tell(len(scores), len(lines), "answers")
    if out is not None:
        print_summary(scores, as_json)


def scored_lines(output: Output, lines: list[Scored], scorer: str) -> list[Scored]:
    """What a stopped run has written; raises where it is not the beginning of the data with this scorer's scores."""
    from plumbline.cli.scored import Scored
    from plumbline.records import read_jsonl

    there = list(read_jsonl(output.path, Scored)) if output.path is not None and output.begun() else []
    for number, written in enumerate(there):
        line = lines[number] if number < len(lines) else None
        if line is None or (written.prompt, written.completion, written.scorer) != (
            line.prompt,
            line.completion,
            scorer,
        ):
            raise UserError(
                f"line {number + 1} of {str(output.path)!r} is not line {number + 1} of the data scored by {scorer!r}: "
                "name another --out, or begin again with --force"
            )
    return there


def print_summary(scores: list[float], as_json: bool) -> None:
    """The scores in one line: where they lie and how far apart."""
    facts = {
        "answers": len(scores),
        "mean": statistics.fmean(scores),
        "deviation": statistics.pstdev(scores),
        "lowest": min(scores),
        "highest": max(scores),
    }
    if as_json:
        print_json(facts)
        return
    rows = table(*(f">{name}" for name in facts))
    rows.add_row(*(f"{value:,.3g}" if isinstance(value, float) else f"{value:,}" for value in facts.values()))
    screen().print(rows)
