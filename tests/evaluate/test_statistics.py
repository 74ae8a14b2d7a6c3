"""Intervals that hold what they promise, calibration by hand, and judges' figures as others published them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from plumbline.evaluate import statistics
from plumbline.evaluate.statistics import (
    agreement_beyond_chance,
    at_equal_length,
    brier,
    calibration_error,
    compare,
    discrimination,
    judge_figures,
    kappa,
    mean,
    measure,
    once,
    ratio,
    reliability,
    wilson,
)


def column(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=float)[:, None]


# ---- intervals


def test_wilson_by_hand() -> None:
    # 0 of 10: the upper end is z² / (n + z²)
    assert wilson(0.0, 10) == (0.0, pytest.approx(1.959964**2 / (10 + 1.959964**2)))
    low, high = wilson(0.5, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))


def test_a_share_has_wilsons_interval_and_a_mean_the_bootstraps() -> None:
    share = measure(mean, column(0, 0, 0, 0))
    assert (share.value, share.low) == (0, 0) and share.high == pytest.approx(wilson(0, 4)[1])
    numbers = column(*np.random.default_rng(1).normal(3, 2, 400))
    found = measure(mean, numbers)
    error = numbers.std(ddof=1) / 20
    assert found.value == pytest.approx(numbers.mean()) and found.n == 400
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_few_items_reach_further_out() -> None:
    # t of 9 degrees is -2.262, times √(10/9) -2.385, of which the normal distribution leaves .0085
    assert statistics.tail(10) == pytest.approx(0.0085, abs=1e-4)
    assert statistics.tail(10_000) == pytest.approx(0.025, abs=1e-4)
    one = measure(mean, column(0.3))
    assert (one.value, one.low, one.high) == (0.3, 0.3, 0.3)


def test_the_same_items_have_the_same_interval() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 1))
    assert measure(mean, rows, "a") == measure(mean, rows, "a") != measure(mean, rows, "b")


def test_a_ratio_of_sums_is_not_a_mean_of_ratios() -> None:
    assert once(ratio, np.array([[1.0, 1.0], [0.0, 3.0]])) == 0.25
    assert np.isnan(once(ratio, np.array([[1.0, 0.0]])))


def test_equal_models_differ_beyond_the_interval_about_one_time_in_twenty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: both models' figures are draws of one law, on items that are hard or easy for both."""
    monkeypatch.setattr(statistics, "DRAWS", 400)
    numbers = np.random.default_rng(7)
    runs, beyond = 600, {"means": 0, "shares": 0}
    for run in range(runs):
        hard = numbers.normal(size=(80, 1))
        means = [hard + numbers.normal(size=(80, 1)) for _ in range(2)]
        shares = [(hard + numbers.normal(size=(80, 1)) > 0).astype(float) for _ in range(2)]
        for name, (mine, theirs) in (("means", means), ("shares", shares)):
            found = compare(mean, mine, theirs, f"{name} {run}")
            beyond[name] += not found.low <= 0 <= found.high
    # 600 draws at 0.05 have a standard deviation of 5.3 around 30; a percentile interval of 80 is a little short
    assert all(14 <= count <= 55 for count in beyond.values()), beyond


