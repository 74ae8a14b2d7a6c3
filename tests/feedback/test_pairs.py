"""Rankings in, pairs out."""

from __future__ import annotations

from itertools import combinations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panel import said
from plumbline.errors import BadRecord
from plumbline.feedback.pairs import pairs_of
from plumbline.records import Pair, Ranking


def brief(*rankings: Ranking, weights: dict[str, float] | None = None) -> list[tuple[str, float, int]]:
    """Each pair as "chosen > rejected", margin, votes."""
    pairs = pairs_of(rankings, weights=weights)
    return [(f"{pair.chosen} > {pair.rejected}", round(pair.margin, 9), pair.n_votes) for pair in pairs]


def test_nine_answers_without_ties_are_36_pairs_with_the_preferred_one_first() -> None:
    ranks = Random(5).sample(range(1, 10), 9)
    rank = dict(zip("ABCDEFGHI", ranks, strict=True))
    pairs = list(pairs_of([said("ann", *ranks)]))
    assert len(pairs) == 36
    assert all(rank[pair.chosen] < rank[pair.rejected] for pair in pairs)
    assert {frozenset((pair.chosen, pair.rejected)) for pair in pairs} == set(map(frozenset, combinations(rank, 2)))
    assert {(pair.margin, pair.n_votes) for pair in pairs} == {(1.0, 1)}


def test_all_tied_is_no_pair() -> None:
    assert brief(said("ann", 1, 1, 1)) == []


def test_one_against_one_is_no_pair() -> None:
    assert brief(said("ann", 1, 2), said("ben", 2, 1)) == []


def test_a_tie_is_a_vote_for_neither() -> None:
    """Two for A and one tie: (2 − 0) / 3. Two for A and one for B: (2 − 1) / 3."""
    assert brief(said("ann", 1, 2), said("ben", 1, 2), said("cleo", 1, 1)) == [("A > B", round(2 / 3, 9), 3)]
    assert brief(said("ann", 1, 2), said("ben", 1, 2), said("cleo", 2, 1)) == [("A > B", round(1 / 3, 9), 3)]


def test_a_flagged_answer_is_in_no_pair() -> None:
    assert brief(said("ann", 2, None, 1)) == [("C > A", 1.0, 1)]


def test_a_flag_by_fewer_than_half_takes_away_that_vote_alone() -> None:
    assert brief(said("ann", None, 1), said("ben", 1, 2), said("cleo", 1, 2)) == [("A > B", 1.0, 2)]


def test_the_same_text_is_never_a_pair() -> None:
    assert brief(said("ann", 1, 2, 3, texts="AAB")) == [("A > B", 1.0, 1)]
    assert brief(said("ann", 1, 2, texts="AA")) == []


def test_weights_move_the_margin_and_0_takes_the_vote() -> None:
    rankings = said("ann", 1, 2), said("ben", 2, 1)
    assert brief(*rankings, weights={"ann": 3.0}) == [("A > B", 0.5, 2)]  # (3 − 1) / 4
    assert brief(*rankings, weights={"ann": 0.0}) == [("B > A", 1.0, 1)]


def test_weights_that_cancel_but_for_rounding_are_a_tie() -> None:
    """0.1 + 0.2 against 0.3."""
    rankings = said("ann", 1, 2), said("ben", 1, 2), said("cleo", 2, 1)
    assert brief(*rankings, weights={"ann": 0.1, "ben": 0.2, "cleo": 0.3}) == []


def test_ids_prompt_and_split_are_kept() -> None:
    chat = [{"role": "user", "content": "Hello"}]
    (pair,) = pairs_of([said("ann", 1, 2, prompt=chat, prompt_id="p", split="validation")])
    assert (pair.set_id, pair.prompt_id, pair.prompt, pair.split) == ("s", "p", chat, "validation")
    assert pair.model_dump()["chosen"] == [{"role": "assistant", "content": "A"}]
    with pytest.raises(BadRecord, match="set 's' has the split 'dev': it must be one of train, validation, test"):
        list(pairs_of([said("ann", 1, 2, split="dev")]))


def test_sets_are_read_one_at_a_time() -> None:
    """The pairs of the first set are there before the third is asked for."""
    asked = []

    def rankings() -> object:
        for name in ("s", "t", "u"):
            asked.append(name)
            yield said("ann", 1, 2, set_id=name)

    pairs = pairs_of(rankings())  # type: ignore[arg-type]
    assert next(pairs).set_id == "s"
    assert asked == ["s", "t"]


RANKS = st.lists(st.sampled_from([1, 2, 3, 4, None]), min_size=4, max_size=4)


@given(st.lists(RANKS, min_size=1, max_size=5), st.randoms(use_true_random=False), st.permutations("ABCD"))
def test_pairs_stand_whatever_the_order_of_labelers_and_of_answers(
    ranks: list[list[int | None]], random: Random, places: list[str]
) -> None:
    """Each is a valid record, and margin and votes are what counting by hand gives."""
    rankings = [said(str(number), *each) for number, each in enumerate(ranks)]
    turned = [
        said(each.labeler_id, *(each.ranks["ABCD".index(text)] for text in places), texts="".join(places))
        for each in random.sample(rankings, len(rankings))
    ]
    assert sorted(brief(*rankings)) == sorted(brief(*turned))
    for pair in pairs_of(rankings):
        assert Pair.model_validate(pair.model_dump()) == pair
        one, other = "ABCD".index(pair.chosen), "ABCD".index(pair.rejected)
        both = [(each[one], each[other]) for each in ranks if each[one] is not None and each[other] is not None]
        lead = sum((a < b) - (a > b) for a, b in both)  # type: ignore[operator]
        assert lead > 0 and pair.n_votes == len(both) and pair.margin == pytest.approx(lead / len(both))
