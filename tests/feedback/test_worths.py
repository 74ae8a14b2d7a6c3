"""Worths against published fits, and against the model written out."""

from __future__ import annotations

import json
import os
from itertools import combinations, product
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import check_grad

from plumbline.errors import UserError
from plumbline.feedback.worths import (
    Order,
    Worths,
    bradley_terry,
    choices_of,
    connected_parts,
    fit,
    log_normalisers,
    plackett_luce,
    sufficient,
    symmetric,
    tabulate,
)


def shares(worths: Worths) -> list[float]:
    total = sum(map(exp, worths.logs))
    return [exp(value) / total for value in worths.logs]


def against_first(worths: Worths) -> list[float]:
    return [value - worths.logs[0] for value in worths.logs]


def strict(*orders: str) -> list[Order]:
    return [[[int(item)] for item in order] for order in orders]


# ---- published fits

# Davidson 1970: six brands of chocolate pudding. i, j, how often i was preferred, j, neither.
PUDDING = """
1 2 19 22 16, 1 3 16 19 12, 2 3 19 19 10, 1 4 18 23 13, 2 4 23 19 9, 3 4 19 20 15, 1 5 13 19 18, 2 5 16 20 12,
3 5 16 15 17, 4 5 17 14 16, 1 6 18 21 12, 2 6 22 20 12, 3 6 13 18 10, 4 6 14 19 18, 5 6 11 21 12
"""

# PrefLib's 00004-00000138: how many people put four films in each order.
FILMS = """
68 1032, 53 0132, 49 1023, 44 0123, 39 1302, 37 2103, 37 1203, 36 1230, 31 2130, 29 1320, 22 0213, 19 2013, 17 2310,
17 3120, 16 3102, 14 0312, 10 0231, 10 3012, 9 3201, 8 2301, 8 0321, 7 2031, 7 3210, 1 3021
"""


def test_davidsons_pudding() -> None:
    """Worths, tie parameter and log-likelihood as the R package PlackettLuce prints them; 1970 they were the same."""
    orders: list[Order] = []
    weights: list[float] = []
    for row in PUDDING.replace("\n", " ").split(","):
        one, other, *votes = map(int, row.split())
        i, j = one - 1, other - 1
        orders += [[[i], [j]], [[j], [i]], [[i, j]]]
        weights += votes
    found = bradley_terry(orders, 6, weights=weights, prior=0)
    assert shares(found) == pytest.approx([0.1388, 0.1730, 0.1617, 0.1654, 0.1587, 0.2024], abs=5e-5)
    assert found.ties[2] == pytest.approx(0.7468, abs=5e-5)
    assert found.log_likelihood == pytest.approx(-809.7095, abs=5e-5)
    assert found.connected


def test_films() -> None:
    """R's PlackettLuce with its default prior, as its README prints it."""
    rows = [row.split() for row in FILMS.replace("\n", " ").split(",")]
    found = plackett_luce(strict(*(order for _, order in rows)), 4, weights=[float(count) for count, _ in rows])
    assert shares(found) == pytest.approx([0.2306285, 0.4510655, 0.1684719, 0.1498342], abs=1e-6)
    assert -2 * found.log_likelihood == pytest.approx(3493.5, abs=0.05)


def test_ties_and_partial_rankings() -> None:
    """Six small rankings of fruit from the tests of R's PlackettLuce, with the coefficients it keeps as a snapshot."""
    orders: list[Order] = [[[0], [1]], [[1], [2], [0]], [[1, 2], [0]], [[0], [1], [2]], [[1, 2], [0]], [[0], [2]]]
    found = plackett_luce(orders, 3)
    assert against_first(found) == pytest.approx([0, 0.2867987, -0.4636687], abs=1e-6)
    assert log(found.ties[2]) == pytest.approx(-1.0701129, abs=1e-6)
    assert -2 * found.log_likelihood == pytest.approx(21.61, abs=0.005)


