"""Criteria with their instructions, and the comparison sets that are ranked by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from plumbline.feedback.database import Database
from plumbline.records import ComparisonSet


@dataclass(frozen=True)
class Instruction:
    """One version of the words that labelers rank by."""

    criterion: str
    version: int
    text: str
    by: str
    at: datetime


@dataclass(frozen=True)
class Added:
    """How many records were new, and how many the store already had."""

    new: int
    known: int


Ranks = Sequence[int | None]


class Sets(Database):
    """The sets and criteria of a store."""

    def add_criterion(self, name: str, text: str, by: str = "") -> Instruction:
        """Begins a criterion with version 1 of its instructions. The same again is no error, another text is."""
        raise NotImplementedError

    def revise(self, name: str, text: str, by: str) -> Instruction:
        """Adds the next version of a criterion's instructions; the same text again adds none."""
        raise NotImplementedError

    def instruction(self, name: str, version: int | None = None) -> Instruction:
        """A version of a criterion's instructions, the newest when none is named."""
        raise NotImplementedError

    def instructions(self, name: str) -> list[Instruction]:
        """All versions, the newest last."""
        raise NotImplementedError

    def criteria(self) -> list[str]:
        """The names of the criteria, in the order they were added."""
        raise NotImplementedError

    def add_sets(
        self,
        sets: Iterable[ComparisonSet],
        *,
        criterion: str = "helpful",
        gold: Mapping[str, Ranks] | None = None,
        on_bad: Callable[[ComparisonSet, str], None] | None = None,
    ) -> Added:
        """Adds sets, however many, in chunks that are committed one by one.

        A set that names no criterion gets `criterion`, which is begun where it is new. A set is frozen: one that is
        already there with the same content counts as known, one with other content is bad. Bad sets go to `on_bad`
        with the reason; without it the first raises `BadRecord`. `gold` holds the known ranks of sets by id (None
        where an answer is to be flagged). `user_id` and other fields that a set carries beyond its own come back.
        """
        raise NotImplementedError

    def sets(self, *, criterion: str | None = None) -> Iterator[ComparisonSet]:
        """All sets, the oldest first, streamed."""
        raise NotImplementedError

    def comparison_set(self, set_id: str) -> ComparisonSet:
        """The set of this id; an unknown one is a `UserError`."""
        raise NotImplementedError

    def count(self) -> int:
        """How many sets there are."""
        raise NotImplementedError

    def gold_sets(self) -> dict[str, tuple[int | None, ...]]:
        """The known ranks of each gold set, in the order of its answers; None where an answer is to be flagged."""
        raise NotImplementedError
