"""Rankings as people submit them: events that are only added, each stored once, the latest in force."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from plumbline.feedback.database import Database
from plumbline.feedback.sets import Added
from plumbline.records import ComparisonSet, Ranking


@dataclass(frozen=True)
class Written:
    """An answer that a labeler wrote, or edited from the answer at `place` (0 is the set's first)."""

    text: str
    place: int | None = None


@dataclass(frozen=True)
class Submission:
    """What a labeler says of a set. `ranks` and `flags` are in the set's own order, not in the order shown."""

    key: str
    """Made once by the browser; a submission that is sent again has the same one."""
    set_id: str
    labeler_id: str
    ranks: tuple[int | None, ...]
    flags: tuple[bool, ...]
    instruction_version: int | str
    shown_order: tuple[int, ...] | None = None
    """The places of the answers as they stood on the screen, from left to right."""
    seconds: float | None = None
    client_time: str | None = None
    """The browser's clock: stored as a claim, it orders nothing."""
    texts: tuple[Written, ...] = ()
    again: bool = False
    """That it answers a claim made with `again`."""


@dataclass(frozen=True)
class Receipt:
    """That a submission is on the disk."""

    event_id: int
    at: datetime
    replayed: bool
    """It was there already; nothing was added."""
    surplus: bool
    """When it came, its set had all its places taken by others."""


@dataclass(frozen=True)
class Past:
    """A set that a labeler has dealt with."""

    set: ComparisonSet
    state: Literal["submitted", "skipped"]
    at: datetime
    ranks: tuple[int | None, ...] = ()
    flags: tuple[bool, ...] = ()
    texts: tuple[Written, ...] = ()
    reason: str | None = None
    again: bool = False


@dataclass(frozen=True)
class Exclusion:
    """Why a labeler's rankings are left out, and who decided so."""

    labeler_id: str
    evidence: Mapping[str, Any]
    by: str
    at: datetime


class Rankings(Database):
    """Drafts, rankings, skips and exclusions of a store."""

    def draft(self, set_id: str, labeler_id: str) -> dict[str, Any] | None:
        """What the labeler had begun, None where there is nothing. Submitting removes it, skipping keeps it."""
        raise NotImplementedError

    def save_draft(self, set_id: str, labeler_id: str, body: Mapping[str, Any]) -> None:
        """Keeps what the labeler has begun in the place of what was there."""
        raise NotImplementedError

    def submit(self, submission: Submission) -> Receipt:
        """Stores a ranking; when this returns it is on the disk.

        The same key again gives the first receipt, with another body it is a `UserError`. The labeler must have been
        given the set; that the lease expired since does not matter. A set that the labeler has submitted before is
        revised, which goes for the last ten.
        """
        raise NotImplementedError

    def skip(self, set_id: str, labeler_id: str, reason: str, *, again: bool = False) -> None:
        """Gives the set back for good, with a reason. Submitting it later undoes that."""
        raise NotImplementedError

    def history(self, labeler_id: str, last: int = 10) -> list[Past]:
        """What the labeler submitted or skipped, the latest first."""
        raise NotImplementedError

    def rankings(
        self,
        *,
        criterion: str | None = None,
        current: bool = True,
        again: bool = False,
        include_excluded: bool = False,
        by: str | None = None,
    ) -> Iterator[Ranking]:
        """The rankings, by set, the oldest set first, streamed.

        Of each labeler the latest of a set; with `current=False` also what they said before. `again` gives the second
        rankings of labelers who were asked twice, instead of the first. `by` is a labeler's id. Beside its fields each
        carries `criterion`, `at`, `seconds`, `shown_order`, and the set's `user_id` where it has one.
        """
        raise NotImplementedError

    def add_rankings(
        self,
        rankings: Iterable[Ranking],
        source: str,
        *,
        criterion: str = "helpful",
        on_bad: Callable[[Ranking, str], None] | None = None,
    ) -> Added:
        """Adds rankings from elsewhere, in chunks, with the sets and labelers that they need.

        What is already there is known, so a file can be read again. A later ranking of the same set by the same
        labeler is a revision. Bad ones go to `on_bad` with the reason; without it the first raises `BadRecord`.
        """
        raise NotImplementedError

    def exclude(self, labeler_id: str, evidence: Mapping[str, Any], by: str) -> None:
        """Leaves a labeler's rankings out of `rankings()`, until `include`. Nothing is deleted."""
        raise NotImplementedError

    def include(self, labeler_id: str, by: str) -> None:
        """Takes an exclusion back."""
        raise NotImplementedError

    def excluded(self) -> dict[str, Exclusion]:
        """Who is left out now, by id."""
        raise NotImplementedError
