"""What people said about one set, laid side by side."""

from __future__ import annotations

import numpy as np
import pytest

from panel import said
from plumbline.errors import BadRecord, UserError
from plumbline.feedback.ballots import Ballots, flagged, gather, tally, together


def only(*rankings: object) -> Ballots:
    (ballots,) = gather(rankings)  # type: ignore[arg-type]
    return ballots


def test_answers_are_told_by_their_text_not_by_their_place() -> None:
    ballots = only(said("ann", 1, 2, 3), said("ben", 3, 1, 2, texts="CAB"))
    assert ballots.texts == ("A", "B", "C")
    assert ballots.ranks.tolist() == [[1, 2, 3], [1, 2, 3]]


def test_who_ranks_again_counts_once_with_the_later_ranking() -> None:
    ballots = only(said("ann", 1, 2), said("ben", 1, 2), said("ann", 2, 1))
    assert sorted(zip(ballots.labelers, ballots.ranks.tolist(), strict=True)) == [("ann", [2, 1]), ("ben", [1, 2])]


def test_the_same_text_twice_is_one_answer_with_its_better_rank() -> None:
    assert only(said("ann", 3, 2, 1, texts="ABA")).ranks.tolist() == [[1, 2]]
    assert only(said("ann", 1, 2, 3, texts="ABA")).ranks.tolist() == [[1, 2]]


def test_and_flagged_where_one_of_the_two_is() -> None:
    ballots = only(said("ann", None, 2, 1, texts="ABA"))
    assert ballots.flags.tolist() == [[True, False]]
    assert np.isnan(ballots.ranks).tolist() == [[True, False]]


def test_votes_written_out() -> None:
    """Ann: A, then B and C alike. Ben: B, then A; C is flagged. So both compared A and B, and one either with C."""
    ballots = only(said("ann", 1, 2, 2), said("ben", 2, 1, None))
    votes_for, votes = tally(ballots)
    assert votes_for.tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert np.triu(votes, 1).tolist() == [[0, 2, 1], [0, 0, 1], [0, 0, 0]]
    votes_for, votes = tally(ballots, {"ann": 0.25})
    assert votes_for.tolist() == [[0, 0.25, 0.25], [1, 0, 0], [0, 0, 0]]
    assert np.triu(votes, 1).tolist() == [[0, 1.25, 0.25], [0, 0, 0.25], [0, 0, 0]]


@pytest.mark.parametrize(
    ("flags", "weights", "out"),
    [
        ("FF.", None, True),
        ("F..", None, False),
        ("F.", None, True),  # in doubt it is out
        ("F..", {"0": 3.0}, True),
        ("F...", {"0": 0.3, "1": 0.1, "2": 0.1, "3": 0.1}, True),  # 0.3 of 0.6, however it is rounded
        ("FF.", {"0": 0.4, "1": 0.4}, False),
    ],
)
def test_flagged_by_at_least_half(flags: str, weights: dict[str, float] | None, out: bool) -> None:
    ballots = only(*(said(str(n), 1, None if flag == "F" else 2) for n, flag in enumerate(flags)))
    assert flagged(ballots, weights).tolist() == [False, out]


def test_only_those_who_judged_an_answer_vote_on_its_flag() -> None:
    ballots = only(said("ann", 1, None, 2), said("ben", 1, 2, texts="AC"), said("cleo", 1, 2, texts="AC"))
    assert flagged(ballots).tolist() == [False, True, False]


def test_a_labeler_of_weight_0_is_not_there() -> None:
    rankings = [said("ann", 1, 2), said("ben", 2, 1), said("ann", 1, 2, set_id="t")]
    assert [ballots.labelers for ballots in gather(rankings, {"ann": 0.0})] == [["ben"]]


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(UserError, match=r"the weight of labeler 'ann' is .*: it must be 0, to leave them out, or more"):
        list(gather([said("ann", 1, 2)], {"ann": weight}))


def test_a_set_that_comes_back_is_no_second_set() -> None:
    rankings = [said("ann", 1, 2, set_id="s"), said("ann", 1, 2, set_id="t"), said("ben", 1, 2, set_id="s")]
    with pytest.raises(BadRecord, match="set 's' comes back after other sets"):
        list(gather(rankings))
    assert [ballots.labelers for ballots in gather(together(rankings))] == [["ann", "ben"], ["ann"]]


def test_one_id_for_two_prompts_is_two_sets() -> None:
    rankings = [said("ann", 1, 2), said("ann", 2, 1, prompt_id="other")]
    assert len(list(gather(rankings))) == 2
