"""The contrast pairs' shape: nothing twice, halves that resemble each other, and neither known by length or words."""

from __future__ import annotations

import re
from collections import Counter
from statistics import median

from plumbline.evaluate.contrast import contrast_pairs

PAIRS = contrast_pairs()


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z']+", text.lower()))


def test_there_are_enough_and_none_twice() -> None:
    assert len(PAIRS) >= 220
    assert len({pair.pair_id for pair in PAIRS}) == len(PAIRS)
    prompts = [" ".join(sorted(words(text))) for pair in PAIRS for text in (pair.harmful, pair.harmless)]
    assert [prompt for prompt, count in Counter(prompts).items() if count > 1] == []


def test_every_topic_has_ten() -> None:
    counts = Counter(pair.topic for pair in PAIRS)
    assert len(counts) >= 20 and min(counts.values()) >= 10, counts


def test_the_halves_of_a_pair_share_words() -> None:
    apart = [
        pair.pair_id
        for pair in PAIRS
        if len(words(pair.harmful) & words(pair.harmless)) < 2 and len(words(pair.harmful)) > 3
    ]
    assert apart == []


def test_the_halves_are_equally_long_and_ask_alike() -> None:
    harmful, harmless = [pair.harmful for pair in PAIRS], [pair.harmless for pair in PAIRS]
    assert 0.9 < median(map(len, harmful)) / median(map(len, harmless)) < 1.1
    for mark in "?.,":
        with_it = [sum(mark in text for text in half) for half in (harmful, harmless)]
        assert min(with_it) > 0.6 * max(with_it), (mark, with_it)


def test_no_word_tells_the_halves_apart() -> None:
    # Only words that are frequent enough to tell anything: a rule on one of them would know few pairs.
    sides = [
        Counter(word for text in half for word in words(text)) for half in zip(*[p[2:] for p in PAIRS], strict=True)
    ]
    for word in sides[0] | sides[1]:
        assert abs(sides[0][word] - sides[1][word]) < 0.12 * len(PAIRS), (word, sides[0][word], sides[1][word])
