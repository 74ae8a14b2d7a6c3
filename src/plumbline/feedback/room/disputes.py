"""Where people contradict one another, and which answers they flag: one pass over the rankings, little kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from plumbline.feedback.ballots import Ballots, flagged, gather
from plumbline.feedback.consensus import order
from plumbline.records import Ranking

KEPT = 500
"""Disputes that are kept to be shown, the greatest; the others are counted."""


@dataclass(frozen=True)
class Said:
    """What one person said of a set, by its answers' places."""

    labeler_id: str
    ranks: tuple[int | None, ...]
    flags: tuple[bool, ...]
    seconds: float | None


@dataclass(frozen=True)
class Difference:
    """A set in which two people put the same two answers in opposite order."""

    set_id: str
    criterion: str
    weight: float
    """1 where each choice between two answers is halved between people, 0 where all choose alike; a mean of choices."""
    choices: int
    """Choices between two answers that at least two people made."""
    contradicted: int
    """Those of them in which somebody said the opposite of somebody else."""
    contested: frozenset[int]
    """The places of the answers in those."""
    places: tuple[int, ...]
    """All places, best to worst as the set's rankings say together; those that half of the judges flag last."""
    said: tuple[Said, ...]


@dataclass(frozen=True)
class Flagged:
    """An answer that somebody says makes no sense."""

    set_id: str
    criterion: str
    place: int
    by: tuple[str, ...]
    judges: int
    """People who ranked or flagged it."""

    @property
    def weight(self) -> float:
        return len(self.by) / self.judges


Dispute = TypeVar("Dispute", Difference, Flagged)


class Greatest(Generic[Dispute]):
    """The greatest disputes of those added, and how many there were."""

    def __init__(self) -> None:
        self.total = 0
        self._kept: list[Dispute] = []

    def add(self, dispute: Dispute) -> None:
        self.total += 1
        self._kept.append(dispute)
        if len(self._kept) >= 2 * KEPT:
            self._kept = self.sorted()

    def sorted(self) -> list[Dispute]:
        return sorted(self._kept, key=lambda each: (-each.weight, each.set_id))[:KEPT]


@dataclass(frozen=True)
class Disputes:
    """The greatest disputes first, and how many there are in all."""

    differences: list[Difference]
    n_differences: int
    flagged: list[Flagged]
    n_flagged: int


def find_disputes(rankings: Iterable[Ranking]) -> Disputes:
    """The rankings of a set must arrive together, as the store gives them."""
    differences: Greatest[Difference] = Greatest()
    flags: Greatest[Flagged] = Greatest()
    for ballots in gather(rankings):
        first = ballots.rankings[0]
        criterion = str((first.model_extra or {}).get("criterion", ""))
        difference = difference_in(ballots, criterion)
        if difference:
            differences.add(difference)
        for column in np.flatnonzero(ballots.flags.any(axis=0)).tolist():
            by = tuple(who for who, flag in zip(ballots.labelers, ballots.flags[:, column], strict=True) if flag)
            place = first.completions.index(ballots.texts[column])
            flags.add(Flagged(first.set_id, criterion, place, by, int(ballots.judged[:, column].sum())))
    return Disputes(differences.sorted(), differences.total, flags.sorted(), flags.total)


def difference_in(ballots: Ballots, criterion: str) -> Difference | None:
    """What people contradict one another about in one set; None where they do not."""
    above = np.triu(np.ones((len(ballots.texts), len(ballots.texts)), dtype=bool), 1)
    preferences = ballots.preferences[:, above]  # (labelers, choices)
    first, second = (preferences == 1).sum(axis=0), (preferences == -1).sum(axis=0)
    judged = (~np.isnan(preferences)).sum(axis=0)
    contradicted = (first > 0) & (second > 0)
    if not contradicted.any():
        return None
    shared = judged >= 2
    halved = 4 * first[shared] * second[shared] / judged[shared] ** 2
    columns = np.argwhere(above)[contradicted].ravel().tolist()
    texts = ballots.rankings[0].completions
    ranked = np.flatnonzero(~(np.isnan(ballots.ranks).all(axis=0) | flagged(ballots)))
    rank_of = dict(zip(ranked.tolist(), order(ballots, ranked, "ranked-pairs", None), strict=True))
    column_of = [ballots.texts.index(text) for text in texts]
    return Difference(
        set_id=ballots.rankings[0].set_id,
        criterion=criterion,
        weight=float(halved.mean()),
        choices=int(shared.sum()),
        contradicted=int(contradicted.sum()),
        contested=frozenset(place for place, column in enumerate(column_of) if column in columns),
        places=tuple(
            sorted(range(len(texts)), key=lambda place: (rank_of.get(column_of[place], len(texts) + 1), place))
        ),
        said=tuple(
            Said(each.labeler_id, each.ranks, each.flags, (each.model_extra or {}).get("seconds"))
            for each in ballots.rankings
        ),
    )