def test_somebody_who_never_wins() -> None:
    """The toy network of the vignette of R's PlackettLuce: D only loses."""
    orders = strict("01", "20", "03", "10", "12")
    found = bradley_terry(orders, 4)
    assert against_first(found) == pytest.approx([0, 0.5184185, 0.1354707, -1.1537565], abs=1e-6)
    assert found.parts == ((0, 1, 2), (3,)) and not found.connected
    with pytest.raises(UserError, match=r"leave the items \[\[0, 1, 2\], \[3\]\] apart.*set a prior above 0"):
        bradley_terry(orders, 4, prior=0)
    without = bradley_terry(strict("01", "20", "10", "12"), 3, prior=0)
    assert against_first(without) == pytest.approx([0, 0.8392, 0.4196], abs=5e-5)


# The cases of choix's tests (MIT licence).
CHOIX = [
    (strict("01", "01", "12", "20"), 3, [0.419617624, -0.419617624, 0.0]),
    (strict("012", "320", "13"), 4, [-0.44328117, 0.69506219, -0.67061442, 0.4188334]),
    (strict("01", "12", "20"), 3, [0.0, 0.0, 0.0]),
]


@pytest.mark.parametrize(("orders", "items", "logs"), CHOIX)
def test_choix(orders: list[Order], items: int, logs: list[float]) -> None:
    assert plackett_luce(orders, items, prior=0).logs == pytest.approx(logs, abs=5e-5)


def test_all_of_choix() -> None:
    file = Path(os.environ.get("PLUMBLINE_TEST_DATA", "")) / "choix_cases/cases.jsonl"
    if not file.is_file():
        pytest.skip("no choix_cases/cases.jsonl in the folder that PLUMBLINE_TEST_DATA names")
    cases = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(cases) == 6
    for case in cases:
        if case["case"].startswith("top1"):  # the best of several: the others come after it, in no order
            found = top_one([(best, others) for best, others in case["data"]], case["n_items"])
        else:
            found = plackett_luce([[[item] for item in row] for row in case["data"]], case["n_items"], prior=0).logs
        assert found == pytest.approx(case["ml_est"], abs=5e-5), case["case"]


def top_one(rows: list[tuple[int, list[int]]], items: int) -> tuple[float, ...]:
    choices = {((best,), tuple(sorted([best, *others]))): 1.0 for best, others in rows}
    return fit(choices, items, 0, connected_parts(choices, items)).logs


# ---- the model, written out


def log_probability(order: Order, logs: list[float], log_ties: list[float]) -> float:
    """With ties of up to three, for three items: from the docstring, by listing all subsets."""

    def worth(group: tuple[int, ...]) -> float:
        return exp([0.0, *log_ties][len(group) - 1] + sum(logs[item] for item in group) / len(group))

    total, left = 0.0, [item for group in order for item in group]
    for group in order:
        subsets = [subset for size in (1, 2, 3) for subset in combinations(left, size)]
        total += log(worth(tuple(group)) / sum(map(worth, subsets)))
        left = [item for item in left if item not in group]
    return total


def weak_orders(items: int) -> list[Order]:
    """All ways to rank the items with ties."""
    ways = {ranks for ranks in product(range(items), repeat=items) if set(ranks) == set(range(max(ranks) + 1))}
    return [[[i for i in range(items) if ranks[i] == rank] for rank in range(max(ranks) + 1)] for ranks in ways]


def test_the_probabilities_of_all_orders_add_up_to_one() -> None:
    logs, log_ties = [0.3, -1.1, 0.8], [-0.7, 0.4]
    orders = weak_orders(3)
    assert len(orders) == 13
    assert sum(exp(log_probability(order, logs, log_ties)) for order in orders) == pytest.approx(1)


