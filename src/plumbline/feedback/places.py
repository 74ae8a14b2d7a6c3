"""How many people rank a set, and how many places of it are taken.

A place is taken by a ranking that is there or by a lease that runs, of somebody who is not left out. Nothing about
places is stored but the count of a set's rankings, so the number of people can change at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, Subquery, case, func, insert, select

from plumbline.errors import UserError
from plumbline.feedback import schema
from plumbline.feedback.events import excluded_ids

assignment, comparison_set, gold = schema.assignment.c, schema.comparison_set.c, schema.gold.c


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
    again_share: float = 0.0
    """The share of a labeler's claims that is a set which they ranked before, for their agreement with themselves."""

    def __post_init__(self) -> None:
        for name in ("each", "calibration_each"):
            if getattr(self, name) < 1:
                raise UserError(f"`{name}` is {getattr(self, name)!r}: a set goes to one person at least")
        for name in ("calibration_share", "gold_share", "again_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"`{name}` is {getattr(self, name)!r}: a share lies between 0 and 1")
        if self.lease <= timedelta(0):
            raise UserError(f"`lease` is {str(self.lease)!r}: it must last some time")

    def needed(self) -> ColumnElement[int]:
        """How many people the set of a row goes to."""
        return case((comparison_set.draw < self.calibration_share, self.calibration_each), else_=self.each)

    def kinds(self) -> list[tuple[int, ColumnElement[bool]]]:
        """How many people each kind of sets goes to, and which sets are of that kind."""
        calibration = comparison_set.draw < self.calibration_share
        return [(self.each, ~calibration), (self.calibration_each, calibration)][: 2 if self.calibration_share else 1]


@dataclass(frozen=True)
class Progress:
    """How many sets stand where; each set is counted once."""

    waiting: int = 0
    """Nobody has ranked it and nobody is at it."""
    skipped: int = 0
    """Nobody has ranked it and nobody is at it, and somebody skipped it."""
    open: int = 0
    """Somebody is at it now, and it lacks rankings."""
    partly: int = 0
    """It has rankings, lacks some, and nobody is at it."""
    done: int = 0
    """It has as many rankings as it needs."""
    surplus: int = 0
    """It has more than it needs."""
    gold: int = 0
    """Its ranks are known: it goes to everyone and is never done."""

    @property
    def total(self) -> int:
        return self.waiting + self.skipped + self.open + self.partly + self.done + self.surplus + self.gold


def overlap_in_force(connection: Connection) -> Overlap:
    row = connection.execute(select(schema.overlap).order_by(schema.overlap.c.number.desc()).limit(1)).first()
    if row is None:
        return Overlap()
    lease = timedelta(seconds=row.lease_seconds)
    return Overlap(row.each, row.calibration_share, row.calibration_each, lease, row.gold_share, row.again_share)


def put_in_force(connection: Connection, overlap: Overlap, at: datetime) -> None:
    if overlap_in_force(connection) != overlap:
        row = {
            "each": overlap.each,
            "calibration_share": overlap.calibration_share,
            "calibration_each": overlap.calibration_each,
            "lease_seconds": overlap.lease.total_seconds(),
            "gold_share": overlap.gold_share,
            "again_share": overlap.again_share,
            "at": at,
        }
        connection.execute(insert(schema.overlap).values(row))


def leases(now: datetime) -> Subquery:
    """The sets that somebody is at now, and how many are. Second rankings take no place, nor do people left out."""
    running = (assignment.state == "open") & (assignment.lease_until > now) & ~assignment.again
    running &= assignment.labeler_id.not_in(excluded_ids())
    return select(assignment.set_id, func.count().label("people")).where(running).group_by(assignment.set_id).subquery()


def free_places(connection: Connection, set_id: str, overlap: Overlap, now: datetime) -> int:
    """How many places of a set are free; below 0 where it has more rankings than it needs. Gold always has one."""
    held = leases(now)
    count = (
        select(overlap.needed() - comparison_set.counted - func.coalesce(held.c.people, 0), gold.set_id)
        .outerjoin_from(schema.comparison_set, held, held.c.set_id == comparison_set.set_id)
        .outerjoin(schema.gold, gold.set_id == comparison_set.set_id)
        .where(comparison_set.set_id == set_id)
    )
    free, is_gold = connection.execute(count).one()
    return 1 if is_gold else free


def count_progress(connection: Connection, overlap: Overlap, now: datetime, criterion: str | None) -> Progress:
    held = leases(now)
    skipped = select(assignment.set_id).where(assignment.state == "skipped", ~assignment.again).distinct().subquery()
    place = case(
        (gold.set_id.is_not(None), "gold"),
        (comparison_set.counted > overlap.needed(), "surplus"),
        (comparison_set.counted == overlap.needed(), "done"),
        (held.c.people.is_not(None), "open"),
        (comparison_set.counted > 0, "partly"),
        (skipped.c.set_id.is_not(None), "skipped"),
        else_="waiting",
    ).label("place")
    places = (
        select(place)
        .outerjoin_from(schema.comparison_set, schema.gold, gold.set_id == comparison_set.set_id)
        .outerjoin(held, held.c.set_id == comparison_set.set_id)
        .outerjoin(skipped, skipped.c.set_id == comparison_set.set_id)
    )
    if criterion is not None:
        places = places.where(comparison_set.criterion == criterion)
    counted = places.subquery()
    rows = connection.execute(select(counted.c.place, func.count()).group_by(counted.c.place))
    return Progress(**{name: number for name, number in rows})
