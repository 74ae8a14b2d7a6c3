"""Differences and flags, counted by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from plumbline.feedback.room import disputes
from plumbline.feedback.room.disputes import find_disputes
from plumbline.records import Ranking

TEXTS = ("Open a window.", "Close the blinds.", "Buy a fan.")


def said(who: str, ranks: Sequence[int | None], set_id: str = "s1") -> Ranking:
    return Ranking.model_validate(
        {
            "set_id": set_id,
            "prompt": "My house is too hot.",
            "completions": TEXTS,
            "ranks": ranks,
            "flags": [rank is None for rank in ranks],
            "labeler_id": who,
            "instruction_version": "1",
            "criterion": "helpful",
        }
    )


def test_one_contradicted_choice_of_three() -> None:
    found = find_disputes([said("ann", (2, 1, 3)), said("ben", (1, 2, 3))])
    assert (found.n_differences, found.n_flagged) == (1, 0)
    (only,) = found.differences
    assert (only.choices, only.contradicted, only.contested) == (3, 1, {0, 1})
    assert only.weight == pytest.approx(1 / 3)  # one of the three choices is halved, the others are unanimous
    assert only.places == (0, 1, 2) and only.criterion == "helpful"
    assert [(each.labeler_id, each.ranks) for each in only.said] == [("ann", (2, 1, 3)), ("ben", (1, 2, 3))]


def test_a_tie_against_a_choice_contradicts_nobody() -> None:
    assert find_disputes([said("ann", (1, 1, 2)), said("ben", (1, 2, 3))]).differences == []


def test_answers_stand_as_the_majority_has_them() -> None:
    found = find_disputes([said("ann", (3, 2, 1)), said("ben", (3, 1, 2)), said("cem", (2, 3, 1))])
    assert found.differences[0].places == (2, 1, 0)


def test_the_more_contradicted_set_comes_first() -> None:
    mild = [said("ann", (1, 2, 3)), said("ben", (2, 1, 3))]
    hard = [said("ann", (1, 2, 3), "s2"), said("ben", (3, 2, 1), "s2")]
    assert [each.set_id for each in find_disputes(mild + hard).differences] == ["s2", "s1"]


def test_flags_say_who_and_of_how_many() -> None:
    found = find_disputes([said("ann", (1, 2, None)), said("ben", (1, 2, 3)), said("cem", (None, 1, None))])
    assert [(each.place, each.by, each.judges) for each in found.flagged] == [(2, ("ann", "cem"), 3), (0, ("cem",), 3)]
    assert found.n_flagged == 2


def test_a_flag_is_no_vote_in_a_choice() -> None:
    found = find_disputes([said("ann", (1, 2, None)), said("ben", (2, 1, 3))])
    assert (found.differences[0].choices, found.differences[0].contradicted) == (1, 1)
    assert found.differences[0].places[-1] == 2


def test_what_half_of_the_judges_flag_stands_last() -> None:
    found = find_disputes([said("ann", (None, 1, 2)), said("ben", (1, 3, 2))])
    assert found.differences[0].places == (1, 2, 0)


def test_many_disputes_are_counted_and_the_greatest_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disputes, "KEPT", 2)
    sets = [each for n in range(7) for each in (said("ann", (1, 2, 3), f"s{n}"), said("ben", (2, 1, 3), f"s{n}"))]
    sets += [said("ann", (1, 2, 3), "worst"), said("ben", (3, 2, 1), "worst")]
    found = find_disputes(sets)
    assert found.n_differences == 8
    assert [each.set_id for each in found.differences] == ["worst", "s0"]