def test_the_likelihood_and_its_gradient() -> None:
    orders = weak_orders(3)
    choices = {choice: 1.0 for order in orders for choice in choices_of(order, 3)}
    counts = dict.fromkeys(choices, 0.0)
    for order in orders:
        for choice in choices_of(order, 3):
            counts[choice] += 1
    table = tabulate(counts, 3)
    at = np.array([0.3, -1.1, 0.8, -0.7, 0.4])
    likelihood = float(sufficient(counts, table) @ at) - log_normalisers(table, at)[0]
    assert likelihood == pytest.approx(sum(log_probability(order, [0.3, -1.1, 0.8], [-0.7, 0.4]) for order in orders))
    assert check_grad(lambda x: log_normalisers(table, x)[0], lambda x: log_normalisers(table, x)[1], at) < 1e-5


def test_symmetric_polynomials_by_listing_the_subsets() -> None:
    values = np.random.default_rng(1).random((2, 5))
    for degree in range(1, 6):
        whole, without = symmetric(values, degree)
        for row in range(2):
            expected = sum(np.prod(values[row, list(places)]) for places in combinations(range(5), degree))
            assert whole[row] == pytest.approx(expected)
            for place in range(5):
                rest = np.delete(values[row], place)
                expected = sum(np.prod(rest[list(places)]) for places in combinations(range(4), degree - 1))
                assert without[row, place] == pytest.approx(expected)


# ---- what must hold


@pytest.mark.parametrize(("size", "tie"), [(2, 1), (3, 6), (9, 18)])
def test_nothing_but_a_tie_is_finite_and_equal(size: int, tie: float) -> None:
    """One tie, log δ − log(n + δ), and the prior's half choice from n without one: greatest where 1.5 δ = n + δ.

    For n = 2 the prior is four half choices, each answer against the imagined one: 3 δ = 2 + δ.
    """
    order = [list(range(size))]
    found = plackett_luce([order], size)
    assert found.logs == pytest.approx([0] * size) and found.ties[size] == pytest.approx(tie, abs=1e-5)
    with pytest.raises(UserError, match="answers tie wherever they can, so how often they do has no bound"):
        plackett_luce([order], size, prior=0)


def test_ties_wherever_three_are_left_and_nowhere_else_have_no_bound() -> None:
    """Two tie and do not, so that is finite; three always do."""
    orders: list[Order] = [[[0, 1], [2]], [[0, 1, 2]]]
    assert np.isfinite(list(plackett_luce(orders, 3).ties.values())).all()
    with pytest.raises(UserError, match="no bound"):
        plackett_luce([[[0, 1, 2]], [[0], [1]], [[1], [2]], [[2], [0]]], 3, prior=0)


def test_groups_never_compared_are_finite_and_told() -> None:
    found = bradley_terry(strict("01", "10", "23", "32", "23"), 4)
    assert np.isfinite(found.logs).all() and found.parts == ((0, 1), (2, 3))
    assert found.logs[0] == pytest.approx(found.logs[1])


def test_weights_are_repetitions() -> None:
    orders: list[Order] = [[[0], [1, 2]], [[2], [0], [1]], [[1], [0]]]
    weighed = plackett_luce(orders, 3, weights=[3, 1, 2])
    assert weighed == plackett_luce([*[orders[0]] * 3, orders[1], *[orders[2]] * 2], 3)


def test_a_stronger_prior_pulls_together() -> None:
    spreads = [np.ptp(plackett_luce(strict("012", "021"), 3, prior=prior).logs) for prior in (0.1, 0.5, 2.0)]
    assert spreads == sorted(spreads, reverse=True)


def test_many_answers_with_many_ties_take_no_subsets() -> None:
    """30 answers in three groups of ten: the subsets of ten are 30 million."""
    found = plackett_luce([[list(range(10)), list(range(10, 20)), list(range(20, 30))]], 30)
    assert found.logs[0] > found.logs[10] > found.logs[20]


@pytest.mark.parametrize("order", [[[0], [0]], [[3]], [[-1], [0]]])
def test_what_is_no_order_is_refused(order: Order) -> None:
    with pytest.raises(UserError, match="is no order: each of the items 0 to 2 once at most"):
        plackett_luce([order], 3)


def test_a_prior_below_0_is_refused() -> None:
    with pytest.raises(UserError, match="the prior is -1: it must be 0 or more"):
        plackett_luce(strict("01"), 2, prior=-1)
