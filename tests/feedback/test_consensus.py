"""One order from many: external elections, all orders tried, and what no consensus may depend on."""

from __future__ import annotations

from itertools import combinations, permutations
from random import Random
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panel import said
from plumbline.errors import UserError
from plumbline.feedback.ballots import Floats
from plumbline.feedback.consensus import Method, consensus, kemeny, ranked_pairs
from plumbline.feedback.dawid_skene import nonsense
from plumbline.feedback.pairs import pairs_of
from plumbline.records import Ranking

METHODS = get_args(Method)
BY_VOTES = {"ranked-pairs": ranked_pairs, "kemeny": kemeny}


def agreed(*rankings: Ranking, **options: object) -> tuple[int | None, ...]:
    (found,) = consensus(rankings, **options)  # type: ignore[arg-type]
    return found.ranks


def votes_of(ballots: dict[str, int], candidates: str) -> Floats:
    """Votes (K, K) from how many people have each order."""
    votes = np.zeros((len(candidates),) * 2)
    for order, count in ballots.items():
        for place, one in enumerate(order):
            for other in order[place + 1 :]:
                votes[candidates.index(one), candidates.index(other)] += count
    return votes


def in_order(ranks: tuple[int, ...], candidates: str) -> str:
    assert sorted(ranks) == list(range(1, len(ranks) + 1)), ranks
    return "".join(sorted(candidates, key=lambda name: ranks[candidates.index(name)]))


# ---- elections whose outcome is known


@pytest.mark.parametrize("method", BY_VOTES)
def test_tennessee(method: str) -> None:
    """Memphis 42, Nashville 26, Chattanooga 15, Knoxville 17: the usual example; Nashville beats each other one."""
    votes = votes_of({"MNCK": 42, "NCKM": 26, "CKNM": 15, "KCNM": 17}, "MNCK")
    assert in_order(BY_VOTES[method](votes), "MNCK") == "NCKM"


def test_a_cycle_is_cut_at_its_weakest_link() -> None:
    """A over B by 5, B over C by 3, C over A by 1."""
    leads = np.array([[0, 5, 0], [0, 0, 3], [1, 0, 0]], dtype=float)
    assert ranked_pairs(leads) == kemeny(leads) == (1, 2, 3)


def test_methods_differ_where_they_should() -> None:
    """Ranked pairs cuts a cycle where its largest majorities say, Kemeny where fewest votes are lost."""
    leads = np.zeros((4, 4))
    for (winner, loser), lead in {"AB": 7, "BC": 6, "CD": 5, "DA": 3, "CA": 2, "DB": 4}.items():
        leads["ABCD".index(winner), "ABCD".index(loser)] = lead
    leads = np.asarray(leads)
    by_hand = {"".join(order): cost(leads, order) for order in permutations("ABCD")}
    assert in_order(kemeny(leads), "ABCD") == min(by_hand, key=by_hand.__getitem__)
    assert in_order(ranked_pairs(leads), "ABCD") == one_by_one(leads, "ABCD")


def cost(votes: Floats, order: tuple[str, ...]) -> float:
    places = ["ABCD".index(name) for name in order]
    return sum(float(votes[low, high]) for n, high in enumerate(places) for low in places[n + 1 :])


def one_by_one(votes: Floats, names: str) -> str:
    """Tideman's rule in its own words: a majority at a time, strongest first, unless it closes a cycle."""
    leads = votes - votes.T
    below: dict[int, set[int]] = {item: {item} for item in range(len(votes))}
    for _, high, low in sorted(((leads[i, j], i, j) for i, j in np.argwhere(leads > 0)), reverse=True):
        if high not in below[low]:
            for item in below:
                if high in below[item]:
                    below[item] |= below[low]
    return "".join(sorted(names, key=lambda name: -len(below[names.index(name)])))