def test_a_model_that_is_better_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The positive control: pairing takes out what makes an item hard, so a small difference is found."""
    numbers = np.random.default_rng(3)
    hard = 5 * numbers.normal(size=(100, 1))
    mine, theirs = hard + numbers.normal(size=(100, 1)) + 1, hard + numbers.normal(size=(100, 1))
    paired = compare(mean, mine, theirs)
    assert paired.low > 0.5 and paired.high < 1.5
    alone = measure(mean, mine), measure(mean, theirs)
    assert alone[0].low < alone[1].high  # without pairing it would drown


def test_a_model_beside_itself_has_no_difference() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 1))
    found = compare(mean, rows, rows)
    assert (found.value, found.low, found.high) == (0, 0, 0)


# ---- calibration


def test_calibration_by_hand() -> None:
    rows = np.array([[0.95, 1], [0.95, 0], [0.15, 0], [0.15, 0]], dtype=float)
    # the bin at .9 is right half of the time, |.95 - .5|; the one at .1 never, .15; half of the items in each
    assert once(calibration_error, rows) == pytest.approx(0.5 * 0.45 + 0.5 * 0.15)
    assert once(brier, rows) == pytest.approx((0.05**2 + 0.95**2 + 2 * 0.15**2) / 4)
    assert once(discrimination, rows) == pytest.approx((2 + 0.5) / 3)  # 2 of 3 pairs in order, one tied
    assert reliability(rows[:, 0], rows[:, 1]) == [(0.15, 0.0, 2), (pytest.approx(0.95), 0.5, 2)]
    assert reliability([], []) == []


def test_confidence_that_is_kept_has_no_error_and_one_that_is_noise_tells_nothing() -> None:
    numbers = np.random.default_rng(5)
    confidence = numbers.uniform(size=4000)
    kept = np.column_stack([confidence, numbers.uniform(size=4000) < confidence]).astype(float)
    noise = np.column_stack([confidence, numbers.uniform(size=4000) < 0.5]).astype(float)
    assert once(calibration_error, kept) < 0.04 < 0.2 < once(calibration_error, noise)
    assert once(discrimination, kept) > 0.8 and abs(once(discrimination, noise) - 0.5) < 0.03
    assert np.isnan(once(discrimination, np.array([[0.5, 1.0]])))  # without a wrong one there is no pair


# ---- win rates


def test_at_equal_length_takes_out_what_length_alone_won() -> None:
    numbers = np.random.default_rng(11)
    longer = numbers.normal(size=3000) * 200
    chance = 1 / (1 + np.exp(-2 * np.tanh(longer / 200)))
    by_length = np.column_stack([numbers.uniform(size=3000) < chance, longer]).astype(float)
    shifted = by_length[by_length[:, 1] > -50]  # a model that writes long answers, and wins by that
    assert once(mean, shifted) > 0.62
    assert once(at_equal_length, shifted) == pytest.approx(0.5, abs=0.05)
    better = np.column_stack([numbers.uniform(size=3000) < 0.7, longer]).astype(float)  # length changes nothing
    assert once(at_equal_length, better) == pytest.approx(0.7, abs=0.03)


def test_at_equal_length_stays_finite_where_a_model_always_wins() -> None:
    rows = np.column_stack([np.ones(20), np.arange(20.0)])
    assert 0.9 < once(at_equal_length, rows) < 1
    assert once(at_equal_length, np.column_stack([np.full(9, 0.5), np.zeros(9)])) == pytest.approx(0.5)


# ---- judges


def test_a_judge_that_goes_by_the_place_alone() -> None:
    labels = [1, 2, 1, 2]
    found = judge_figures(labels, [1, 1, 1, 1], [2, 2, 2, 2])  # the same place in both orders
    assert (found.first_order, found.second_order, found.both, found.agreement) == (0.5, 0.5, 0, 0)
    assert found.accuracy == 0.5 and found.kappa == 0


def test_kappa_by_hand() -> None:
    # same in 3 of 4; by chance ½·¾ + ½·¼
    assert kappa([1, 1, 2, 2], [1, 1, 2, 1]) == pytest.approx((0.75 - 0.5) / 0.5)
    assert kappa([1, 1], [1, 1]) == 0
    said = np.array([[1, 1], [1, 1], [0, 0], [0, 1]], dtype=float)
    assert once(agreement_beyond_chance, said) == pytest.approx(kappa(*said.T.tolist())) == pytest.approx(0.5)
    assert np.isnan(once(agreement_beyond_chance, np.ones((3, 2))))  # two who always say yes tell nothing


@pytest.mark.parametrize("judge", ["GPT-4", "ChatGPT"])
@pytest.mark.parametrize("case", ["case_base_9", "case_base_10"])
def test_llmbars_verdicts_have_the_published_accuracies(case: str, judge: str) -> None:
    folder = Path(os.environ.get("PLUMBLINE_TEST_DATA", "")) / "llmbar_cases"
    if not os.environ.get("PLUMBLINE_TEST_DATA") or not folder.is_dir():
        pytest.skip("no llmbar_cases in the folder that PLUMBLINE_TEST_DATA names")
    lines = (folder / f"{case}.judge_{judge}_Vanilla.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    orders = [[row["results"][0][f"swap = {swap}"]["winner"] for row in rows] for swap in (False, True)]
    found = judge_figures([str(row["label"]) for row in rows], *orders)
    published = json.loads((folder / f"{case}.judge_{judge}_Vanilla.statistics.json").read_text())

    def share(name: str) -> float:
        return float(published[name].split("=")[-1].strip().rstrip("%")) / 100

    assert found.first_order == pytest.approx(share("correct_False"))
    assert found.second_order == pytest.approx(share("correct_True"))
    assert found.accuracy == pytest.approx(share("correct_average"))
    assert found.both == pytest.approx(share("correct_both"))
    assert found.agreement == pytest.approx(share("equal"))
    assert found.kappa == pytest.approx(published["kappa_agreement"])
