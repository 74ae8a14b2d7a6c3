"""How far people agree: published tables, arithmetic written out, and whether the intervals hold what they promise."""

from __future__ import annotations

from itertools import permutations
from typing import get_args

import numpy as np
import pytest
from scipy.stats import kendalltau

from panel import said, simulate_panel
from plumbline.errors import UserError
from plumbline.feedback.agreement import Figure, Level, agreement, agreement_by_criterion, alpha, tau, with_themselves
from plumbline.records import Ranking

# Krippendorff's example of four observers and twelve units, and the one of three coders and fifteen units that
# Wikipedia and the library fast-krippendorff show; "." is no value.
FOUR = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 ."]
THREE = [". . . . . 3 4 1 2 1 1 3 3 . 3", "1 . 2 1 3 3 4 3 . . . . . . .", ". . 2 1 3 4 4 . 2 1 1 3 3 . 4"]


def table_of(observers: list[str]) -> list[list[float | None]]:
    """A row per unit."""
    rows = [[None if cell == "." else float(cell) for cell in row.split()] for row in observers]
    return [list(unit) for unit in zip(*rows, strict=True)]


@pytest.mark.parametrize(
    ("observers", "level", "value"),
    [
        (FOUR, "nominal", 0.7434),
        (FOUR, "ordinal", 0.8154),
        (FOUR, "interval", 0.8491),
        (FOUR, "ratio", 0.7974),
        (THREE, "nominal", 0.6914),
        (THREE, "ordinal", 0.8067),
        (THREE, "interval", 0.8108),
        (THREE, "ratio", 0.8089),
    ],
)
def test_krippendorffs_tables(observers: list[str], level: Level, value: float) -> None:
    found = alpha(table_of(observers), level)
    assert found.value == pytest.approx(value, abs=5e-5)
    assert found.low is not None and found.low < value < (found.high or 0)
    assert found.n == {4: 11, 3: 12}[len(observers)]  # units with two values


def test_ordinal_knows_only_the_order() -> None:
    stretched = [[None if cell is None else cell**5 for cell in row] for row in table_of(FOUR)]
    assert alpha(stretched, "ordinal") == alpha(table_of(FOUR), "ordinal")
    assert alpha(stretched, "interval").value != pytest.approx(alpha(table_of(FOUR), "interval").value)


# ---- rankings


def test_agreement_written_out() -> None:
    """Three labelers, one set of three answers: A B C, A C B, and A with B before C.

    A, B: first, first, tie. A, C: first, first, first. B, C: first, second, first.
    Comparisons of two labelers: 9. Both chose in 1 + 3 + 3 = 7, and chose alike in 1 + 3 + 1 = 5. All three outcomes
    alike: those 5 of 9.
    """
    found = agreement([said("ann", 1, 2, 3), said("ben", 1, 3, 2), said("cleo", 1, 1, 2)])
    assert (found.sets, found.shared, found.labelers, found.comparisons) == (1, 1, 3, 9)
    assert found.without_ties == Figure(pytest.approx(5 / 7), None, None, 1, "no interval: one set")
    assert found.with_ties.value == pytest.approx(5 / 9)


def test_alpha_is_that_of_the_table_of_pairs() -> None:
    """Each pair of answers is two units, one from either side; the sets are drawn whole."""
    rankings = simulate_panel(3, sets=30, random_share=0, reversed_share=0, tie=0.4).rankings
    sets: dict[str, list[Ranking]] = {}
    for ranking in rankings:
        sets.setdefault(ranking.set_id, []).append(ranking)
    table, names = [], []
    for name, group in sets.items():
        for one, other in permutations(range(4), 2):
            table.append([float(np.sign(each.ranks[other] - each.ranks[one])) for each in group])  # type: ignore[operator]
            names.append(name)
    assert agreement(rankings).alpha == alpha(table, "ordinal", clusters=names)


def test_without_ties_alpha_is_twice_the_agreement_less_one() -> None:
    found = agreement(simulate_panel(4, sets=300, tie=0.0).rankings)
    assert found.without_ties == found.with_ties
    assert found.alpha.value == pytest.approx(2 * found.with_ties.value - 1, abs=1e-3)  # type: ignore[operator]


