"""The detectors' arithmetic: windows and z by hand, the level by simulation, what no alarm may depend on."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np
import pytest

from align.audited import series
from plumbline.align.detectors import (
    FEWEST_STEPS,
    Against,
    best_before,
    falls,
    first_steps,
    scan,
    threshold,
    window_means,
)


def test_a_window_is_the_mean_of_the_last_steps() -> None:
    means = window_means(np.array([1.0, 3.0, 5.0, 1.0]), 2)
    assert np.isnan(means[0]) and means[1:].tolist() == [2.0, 4.0, 3.0]
    both = window_means(np.array([[1.0, 3.0, 5.0], [0.0, 0.0, 6.0]]), 3)
    assert np.isnan(both[:, :2]).all() and both[:, 2].tolist() == [3.0, 2.0]


def test_the_beginning_is_an_eighth_of_the_run_from_two_to_ten_steps() -> None:
    assert [first_steps(steps) for steps in (6, 16, 24, 40, 80, 400)] == [2, 2, 3, 5, 10, 10]


def test_the_best_earlier_window_ends_before_this_one_begins() -> None:
    means = np.array([np.nan, 2.0, 9.0, 3.0, 4.0, 1.0])
    # At step 3 the window covers steps 2 and 3, so earlier ones end at step 1; at step 4 that with mean 9 may be taken.
    assert best_before(means, 2)[3:].tolist() == [1, 2, 2]


def test_z_is_the_fall_over_its_error() -> None:
    """Steps 4 4 0 0, variance 1 each: the jumps are 0, 16, 0, so at the last step neighbours suggest (0 + 16 + 0) / 6 =
    2.67 a step, more than 1. A window of two has 1.33, and z = 4 / sqrt(1.33 + 1.33)."""
    found = scan(np.array([4.0, 4.0, 0.0, 0.0]), np.ones(4), 2, against="first")
    assert found.z[0].tolist()[:3] == [-inf, -inf, -inf]
    assert found.z[0, 3] == pytest.approx(4 / sqrt(2 * (16 / 6) / 2))
    assert found.worsening[0, 3] == 4.0 and found.earlier[0, 3] == 1
    least = scan(np.array([4.0, 4.0, 0.0, 0.0]), np.ones(4), 2, against="first", least=3.0)
    assert least.z[0, 3] == pytest.approx(1 / sqrt(2 * (16 / 6) / 2))


def test_where_neighbours_differ_less_the_prompts_errors_count() -> None:
    found = scan(np.array([1.0, 1.0, 0.9, 0.9]), np.full(4, 3.0), 2, against="best")
    assert found.z[0, 3] == pytest.approx(0.1 / sqrt(3.0 / 2 + 3.0 / 2))


def test_a_figure_that_never_varied_and_then_does_is_no_certainty() -> None:
    """1 1 1 1 1 1 then 0.9: without the step's own error z would be infinite. And nothing at all is no alarm."""
    values = np.array([1.0] * 7 + [0.9])
    assert np.isfinite(scan(values, np.zeros(8), 2, against="first").z[0, 7])
    assert falls(series([1.0] * 8, variance=0.0), against="first", least=0.0) is None


@pytest.mark.parametrize("against", ["first", "best"])
@pytest.mark.parametrize(("steps", "groups"), [(12, 16), (40, 16), (40, 1)])
def test_the_level_is_the_share_of_quiet_runs_with_an_alarm(steps: int, groups: int, against: Against) -> None:
    """3,000 fresh quiet runs at a level of 5 %: 150 ± 24 (two deviations), and the threshold's own error is ± 14."""
    random = np.random.default_rng(7)
    values = random.normal(3.0, 0.5, (3000, steps, groups))  # location and scale must not matter
    variances = values.var(-1, ddof=1) / groups if groups > 1 else np.zeros((3000, steps))
    z = scan(values.mean(-1), variances, first_steps(steps), against=against).z.max((-1, -2))
    alarms = int((z > threshold(steps, groups, against, 0.05)).sum())
    assert 105 <= alarms <= 195


@pytest.mark.parametrize("against", ["first", "best"])
def test_steady_improvement_makes_alarms_rarer(against: Against) -> None:
    """The same noise with a slope upwards: no z may grow where variances are those of the prompts."""
    random = np.random.default_rng(3)
    noise, variances = random.normal(size=(200, 40)), np.full((200, 40), 40.0)  # far above what neighbours suggest
    level = scan(noise, variances, 5, against=against).z
    rising = scan(noise + 0.2 * np.arange(40), variances, 5, against=against).z
    assert (rising <= level + 1e-9).all() and (rising < level - 0.1).any()


def test_a_fall_is_noticed_soon_after_it_and_not_before() -> None:
    random = np.random.default_rng(0)
    values = random.normal(0, 0.25, 60)
    values[30:] -= 1.0
    for against in ("first", "best"):
        alarm = falls(series(values, variance=0.0625), against=against, least=0.1)
        assert alarm is not None and 30 <= alarm.at <= 36
        assert alarm.since < 30 and -1.5 < alarm.change < -0.4
    assert falls(series(values[:30], variance=0.0625), against="first", least=0.1) is None


def test_an_alarm_sees_nothing_of_what_comes_after_it() -> None:
    """With the same number of steps, whatever follows the alarm leaves it as it was."""
    random = np.random.default_rng(0)
    values = random.normal(0, 0.25, 60)
    values[30:] -= 1.0
    alarm = falls(series(values, variance=0.0625), against="best", least=0.1)
    assert alarm is not None
    values[alarm.at + 1 :] = random.normal(50, 9, 60 - alarm.at - 1)
    assert falls(series(values, variance=0.0625), against="best", least=0.1) == alarm


def test_a_rise_and_a_fall_are_told_apart() -> None:
    up = series([0.0] * 10 + [5.0] * 10, variance=0.01)
    assert falls(up, against="first", least=0.1) is None
    alarm = falls(up, against="first", least=0.1, rises=True)
    assert alarm is not None and alarm.change > 0


def test_what_rose_and_fell_back_to_its_beginning_fell_from_its_best_only() -> None:
    hill = series([0.0] * 10 + [5.0] * 10 + [0.0] * 10, variance=0.01)
    assert falls(hill, against="first", least=0.1) is None
    alarm = falls(hill, against="best", least=0.1)
    assert alarm is not None and 20 <= alarm.at and 10 <= alarm.since < 20


def test_a_small_fall_is_none_however_sure() -> None:
    values = series([1.0] * 20 + [0.9] * 20, variance=1e-8)
    assert falls(values, against="best", least=0.2) is None
    assert falls(values, against="best", least=0.05) is not None


def test_a_fall_in_which_the_reward_falls_as_well_is_not_gaming() -> None:
    down = series([5.0] * 10 + [0.0] * 10, variance=0.01)
    rising = series(list(range(20)), variance=0.01)
    assert falls(down, against="best", least=0.1, while_rising=rising) is not None
    assert falls(down, against="best", least=0.1, while_rising=down) is None


def test_the_shortest_run_that_can_be_judged_can_be() -> None:
    collapse = series([10.0, 10.1, 9.9, 0.0, 0.1, 0.0][:FEWEST_STEPS], variance=1e-4)
    assert np.isfinite(threshold(FEWEST_STEPS, 16, "best"))
    falls(collapse, against="best", least=0.1)
