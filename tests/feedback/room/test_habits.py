"""Habits, counted by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from plumbline.feedback.room.habits import find_habits
from plumbline.records import Ranking


def said(ranks: Sequence[int | None], who: str = "ann", **extra: Any) -> Ranking:
    return Ranking.model_validate(
        {
            "set_id": "s1",
            "prompt": "Why?",
            "completions": [f"answer {number}" for number in range(len(ranks))],
            "ranks": ranks,
            "flags": [rank is None for rank in ranks],
            "labeler_id": who,
            "instruction_version": "1",
            **extra,
        }
    )


def test_the_best_is_counted_by_its_place_on_the_screen() -> None:
    order = (2, 0, 1)  # the third answer stood first
    found = find_habits([said((2, 3, 1), shown_order=order), said((1, 2, 3), shown_order=order)])["ann"]
    assert found.places == (0.5, 0.5, 0)
    assert found.first.value == 0.5 and found.first.n == 2


def test_answers_that_share_the_first_rank_share_the_set() -> None:
    found = find_habits([said((1, 1, 2), shown_order=(0, 2, 1))])["ann"]
    assert found.places == (0.5, 0, 0.5)


def test_only_sets_of_the_most_common_size_are_held_against_one_share() -> None:
    sets = [
        said((1, 2), shown_order=(0, 1)),
        said((2, 1, 3), shown_order=(0, 1, 2)),
        said((2, 1, 3), shown_order=(0, 1, 2)),
    ]
    assert find_habits(sets)["ann"].places == (0, 1, 0)


def test_time_and_flags() -> None:
    sets = [said((1, 2, None), seconds=4.0), said((1, None, None), seconds=10.0), said((1, 2, 3), seconds=5.0)]
    found = find_habits([*sets, said((1, 2), "ben")])
    assert (found["ann"].seconds, found["ann"].flagged, found["ann"].judged) == (5.0, 3, 9)
    assert (found["ben"].seconds, found["ben"].rankings) == (None, 1)


@pytest.mark.parametrize("extra", [{}, {"shown_order": None}])
def test_without_the_order_shown_the_places_are_not_defined(extra: dict[str, Any]) -> None:
    found = find_habits([said((1, 2), **extra)])["ann"]
    assert found.places == ()
    assert str(found.first) == "undefined: the order shown is not known (n = 0)"


def test_a_set_of_flags_alone_has_no_best() -> None:
    assert find_habits([said((None, None), shown_order=(0, 1))])["ann"].places == ()
