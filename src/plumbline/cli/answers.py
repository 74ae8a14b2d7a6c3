"""Answers to many prompts: asked in batches, with the time left, and with a word about what is kept when stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from plumbline.cli.output import Output
from plumbline.cli.terminal import progress

if TYPE_CHECKING:
    from plumbline.models import Completion, Generate, Sampling
    from plumbline.records import PromptRecord

ANSWERS_AT_ONCE = 32
"""Answers of one batch: enough to keep an engine busy, few enough that a stopped run loses little."""


def answer_all(
    model: Generate,
    prompts: Sequence[PromptRecord],
    sampling: Sampling,
    *,
    there: int,
    output: Output,
    best_of: int = 1,
) -> Iterator[tuple[PromptRecord, list[Completion]]]:
    """Each prompt with its answers. `there` prompts are in `output` already; the caller writes the others to it.

    Where the model chooses each answer, `best_of` says among how many.
    """
    total, done = there + len(prompts), there
    size = max(1, ANSWERS_AT_ONCE // (sampling.n * best_of))
    try:
        with progress(model.name, total=total, done=there, unit="prompts") as advance:
            for begin in range(0, len(prompts), size):
                batch = prompts[begin : begin + size]
                for prompt, completions in zip(batch, model([each.prompt for each in batch], sampling), strict=True):
                    yield prompt, completions
                    done += 1
                    advance(1)
    finally:
        output.tell(done, total, "prompts")
