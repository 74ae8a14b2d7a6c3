"""What changed between two versions of the instructions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plumbline.feedback.room.changes import Change, changes

LINES = st.lists(st.text("ab .,\n", max_size=12), max_size=12).map("".join)


def test_a_changed_word_is_told_word_by_word() -> None:
    assert changes("Rank by truth.\nTies are fine.\n", "Rank by help.\nTies are fine.\n") == [
        Change("same", "Rank by "),
        Change("gone", "truth"),
        Change("new", "help"),
        Change("same", ".\nTies are fine.\n"),
    ]


def test_a_new_line_is_told_as_a_whole() -> None:
    assert changes("One.\n", "One.\nTwo.\n") == [Change("same", "One.\n"), Change("new", "Two.\n")]


def test_nothing_changed_is_one_stretch_and_nothing_at_all_is_none() -> None:
    assert changes("Same.", "Same.") == [Change("same", "Same.")]
    assert changes("", "") == []


@given(LINES, LINES)
def test_the_stretches_hold_both_versions_whole(before: str, after: str) -> None:
    found = changes(before, after)
    assert "".join(each.text for each in found if each.kind != "new") == before
    assert "".join(each.text for each in found if each.kind != "gone") == after
    assert all(each.text for each in found)
    assert all(one.kind != two.kind for one, two in zip(found, found[1:], strict=False))
