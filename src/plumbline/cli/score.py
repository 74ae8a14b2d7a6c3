"""`plumb score`: a number for each answer in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plumbline.cli.output import Force, Output
from plumbline.cli.terminal import progress, waiting
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
        str, typer.Option("--model", help="A classifier: a folder, a hub id or a version.", metavar="SCORER")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the lines with their scores here.", metavar="FILE")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="The class whose log-odds are the score.", metavar="NAME")
    ] = None,
    force: Force = False,
) -> None:
    """Give each answer in a file a score.

    A score is the log-odds of the classifier's label. Every line is written as it was, with `score` and `scorer`
    added; without --out, to stdout. Stopped in between, the same command goes on.
    """
    from plumbline.cli.scored import Scored
    from plumbline.models.score import load_scorer
    from plumbline.records import read_jsonl

    lines = list(read_jsonl(data, Scored))
    output = Output(out, force=force)
    with waiting(f"loading {model}"):
        scorer = load_scorer(model, label)
    there = count_scored(output, lines, scorer.name)
    done = there
    try:
        with progress(scorer.name, total=len(lines), done=there, unit="answers") as advance:
            for begin in range(there, len(lines), AT_ONCE):
                batch = lines[begin : begin + AT_ONCE]
                numbers = scorer([line.prompt for line in batch], [line.completion for line in batch])
                output.write(
                    [
                        line.model_copy(update={"score": number, "scorer": scorer.name})
                        for line, number in zip(batch, numbers, strict=True)
                    ]
                )
                done += len(batch)
                advance(len(batch))
    finally:
        output.tell(done, len(lines), "answers")


def count_scored(output: Output, lines: list[Scored], scorer: str) -> int:
    """How many lines a stopped run has written; raises where they are not the first ones of the data."""
    from plumbline.cli.scored import Scored
    from plumbline.records import read_jsonl

    if not output.begun() or output.path is None:
        return 0
    count = 0
    for count, (written, line) in enumerate(zip(read_jsonl(output.path, Scored), lines, strict=False), start=1):
        if (written.prompt, written.completion, written.scorer) != (line.prompt, line.completion, scorer):
            raise UserError(
                f"line {count} of {str(output.path)!r} is not line {count} of the data scored by {scorer!r}: "
                "name another --out, or begin again with --force"
            )
    return count
