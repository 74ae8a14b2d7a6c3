"""Accuracy on held-out comparisons: by hand, and the intervals and the calibration against made-up truth."""

from __future__ import annotations

from math import exp, log
from random import Random

import pytest

from plumbline.align.accuracy import measure_accuracy, share, wilson
from plumbline.align.data import Order, Preference, compare
from plumbline.models.grouped import Group


def ranked(ranks: tuple[int, ...], lengths: tuple[int, ...] | None = None) -> Preference:
    orders = [Order(ranks)]
    answers = [[2] * length for length in lengths or (1,) * len(ranks)]
    return Preference("a set", Group([1], answers), tuple(orders), tuple(compare(orders, ties=True)))


def test_each_set_weighs_one_and_ties_of_people_are_left_out() -> None:
    """Two of three pairs right, then one of one, then one that people call a tie and one wrong."""
    sets = [ranked((1, 2, 3)), ranked((2, 1)), ranked((1, 1, 2))]
    found = measure_accuracy(sets, [[1.0, 0.0, 0.5], [0.0, 1.0], [1.0, 0.0, 0.5]])
    assert found.pairs == 3 + 1 + 2
    assert (found.right.value, found.right.sets) == (pytest.approx((2 / 3 + 1 + 1 / 2) / 3), 3)
    first = (log(1 + exp(-1.0)) + log(1 + exp(-0.5)) + log(1 + exp(0.5))) / 3
    second, third = log(1 + exp(-1.0)), (log(1 + exp(-0.5)) + log(1 + exp(0.5))) / 2
    assert found.log_loss == pytest.approx((first + second + third) / 3)


def test_equal_rewards_count_one_half() -> None:
    assert measure_accuracy([ranked((1, 2))], [[3.0, 3.0]]).right.value == 0.5


def test_a_model_that_likes_length_is_seen_through() -> None:
    """Rewards are the lengths; the better answer is the longer one in three sets of four."""
    sets = [ranked((1, 2), (9, 3)), ranked((1, 2), (8, 2)), ranked((2, 1), (1, 4)), ranked((2, 1), (7, 4))]
    rewards = [[float(len(text)) for text in each.group.completions] for each in sets]
    found = measure_accuracy(sets, rewards)
    assert (found.longer.value, found.longer.sets) == (1.0, 3)
    assert (found.shorter.value, found.shorter.sets) == (0.0, 1)
    assert found.right.value == found.longer_wins.value == 0.75
    assert not found.beats_length


def test_better_than_length_is_said_only_where_the_interval_says_so() -> None:
    half = [ranked((1, 2), (1 + number % 2, 2 - number % 2)) for number in range(40)]
    assert measure_accuracy(half, [[1.0, 0.0]] * 40).beats_length
    assert not measure_accuracy(half[:2], [[1.0, 0.0]] * 2).beats_length


def test_wilson_against_its_published_form() -> None:
    """81 of 263: 0.2553 to 0.3662 (Newcombe 1998, table I, method 3)."""
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(1.0, 10)[1] == 1.0 and 0.6 < wilson(1.0, 10)[0] < 0.8
    assert wilson(0.0, 0) == (0.0, 1.0)


def test_the_interval_holds_the_truth_about_19_times_in_20_even_when_pairs_agree() -> None:
    """Each set's three pairs are right together or wrong together, so counting pairs as votes would fail here."""
    random, held, by_pairs = Random(0), 0, 0
    for _ in range(400):
        right = [random.random() < 0.65 for _ in range(60)]
        rewards = [[2.0, 1.0, 0.0] if each else [0.0, 1.0, 2.0] for each in right]
        found = measure_accuracy([ranked((1, 2, 3))] * 60, rewards).right
        held += found.low <= 0.65 <= found.high
        low, high = wilson(found.value, 180)
        by_pairs += low <= 0.65 <= high
    assert held / 400 > 0.92
    assert by_pairs / 400 < 0.85


def test_a_calibrated_model_is_as_often_right_as_it_says() -> None:
    random = Random(1)
    sets, rewards = [], []
    for _ in range(5000):
        gap = random.uniform(-3, 3)
        first_is_better = random.random() < 1 / (1 + exp(-gap))
        sets.append(ranked((1, 2) if first_is_better else (2, 1)))
        rewards.append([gap, 0.0])
    bins = measure_accuracy(sets, rewards).calibration
    assert [each.pairs for each in bins] == [1000] * 5
    assert all(abs(each.said - each.was) < 0.05 for each in bins)
    # One that is three times too sure of itself:
    boastful = measure_accuracy(sets, [[3 * gap, 0.0] for gap, _ in rewards]).calibration
    assert max(each.said - each.was for each in boastful) > 0.12


def test_nothing_to_count_is_told_as_such() -> None:
    found = measure_accuracy([], [])
    assert (found.pairs, found.calibration, str(found.right)) == (0, (), "no sets")
    assert str(share([], lambda case: 1.0)) == "no sets"
