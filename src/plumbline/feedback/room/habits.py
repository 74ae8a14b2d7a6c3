"""How each labeler works, whatever the others say: how long a set takes, what is flagged, which place wins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from plumbline.feedback.agreement import Figure, ratio
from plumbline.records import Ranking

UNKNOWN = Figure(None, None, None, 0, "undefined: the order shown is not known")


@dataclass(frozen=True)
class Habits:
    """What one labeler's rankings have in common."""

    rankings: int
    seconds: float | None
    """The median of a set; None where nobody took the time."""
    flagged: int
    judged: int
    """Answers, those flagged among them."""
    places: tuple[float, ...]
    """How often the best answer stood first, second, ... on the screen, among sets of the most common size; they add
    up to 1. Answers that share the first rank share their set. Empty where the order shown is not known."""
    first: Figure
    """The share of the best that stood first, over the same sets; if the place does not matter it is 1 / size."""


@dataclass
class Watched:
    rankings: int = 0
    flagged: int = 0
    judged: int = 0
    seconds: list[float] = field(default_factory=list)
    shares: dict[int, list[list[float]]] = field(default_factory=dict)
    """By size of the set: for each set, how the first rank is shared among the places on the screen."""


def find_habits(rankings: Iterable[Ranking]) -> dict[str, Habits]:
    """By labeler; the rankings may come in any order."""
    watched: dict[str, Watched] = {}
    for ranking in rankings:
        watch(watched.setdefault(ranking.labeler_id, Watched()), ranking)
    return {labeler: summed_up(each) for labeler, each in watched.items()}


def watch(watched: Watched, ranking: Ranking) -> None:
    extra = ranking.model_extra or {}
    watched.rankings += 1
    watched.flagged += sum(ranking.flags)
    watched.judged += len(ranking.flags)
    if extra.get("seconds") is not None:
        watched.seconds.append(extra["seconds"])
    order: Sequence[int] | None = extra.get("shown_order")
    best = ranking.ranks.count(1)
    if order and best:
        shares = [(ranking.ranks[place] == 1) / best for place in order]
        watched.shares.setdefault(len(order), []).append(shares)


def summed_up(watched: Watched) -> Habits:
    size = max(watched.shares, key=lambda each: (len(watched.shares[each]), each), default=0)
    shares = np.array(watched.shares[size]) if size else None  # (sets, places)
    return Habits(
        rankings=watched.rankings,
        seconds=median(watched.seconds) if watched.seconds else None,
        flagged=watched.flagged,
        judged=watched.judged,
        places=() if shares is None else tuple(shares.mean(axis=0).tolist()),
        first=UNKNOWN if shares is None else ratio(shares[:, 0], np.ones(len(shares)), UNKNOWN.why, 0),
    )
