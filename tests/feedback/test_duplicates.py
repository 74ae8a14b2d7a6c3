"""Groups of near-duplicates are those that comparing every text with every other gives."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline.errors import UserError
from plumbline.feedback import duplicates
from plumbline.feedback.duplicates import Nearness, group, normalised

WORDS = "the a my your house tea room is was too very hot cold dark what can we do now please about it today".split()


def stretches(prompt: str) -> set[str]:
    text = f" {normalised(prompt)} ".ljust(5)
    return {text[begin : begin + 5] for begin in range(len(text) - 4)}


def overlap(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


def compared_one_by_one(prompts: Sequence[str], alike: float) -> list[list[int]]:
    """The groups, by a search from each text through all that overlap."""
    sets = [stretches(prompt) for prompt in prompts]
    left, groups = set(range(len(prompts))), []
    while left:
        found = waiting = [left.pop()]
        while waiting:
            near = {place for place in left if any(overlap(sets[place], sets[one]) >= alike for one in waiting)}
            left -= near
            waiting = sorted(near)
            found = found + waiting
        groups.append(sorted(found))
    return sorted(groups)


def as_lists(labels: Sequence[int]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for place, label in enumerate(labels):
        groups.setdefault(int(label), []).append(place)
    return sorted(groups.values())


def edited(texts: Sequence[str], draw: random.Random) -> list[str]:
    """Each text again with one to four of its letters changed."""
    made = []
    for text in texts:
        letters = list(text)
        for place in draw.sample(range(len(letters)), k=min(len(letters), draw.randint(1, 4))):
            letters[place] = draw.choice("abcdefgh ")
        made.append("".join(letters))
    return made


@pytest.mark.parametrize("alike", [0.5, 0.7, 0.9])
def test_the_groups_are_those_of_comparing_all_with_all(alike: float) -> None:
    draw = random.Random(3)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(3, 50))) for _ in range(120)]
    texts += edited(texts, draw) + edited(texts[:50], draw)
    draw.shuffle(texts)
    wanted = compared_one_by_one(texts, alike)
    assert len(wanted) < len(texts) - 20, "the texts must hold near-duplicates, or this shows nothing"
    assert as_lists(group(texts, Nearness(alike=alike, beginning=0)).tolist()) == wanted


def test_a_crowd_comes_together_and_its_neighbour_stays_apart() -> None:
    draw = random.Random(4)
    crowd = [
        f"Write a kind product description for the item {draw.randint(100, 999)} with three points" for _ in range(500)
    ]
    others = [f"How do I cook {word} so that children like it" for word in ("rice", "a whole pumpkin from the garden")]
    labels = group([*crowd, *others])
    assert len(set(labels[:500].tolist())) == 1
    assert len(set(labels.tolist())) == 3


def test_real_questions_fall_into_the_same_groups() -> None:
    folder = os.environ.get("PLUMBLINE_TEST_DATA")
    if not folder:
        pytest.skip("PLUMBLINE_TEST_DATA names no folder with real data")
    lines = (Path(folder) / "similar_questions" / "qqp_pairs.jsonl").read_text().splitlines()[:300]
    texts = [json.loads(line)[side] for line in lines for side in ("text_a", "text_b")]
    wanted = compared_one_by_one(texts, 0.6)
    assert len(wanted) < len(texts)
    assert as_lists(group(texts, Nearness(alike=0.6, beginning=0)).tolist()) == wanted


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=12))
def test_texts_of_any_letters_are_grouped_and_equal_ones_always_together(texts: list[str]) -> None:
    labels = group(texts + texts)
    assert labels[: len(texts)].tolist() == labels[len(texts) :].tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="abc ", min_size=1, max_size=40), min_size=2, max_size=10))
def test_what_is_joined_is_alike_whatever_the_texts(texts: list[str]) -> None:
    distinct = sorted({normalised(text) for text in texts})
    if len(distinct) < 2:
        return
    for one, other in duplicates.alike(distinct, 0.7):
        assert overlap(stretches(distinct[one]), stretches(distinct[other])) >= 0.7 - 1e-9


# ---- what makes two prompts the same


def same(one: object, other: object, **nearness: float) -> bool:
    first, second = group([one, other], Nearness(**nearness))  # type: ignore[list-item, arg-type]
    return bool(first == second)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_letters_case_and_marks_do_not_matter() -> None:
    assert same("Why is the sky blue?", "  WHY is the sky blue  ", alike=0)
    assert same("ﬁne, thanks", "fine — thanks", alike=0)
    assert not same("Why is the sky blue?", "Why is the sea blue?", alike=0)
    assert not same("?!", "...", alike=0)


def test_a_conversation_is_what_its_turns_say_without_the_systems() -> None:
    told = {"role": "system", "content": "You are a helpful assistant of a shop for garden tools."}
    assert same("Why is the sky blue?", [told, user("Why is the sky blue?")], alike=0)
    assert not same([told, user("Why is the sky blue?")], [told, user("How do I prune a rose?")])


def test_a_long_common_beginning_is_enough() -> None:
    begin = "Here are four letters to our customers, each with the answer that we sent. " * 3
    one, other = (begin + " ".join(f"{word}{number}" for number in range(200)) for word in ("tea", "house"))
    assert len(normalised(begin)) >= 200
    assert same(one, other)
    assert not same(one, other, beginning=0)
    assert not same(begin[:150] + "tea", begin[:150] + "house" * 30, alike=0)


def test_overlap_is_counted_in_full_and_the_limit_belongs_to_it() -> None:
    one, other = "abcdefghij", "abcdefghik"  # nine stretches with the spaces around, six of them in both
    assert overlap(stretches(one), stretches(other)) == 6 / 10 == 0.6
    assert same(one, other, alike=0.6)
    assert not same(one, other, alike=0.61)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match="alike is 0.2"):
        Nearness(alike=0.2)
    with pytest.raises(UserError, match="beginning is 2000"):
        Nearness(beginning=2000)


def test_a_pair_that_overlaps_by_the_limit_is_hardly_ever_missed() -> None:
    for alike in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        rows = duplicates.rows_of_a_band(alike)
        assert (1 - alike**rows) ** (duplicates.HASHES // rows) < duplicates.MISSED


def test_nothing_and_one_are_groups_too() -> None:
    assert group([]).tolist() == []
    assert group(["alone"]).tolist() == [0]
    assert np.unique(group(["same", "same", "same"])).tolist() == [0]
