"""Figures over items, with intervals: every metric is a function of weighted items, so that resampling is one product.

An item gives a row of numbers. A metric turns the rows and a weight for each into one figure: a mean, a ratio of sums
(perplexity), a function of several (BLEU). The bootstrap (Efron 1979) draws n items of n with replacement, which is a
weight of 0, 1, 2, … for each; the interval is what lies between two percentiles of the figures. Few items spread too
little when they are drawn again, so the percentiles are not the 2.5th and the 97.5th but, by Hesterberg (2015, arXiv
1411.5279), those at Φ(± √(n / (n − 1)) · t), where t is Student's quantile of n − 1 degrees: the 0.85th with ten items.

Two models that met the same items are compared under the same draws, so what makes an item hard for both falls out.
A share of one model alone has Wilson's interval (1927), since a share of 0 or 1 never varies under resampling.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Statistic: TypeAlias = Callable[[Floats, Floats], Floats]
"""Rows (items, numbers) and weights (draws, items) to figures (draws,); not a number where a draw leaves none."""

DRAWS = 2000
"""Resamples of one interval."""
LEVEL = 0.95
Z = 1.959964
FEWEST = 5
"""Items below which a difference is not stated: resampling four numbers of one sign never gives the other sign."""


@dataclass(frozen=True)
class Figure:
    """A figure with its interval."""

    value: float
    low: float
    high: float
    n: int


def mean(rows: Floats, weights: Floats) -> Floats:
    """The mean of the first number."""
    return np.asarray(weights @ rows[:, 0] / weights.sum(1), dtype=np.float64)


def ratio(rows: Floats, weights: Floats) -> Floats:
    """The sum of the first number over the sum of the second."""
    above, below = weights @ rows[:, 0], weights @ rows[:, 1]
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


def measure(statistic: Statistic, rows: Floats, seed: str = "") -> Figure:
    """The figure over all items. `seed` is any text: the same items under the same name have the same interval."""
    value = once(statistic, rows)
    if statistic is mean and is_share(rows[:, 0]):
        return Figure(value, *wilson(value, len(rows)), len(rows))
    return Figure(value, *between(statistic(rows, draws(len(rows), seed)), value, len(rows)), len(rows))


def compare(statistic: Statistic, mine: Floats, theirs: Floats, seed: str = "") -> Figure:
    """My figure minus theirs, row for row on the same items."""
    assert mine.shape == theirs.shape, (mine.shape, theirs.shape)
    value = once(statistic, mine) - once(statistic, theirs)
    weights = draws(len(mine), seed)
    return Figure(value, *between(statistic(mine, weights) - statistic(theirs, weights), value, len(mine)), len(mine))


def once(statistic: Statistic, rows: Floats) -> float:
    """The figure over all items, each of them once."""
    return float(statistic(rows, np.ones((1, len(rows))))[0])


def draws(items: int, seed: str) -> Floats:
    """How often each item is in each resample: (draws, items)."""
    numbers = np.random.default_rng(zlib.crc32(seed.encode()))
    return numbers.multinomial(items, np.full(items, 1 / items), size=DRAWS).astype(np.float64)


def between(figures: Floats, value: float, items: int) -> tuple[float, float]:
    """The middle of the resampled figures, as wide as so many items need; the value itself where none was reckoned."""
    known = figures[np.isfinite(figures)]
    if not len(known) or items < 2:
        return value, value
    low, high = np.quantile(known, [tail(items), 1 - tail(items)])
    return float(low), float(high)


def tail(items: int) -> float:
    """The share of the figures that lies beyond each end."""
    from scipy.special import ndtr, stdtrit

    return float(ndtr(np.sqrt(items / (items - 1)) * stdtrit(items - 1, (1 - LEVEL) / 2)))


def is_share(numbers: Floats) -> bool:
    return bool(np.isin(numbers, (0.0, 1.0)).all())


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n."""
    scale = 1 + Z * Z / n
    middle = (share + Z * Z / (2 * n)) / scale
    half = Z * np.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / scale
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


# ---- calibration and confidence

BINS = 10
"""Bins of equal width for the expected calibration error."""


def calibration_error(rows: Floats, weights: Floats) -> Floats:
    """Expected calibration error of (confidence, right): Σ_bins share · |mean confidence − share right|."""
    place = np.minimum((rows[:, 0] * BINS).astype(int), BINS - 1)
    gaps = np.zeros(len(weights))
    for each in range(BINS):
        inside = weights[:, place == each]
        gaps += np.abs(inside @ (rows[place == each, 0] - rows[place == each, 1]))
    return np.asarray(gaps / weights.sum(1), dtype=np.float64)


def brier(rows: Floats, weights: Floats) -> Floats:
    """The mean squared distance of the confidence from right (1) or wrong (0)."""
    return np.asarray(weights @ (rows[:, 0] - rows[:, 1]) ** 2 / weights.sum(1), dtype=np.float64)


