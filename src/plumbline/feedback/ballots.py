"""What people said about one set, side by side: the ground that agreement, consensus, labelers and pairs stand on.

Answers are told by their text, so it does not matter in which order a ranking lists them. Where a set holds the same
text twice, the two are one answer here: it keeps the better rank that a labeler gave it, and is flagged where one of
the two was. A labeler who ranked a set again counts once, with the later ranking.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from plumbline.errors import BadRecord, UserError
from plumbline.records import Ranking

Floats = NDArray[np.float64]
ROUNDING = 1e-9
"""Sums of weights closer than this are equal: the order of adding must not decide who wins."""
Weights = Mapping[str, float]
"""How much each labeler counts; one who is not named counts 1, one with 0 is left out."""


@dataclass(frozen=True)
class Ballots:
    """The rankings of one set."""

    rankings: tuple[Ranking, ...]
    """One per labeler, in the order in which they came."""
    texts: tuple[str, ...]
    """The different answers."""
    ranks: Floats
    """(labelers, answers), NaN where an answer was flagged or not judged."""
    flags: NDArray[np.bool_]
    """(labelers, answers)"""

    @property
    def labelers(self) -> list[str]:
        return [ranking.labeler_id for ranking in self.rankings]

    @property
    def judged(self) -> NDArray[np.bool_]:
        """(labelers, answers), whether the labeler ranked or flagged the answer."""
        return self.flags | ~np.isnan(self.ranks)

    @property
    def preferences(self) -> Floats:
        """(labelers, answers, answers): 1 where the first is better, −1 worse, 0 a tie, NaN not both ranked."""
        signs: Floats = np.sign(self.ranks[:, None, :] - self.ranks[:, :, None])
        return signs

    def weights(self, weights: Weights | None) -> Floats:
        """(labelers,)"""
        return np.array([weight_of(labeler, weights) for labeler in self.labelers])


def weight_of(labeler: str, weights: Weights | None) -> float:
    weight = 1.0 if weights is None else weights.get(labeler, 1.0)
    if not (isfinite(weight) and weight >= 0):
        raise UserError(f"the weight of labeler {labeler!r} is {weight!r}: it must be 0, to leave them out, or more")
    return weight


def gather(rankings: Iterable[Ranking], weights: Weights | None = None) -> Iterator[Ballots]:
    """One set after the other, none kept, without the labelers whose weight is 0.

    The rankings of a set must arrive together; `together` sorts them so.
    """
    done: set[int] = set()  # hashes, so that memory stays small over many sets
    counted = (ranking for ranking in rankings if weight_of(ranking.labeler_id, weights))
    for key, group in groupby(counted, key=set_key):
        if hash(key) in done:
            raise BadRecord(
                f"set {key[0]!r} comes back after other sets: the rankings of a set must stand together, "
                "so sort them by set_id first"
            )
        done.add(hash(key))
        yield lay_out({ranking.labeler_id: ranking for ranking in group})


def together(rankings: Iterable[Ranking]) -> list[Ranking]:
    """The rankings with those of a set side by side, sets in the order of their first ranking."""
    sets: dict[tuple[str, str], list[Ranking]] = {}
    for ranking in rankings:
        sets.setdefault(set_key(ranking), []).append(ranking)
    return [ranking for group in sets.values() for ranking in group]


def set_key(ranking: Ranking) -> tuple[str, str]:
    return ranking.set_id, ranking.prompt_id


def lay_out(by_labeler: Mapping[str, Ranking]) -> Ballots:
    rankings = tuple(by_labeler.values())
    places: dict[str, int] = {}
    for ranking in rankings:
        for text in ranking.completions:
            places.setdefault(text, len(places))
    ranks = np.full((len(rankings), len(places)), np.nan)
    flags = np.zeros(ranks.shape, dtype=np.bool_)
    for row, ranking in enumerate(rankings):
        for text, rank, flag in zip(ranking.completions, ranking.ranks, ranking.flags, strict=True):
            place = places[text]
            flags[row, place] |= flag
            if rank is not None:
                ranks[row, place] = np.fmin(ranks[row, place], rank)
    ranks[flags] = np.nan
    return Ballots(rankings, tuple(places), ranks, flags)


def tally(ballots: Ballots, weights: Weights | None = None) -> tuple[Floats, Floats]:
    """Votes for the first answer over the second, and votes of all who ranked both, ties too: two times (K, K)."""
    preferences = ballots.preferences
    each = ballots.weights(weights)
    return np.tensordot(each, preferences == 1, 1), np.tensordot(each, ~np.isnan(preferences), 1)


def flagged(ballots: Ballots, weights: Weights | None = None) -> NDArray[np.bool_]:
    """(answers,): flagged by at least half of the votes of those who judged it. In doubt it is out."""
    each = ballots.weights(weights)
    out: NDArray[np.bool_] = 2 * (each @ ballots.flags) >= each @ ballots.judged - ROUNDING
    return out
