"""What a run will take, from its plan and from a few of its micro-batches, tried."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
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
    for it. What lies below the adapters is reckoned once for all epochs where the run would keep it. The learner's
    weights move, so it is of no further use.
    """
    sizes = [size(group) for group in groups]

    def learn(places: Sequence[int]) -> None:
        _, logprobs, _ = learner.logprobs([groups[place] for place in places])
        logprobs.mean().backward()  # type: ignore[no-untyped-call]

    below, kept = 0.0, learner.kept_bytes(groups, config, passes=config.epochs)
    if kept:
        learner.answers(groups[:1])  # the trunk's self-test comes before the clock
        places = sorted({place for cut in tried(Batches.of(config, sizes, learner.process)) for place in cut})
        begin = clock()
        learner.prepare([groups[place] for place in places], config)
        below = (clock() - begin) * sum(sizes) / sum(sizes[place] for place in places)
    with learner.working():
        told = reckon(learn, sizes, learner.weights, config, learner.process, clock=clock)
    return replace(told, memory=told.memory + kept, seconds=told.seconds + below)


def tried(batches: Batches) -> list[tuple[int, ...]]:
    """The micro-batches that are learned: the largest of the first epoch, to warm up, and the first ones."""
    cuts = first_epoch(batches)
    return [max(cuts, key=lambda cut: len(cut) * max(batches.sizes[place] for place in cut)), *cuts[:TRIED]]


def first_epoch(batches: Batches) -> list[tuple[int, ...]]:
    return [cut for step in batches.after(0) if step.epoch == 1 for cut in step.micro_batches]


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
    largest, *others = tried(batches)
    optimiser = Optimiser.of(config, weights, steps=2)
    passes = 0.0
    for number, cut in enumerate([largest, *others]):
        begin = clock()
        learn(cut)
        passes += clock() - begin if number else 0.0
    optimiser.step()
    learn(largest[:1])
    begin = clock()
    optimiser.step()
    update = clock() - begin
    done = sum(sizes[place] for cut in others for place in cut)
    share = sum(sizes[place] for cut in first_epoch(batches) for place in cut)  # this process's; all work at one time
    return Forecast(
        steps=len(batches),
        tokens=config.epochs * sum(sizes),
        memory=peak_memory(process),
        seconds=config.epochs * share * passes / done + len(batches) * update,
    )


def peak_memory(process: Process) -> int:
    """Bytes that this process has held at most, on the device where that has memory of its own."""
    import torch

    if process.device.type == "cuda":
        return torch.cuda.max_memory_allocated(process.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
