"""Words, repetition and overlap, counted by hand."""

from __future__ import annotations

import pytest

from plumbline.align.wording import distinct, longest_repeat, overlap, repetition, runs_of, words_of


def test_words_are_letters_signs_and_unspaced_characters() -> None:
    assert words_of("Don’t STOP!! It's 3.5 x_y") == ("don’t", "stop", "!", "!", "it's", "3", ".", "5", "x_y")
    assert words_of("我很好, ok") == ("我", "很", "好", ",", "ok")
    assert words_of("สวัสดี") == tuple("สวัสดี") and words_of("안녕 세상") == ("안녕", "세상")
    assert words_of(" \n") == ()


def test_runs_are_neighbouring_words() -> None:
    assert runs_of(("a", "b", "c"), 2) == [("a", "b"), ("b", "c")]
    assert runs_of(("a",), 2) == []


def test_repetition_is_the_share_of_three_word_runs_used_before() -> None:
    assert repetition(words_of("a b c a b c")) == pytest.approx(1 / 4)  # abc bca cab abc
    assert repetition(words_of("no no no no no")) == pytest.approx(2 / 3)
    assert repetition(words_of("all of this is new")) == 0.0
    assert repetition(words_of("two words")) == 0.0 and repetition(()) == 0.0


@pytest.mark.parametrize(
    ("text", "length"),
    [("a b c d a b c e", 3), ("a a a a", 3), ("a b", 0), ("", 0), ("a", 0), ("x a b y a b z", 2), ("a b a", 1)],
)
def test_the_longest_repeat_is_the_longest_run_that_occurs_twice(text: str, length: int) -> None:
    words = words_of(text)
    assert longest_repeat(words) == length
    every = [run for size in range(1, len(words)) for run in runs_of(words, size)]
    assert length == max((len(run) for run in every if every.count(run) > 1), default=0)


def test_distinct_is_1_where_all_differ_and_0_where_all_are_one() -> None:
    assert distinct(["a", "b", "c"]) == 1.0
    assert distinct(["a", "a", "a"]) == 0.0
    assert distinct(["a", "a", "b"]) == 0.5


def test_overlap_is_shared_pairs_of_words_over_all() -> None:
    """^ a b $ and ^ a c $ share (^, a) of ^a, ab, b$, ac, c$."""
    assert overlap([("a", "b"), ("a", "c")]) == pytest.approx(1 / 5)
    assert overlap([("yes",), ("yes",)]) == 1.0
    assert overlap([("yes",), ("no",)]) == 0.0
    assert overlap([(), ()]) == 1.0  # two empty answers are one answer
    assert overlap([("a",), ("a",), ("b",)]) == pytest.approx(1 / 3)  # of three pairs one agrees
