"""The best step, the change from beginning to end, the curve through gain and distance."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from align.audited import series
from plumbline.align.frontier import Curve, best_step, change, fit


def test_change_is_the_end_against_the_beginning_with_its_interval() -> None:
    """16 steps: two at each end. Each end has variance 1 / 2, their difference 1: half a width of 1.96."""
    found = change(series([1.0, 3.0, *[9.0] * 12, 5.0, 7.0]))
    assert (found.before, found.after, found.size) == (2.0, 6.0, 4.0)
    assert (found.low, found.high) == (pytest.approx(4 - 1.96), pytest.approx(4 + 1.96))


def test_the_best_step_lies_within_the_best_window() -> None:
    """24 steps, windows of three: a lone peak at step 5 loses to a plateau at steps 12 to 14."""
    values = [0.0] * 24
    values[5], values[12:15] = 4.0, [3.0, 3.0, 3.0]
    best = best_step(series(values, variance=0.01))
    assert best.place == 13 and best.gain == pytest.approx(3.0)
    assert best.error == pytest.approx(sqrt(0.01 / 3 + 0.01 / 3))


def test_the_earliest_step_that_is_not_measurably_worse_is_named() -> None:
    rising = [min(step, 10) / 10 for step in range(24)]
    assert best_step(series(rising, variance=1e-6)).as_good >= 9
    unsure = best_step(series(rising, variance=0.1))
    assert unsure.as_good < 9 and unsure.place >= 9


def test_the_curve_is_found_again() -> None:
    true = Curve(2.0, 0.5)
    d = np.linspace(0.2, 6.0, 30)
    found = fit(d**2, true(d))
    assert found is not None
    assert (found.alpha, found.beta) == (pytest.approx(2.0), pytest.approx(0.5))
    assert found.peak == pytest.approx(np.exp(2 * (2.0 / 0.5 - 1)))


def test_the_peak_is_where_the_curve_is_highest() -> None:
    curve = Curve(1.0, 0.8)
    d = np.linspace(0.05, 5, 2000)
    assert curve.peak == pytest.approx(d[curve(d).argmax()] ** 2, rel=0.01)
    assert Curve(1.0, -0.1).peak is None


def test_steps_that_are_not_away_from_the_reference_give_no_curve() -> None:
    assert fit([0.0] * 20, [1.0] * 20) is None
    assert fit([-0.2] * 10 + [1.0] * 7, [0.0] * 17) is None
    assert fit([-0.2] * 10 + [1.0, 2.0, 3.0, 4.0] * 2, [0.0] * 18) is not None
