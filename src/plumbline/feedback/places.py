"""How many people rank a set, and how many places of it are taken."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Overlap:
    """How many people rank each set. It can change while people rank."""

    each: int = 3
    """The number of people that every set goes to."""
    calibration_share: float = 0.0
    """The share of the sets that goes to `calibration_each` people instead, chosen by the sets' ids."""
    calibration_each: int = 5
    """The number of people that a calibration set goes to."""
    lease: timedelta = timedelta(minutes=30)
    """For how long a set is kept for the person who claimed it."""
    gold_share: float = 0.05
    """The share of a labeler's claims that is a set with known ranks, while there is one that they have not seen."""


@dataclass(frozen=True)
class Progress:
    """How many sets stand where; each set is counted once."""

    waiting: int
    """Nobody has ranked it and nobody is at it."""
    skipped: int
    """Nobody has ranked it and nobody is at it, and somebody skipped it."""
    open: int
    """Somebody is at it now, and it lacks rankings."""
    partly: int
    """It has rankings, lacks some, and nobody is at it."""
    done: int
    """It has as many rankings as it needs."""
    surplus: int
    """It has more than it needs."""
    gold: int
    """Its ranks are known: it goes to everyone and is never done."""

    @property
    def total(self) -> int:
        return self.waiting + self.skipped + self.open + self.partly + self.done + self.surplus + self.gold
