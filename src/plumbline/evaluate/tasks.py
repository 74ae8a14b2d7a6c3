"""What a task is: items, a solver that turns each into an outcome with numbers, metrics over these numbers.

A solver asks a `Bench` (answers, probabilities) and scores what it got. Its outcomes hold numbers by name; a metric
names those that it is made of, and takes the outcomes that have them. Solvers compare only where `other` is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from plumbline.errors import UserError
from plumbline.evaluate.bench import Bench
from plumbline.evaluate.records import Comparison, Item, Outcome
from plumbline.evaluate.statistics import FEWEST, Figure, Floats, Statistic, compare, mean, measure
from plumbline.files import read_jsonl
from plumbline.models import Prompt, Score
from plumbline.models.preference import Prefer
from plumbline.models.score import load_scorer
from plumbline.records import Change

SHIPPED = Path(__file__).parent / "items"

Aim = Literal["helpful", "honest", "harmless", "capable", "near"]
Need = Literal["data", "probabilities", "other", "rival", "runner", "labels"]
"""What a task takes beside a model: a file of items, probabilities of texts, another model, another model or reference
answers in the file, something that runs programs, a judge whose probabilities of labels can be read."""
Runner = Callable[[str, str], bool]
"""A program and its tests, to whether it passes; it answers for the program doing no harm."""


@dataclass(frozen=True)
class Metric:
    """A figure of a task."""

    name: str
    numbers: tuple[str, ...]
    """The outcome's numbers that it is made of; outcomes without them do not count."""
    statistic: Statistic = mean
    better: Literal["higher", "lower"] | None = None
    form: str = ".1%"
    """How it is shown."""
    about: str = ""
    per_token: bool = False
    """Whether it compares only models that cut text alike."""
    mirrored: bool = False
    """Whether what is not this model's share is the other's, as with a win rate."""

    def rows(self, outcomes: Sequence[Outcome]) -> tuple[list[str], Floats]:
        """Ids and numbers (items, numbers) of the outcomes that count."""
        kept = [each for each in outcomes if all(name in each.values for name in self.numbers)]
        rows = [[each.values[name] for name in self.numbers] for each in kept]
        return [each.item_id for each in kept], np.array(rows, dtype=np.float64).reshape(-1, len(self.numbers))

    def measure(self, outcomes: Sequence[Outcome]) -> Figure | None:
        """The figure with its interval; None where no outcome counts, or none is reckoned."""
        ids, rows = self.rows(outcomes)
        found = measure(self.statistic, rows, self.name) if ids else None
        return found if found is not None and np.isfinite(found.value) else None

    def compare(self, mine: Sequence[Outcome], theirs: Sequence[Outcome]) -> Figure | None:
        """The difference on the items that both met; None where they are too few to tell."""
        (ids, rows), (other_ids, other_rows) = self.rows(mine), self.rows(theirs)
        place = {each: number for number, each in enumerate(other_ids)}
        both = [number for number, each in enumerate(ids) if each in place]
        if len(both) < FEWEST:
            return None
        found = compare(self.statistic, rows[both], other_rows[[place[ids[number]] for number in both]], self.name)
        return found if np.isfinite(found.value) else None


def mirrored(figure: Figure) -> Change | None:
    """Of a win rate: the other model's share is what is left, and equal shares are no difference; None where the items
    are too few to tell."""
    if figure.n < FEWEST:
        return None
    value, low, high = (2 * each - 1 for each in (figure.value, figure.low, figure.high))
    return Change(other=1 - figure.value, value=value, low=low, high=high)


@dataclass(frozen=True)
class Setting:
    """What a solver is given beside the bench."""

    other: Bench | None = None
    """The model to compare with."""
    prefer: Prefer | None = None
    """Which of two answers is better."""
    judge: str = ""
    """The model that judges by label probabilities."""
    second: Score | None = None
    """Counts refusals a second time, by other means than `refusal` does."""
    runner: Runner | None = None
    language: str = "python"
    """That of programs."""
    samples: int = 1
    """Programs for each task of pass@k."""

    @cached_property
    def refusal(self) -> Score:
        return load_scorer("refusal")

    @cached_property
    def toxicity(self) -> Score:
        return load_scorer("toxicity")


Solve = Callable[[Bench, Sequence[Any], Setting], list[Outcome]]


@dataclass(frozen=True)
class Task:
    """A task; `evaluate.TASKS` lists them."""

    name: str
    aim: Aim
    kind: type[Item]
    solve: Solve
    metrics: tuple[Metric, ...]
    file: str = ""
    """The items that ship."""
    needs: tuple[Need, ...] = ()

    @property
    def compares(self) -> bool:
        """Whether its figures are of two models together."""
        return "other" in self.needs or "rival" in self.needs

    def items(self, data: Path | None = None, limit: int | None = None) -> list[Any]:
        """Those in the file, or those that ship; at most `limit`, spread over all of them."""
        if data is None and not self.file:
            raise UserError(f"the task {self.name!r} has no items of its own: give a file with --data {self.name}=FILE")
        found = read_items(data or SHIPPED / self.file, self.kind)
        if limit is None or limit >= len(found):
            return found
        return [found[number * len(found) // limit] for number in range(limit)]

    def path(self, data: Path | None = None) -> Path:
        return data or SHIPPED / self.file


def read_items(path: Path, kind: type[Item]) -> list[Item]:
    """The items of a file, each id once. Comparisons may have any shape that `plumb train` reads."""
    if kind is Comparison and path.parent != SHIPPED:
        return list(comparisons(path))
    items = list(read_jsonl(path, kind))
    seen: dict[str, int] = {}
    unique = []
    for item in items:
        seen[item.item_id] = seen.get(item.item_id, 0) + 1
        again = f"{item.item_id}#{seen[item.item_id]}"
        unique.append(item if seen[item.item_id] == 1 else item.model_copy(update={"item_id": again}))
    return unique


def comparisons(path: Path) -> list[Comparison]:
    """The pairs of a file of preferences."""
    from plumbline.formats import read_comparisons
    from plumbline.records import Pair

    left_out: list[str] = []
    found = [each for each in read_comparisons([path], left_out) if isinstance(each, Pair)]
    if not found:
        why = f" ({left_out[0]})" if left_out else ""
        raise UserError(f"{str(path)!r} holds no pair of a better and a worse answer{why}")
    return [
        Comparison(item_id=f"{place}-{each.prompt_id}", prompt=each.prompt, chosen=each.chosen, rejected=each.rejected)
        for place, each in enumerate(found, 1)
    ]


def plain(prompt: Prompt) -> str:
    """A prompt as a reader sees it."""
    from plumbline.models.score import plain_text

    return plain_text(prompt)
