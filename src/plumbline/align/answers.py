"""A number for each answer of many groups, without gradients; the processes share the work.

The reference model's log-probs are such numbers, computed once before the first step and kept with the run. The
reference is the model that training starts from: its weights with no adapter of this run on them. Once its log-probs
are kept, no second model is needed, neither in memory nor in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.errors import UserError
from plumbline.files import replaced
from plumbline.models.grouped import Group
from plumbline.training.batches import micro_batches, size
from plumbline.training.learner import Learner

if TYPE_CHECKING:
    import torch


def per_answer(
    learner: Learner, groups: Sequence[Group], budget: int, compute: Callable[[list[Group]], torch.Tensor]
) -> list[torch.Tensor]:
    """For each group, what `compute` says of its answers (completions, ...), as it says it of a few groups at once."""
    process = learner.process
    share = process.rank, process.world, process.device.type
    passes = micro_batches([size(group) for group in groups], range(len(groups)), budget, *share)
    return _split(learner, groups, [len(group.completions) for group in groups], passes, compute)


def per_token(
    learner: Learner,
    groups: Sequence[Group],
    passes: Iterable[tuple[int, ...]],
    compute: Callable[[list[Group]], torch.Tensor],
) -> list[torch.Tensor]:
    """The same for each token of the answers (tokens, ...), in the forward passes that are given by their places.

    In 16 bits a number depends a little on what is computed with it, so what is compared goes in equal passes.
    """
    return _split(learner, groups, [sum(map(len, group.completions)) for group in groups], passes, compute)


def _split(
    learner: Learner,
    groups: Sequence[Group],
    counts: Sequence[int],
    passes: Iterable[tuple[int, ...]],
    compute: Callable[[list[Group]], torch.Tensor],
) -> list[torch.Tensor]:
    """Each group's part of what `compute` says; `counts` are the parts' lengths."""
    import torch

    mine: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for micro_batch in passes:
            numbers = compute([groups[place] for place in micro_batch]).cpu()
            parts = torch.split(numbers, [counts[place] for place in micro_batch])
            mine |= {place: its.clone() for place, its in zip(micro_batch, parts, strict=True)}
    found = {place: numbers for part in learner.process.gather(mine) for place, numbers in part.items()}
    return [found[place] for place in range(len(groups))]


def answer_logprobs(learner: Learner, groups: Sequence[Group], budget: int) -> list[torch.Tensor]:
    """For each group, log π (completions,) of each whole answer."""

    def compute(batch: list[Group]) -> torch.Tensor:
        answers, logprobs, _ = learner.logprobs(batch)
        return answers.sums(logprobs)

    return per_answer(learner, groups, budget, compute)


def reference_logprobs(learner: Learner, groups: Sequence[Group], *, budget: int, keep: Path) -> list[torch.Tensor]:
    """For each group, log π_ref (completions,) of each whole answer; read from `keep` where the run left them there.

    To be called before the model's weights move.
    """
    import torch
    from safetensors.torch import load_file, save

    counts = [len(group.completions) for group in groups]
    if keep.is_file():
        kept = load_file(keep)["logprobs"]
        if len(kept) != sum(counts):
            raise UserError(
                f"{str(keep)!r} holds log-probs of {len(kept)} answers and the data has {sum(counts)}: it has changed "
                "since the run began; put it back, or start a new run with another --out"
            )
        return list(torch.split(kept, counts))
    with learner.hats.wearing(None) if learner.hats else nullcontext():
        found = answer_logprobs(learner, groups, budget)
    if learner.process.first:
        with replaced(keep) as file:
            file.write(save({"logprobs": torch.cat(found)}))
    learner.process.wait()
    return found
