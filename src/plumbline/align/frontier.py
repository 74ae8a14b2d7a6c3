"""What a run's distance from its reference bought: the best step, the KL it took, and the curve of Gao et al.

Gao, Schulman and Hilton 2022 (arXiv 2210.10760) found that under reinforcement learning an independent ("gold") score
goes with d = √KL as

    gain(d) = d · (α − β · log d)

with its peak at log d = α/β − 1. We fit α and β by least squares and draw the curve beside the points. It describes
what was seen; it is no promise about steps that were not made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from plumbline.align.detectors import Array, Series, first_steps, window_means

Z = 1.96


class Change(NamedTuple):
    """The end of a run against its beginning, with a 95 % interval."""

    before: float
    after: float
    low: float
    high: float

    @property
    def size(self) -> float:
        return self.after - self.before


class Best(NamedTuple):
    """Places are indices into the series' steps."""

    place: int
    """The middle of the window with the highest mean."""
    as_good: int
    """The middle of the earliest window that is not measurably below that."""
    gain: float
    """Its mean above the run's beginning."""
    error: float
    """Standard error of that gain."""


class Curve(NamedTuple):
    """gain(d) = d · (alpha − beta · log d)."""

    alpha: float
    beta: float

    def __call__(self, d: Array) -> Array:
        result: Array = d * (self.alpha - self.beta * np.log(d))
        return result

    @property
    def peak(self) -> float | None:
        """The KL at which it is highest, None where it has no highest point."""
        return float(np.exp(2 * (self.alpha / self.beta - 1))) if self.beta > 0 else None


def change(series: Series) -> Change:
    (before, error), (after, its_error) = series.beginning, series.end
    half = Z * float(np.hypot(error, its_error))
    return Change(before, after, after - before - half, after - before + half)


def best_step(series: Series) -> Best:
    """By windows of as many steps as the beginning has: a single step's mean is highest by luck."""
    width = first_steps(len(series.values))
    means = window_means(series.values, width)
    errors = window_means(series.variances, width) / width
    at = int(np.nanargmax(means))
    with np.errstate(invalid="ignore"):
        near = means >= means[at] - Z * np.sqrt(errors + errors[at])
    before, error = series.beginning
    back = (width - 1) // 2
    return Best(at - back, int(near.argmax()) - back, float(means[at] - before), float(np.sqrt(errors[at] + error**2)))


def fit(kl: Sequence[float] | Array, gains: Sequence[float] | Array) -> Curve | None:
    """The curve through (KL, gain); None where fewer than eight steps lie away from the reference."""
    kl, gains = np.asarray(kl, float), np.asarray(gains, float)
    away = kl > 1e-3
    if away.sum() < 8:
        return None
    d = np.sqrt(kl[away])
    (alpha, beta), *_ = np.linalg.lstsq(np.column_stack([d, -d * np.log(d)]), gains[away], rcond=None)
    return Curve(float(alpha), float(beta))
