"""What end users leave: ratings and edits; and how all that a user left is erased."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from plumbline.feedback.database import Database
from plumbline.records import Demonstration, Message, Rating


@dataclass(frozen=True)
class Edit:
    """An answer that a person wrote, or made out of `original`; better than that by what it took to do so."""

    prompt_id: str
    prompt: str | list[Message]
    original: str | None
    edited: str
    at: datetime
    user_id: str | None = None
    labeler_id: str | None = None
    set_id: str | None = None


@dataclass(frozen=True)
class Erased:
    """What an erasure removed, and what had seen it before."""

    rows: Mapping[str, int]
    """How many rows of each table are gone."""
    data_hashes: tuple[str, ...]
    """The exported data sets that held any of it."""
    versions: tuple[str, ...]
    """The model versions that were trained on those, as far as the store and its project know."""


class Users(Database):
    """The ratings and edits of a store."""

    def add_rating(self, rating: Rating, user_id: str) -> None:
        """Stores a thumb. A user's later thumb under the same answer is the one that counts."""
        raise NotImplementedError

    def add_edit(self, prompt: str | list[Message], original: str | None, edited: str, user_id: str) -> None:
        """Stores an answer as a user would have it."""
        raise NotImplementedError

    def ratings(self) -> Iterator[Rating]:
        """Each user's latest thumb under each answer, streamed; each carries its `user_id` and `at`."""
        raise NotImplementedError

    def edits(self, *, include_excluded: bool = False) -> Iterator[Edit]:
        """Edits by users, and those that belong to labelers' current rankings, streamed."""
        raise NotImplementedError

    def demonstrations(self, *, include_excluded: bool = False) -> Iterator[Demonstration]:
        """The edits as conversations to learn; each carries the `user_id` of its user."""
        raise NotImplementedError

    def mark_seen(self, data_hash: str, set_ids: Iterable[str], version: str = "") -> None:
        """Notes that an exported data set held these sets, and which model version was trained on it, if known."""
        raise NotImplementedError

    def erase(self, user_id: str) -> Erased:
        """Removes all that came from a user: ratings, edits, and the sets of their prompts with all about them."""
        raise NotImplementedError
