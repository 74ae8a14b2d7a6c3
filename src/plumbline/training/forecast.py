"""What a run will take, from its plan and from a few of its micro-batches, tried."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plumbline.models.grouped import Group
from plumbline.training.batches import Batches, size
from plumbline.training.devices import Process
from plumbline.training.learner import Learner
from plumbline.training.optimise import Optimiser
from plumbline.training.run import Settings

if TYPE_CHECKING:
    import torch

TRIED = 3
"""Micro-batches that are timed, after one that warms up."""


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to take."""

    steps: int
    tokens: int
    """In all epochs, each prompt counted once for all its answers."""
    memory: int
    """Bytes at the peak, the weights and the optimiser's state included."""
    seconds: float
    """Without the looks at held-out examples."""


def forecast(
    learner: Learner, groups: Sequence[Group], config: Settings, *, clock: Callable[[], float] = time.perf_counter
) -> Forecast:
    """What learning these groups will take.

    A loss of its own costs a method next to nothing beside the pass through the model, so the answers' log-probs stand
    for it. The learner's weights move, so it is of no further use.
    """

    def learn(places: Sequence[int]) -> None:
        _, logprobs, _ = learner.logprobs([groups[place] for place in places])
        logprobs.mean().backward()  # type: ignore[no-untyped-call]

    with learner.working():
        return reckon(learn, [size(group) for group in groups], learner.weights, config, learner.process, clock=clock)


def reckon(
    learn: Callable[[Sequence[int]], None],
    sizes: Sequence[int],
    weights: Iterable[torch.nn.Parameter],
    config: Settings,
    process: Process,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Forecast:
    """Learns the largest micro-batch of the first epoch and a few others, and reckons the rest from them.

    `learn` takes the places of some examples and leaves the gradients of a loss over them.
    """
    batches = Batches.of(config, sizes, process)
    first_epoch = [step for step in batches.after(0) if step.epoch == 1]
    cuts = [cut for step in first_epoch for cut in step.micro_batches]
    largest = max(cuts, key=lambda cut: len(cut) * max(sizes[place] for place in cut))
    optimiser = Optimiser.of(config, weights, steps=2)
    passes = 0.0
    for number, cut in enumerate([largest, *cuts[:TRIED]]):
        begin = clock()
        learn(cut)
        passes += clock() - begin if number else 0.0
    optimiser.step()
    learn(largest[:1])
    begin = clock()
    optimiser.step()
    update = clock() - begin
    tried = sum(sizes[place] for cut in cuts[:TRIED] for place in cut)
    share = sum(sizes[place] for cut in cuts for place in cut)  # of this process; all work at the same time
    return Forecast(
        steps=len(batches),
        tokens=config.epochs * sum(sizes),
        memory=peak_memory(process),
        seconds=config.epochs * share * passes / tried + len(batches) * update,
    )


def peak_memory(process: Process) -> int:
    """Bytes that this process has held at most, on the device where that has memory of its own."""
    import torch

    if process.device.type == "cuda":
        return torch.cuda.max_memory_allocated(process.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
