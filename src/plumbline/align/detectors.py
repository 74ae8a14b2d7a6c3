"""Has a figure of a run changed for the worse, and from which step on could one know? Arithmetic, no texts.

A figure has, per step, a mean over prompts and the squared standard error of that mean. A detector holds the mean of
the last w steps, w = 2, 4, 8, 16, against earlier steps, after every step t:

    z(t, w) = (worsening from the earlier window to this one − least) / √(their variances' sum)

and gives an alarm at the first t at which some z(t, w) exceeds one threshold. The earlier window is the first steps for
what should stay as it began ("first"), or the best earlier window of w steps for what should not fall once it has risen
("best"). `least` is the smallest worsening worth an alarm: with many answers a trifle is significant.

The threshold is the 1 − level quantile of max z over a whole run in which nothing changes: normal step means, simulated
with this very rule, once per number of steps and groups. So `level` is the chance of a false alarm per run, all its
windows and looks included, with the errors' errors in it: location and scale cancel out of z. Steady improvement only
lowers z, so a run without change is the worst of all that are harmless, and `least` makes alarms rarer still.

Why not CUSUM: it needs a known level and a known shift, which the first few steps give badly, and it promises a mean
number of steps between false alarms, not what one asks of a run with an end. Why not a permutation of the steps: it
says whether a finished run changed, not when one could have known; after every step it would be as many tests.

A window's variance comes from the differences between its prompts, and is never taken below what the differences
between neighbouring steps so far suggest: a policy that jitters by itself is not mistaken for one that drifts. What is
assumed: means of enough prompts to be near normal, and steps that are independent but for the drift. `shuffled runs` in
`benchmarks/audit.py` measures what that costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Against = Literal["first", "best"]
Array: TypeAlias = NDArray[np.float64]

WINDOWS = (2, 4, 8, 16)
LEVEL = 0.01
"""Chance of a false alarm of one detector in one run."""
FEWEST_STEPS = 6
RUNS = 4000
"""Simulated runs behind a threshold: the level is met within 0.2 points."""
MOST_GROUPS = 64
"""From so many prompts per step on, the errors are as good as known."""


def first_steps(steps: int) -> int:
    """How many steps count as a run's beginning, and as its end: an eighth, from 2 to 10."""
    return max(2, min(10, steps // 8))


@dataclass(frozen=True)
class Series:
    """A figure of a run, step by step; all arrays are (steps,)."""

    steps: Array
    values: Array
    """Mean over the step's prompts."""
    variances: Array
    """Squared standard error of that mean, 0 where a step has one prompt."""
    groups: int
    """Prompts of a step, the median."""
    answers: int
    """Answers that were looked at, over all steps."""
    spread: float
    """How far answers to one prompt lie apart in the first steps (standard deviation)."""

    def mean(self, part: slice) -> tuple[float, float]:
        """Over some steps: the mean and its standard error."""
        count = len(self.values[part])
        return float(self.values[part].mean()), float(np.sqrt(self.variances[part].sum()) / count)

    @property
    def beginning(self) -> tuple[float, float]:
        return self.mean(slice(0, first_steps(len(self.values))))

    @property
    def end(self) -> tuple[float, float]:
        return self.mean(slice(len(self.values) - first_steps(len(self.values)), None))


class Alarm(NamedTuple):
    """Places are indices into the series' steps."""

    at: int
    """Where the detector gave its alarm: it saw nothing after that."""
    since: int
    """The last step of the earlier window that it was held against."""
    change: float
    """How far the mean had moved between the two windows, in the figure's own unit."""


@dataclass(frozen=True)
class Scan:
    """All windows at all steps, (..., windows, steps); z is −inf where a window has no room."""

    z: Array
    worsening: Array
    earlier: NDArray[np.int64]
    """The last step of the earlier window."""


def window_means(values: Array, width: int) -> Array:
    """(..., steps) to (..., steps): the mean of the last `width` steps, NaN where there are fewer."""
    means = np.full(values.shape, np.nan)
    sums = np.cumsum(values, axis=-1)
    means[..., width - 1] = sums[..., width - 1] / width
    means[..., width:] = (sums[..., width:] - sums[..., :-width]) / width
    return means


def scan(values: Array, variances: Array, first: int, *, against: Against, least: float = 0.0) -> Scan:
    """Holds each window against the earlier one; worse is lower. Arrays are (..., steps)."""
    steps = values.shape[-1]
    place = np.arange(steps)
    jumps = np.diff(values, axis=-1, prepend=values[..., :1]) ** 2
    floor = np.cumsum(jumps, axis=-1) / (2 * np.maximum(place, 1))  # variance of a step, from neighbours' differences
    z, worsening, earlier = [], [], []
    for width in WINDOWS:
        if width > steps:
            break
        now, error = window_means(values, width), window_means(variances, width) / width
        if against == "first":
            then = np.broadcast_to(values[..., :first].mean(-1, keepdims=True), values.shape)
            its_error = np.broadcast_to(variances[..., :first].mean(-1, keepdims=True) / first, values.shape)
            its_width, at = first, np.full(values.shape, first - 1)
        else:
            at = best_before(now, width)
            then, its_error = np.take_along_axis(now, at, -1), np.take_along_axis(error, at, -1)
            its_width = width
        total = np.maximum(error, floor / width) + np.maximum(its_error, floor / its_width)
        fall = then - now
        beyond = fall - least
        with np.errstate(divide="ignore", invalid="ignore"):
            score = np.where(total > 0, beyond / np.sqrt(total), np.where(beyond > 0, np.inf, -np.inf))
        room = place >= (first + width - 1 if against == "first" else 2 * width - 1)
        z.append(np.where(room, score, -np.inf))
        worsening.append(fall)
        earlier.append(at)
    return Scan(np.stack(z, -2), np.stack(worsening, -2), np.stack(earlier, -2))


def best_before(means: Array, width: int) -> NDArray[np.int64]:
    """For each step, where the highest window mean lies among those that end before this step's window begins."""
    filled = np.where(np.isnan(means), -np.inf, means)
    highest = np.maximum.accumulate(filled, axis=-1)
    at = np.maximum.accumulate(np.where(filled >= highest, np.arange(means.shape[-1]), 0), axis=-1)
    shifted: NDArray[np.int64] = np.roll(at, width, axis=-1)
    shifted[..., :width] = 0
    return shifted


@cache
def threshold(steps: int, groups: int, against: Against, level: float = LEVEL) -> float:
    """What max z exceeds in `level` of all runs of so many steps in which nothing changes."""
    random = np.random.default_rng(0)
    first, highest = first_steps(steps), []
    for _ in range(RUNS // 500):
        means = random.standard_normal((500, steps))
        degrees = groups - 1
        variances = random.chisquare(degrees, (500, steps)) / degrees if degrees else np.zeros((500, steps))
        highest.append(scan(means, variances, first, against=against).z.max((-1, -2)))
    return float(np.quantile(np.concatenate(highest), 1 - level))


def falls(
    series: Series,
    *,
    against: Against,
    least: float,
    level: float = LEVEL,
    rises: bool = False,
    while_rising: Series | None = None,
) -> Alarm | None:
    """The first alarm that the figure fell (or `rises`) by more than `least`; with `while_rising`, only from windows
    between which that other figure did not fall. UserError's matter is checked before: `FEWEST_STEPS` at least."""
    sign = -1.0 if rises else 1.0
    found = scan(sign * series.values, series.variances, first_steps(len(series.values)), against=against, least=least)
    z = found.z
    if while_rising is not None:
        for row, width in enumerate(WINDOWS[: len(z)]):
            other = window_means(while_rising.values, width)
            z[row] = np.where(other >= other[found.earlier[row]], z[row], -np.inf)
    limit = threshold(len(series.values), min(series.groups, MOST_GROUPS), against, level)
    above = (z > limit).any(0)
    if not above.any():
        return None
    at = int(above.argmax())
    row = int(z[:, at].argmax())
    return Alarm(at, int(found.earlier[row, at]), sign * -float(found.worsening[row, at]))
