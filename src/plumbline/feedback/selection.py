"""What of all that people said goes into a file: whose, of which split, raw or merged, with which words replaced.

    records of     come from
    rankings       what each labeler said, or the consensus of each set
    pairs          those, and every edit as a pair with the answer it was made from
    ratings        thumbs of users
    demonstrations answers that people wrote or edited
    sets           each set's consensus together with what each labeler said

Which split a prompt is in stands in a file of the project, `splits.jsonl`, that `split` wrote.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from plumbline.feedback.ballots import set_key
from plumbline.feedback.consensus import Method, consensus
from plumbline.feedback.exchange import Holds, RankedSet
from plumbline.feedback.pairs import pairs_of
from plumbline.feedback.store import Store
from plumbline.files import read_jsonl, write_jsonl
from plumbline.records import Pair, PromptRecord, Ranking, Split

SPLITS = "splits.jsonl"
OVER_CAP = "over the cap of their user"
NO_SPLIT = "they came after the split was made: run `plumb feedback split` again"
OTHER_SPLIT = "of another split"

Change = Callable[[Any], Any]
"""Gives a record back as it is to be written: without personal data, with aliases for people."""


@dataclass
class Selection:
    """Records of a store, one kind after the other, and what was noticed on the way."""

    store: Store
    splits: Mapping[str, Split | None] | None = None
    """The split of each prompt; without it, a record keeps the one that it came with."""
    part: Split | None = None
    """The only split to take."""
    method: Method | None = None
    """How rankings are merged; None takes each labeler's."""
    criterion: str | None = None
    include_excluded: bool = False
    changes: tuple[Change, ...] = ()
    seen: dict[str, None] = field(default_factory=dict)
    """The sets that went in; for ratings and edits, their prompts."""
    left_out: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The prompts that did not, by reason."""

    def records(self, holds: Holds) -> Iterator[Any]:
        """What there is of this kind, streamed."""
        kinds: dict[Holds, Callable[[], Iterator[Any]]] = {
            "rankings": self._merged,
            "pairs": self._pairs,
            "ratings": lambda: self._taken(self.store.ratings()),
            "demonstrations": lambda: self._taken(self.store.demonstrations(include_excluded=self.include_excluded)),
            "sets": self._sets,
        }
        return kinds[holds]()

    def _rankings(self) -> Iterator[Ranking]:
        return self._taken(
            self.store.rankings(criterion=self.criterion, include_excluded=self.include_excluded), by="set_id"
        )

    def _merged(self) -> Iterator[Ranking]:
        return consensus(self._rankings(), method=self.method) if self.method else self._rankings()

    def _pairs(self) -> Iterator[Pair]:
        if self.method:
            for merged in self._merged():
                votes = getattr(merged, "n_votes", 1)
                yield from (pair.model_copy(update={"n_votes": votes}) for pair in pairs_of([merged]))
        else:
            yield from pairs_of(self._rankings())
        for pair in self._taken(self._edits() if self.criterion is None else ()):  # an edit was ranked by none
            if pair.chosen != pair.rejected:  # they may have differed in personal data alone
                yield pair

    def _edits(self) -> Iterator[Pair]:
        for edit in self.store.edits(include_excluded=self.include_excluded):
            if edit.original and edit.original.strip() and edit.original != edit.edited:
                texts = {"prompt": edit.prompt, "chosen": edit.edited, "rejected": edit.original}
                of = {"prompt_id": edit.prompt_id, "set_id": edit.set_id, "source": edit.source}
                yield Pair.model_validate({**texts, **of})

    def _sets(self) -> Iterator[RankedSet]:
        for _, group in groupby(self._rankings(), key=set_key):
            votes = list(group)
            yield from (RankedSet(merged, votes) for merged in consensus(votes, method=self.method or "ranked-pairs"))

    def _taken(self, records: Iterable[Any], by: str = "prompt_id") -> Iterator[Any]:
        """Those records whose prompts are in the split, changed as asked."""
        for record in records:
            placed = self._placed(record)
            if placed is None:
                continue
            self.seen[getattr(record, by)] = None
            for change in self.changes:
                placed = change(placed)
            yield placed

    def _placed(self, record: Any) -> Any:
        """The record with its split; None where it is not to go in."""
        name = record.prompt_id
        if self.splits is None:
            return record
        part = self.splits.get(name)
        if part is None:
            self.left_out[OVER_CAP if name in self.splits else NO_SPLIT].add(name)
        elif self.part not in (None, part):
            self.left_out[OTHER_SPLIT].add(name)
        else:
            return record.model_copy(update={"split": part})
        return None


# ---- the split of a project


class Placed(BaseModel):
    """A line of splits.jsonl; a prompt over the cap has no split."""

    prompt_id: str
    split: Split | None


def read_splits(folder: Path) -> dict[str, Split | None] | None:
    """The split of each prompt, None where none was made."""
    path = folder / SPLITS
    return {line.prompt_id: line.split for line in read_jsonl(path, Placed)} if path.exists() else None


def write_splits(folder: Path, prompts: Iterable[PromptRecord]) -> None:
    placed = {each.prompt_id: each.split for each in prompts}
    write_jsonl(folder / SPLITS, (Placed(prompt_id=name, split=part) for name, part in placed.items()))


def prompts_of(store: Store, splits: Mapping[str, Split | None], key: str = "user_id") -> list[PromptRecord]:
    """Every prompt with everyone who wrote it, and with the split that it has already."""
    found: dict[tuple[str, str], PromptRecord] = {}

    sources: tuple[Iterable[Any], ...] = (store.sets(), store.ratings(), store.edits(include_excluded=True))
    for record in chain(*sources):
        name, writer = record.prompt_id, getattr(record, key, None)
        if (name, str(writer)) not in found:
            line = {"prompt_id": name, "prompt": record.prompt, "split": splits.get(name), key: writer}
            found[name, str(writer)] = PromptRecord.model_validate(line)
    return list(found.values())


def answers_of(store: Store, length: int) -> dict[str, set[int]]:
    """By prompt, a number for each of its answers of `length` characters or more: a hash of the words. 0 gives none."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for name, text in answers_there(store) if length else ():
        words = " ".join(text.split())
        if len(words) >= length:
            found[name].add(int.from_bytes(blake2b(words.encode(), digest_size=8).digest()))
    return dict(found)


def answers_there(store: Store) -> Iterator[tuple[str, str]]:
    """Every answer with the id of its prompt: of sets, under thumbs, written and edited."""
    for each in store.sets():
        yield from ((each.prompt_id, answer.text) for answer in each.completions)
    for rating in store.ratings():
        yield rating.prompt_id, rating.completion
    for edit in store.edits(include_excluded=True):
        yield edit.prompt_id, edit.edited
        if edit.original:
            yield edit.prompt_id, edit.original
