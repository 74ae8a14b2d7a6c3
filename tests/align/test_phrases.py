"""Phrase inflation: what was planted is named, what is alike is named once, chance is not named."""

from __future__ import annotations

import numpy as np
import pytest

from plumbline.align.phrases import FEWEST_GROUPS, growth, inflation, phrases_in, uses, within
from plumbline.align.wording import Words, words_of

NOUNS = ("tea", "dog", "roof", "lamp", "boat", "coat")


def groups(count: int, share: float, seed: int, phrase: str = "the most awesome") -> list[list[Words]]:
    """Groups of four answers with words of their own, a share of which holds the phrase."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        noun = random.choice(NOUNS)
        praise = np.where(random.random(4) < share, f"It is {phrase} {noun}.", f"It is a {noun}.")
        made.append([words_of(f"{each} {' '.join(random.choice(NOUNS, 5))}") for each in praise])
    return made


def test_phrases_begin_and_end_with_words_or_are_signs_alone() -> None:
    assert phrases_in(("a", ",", "b")) == {("a",), ("b",), (",",), ("a", ",", "b")}
    assert ("!", "!") in phrases_in(("so", "!", "!"))
    assert ("so", "!") not in phrases_in(("so", "!", "!"))
    assert max(len(each) for each in phrases_in(tuple("abcdefgh"))) == 5


def test_a_phrase_is_used_once_by_an_answer_that_says_it_twice() -> None:
    assert uses([("a", "a"), ("b",)]) == {("a",): 1, ("a", "a"): 1, ("b",): 1}


def test_z_is_the_difference_over_its_deviation_under_dealing() -> None:
    """Shares 0, 0, 1, 1: mean 1/2, variance 1/3, so z = 1 / sqrt(1/3 · (1/2 + 1/2))."""
    from scipy.sparse import csr_array

    table = csr_array(np.array([[0.0], [0.0], [1.0], [1.0]]))
    z = growth(table, np.array([[0, 0, 1, 1], [1, 0, 1, 0]], float))
    assert z[:, 0] == pytest.approx([np.sqrt(3), 0.0])


def test_the_planted_phrase_is_found_once_and_whole() -> None:
    found = inflation(groups(40, 0.05, 0), groups(40, 0.8, 1))
    assert "the most awesome" in " ".join(found.phrases[0].words)
    assert found.phrases[0].before < 0.15 and found.phrases[0].after > 0.65
    assert found.phrases[0].p == pytest.approx(0.001)
    others = [each.words for each in found.phrases[1:]]
    assert not any(within(each, found.phrases[0].words) for each in others)  # no "awesome", no "most awesome"
    assert found.groups == (40, 40) and found.looked_at > 50


def test_chance_is_named_in_no_more_than_a_hundredth_of_the_looks() -> None:
    """25 looks at groups that are all alike: the level allows for 0.25, and four have a chance of one in 10,000."""
    named = sum(bool(inflation(groups(10, 0.3, 2 * n), groups(10, 0.3, 2 * n + 1)).phrases) for n in range(25))
    assert named <= 3


def test_answers_to_one_prompt_are_one_piece_of_evidence() -> None:
    """A word in all 40 answers of one late group: 40 pieces of evidence would be beyond doubt, and it is one."""
    late = groups(7, 0.0, 3) + [[words_of("quartz is quartz")] * 40]
    assert not any("quartz" in each.words for each in inflation(groups(8, 0.0, 4), late).phrases)


def test_signs_spread_too() -> None:
    late = [[(*words, "!", "!") for words in group] for group in groups(30, 0.0, 5)]
    assert ("!", "!") in [each.words for each in inflation(groups(30, 0.0, 6), late).phrases]


def test_what_shrank_or_grew_a_little_is_not_named() -> None:
    shrunk = inflation(groups(40, 0.9, 0), groups(40, 0.1, 1)).phrases
    assert shrunk and not any("awesome" in each.words for each in shrunk)  # what took its place is
    assert inflation(groups(400, 0.0, 0), groups(400, 0.05, 1)).phrases == ()


def test_too_few_groups_name_nothing() -> None:
    few = groups(FEWEST_GROUPS - 1, 1.0, 0)
    assert inflation(groups(40, 0.0, 1), few).phrases == ()
    assert inflation([], []).phrases == ()


def test_within_means_side_by_side() -> None:
    assert within(("a", "b"), ("x", "a", "b")) and not within(("a", "b"), ("a", "x", "b"))
