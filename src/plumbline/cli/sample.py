"""`plumb sample`: several answers per prompt, as comparison sets for people to rank."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plumbline.cli.answers import answer_all
from plumbline.cli.loading import Engine, Mode, ModelName, named, open_model
from plumbline.cli.output import Force, Output
from plumbline.cli.prompts import RawText, System, check_fit, frame, read_prompts, tokenizer_of
from plumbline.cli.sampling import SamplingOptions, as_settings, takes_sampling
from plumbline.errors import UserError

if TYPE_CHECKING:
    from plumbline.models import Completion
    from plumbline.records import ComparisonSet, PromptRecord


@takes_sampling(without=("n",))
def sample(
    sampling: SamplingOptions,
    prompts: Annotated[
        Path, typer.Argument(help="A file of prompts: JSON Lines, or .txt with one a line.", metavar="PROMPTS")
    ],
    out: Annotated[Path, typer.Option("--out", help="Write the comparison sets here.", metavar="FILE")],
    per_prompt: Annotated[
        int, typer.Option("--per-prompt", help="Answers per prompt; the prompt is computed once.", metavar="K")
    ] = 4,
    force: Force = False,
    system: System = None,
    raw: RawText = False,
    model: ModelName = None,
    engine: Engine = "auto",
    mode: Mode = None,
) -> None:
    """Draw several answers per prompt, ready to be ranked.

    Each line of the output is a comparison set: a prompt and its K answers. Stopped in between, the same command goes
    on with the sets that are not there yet.
    """
    from plumbline.project import Project
    from plumbline.records import ComparisonSet

    if per_prompt < 2:
        raise UserError(f"--per-prompt is {per_prompt}: comparing takes at least 2 answers")
    model = named(model)
    drawn = sampling.resolve(n=per_prompt)
    if drawn.temperature == 0:
        raise UserError("--temperature is 0, so all answers to a prompt would be the same: raise it")
    asked = [frame(record, system=system, raw=raw) for record in read_prompts(prompts)]
    output = Output(out, force=force)
    check_fit(tokenizer_of(model), asked, drawn, prompts)
    generator = open_model(model, engine, mode)
    settings = as_settings(drawn, raw=raw)
    project = Project.find()
    criterion = (project.config.criterion or None) if project else None
    made_with = {"model": generator.name, "per_prompt": per_prompt, **settings}
    left = output.missing(asked, ComparisonSet, lines=1, settings=made_with)
    for prompt, completions in answer_all(generator, left, drawn, there=len(asked) - len(left), output=output):
        output.write([as_set(prompt, completions, generator.name, settings, criterion)])


def as_set(
    prompt: PromptRecord, completions: list[Completion], model: str, settings: dict[str, Any], criterion: str | None
) -> ComparisonSet:
    """The set's id is that of its content, so that two runs over the same prompts give sets that can be told apart."""
    from plumbline.records import Answer, ComparisonSet

    answers = tuple(
        Answer(text=completion.text, model=model, sampling=settings, seed=completion.seed) for completion in completions
    )
    content = json.dumps([prompt.prompt_id, *(answer.model_dump() for answer in answers)], sort_keys=True)
    return ComparisonSet(
        set_id=hashlib.sha256(content.encode()).hexdigest()[:16],
        prompt_id=prompt.prompt_id,
        prompt=prompt.prompt,
        completions=answers,
        criterion=prompt.criterion or criterion,
    )
