"""Who gets which set: exactly as many people as it needs, nobody twice, nothing stuck."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from plumbline.feedback.places import Overlap
from plumbline.feedback.sets import Instruction
from plumbline.feedback.store import Store
from plumbline.records import ComparisonSet

__all__ = ["Claim", "Overlap", "Queue"]


@dataclass(frozen=True)
class Claim:
    """A set that is kept for a labeler until `lease_until`."""

    set: ComparisonSet
    lease_until: datetime
    order: tuple[int, ...]
    """The places of the answers as this labeler is to see them; the same each time."""
    instruction: Instruction
    draft: dict[str, Any] | None
    again: bool
    """The labeler has ranked this set before and is asked once more."""


class Queue:
    """Hands the sets of a store out. With `overlap` it changes how many people rank each set, in every process."""

    def __init__(self, store: Store, overlap: Overlap | None = None) -> None:
        self.store = store

    def claim(self, labeler_id: str, *, ahead: int = 0, again: bool = False) -> Claim | None:
        """The set that the labeler is to rank now, None where there is nothing for them.

        What they already hold comes first. `ahead=1` gives the one after it, to load it early. `again` gives a set that
        they have ranked before, for their agreement with themselves. Expired leases of everyone are freed.
        """
        raise NotImplementedError

    def renew(self, set_id: str, labeler_id: str, *, again: bool = False) -> datetime | None:
        """Keeps the set for the labeler for a whole lease from now and says until when.

        None where the lease had expired and its place has gone to somebody else.
        """
        raise NotImplementedError

    def release(self, set_id: str, labeler_id: str, *, again: bool = False) -> None:
        """Gives a set back that the labeler holds; they may get it again. One that they do not hold is no error."""
        raise NotImplementedError

    def expire(self) -> int:
        """Frees the leases whose time is over; returns how many. Every claim does this too."""
        raise NotImplementedError