def test_sets_of_different_size_do_not_feign_agreement() -> None:
    """People who guess: over pairs alpha holds 0, over ranks as units it would be far above it."""
    rankings = [
        each
        for size in (2, 9)
        for each in simulate_panel(size, sets=150, answers=size, random_share=1.0, reversed_share=0).rankings
    ]
    rankings = [each.model_copy(update={"set_id": f"{len(each.ranks)} {each.set_id}"}) for each in rankings]
    found = agreement(rankings).alpha
    assert found.low < 0 < found.high  # type: ignore[operator]
    by_set: dict[str, list[Ranking]] = {}
    for each in rankings:
        by_set.setdefault(each.set_id, []).append(each)
    ranks = [unit for group in by_set.values() for unit in zip(*(each.ranks for each in group), strict=True)]
    assert alpha(ranks, "ordinal").low > 0.1  # type: ignore[operator]


def test_flags_have_an_alpha_of_their_own() -> None:
    rankings = [
        said(labeler, 1, None if (number + (labeler == "cleo")) % 3 == 0 else 2, set_id=str(number))
        for number in range(9)
        for labeler in ("ann", "ben", "cleo")
    ]
    table = [[number % 3 == 0, number % 3 == 0, (number + 1) % 3 == 0] for number in range(9)]
    table += [[False, False, False] for _ in range(9)]
    names = [*range(9), *range(9)]
    assert agreement(rankings).flags == alpha(table, "nominal", clusters=names)


def test_tau_is_scipys_on_one_set_and_pools_sets() -> None:
    ranks = [(1, 2, 2, 3, 4), (2, 1, 3, 3, 5)]
    (found,) = tau([said("ann", *ranks[0]), said("ben", *ranks[1])]).values()
    assert found.value == pytest.approx(kendalltau(*ranks).statistic)
    (found,) = tau(
        [said(name, *order, set_id=one) for one in "st" for name, order in (("ann", (1, 2)), ("ben", (1, 2)))]
        + [said("ann", 1, 2, set_id="u"), said("ben", 2, 1, set_id="u")]
    ).values()
    assert found.value == pytest.approx(1 / 3) and found.n == 3


def test_tau_is_for_those_who_share_a_set() -> None:
    rankings = [
        said("cleo", 1, 2),
        said("ann", 1, 2),
        said("ben", 1, 2, set_id="t"),
        said("dan", 1, 1, set_id="u"),
        said("ann", 1, 2, set_id="u"),
    ]
    found = tau(rankings)
    assert set(found) == {("ann", "cleo"), ("ann", "dan")}
    assert found["ann", "dan"].why == "undefined: one of the two ties everything"


def test_each_criterion_apart() -> None:
    rankings = [
        said(name, *ranks, set_id=f"{criterion} {number}", criterion=criterion)
        for criterion, second in (("helpful", (1, 2)), ("harmless", (2, 1)))
        for number in range(3)
        for name, ranks in (("ann", (1, 2)), ("ben", second))
    ]
    found = agreement_by_criterion(rankings)
    assert {name: each.with_ties.value for name, each in found.items()} == {"helpful": 1.0, "harmless": 0.0}
    assert agreement(rankings).with_ties.value == 0.5
    assert list(agreement_by_criterion([said("ann", 1, 2)])) == [None]


# ---- what is not defined says so


def test_undefined_is_said_and_never_nan() -> None:
    nothing, alone = agreement([]), agreement([said("ann", 1, 2), said("ben", 1, 2, set_id="t")])
    for found in (nothing, alone):
        for each in (found.without_ties, found.with_ties, found.alpha, found.flags):
            assert each == Figure(None, None, None, 0, "undefined: nobody ranked the same set")
    tied = agreement([said(name, 1, 1, set_id=one) for one in "st" for name in ("ann", "ben")])
    assert str(tied.alpha) == "undefined: unanimous (n = 2)"
    assert str(tied.flags) == "undefined: unanimous (n = 2)"
    assert str(tied.without_ties) == "undefined: every comparison has a tie (n = 0)"
    assert str(tied.with_ties) == "1.000 (no interval: all sets alike, n = 2)"
    assert alpha([], "nominal").why == alpha([[1, None], [None, 2]], "ratio").why == nothing.alpha.why
    assert alpha([[3, 3], [3, 3]], "interval").why == "undefined: unanimous"


