"""The order in which a run visits its examples, and how a step is cut into what memory holds.

    step          `batch_size` examples, the next ones of a shuffle that (seed, epoch) alone decides
    process       every world-th of them in the order of size, so that all have like work
    micro-batch   those of like size, together at most `budget` tokens, padding included, so that padding and passes
                  together cost least

Every process knows the whole step, so a denominator over it (all its answers' tokens, say) is known before the first
micro-batch and needs no message. A loss divided by that adds up to the same gradient however the step is cut:
8 = 2 × 4 = 8 × 1. Where a run stands in its data is the number of steps done, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from plumbline.errors import UserError
from plumbline.models.grouped import Group

if TYPE_CHECKING:
    from plumbline.training.devices import Process
    from plumbline.training.run import Settings

PASS = {"cpu": 64, "cuda": 4096}
"""What a pass costs beside its tokens, in tokens, by device: whether several small passes are worth less padding."""


@dataclass(frozen=True)
class Step:
    """One optimiser step."""

    number: int
    """From 1, through all epochs."""
    epoch: int
    """From 1."""
    ends_epoch: bool
    examples: tuple[int, ...]
    """Places in the data of all its examples, whichever process takes them."""
    micro_batches: tuple[tuple[int, ...], ...]
    """The places that this process takes, by forward pass; none where there are fewer examples than processes."""

    def __str__(self) -> str:
        shown = ", ".join(str(place + 1) for place in self.examples[:8])
        return f"step {self.number} (examples {shown}{', …' if len(self.examples) > 8 else ''})"


class Batches:
    """All steps of a run over examples of the given sizes in tokens."""

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        batch_size: int,
        budget: int,
        epochs: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        device: str = "cpu",
    ) -> None:
        if not sizes:
            raise UserError("there is nothing to train on: every example was left out or held out")
        self.sizes = sizes
        self.batch_size = batch_size
        self.budget = budget
        self.epochs = epochs
        self.seed = seed
        self.rank, self.world, self.device = rank, world, device
        self.per_epoch = -(-len(sizes) // batch_size)

    @classmethod
    def of(cls, config: Settings, sizes: Sequence[int], process: Process) -> Batches:
        """As the run's settings say, for one of its processes."""
        return cls(
            sizes,
            batch_size=config.batch_size,
            budget=config.tokens,
            epochs=config.epochs,
            seed=config.seed,
            rank=process.rank,
            world=process.world,
            device=process.device.type,
        )

    def __len__(self) -> int:
        """Steps of the run."""
        return self.epochs * self.per_epoch

    def first_passes(self) -> list[tuple[int, ...]]:
        """This process's forward passes of the first epoch, in which it meets each of its examples once."""
        return [each for step in self.after(0) if step.epoch == 1 for each in step.micro_batches]

    def after(self, done: int) -> Iterator[Step]:
        """The steps that are left when `done` have been taken."""
        for epoch in range(done // self.per_epoch, self.epochs):
            order = shuffled(len(self.sizes), self.seed, epoch)
            for place in range(done % self.per_epoch if epoch == done // self.per_epoch else 0, self.per_epoch):
                examples = tuple(order[place * self.batch_size : (place + 1) * self.batch_size])
                yield Step(
                    number=epoch * self.per_epoch + place + 1,
                    epoch=epoch + 1,
                    ends_epoch=place + 1 == self.per_epoch,
                    examples=examples,
                    micro_batches=tuple(
                        micro_batches(self.sizes, examples, self.budget, self.rank, self.world, self.device)
                    ),
                )


def micro_batches(
    sizes: Sequence[int],
    examples: Iterable[int],
    budget: int,
    rank: int = 0,
    world: int = 1,
    device: str = "cpu",
) -> Iterator[tuple[int, ...]]:
    """The `rank`-th share of some examples, given by their places, in forward passes of at most `budget` tokens."""
    by_size = sorted(examples, key=lambda place: (-sizes[place], place))
    mine = by_size[rank::world]
    for rows in cut([sizes[place] for place in mine], budget, PASS.get(device, PASS["cuda"])):
        yield tuple(mine[rows])


def cut(sizes: Sequence[int], budget: int, overhead: int) -> list[slice]:
    """Falling sizes in runs that cost least: a run's rows are all as long as its first, and each run adds `overhead`.

    A run takes at most `budget` tokens; a row above that goes alone.
    """
    cheapest = [0, *[-1] * len(sizes)]  # for the rows before each place
    begins = [0] * (len(sizes) + 1)
    for begin, longest in enumerate(sizes):
        for end in range(begin + 1, max(begin + 1, min(len(sizes), begin + budget // longest)) + 1):
            cost = cheapest[begin] + longest * (end - begin) + overhead
            if cheapest[end] < 0 or cost < cheapest[end]:
                cheapest[end], begins[end] = cost, begin
    runs = []
    end = len(sizes)
    while end:
        runs.append(slice(begins[end], end))
        end = begins[end]
    return runs[::-1]


def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """The numbers below `count` in an order that depends on nothing but the arguments."""
    order = list(range(count))
    Random(f"order {seed} {epoch}").shuffle(order)
    return order


def size(group: Group) -> int:
    """Tokens of a group in the grouped pass: the prompt once, its completions padded to the longest."""
    return len(group.prompt) + len(group.completions) * max(map(len, group.completions))