@pytest.mark.parametrize("seed", range(40))
def test_ranked_pairs_is_tidemans_rule_where_no_two_majorities_are_equal(seed: int) -> None:
    random = Random(seed)
    size = random.randint(3, 7)
    leads = random.sample(range(1, 100), size * (size - 1) // 2)
    votes = np.zeros((size, size))
    for (i, j), lead in zip(combinations(range(size), 2), leads, strict=True):
        votes[(i, j) if random.random() < 0.5 else (j, i)] = lead
    assert in_order(ranked_pairs(votes), "ABCDEFG"[:size]) == one_by_one(votes, "ABCDEFG"[:size])


@pytest.mark.parametrize("seed", range(20))
def test_kemeny_against_all_orders(seed: int) -> None:
    """An answer is above another exactly where all best orders have it so, and else no rule of ours may split them."""
    random = Random(seed)
    votes = np.array([[float(i != j) * random.randint(0, 3) for i in range(4)] for j in range(4)])
    costs = {order: cost(votes, order) for order in permutations("ABCD")}
    best = [order for order, each in costs.items() if each == min(costs.values())]
    ranks = kemeny(votes)
    for one, other in permutations("ABCD", 2):
        if all(order.index(one) < order.index(other) for order in best):
            assert ranks["ABCD".index(one)] < ranks["ABCD".index(other)]
    if {order[::-1] for order in best} == set(best):
        assert set(ranks) == {1}


def test_kemeny_refuses_ten() -> None:
    with pytest.raises(UserError, match="Kemeny's order of 10 answers takes too long, 9 at most: take 'ranked-pairs'"):
        kemeny(np.zeros((10, 10)))
    assert kemeny(np.triu(np.ones((9, 9)), 1)) == tuple(range(1, 10))


# ---- ties and flags


@pytest.mark.parametrize("method", METHODS)
def test_one_against_one_is_a_tie(method: str) -> None:
    assert agreed(said("ann", 1, 2), said("ben", 2, 1), method=method) == (1, 1)
    assert agreed(said("ann", 1, 2, 3), said("ben", 1, 3, 2), method=method) == (1, 2, 2)


@pytest.mark.parametrize("method", METHODS)
def test_all_tied_stays_tied_and_gives_no_pair(method: str) -> None:
    (found,) = consensus([said("ann", 1, 1, 1), said("ben", 1, 1, 1)], method=method)
    assert found.ranks == (1, 1, 1)
    assert list(pairs_of([found])) == []


@pytest.mark.parametrize("method", ["ranked-pairs", "kemeny"])
def test_equal_majorities_in_a_cycle_cancel(method: str) -> None:
    rankings = [said("ann", 1, 2, 3, 4), said("ben", 3, 1, 2, 4), said("cleo", 2, 3, 1, 4)]
    assert agreed(*rankings, method=method) == (1, 1, 1, 2)


@pytest.mark.parametrize("method", BY_VOTES)
def test_but_not_what_is_clearer_than_they_are(method: str) -> None:
    """A over B by 5; B over C and C over A by 3 each would close a cycle with it. C is left open, A over B is not."""
    assert BY_VOTES[method](np.array([[0, 5, 0], [0, 0, 3], [3, 0, 0]], dtype=float)) == (1, 3, 2)


def test_what_votes_leave_open_lies_in_the_middle() -> None:
    """A over B; C was ranked with neither."""
    rankings = [said("ann", 1, 2, texts="AB"), said("ben", 1, None, texts="CD")]
    (found,) = consensus(rankings)
    assert dict(zip(found.completions, found.ranks, strict=True)) == {"A": 1, "C": 2, "B": 3, "D": None}


@pytest.mark.parametrize("method", METHODS)
def test_a_flagged_answer_has_no_rank(method: str) -> None:
    (found,) = consensus([said("ann", 2, None, 1), said("ben", 2, None, 1), said("cleo", 2, 1, 3)], method=method)
    assert (found.ranks, found.flags) == ((2, None, 1), (False, True, False))
    assert agreed(said("ann", None, None), method=method) == (None, None)


def test_flags_from_elsewhere_replace_the_majoritys() -> None:
    rankings = [said("ann", 1, 2, None), said("ben", 1, 2, 3)]
    assert agreed(*rankings) == (1, 2, None)
    assert agreed(*rankings, nonsense={("s", "B"): 0.5, ("s", "C"): 0.4}) == (1, None, 2)
    assert agreed(*rankings, nonsense={}) == (1, 2, 3)
    assert agreed(said("ann", 1, None), nonsense={}) == (1, None)  # nobody gave it a rank


def test_a_careless_flagger_loses_against_one_who_is_careful() -> None:
    """One against one is a flag by the votes; how everybody flags elsewhere says otherwise."""
    rankings = [
        said(name, 1, None if bad or (name == "dan" and number % 2) else 2, set_id=str(number))
        for number in range(60)
        for bad in [number % 10 == 0]
        for name in (("ann", "dan") if number % 4 == 3 else ("ann", "ben", "cleo", "dan"))
    ]
    by_votes = {each.set_id: each.flags[1] for each in consensus(rankings)}
    by_habit = {each.set_id: each.flags[1] for each in consensus(rankings, nonsense=nonsense(rankings))}
    assert by_votes["3"] and not by_habit["3"]
    assert [name for name, flag in by_habit.items() if flag] == [str(number) for number in range(0, 60, 10)]


# ---- what comes out


def test_a_consensus_is_a_ranking_that_says_where_it_is_from() -> None:
    shared = {"split": "train", "criterion": "helpful"}
    (found,) = consensus(
        [
            said("ann", 1, 2, instruction_version="2", seconds=3, **shared),
            said("ben", 1, 2, instruction_version="1", seconds=4, **shared),
        ],
        method="kemeny",
    )
    assert (found.labeler_id, found.instruction_version) == ("consensus", "1+2")
    assert found.model_extra == {"split": "train", "criterion": "helpful", "method": "kemeny", "n_votes": 2}


def test_weights_decide_and_0_leaves_out() -> None:
    rankings = [said("ann", 1, 2), said("ben", 2, 1), said("cleo", 2, 1)]
    for method in METHODS:
        assert agreed(*rankings, method=method) == (2, 1)
        assert agreed(*rankings, method=method, weights={"ann": 5.0}) == (1, 2)
        assert agreed(*rankings, method=method, weights={"ben": 0.0}) == (1, 1)
    assert list(consensus([said("ann", 1, 2)], weights={"ann": 0.0})) == []


def test_a_text_that_is_there_twice_has_one_rank() -> None:
    assert agreed(said("ann", 1, 2, 3, texts="ABA"), said("ben", 1, 2, 3, texts="ABA")) == (1, 2, 1)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UserError, match="no consensus method 'borda': take one of ranked-pairs, kemeny, "):
        list(consensus([], method="borda"))  # type: ignore[arg-type]