def test_a_table_that_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="no level 'cardinal': take one of nominal, ordinal, interval, ratio"):
        alpha([[1, 2]], "cardinal")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the table holds nan: values must be finite"):
        alpha([[1, float("nan")]], "nominal")
    with pytest.raises(UserError, match="the table holds -1: values must be finite, and for a ratio not below 0"):
        alpha([[1, -1]], "ratio")
    assert set(get_args(Level)) == {"nominal", "ordinal", "interval", "ratio"}


# ---- the intervals


def test_the_same_seed_gives_the_same_interval_and_order_does_not_matter() -> None:
    rankings = simulate_panel(6, sets=40).rankings
    assert agreement(rankings, seed=1) == agreement(rankings, seed=1)
    assert agreement(rankings, seed=1).alpha != agreement(rankings, seed=2).alpha
    swapped = [
        each.model_copy(update={"completions": each.completions[::-1], "ranks": each.ranks[::-1]}) for each in rankings
    ]
    assert agreement(swapped, seed=1) == agreement(rankings, seed=1)


def holds(found: Figure, truth: float) -> bool:
    assert found.low is not None and found.high is not None
    return found.low <= truth <= found.high


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Two classes, three observers, right with p = 0.85 each: they agree with p² + q², and alpha is 2 (p² + q²) − 1.

    Over 200 tables of 60 units; by chance 95 % would be 184 to 196 of them, and a bootstrap of 60 is a little narrow.
    """
    random = np.random.default_rng(8)
    truth = 2 * (0.85**2 + 0.15**2) - 1
    held = 0
    for _ in range(200):
        right = random.random((60, 3)) < 0.85
        table = (random.random((60, 1)) < 0.5) == right
        held += holds(alpha(table.astype(int).tolist(), "nominal"), truth)
    assert 178 <= held <= 198, held


def test_and_would_not_if_pairs_of_one_set_were_drawn_apart() -> None:
    """Guessed rankings of nine answers, so alpha is 0. The pairs of a set hang together: sets must be drawn whole."""
    random = np.random.default_rng(9)
    one, other = np.triu_indices(9, 1)
    held = {"sets": 0, "pairs": 0}
    for _ in range(60):
        ranks = random.random((2, 25, 9))  # two labelers, 25 sets
        pairs = (ranks[:, :, one] < ranks[:, :, other]).astype(int).reshape(2, -1).T.tolist()
        held["sets"] += holds(alpha(pairs, "nominal", clusters=np.repeat(range(25), 36).tolist()), 0)
        held["pairs"] += holds(alpha(pairs, "nominal"), 0)
    assert held["sets"] >= 53, held
    assert held["pairs"] <= 48, held


def test_people_who_guess_agree_by_chance_alone() -> None:
    found = agreement(simulate_panel(10, sets=400, random_share=1.0, reversed_share=0).rankings)
    assert holds(found.alpha, 0) and abs(found.alpha.value or 1) < 0.03
    assert holds(found.without_ties, 0.5)


# ---- oneself


def test_who_is_asked_twice_agrees_with_themselves_by_pairs_of_answers() -> None:
    """A B C and then A C B: A before B and A before C again, B and C turned. A and B tied twice: one of one."""
    first = [said("ann", 1, 2, 3), said("ben", 1, 2, 3), said("ann", 1, 1, set_id="2"), said("ann", 2, 1, set_id="3")]
    again = [said("ann", 1, 3, 2), said("ann", 1, 1, set_id="2")]
    found = with_themselves(first, again)
    assert set(found) == {"ann"}  # ben was never asked again, and the third set was not either
    assert (found["ann"].value, found["ann"].n) == (pytest.approx(3 / 4), 2)
    assert found["ann"].low == pytest.approx(2 / 3) and found["ann"].high == 1.0


def test_who_flags_all_the_second_time_has_no_figure() -> None:
    found = with_themselves([said("ann", 1, 2)], [said("ann", None, None)])
    assert str(found["ann"]) == "undefined: no two answers ranked both times (n = 0)"
