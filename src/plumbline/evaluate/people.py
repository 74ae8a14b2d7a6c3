"""Blind A/B by people: two models' answers to the same prompts as sets to rank, and the win rate that comes of it.

The ranking room shows the answers of a set in an order of each labeler's own and names no model; so that the criterion
tells nothing either, its name is a digest. Answers that are equal letter by letter are ties that nobody need be asked
about. Several people's votes on a set are averaged, and sets, not votes, are drawn for the interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from plumbline.evaluate.bench import Bench
from plumbline.evaluate.helpful import ANSWER
from plumbline.evaluate.records import Asked, digest
from plumbline.evaluate.statistics import Floats, measure
from plumbline.evaluate.statistics import mean as mean_of
from plumbline.evaluate.tasks import mirrored
from plumbline.models import Prompt
from plumbline.records import Answer, ComparisonSet, Measured, Ranking

INSTRUCTIONS = (
    "Two answers to one prompt. Put the one first that you would rather have got: it helps with what was asked, says "
    "nothing false, and does no harm. Length alone is no merit. Where neither is better, tie them; flag an answer that "
    "makes no sense."
)


def criterion_of(bench: Bench, other: Bench) -> str:
    """The name under which labelers see the comparison, which does not tell who is compared."""
    return f"blind-{digest([bench.source.name, other.source.name])[:8]}"


def blind_sets(bench: Bench, other: Bench, items: Sequence[Asked]) -> tuple[list[ComparisonSet], int]:
    """A set for each prompt that both answer differently, this model's answer first; and how many answers are equal."""
    prompts: list[Prompt] = [item.prompt for item in items]
    mine, theirs = bench.answer(prompts, ANSWER), other.answer(prompts, ANSWER)
    criterion = criterion_of(bench, other)
    sets = [
        ComparisonSet(
            set_id=digest([criterion, item.item_id, own, their]),
            prompt_id=digest(["blind", item.prompt]),
            prompt=item.prompt,
            completions=(Answer(text=own, model=bench.source.name), Answer(text=their, model=other.source.name)),
            criterion=criterion,
        )
        for item, own, their in zip(items, mine, theirs, strict=True)
        if own != their
    ]
    return sets, len(items) - len(sets)


def points_of(ranking: Ranking) -> float:
    """1 where the first answer is better, 0 where the second is, ½ for a tie; a flagged answer loses to one that
    makes sense."""
    (one, other), (nonsense, other_nonsense) = ranking.ranks, ranking.flags
    if one is not None and other is not None:
        return 0.5 if one == other else float(one < other)
    return 0.5 if nonsense and other_nonsense else float(other_nonsense)


def win_rate(rankings: Iterable[Ranking], equal: int, command: str = "") -> Measured | None:
    """What people say so far; None before the first vote. Each of `equal` sets is a tie."""
    votes: dict[str, list[float]] = {}
    for ranking in rankings:
        votes.setdefault(ranking.set_id, []).append(points_of(ranking))
    if not votes:
        return None
    points = [float(np.mean(each)) for each in votes.values()] + [0.5] * equal
    rows: Floats = np.array(points)[:, None]
    figure = measure(mean_of, rows, "people")
    return Measured(
        task="people",
        metric="win_rate",
        value=figure.value,
        n=figure.n,
        low=figure.low,
        high=figure.high,
        better="higher",
        change=mirrored(figure),
        command=command,
    )
