"""How an answer is worded: its words, how much it repeats itself, how far it says what another one says.

A word is a run of letters and digits, also around an apostrophe, in small letters; a sign of punctuation is a word of
its own, and so is each character of the scripts that are written without blanks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from typing import TypeAlias

Words: TypeAlias = tuple[str, ...]

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0002fa1f"
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese."""
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+(?:['’][^\W{UNSPACED}]+)*|[^\w\s]|_")
REPEATED = 3
"""Words of a piece that counts as repeated."""
COMPARED = 8
"""Most answers of a group that are held against each other."""


@lru_cache(maxsize=1 << 13)
def words_of(text: str) -> Words:
    """The text's words in order. Several figures ask for them, so the last few thousand are kept."""
    return tuple(WORD.findall(text.lower()))


def runs_of(words: Sequence[str], length: int) -> list[Words]:
    """All runs of `length` neighbouring words, in order."""
    return list(zip(*(words[start:] for start in range(length)), strict=False))


def repetition(words: Words) -> float:
    """Share of the runs of three words that the text has used before: 0 where each is new."""
    runs = runs_of(words, REPEATED)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def longest_repeat(words: Words) -> int:
    """Words of the longest run that occurs twice; both may overlap, as in a loop."""
    low, high = 0, max(len(words) - 1, 0)
    while low < high:  # what occurs twice has a beginning that does too
        length = (low + high + 1) // 2
        runs = runs_of(words, length)
        low, high = (length, high) if len(set(runs)) < len(runs) else (low, length - 1)
    return low


def distinct(answers: Sequence[str]) -> float:
    """Share of a group's answers that are no copy of another: (different texts − 1) / (texts − 1)."""
    return (len(set(answers)) - 1) / (len(answers) - 1)


def overlap(answers: Sequence[Words]) -> float:
    """How far two answers of a group say the same, on average over pairs: pairs of neighbouring words that are in both,
    as a share of those in either. Beginning and end count as words, so that one-word answers can be compared."""
    sets = [set(runs_of(("^", *words, "$"), 2)) for words in answers[:COMPARED]]
    shares = [len(one & other) / len(one | other) for one, other in combinations(sets, 2)]
    return sum(shares) / len(shares)
