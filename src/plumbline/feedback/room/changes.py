"""What changed between two versions of a text, word by word, for a person to read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from typing import Literal

Kind = Literal["same", "gone", "new"]
LINE = re.compile(r"[^\n]*\n|[^\n]+")
WORD = re.compile(r"\s+|\w+|[^\w\s]")


@dataclass(frozen=True)
class Change:
    """A stretch of text that both versions have, or only the former one (gone), or only the latter (new)."""

    kind: Kind
    text: str


def changes(before: str, after: str) -> list[Change]:
    """The stretches in order: those not new are `before`, those not gone are `after`."""
    found = stretches(LINE.findall(before), LINE.findall(after), finer=True)
    return [Change(kind, "".join(each.text for each in same)) for kind, same in groupby(found, lambda each: each.kind)]


def stretches(before: Sequence[str], after: Sequence[str], *, finer: bool) -> Iterator[Change]:
    """Line by line first; what differs is then looked at word by word, so that a long text costs little."""
    for what, begin, end, other_begin, other_end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        old, new = "".join(before[begin:end]), "".join(after[other_begin:other_end])
        if what == "equal":
            yield Change("same", old)
        elif finer and old and new:
            yield from stretches(WORD.findall(old), WORD.findall(new), finer=False)
        else:
            yield from (each for each in (Change("gone", old), Change("new", new)) if each.text)