def discrimination(rows: Floats, weights: Floats) -> Floats:
    """The area under the curve: how often a right item has the higher confidence of a right and a wrong one."""
    order = np.argsort(rows[:, 0], kind="stable")
    confidence, right = rows[order, 0], rows[order, 1]
    _, group = np.unique(confidence, return_inverse=True)
    found = np.full(len(weights), np.nan)
    for draw, weight in enumerate(weights[:, order]):
        good = np.bincount(group, weight * right)
        bad = np.bincount(group, weight * (1 - right))
        pairs = good.sum() * bad.sum()
        if pairs:
            found[draw] = (good * (np.cumsum(bad) - bad / 2)).sum() / pairs
    return found


def reliability(confidence: Sequence[float], right: Sequence[float]) -> list[tuple[float, float, int]]:
    """For each bin that holds items: mean confidence, share right, how many."""
    rows = np.column_stack([confidence, right]) if len(confidence) else np.zeros((0, 2))
    place = np.minimum((rows[:, 0] * BINS).astype(int), BINS - 1)
    bins = [rows[place == each] for each in range(BINS)]
    return [(float(each[:, 0].mean()), float(each[:, 1].mean()), len(each)) for each in bins if len(each)]


# ---- judges


@dataclass(frozen=True)
class JudgeFigures:
    """How a judge that was asked in both orders stands to people's labels. Shares of all items."""

    first_order: float
    """Right when the answers were shown as they are."""
    second_order: float
    """Right when they were shown the other way round."""
    both: float
    """Right both times."""
    agreement: float
    """Named the same answer both times."""
    kappa: float
    """Agreement of the two orders beyond chance (Cohen 1960)."""
    n: int

    @property
    def accuracy(self) -> float:
        return (self.first_order + self.second_order) / 2


def judge_figures(labels: Sequence[object], first: Sequence[object], second: Sequence[object]) -> JudgeFigures:
    """`first` and `second` name the answer that was preferred in each order, in the terms of `labels`."""
    assert len(labels) == len(first) == len(second) > 0, (len(labels), len(first), len(second))
    n = len(labels)
    right = [one == label for one, label in zip(first, labels, strict=True)]
    right_swapped = [one == label for one, label in zip(second, labels, strict=True)]
    both = sum(one and other for one, other in zip(right, right_swapped, strict=True))
    same = sum(one == other for one, other in zip(first, second, strict=True))
    return JudgeFigures(sum(right) / n, sum(right_swapped) / n, both / n, same / n, kappa(first, second), n)


def kappa(first: Sequence[object], second: Sequence[object]) -> float:
    """Cohen's kappa of two raters; 0 where chance alone would agree always."""
    n = len(first)
    same = sum(one == other for one, other in zip(first, second, strict=True)) / n
    chance = sum((list(first).count(label) / n) * (list(second).count(label) / n) for label in {*first, *second})
    return (same - chance) / (1 - chance) if chance < 1 else 0.0


def agreement_beyond_chance(rows: Floats, weights: Floats) -> Floats:
    """Cohen's kappa of two raters who say 0 or 1 of each item; not a number where chance alone would agree always."""
    total = weights.sum(1)
    first, second = weights @ rows[:, 0] / total, weights @ rows[:, 1] / total
    same = weights @ (rows[:, 0] == rows[:, 1]) / total
    chance = first * second + (1 - first) * (1 - second)
    found = np.divide(same - chance, 1 - chance, out=np.full_like(same, np.nan), where=chance < 1 - 1e-9)
    return np.asarray(found, dtype=np.float64)


# ---- win rates


def at_equal_length(rows: Floats, weights: Floats) -> Floats:
    """The share of wins there would be at equal length, from (points, difference in length).

    Logistic regression of the points on an intercept and tanh(difference / spread), as AlpacaEval does without its
    term for the difficulty of an instruction, which takes many models (Dubois et al. 2024, arXiv 2404.04475); a weak
    penalty keeps the slope finite. The figure is the regression's prediction at a difference of 0.
    """
    spread = rows[:, 1].std() or 1.0
    longer = np.tanh(rows[:, 1] / spread)
    found = np.zeros((len(weights), 2))  # intercept and slope of each draw
    design = np.column_stack([np.ones(len(rows)), longer])
    for _ in range(NEWTON_STEPS):
        odds = np.clip(found @ design.T, -30, 30)
        chance = 1 / (1 + np.exp(-odds))  # (draws, items)
        slope = (weights * (rows[:, 0] - chance)) @ design - PENALTY * found
        spreads = weights * chance * (1 - chance)
        curve = np.einsum("di,ij,ik->djk", spreads, design, design) + PENALTY * np.eye(2)
        found = found + np.linalg.solve(curve, slope[:, :, None])[:, :, 0]
    return np.asarray(1 / (1 + np.exp(-found[:, 0])), dtype=np.float64)


NEWTON_STEPS = 12
PENALTY = 0.1
