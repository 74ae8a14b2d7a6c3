"""Figures by step: prompts weigh alike, errors are those of the prompts, and each detector watches what it says."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from align.audited import rollout, series
from plumbline.align.figures import (
    DETECTORS,
    FIGURES,
    MOST_BLOCKS,
    Figure,
    agreement_with,
    blocks_of,
    ends_of,
    series_of,
    watch,
)

REWARD = FIGURES["reward"]


def test_a_step_is_the_mean_over_prompts_of_each_prompts_mean() -> None:
    """Prompt a has 0 and 2, mean 1; prompt b has 5: the step is 3, its variance ((1 − 3)² + (5 − 3)²) / 1 / 2 = 4."""
    rollouts = [rollout(1, "a", reward=0.0), rollout(1, "b", reward=5.0), rollout(1, "a", reward=2.0)]
    found = series_of(blocks_of([*rollouts, rollout(2, "a", reward=7.0)]), REWARD)
    assert found is not None
    assert found.steps.tolist() == [1, 2] and found.values.tolist() == [3.0, 7.0]
    assert found.variances.tolist() == [4.0, 8.0]  # the lonely prompt of step 2 has the usual variance, 8
    assert found.answers == 4 and found.groups == 1  # the median of 2 and 1, rounded down
    assert found.spread == pytest.approx(sqrt(2.0))  # (0, 2) about 1, one degree of freedom; the lone answers tell none


def test_steps_come_in_order_however_they_lie_in_the_file() -> None:
    blocks = blocks_of([rollout(3), rollout(1), rollout(2), rollout(1, "q")])
    assert [(block.step, len(block.groups)) for block in blocks] == [(1, 2), (2, 1), (3, 1)]


def test_a_long_run_is_taken_in_blocks_of_steps() -> None:
    blocks = blocks_of([rollout(step, reward=float(step)) for step in range(1, 2 * MOST_BLOCKS + 2)])
    assert len(blocks) == 134 and [block.step for block in blocks[:2]] == [3, 6] and blocks[-1].step == 401
    found = series_of(blocks, REWARD)
    assert found is not None and found.values[0] == 2.0 and found.groups == 3


def test_a_figure_that_some_step_cannot_give_is_none() -> None:
    pairs = [rollout(step, "a") for step in (1, 1, 2, 2)]
    assert series_of(blocks_of(pairs), FIGURES["overlap"]) is not None
    assert series_of(blocks_of([*pairs, rollout(3, "a")]), FIGURES["overlap"]) is None


def test_the_figures_of_an_answer() -> None:
    one = rollout(completion="no no no no no", kl=-0.5, tokens=6, ended=False, reference_logprob=-9.0, reward=2.0)
    numbers = {name: figure.of([one])[0] for name, figure in FIGURES.items() if figure.fewest == 1}
    assert numbers == {
        "reward": 2.0,
        "kl": -0.5,
        "surprise": 1.5,
        "length": 6,
        "ended": 0,
        "repetition": pytest.approx(2 / 3),
        "longest_repeat": 4,
    }


def test_agreement_counts_pairs_in_like_order() -> None:
    """Rewards 1 2 3 and scores 1 3 3: 1-2 alike, 1-3 alike, 2-3 undecided: (1 + 1 + 0.5) / 3."""
    group = [rollout(reward=1.0), rollout(reward=2.0), rollout(reward=3.0)]
    scores = dict(zip(map(id, group), [1.0, 3.0, 3.0], strict=True))
    assert agreement_with(scores)(group) == [pytest.approx(2.5 / 3)]
    assert agreement_with({key: -value for key, value in scores.items()})(group) == [pytest.approx(0.5 / 3)]


def test_the_ends_of_a_run_are_its_first_and_last_steps() -> None:
    early, late = ends_of(blocks_of([rollout(step) for step in range(1, 25)]))
    assert [block.step for block in early] == [1, 2, 3] and [block.step for block in late] == [22, 23, 24]


def test_every_detector_watches_a_figure_and_says_how() -> None:
    for name, detector in DETECTORS.items():
        assert detector.figure in FIGURES or detector.figure in ("score", "agreement"), name
        assert detector.rule and detector.question.endswith("?") and detector.least > 0


def test_the_least_change_is_in_the_detectors_unit() -> None:
    long = series([40.0] * 16, spread=3.0)
    assert DETECTORS["length"].least_of(long) == pytest.approx(4.0)  # a tenth of the beginning
    assert DETECTORS["gaming"].least_of(long) == pytest.approx(0.3)  # a tenth of the spread
    assert DETECTORS["ending"].least_of(long) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("name", "down", "up"), [(n, d.worse != "rises", d.worse != "falls") for n, d in DETECTORS.items()]
)
def test_a_detector_looks_the_way_it_says(name: str, down: bool, up: bool) -> None:
    flat = series([10.0] * 20, variance=1e-4)
    fallen = series([10.0] * 10 + [5.0] * 10, variance=1e-4)
    risen = series([10.0] * 10 + [15.0] * 10, variance=1e-4)
    reward = flat if name == "gaming" else None
    assert watch(DETECTORS[name], flat, reward) is None
    assert (watch(DETECTORS[name], fallen, reward) is not None) == down
    assert (watch(DETECTORS[name], risen, reward) is not None) == up


def test_a_group_of_one_answer_each_has_the_spread_of_all() -> None:
    found = series_of(blocks_of([rollout(1, "a", reward=1.0), rollout(1, "b", reward=3.0)]), REWARD)
    assert found is not None and found.spread == 1.0


def test_a_figure_of_the_group_counts_the_answers_of_the_group() -> None:
    pair = Figure("one number", ".1f", lambda group: [float(len(group))], fewest=2)
    found = series_of(blocks_of([rollout(1, "a"), rollout(1, "a"), rollout(1, "b"), rollout(1, "b")]), pair)
    assert found is not None and found.answers == 4 and found.values.tolist() == [2.0]
    assert np.isfinite(found.variances).all()
