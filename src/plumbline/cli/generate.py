"""`plumb generate`: answers to one prompt, or to a file of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plumbline.cli.answers import answer_all
from plumbline.cli.loading import Engine, Label, Mode, ModelName, Reads, named, open_model, open_scorer
from plumbline.cli.output import Force, Output
from plumbline.cli.prompts import RawText, System, check_fit, frame, one_prompt, read_prompts, sent_text, tokenizer_of
from plumbline.cli.sampling import SamplingOptions, as_settings, takes_sampling
from plumbline.cli.terminal import AsJson, note, print_json, print_stream, printable, waiting
from plumbline.errors import UserError

if TYPE_CHECKING:
    from plumbline.models import Completion, Generate, Prompt, Sampling
    from plumbline.records import Generated, PromptRecord

Unnamed = Annotated[list[str] | None, typer.Argument(hidden=True)]
Chosen = Annotated[
    int | None,
    typer.Option("--best-of", help="Draw N answers for each one, and keep the best by --by.", metavar="N"),
]
By = Annotated[
    str | None,
    typer.Option(
        "--by", help="What chooses: a reward model or a classifier, by its folder, version or hub id.", metavar="SCORER"
    ),
]


@takes_sampling()
def generate(
    sampling: SamplingOptions,
    unnamed: Unnamed = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="The prompt to answer.", metavar="TEXT")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="A file of prompts: JSON Lines, or .txt with one a line.", metavar="FILE"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the answers here, as JSON Lines.", metavar="FILE")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
    system: System = None,
    raw: RawText = False,
    show_prompt: Annotated[
        bool, typer.Option("--show-prompt", help="Print the text that is really sent, on stderr.")
    ] = False,
    best_of: Chosen = None,
    by: By = None,
    label: Label = None,
    reads: Reads = None,
    model: ModelName = None,
    engine: Engine = "auto",
    mode: Mode = None,
) -> None:
    """Answer one prompt, or a file of them.

    The answer to one prompt appears as it is written. With --prompts or --out, answers are JSON Lines: each carries
    its prompt, the model, how it was drawn and why it ended. Stopped in between, the same command goes on.
    """
    from plumbline.models.best import BestOf

    asked = asked_prompts(unnamed, prompt, prompts)
    model = named(model)
    drawn = sampling.resolve()
    check_choice(best_of, by, label, reads, drawn)
    asked = [frame(record, system=system, raw=raw) for record in asked]
    output = Output(out, force=force)
    tokenizer = tokenizer_of(model)
    if show_prompt:
        for record in asked:
            note(sent_text(tokenizer, record, drawn))
    check_fit(tokenizer, asked, drawn, prompts)
    scorer = open_scorer(by, label, reads) if by is not None else None
    generator = open_model(model, engine, mode)
    settings = as_settings(drawn, raw=raw)
    if scorer is not None and best_of is not None:
        generator = BestOf(generator, scorer, best_of)
        settings |= {"best_of": best_of, "by": scorer.name}
    if prompt is None or out is not None:
        write_answers(generator, asked, drawn, settings, output)
    elif as_json:
        answers = [as_record(generator, asked[0], settings, each) for each in generator([asked[0].prompt], drawn)[0]]
        print_json([answer.model_dump(mode="json") for answer in answers])
    else:
        print_answers(generator, asked[0].prompt, drawn)


def asked_prompts(unnamed: list[str] | None, prompt: str | None, prompts: Path | None) -> list[PromptRecord]:
    if unnamed:
        raise UserError(f"{unnamed[0]!r} stands alone: write --prompts before a file, --prompt before a text")
    if (prompt is None) == (prompts is None):
        raise UserError("give either --prompt TEXT or --prompts FILE")
    return [one_prompt(prompt)] if prompt is not None else read_prompts(prompts or Path())


def check_choice(best_of: int | None, by: str | None, label: str | None, reads: str | None, drawn: Sampling) -> None:
    """Refuses half a choice, and one among answers that would all be the same."""
    if (best_of is None) != (by is None):
        raise UserError("--best-of N and --by SCORER belong together: give both, or neither")
    if best_of is None and (label is not None or reads is not None):
        raise UserError("--label and --reads say how --by scores, and nothing is scored: give --best-of N and --by too")
    if best_of is not None and best_of < 1:
        raise UserError(f"--best-of is {best_of}: choose among at least 1 answer")
    if best_of is not None and best_of > 1 and drawn.temperature == 0:
        raise UserError("--temperature is 0, so all answers to a prompt would be the same: raise it")


def write_answers(
    generator: Generate, asked: list[PromptRecord], drawn: Sampling, settings: dict[str, Any], output: Output
) -> None:
    """The answers as records, to a file or to stdout, without those that the file holds already."""
    from plumbline.records import Generated

    left = output.missing(asked, Generated, lines=drawn.n, settings={"model": generator.name, **settings})
    there, best_of = len(asked) - len(left), settings.get("best_of", 1)
    for prompt, completions in answer_all(generator, left, drawn, there=there, output=output, best_of=best_of):
        output.write([as_record(generator, prompt, settings, each) for each in completions])


def as_record(generator: Generate, prompt: PromptRecord, settings: dict[str, Any], completion: Completion) -> Generated:
    from plumbline.models.best import Best
    from plumbline.records import Generated

    record = Generated(
        prompt_id=prompt.prompt_id,
        prompt=prompt.prompt,
        completion=completion.text,
        model=generator.name,
        sampling=settings,
        finish_reason=completion.finish_reason,
        seed=completion.seed,
    )
    return record.model_copy(update={"score": completion.score}) if isinstance(completion, Best) else record


def print_answers(generator: Generate, prompt: Prompt, drawn: Sampling) -> None:
    """One answer as it is written, or several one after the other; then a quiet line about how it went."""
    from plumbline.models.best import BestOf

    if drawn.n == 1 and not isinstance(generator, BestOf):
        completions = [print_stream(generator, prompt, drawn)]
    else:
        with waiting(f"drawing from {generator.name}"):
            completions = generator([prompt], drawn)[0]
        for number, completion in enumerate(completions, start=1):
            if drawn.n > 1:
                note(f"answer {number} of {drawn.n}")
            typer.echo(printable(completion.text))
    note(summary(generator, completions))


def summary(generator: Generate, completions: Sequence[Completion]) -> str:
    """How it went, in one line: tokens, speed, seed, and why the answers ended."""
    from plumbline.models.best import Best

    # An endpoint gives no token ids, but counts.
    tokens = sum(len(completion.tokens) for completion in completions) or generator.speed.new_tokens
    ended = " and ".join(sorted({completion.finish_reason for completion in completions}))
    parts = [generator.name, f"{completions[0].prompt_tokens} tokens in, {tokens} out"]
    if generator.speed.decode:
        parts.append(f"{generator.speed.decode:.0f} tokens/s")
    scores = [f"{completion.score:.3g}" for completion in completions if isinstance(completion, Best)]
    if scores:
        parts.append(f"score {' and '.join(scores)}")
    return ", ".join([*parts, f"seed {completions[0].seed}", f"ended by {ended}"])