# ---- what it may not depend on

RANKS = st.lists(st.sampled_from([1, 2, 3, 4, None]), min_size=4, max_size=4)
PANEL = st.lists(RANKS, min_size=1, max_size=5)
FULL = st.lists(st.lists(st.integers(1, 4), min_size=4, max_size=4), min_size=1, max_size=6)


def panel_of(ranks: list[list[int | None]]) -> list[Ranking]:
    return [said(str(number), *each) for number, each in enumerate(ranks)]


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=40, deadline=None)
@given(ranks=PANEL, random=st.randoms(use_true_random=False), places=st.permutations(range(4)))
def test_order_does_not_matter(method: str, ranks: list[list[int | None]], random: Random, places: list[int]) -> None:
    """Neither that of labelers nor that of answers."""
    rankings = panel_of(ranks)
    found = agreed(*rankings, method=method)
    assert agreed(*random.sample(rankings, len(rankings)), method=method) == found
    texts = "".join("ABCD"[place] for place in places)
    turned = [said(each.labeler_id, *(each.ranks[place] for place in places), texts=texts) for each in rankings]
    assert agreed(*turned, method=method) == tuple(found[place] for place in places)


@pytest.mark.parametrize("method", BY_VOTES)
@settings(max_examples=60, deadline=None)
@given(ranks=PANEL)
def test_every_vote_twice_changes_nothing(method: str, ranks: list[list[int | None]]) -> None:
    again = [said(f"{each.labeler_id} again", *each.ranks) for each in panel_of(ranks)]
    assert agreed(*panel_of(ranks), *again, method=method) == agreed(*panel_of(ranks), method=method)


@pytest.mark.parametrize("method", BY_VOTES)
@settings(max_examples=60, deadline=None)
@given(ranks=FULL)
def test_who_wins_against_each_comes_first_and_who_loses_against_each_last(method: str, ranks: list[list[int]]) -> None:
    table = np.array(ranks)
    beats = np.array([[(table[:, i] < table[:, j]).sum() > (table[:, j] < table[:, i]).sum() for j in range(4)]
                      for i in range(4)])  # fmt: skip
    found = agreed(*panel_of(ranks), method=method)  # type: ignore[arg-type]
    for place in range(4):
        if beats[place].sum() == 3:
            assert found[place] == 1 and found.count(1) == 1
        if beats[:, place].sum() == 3:
            assert found[place] == max(found) and found.count(found[place]) == 1  # type: ignore[type-var]


@pytest.mark.parametrize("method", BY_VOTES)
@settings(max_examples=60, deadline=None)
@given(ranks=FULL)
def test_upside_down_is_upside_down_and_what_all_say_stands(method: str, ranks: list[list[int]]) -> None:
    found = agreed(*panel_of(ranks), method=method)  # type: ignore[arg-type]
    turned = agreed(*panel_of([[5 - rank for rank in each] for each in ranks]), method=method)
    assert turned == tuple(max(found) + 1 - rank for rank in found)  # type: ignore[type-var, operator]
    for one, other in permutations(range(4), 2):
        if all(each[one] < each[other] for each in ranks):
            assert found[one] < found[other]  # type: ignore[operator]
