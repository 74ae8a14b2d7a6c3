"""Who gets which set: exactly as many people as it needs, nobody twice, nothing stuck.

A claim counts the places of a set and takes one in a transaction that no other claim runs beside. What is claimed is
decided by need: sets that others have begun come before untouched ones, those that lack the fewest rankings first, so
that sets complete; among equals the oldest.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Select, Subquery, exists, func, insert, select, update

from plumbline.feedback import schema
from plumbline.feedback.events import find_assignment, is_excluded, is_row, is_theirs, recent
from plumbline.feedback.places import Overlap, free_places, leases, overlap_in_force
from plumbline.feedback.rankings import REVISABLE
from plumbline.feedback.sets import Instruction, draw
from plumbline.feedback.sign_in import find_labeler
from plumbline.feedback.store import Store
from plumbline.records import ComparisonSet

__all__ = ["Claim", "Overlap", "Queue"]

assignment, comparison_set = schema.assignment.c, schema.comparison_set.c
given = schema.assignment.alias("given")  # as seen from a set that may be claimed


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
        if overlap is not None:
            store.set_overlap(overlap)

    def claim(self, labeler_id: str, *, ahead: int = 0, again: bool = False) -> Claim | None:
        """The set that the labeler is to rank now, None where there is nothing for them, or where they are left out.

        What they already hold comes first. `ahead=1` gives the one after it, to load it early. `again` gives only sets
        that they have ranked before; without it those come as often as the overlap says. Expired leases of everyone
        are freed.
        """
        with self.store.write("queue") as connection:
            labeler = find_labeler(connection, labeler_id)
            now = self.store.clock()
            overlap = overlap_in_force(connection)
            expire(connection, now)
            if is_excluded(connection, labeler.labeler_id):
                return None
            held = holdings(connection, labeler.labeler_id, again=again)
            while len(held) <= ahead:
                repeated = again or is_drawn(connection, labeler.labeler_id, "again", overlap.again_share)
                set_id = next_again(connection, labeler.labeler_id, soon=again) if repeated else None
                second = set_id is not None
                if set_id is None and not again:
                    set_id = next_set(connection, labeler.labeler_id, overlap, now)
                if set_id is None:
                    return None
                held.append(lease(connection, set_id, labeler.labeler_id, second, now, now + overlap.lease))
        return self._shown(held[ahead])

    def _shown(self, held: Row[Any]) -> Claim:
        """What never changes, or only by this labeler's hand, is read after the turn."""
        of = self.store.comparison_set(held.set_id)
        order = shown_order(held.set_id, held.labeler_id, len(of.completions), again=held.again)
        draft = self.store.draft(held.set_id, held.labeler_id)
        assert of.criterion is not None, of
        return Claim(of, held.lease_until, order, self.store.instruction(of.criterion), draft, held.again)

    def renew(self, set_id: str, labeler_id: str, *, again: bool = False) -> datetime | None:
        """Keeps the set for the labeler for a whole lease from now and says until when.

        None where they are done with it, or where the lease had expired and its place has gone to somebody else.
        """
        with self.store.write("queue") as connection:
            now = self.store.clock()
            overlap = overlap_in_force(connection)
            expire(connection, now)
            mine = find_assignment(connection, set_id, labeler_id, again=again)
            if mine.state in ("submitted", "skipped"):
                return None
            if mine.state != "open" and not again and free_places(connection, set_id, overlap, now) <= 0:
                return None
            until = now + overlap.lease
            connection.execute(update(schema.assignment).where(is_row(mine)).values(state="open", lease_until=until))
            return until

    def release(self, set_id: str, labeler_id: str, *, again: bool = False) -> None:
        """Gives a set back that the labeler holds; they may get it again. One that they do not hold is no error."""
        mine = is_theirs(set_id, labeler_id, again=again)
        with self.store.write("queue") as connection:
            held = update(schema.assignment).where(mine, assignment.state == "open")
            connection.execute(held.values(state="released", lease_until=self.store.clock()))

    def expire(self) -> int:
        """Frees the leases whose time is over; returns how many. Every claim does this too."""
        with self.store.write("queue") as connection:
            return expire(connection, self.store.clock())


def shown_order(set_id: str, labeler_id: str, count: int, *, again: bool = False) -> tuple[int, ...]:
    """The places of a set's answers in the order that this labeler sees; another one when they see it again."""

    def lot(place: int) -> bytes:
        return hashlib.sha256(f"{set_id}\n{labeler_id}\n{again}\n{place}".encode()).digest()

    return tuple(sorted(range(count), key=lot))


# ---- leases


def expire(connection: Connection, now: datetime) -> int:
    over = (assignment.state == "open") & (assignment.lease_until <= now)
    return connection.execute(update(schema.assignment).where(over).values(state="expired")).rowcount


def holdings(connection: Connection, labeler_id: str, *, again: bool) -> list[Row[Any]]:
    """What the labeler holds now, in the order it was given; with `again` only what they rank for a second time."""
    mine = (assignment.labeler_id == labeler_id) & (assignment.state == "open")
    if again:
        mine &= assignment.again
    return list(connection.execute(select(schema.assignment).where(mine).order_by(assignment.turn)))


def lease(
    connection: Connection, set_id: str, labeler_id: str, again: bool, now: datetime, until: datetime
) -> Row[Any]:
    """Gives the set to the labeler, who may have had it before without ranking it."""
    key = {"set_id": set_id, "labeler_id": labeler_id, "again": again}
    terms = {"state": "open", "turn": next_turn(connection, labeler_id), "leased_at": now, "lease_until": until}
    mine = is_theirs(set_id, labeler_id, again=again)
    before = update(schema.assignment).where(mine).values(terms).returning(schema.assignment)
    row = connection.execute(before).first()
    return row or connection.execute(insert(schema.assignment).values(key | terms).returning(schema.assignment)).one()


# ---- which set comes next


class Place(NamedTuple):
    """A place that could be taken, the one to take first the smallest."""

    lacking: int
    """How many places of the set are free."""
    number: int
    set_id: str


def next_set(connection: Connection, labeler_id: str, overlap: Overlap, now: datetime) -> str | None:
    """The set whose place the labeler is to take."""
    test = next_gold(connection, labeler_id, overlap)
    if test is not None:
        return test
    held = leases(now)
    let_go = select(assignment.set_id).where(assignment.labeler_id == labeler_id, assignment.state == "expired")
    own = counted_place(connection, labeler_id, overlap, held, let_go.where(~assignment.again))
    if own is not None:
        return own.set_id
    at_it = select(held.c.set_id)
    tended = counted_place(connection, labeler_id, overlap, held, at_it)
    begun = [] if tended is None else [tended]
    # Of sets that nobody is at, the index gives the oldest with so many rankings without a look at the others.
    alone = open_sets(labeler_id).where(comparison_set.set_id.not_in(at_it)).order_by(comparison_set.number).limit(1)
    for need, of_kind in overlap.kinds():
        for lacking in range(1, need):
            row = connection.execute(alone.where(comparison_set.counted == need - lacking, of_kind)).first()
            if row is not None:
                begun.append(Place(lacking, row.number, row.set_id))
    if begun:
        return min(begun).set_id
    untouched = connection.execute(alone.where(comparison_set.counted == 0)).first()
    return None if untouched is None else str(untouched.set_id)


def counted_place(
    connection: Connection, labeler_id: str, overlap: Overlap, held: Subquery, among: Select[Any]
) -> Place | None:
    """The place to take in one of the sets `among`, whose leases are counted one by one."""
    free = (overlap.needed() - comparison_set.counted - func.coalesce(held.c.people, 0)).label("free")
    counted = (
        open_sets(labeler_id)
        .add_columns(free)
        .outerjoin(held, held.c.set_id == comparison_set.set_id)
        .where(comparison_set.set_id.in_(among), free > 0)
    )
    row = connection.execute(counted.order_by(free, comparison_set.number).limit(1)).first()
    return None if row is None else Place(row.free, row.number, row.set_id)


def open_sets(labeler_id: str) -> Select[Any]:
    """The sets that the labeler can still be given."""
    gold = exists().where(schema.gold.c.set_id == comparison_set.set_id)
    done_with = is_given(labeler_id, "open", "submitted", "skipped")
    return select(comparison_set.number, comparison_set.set_id).where(~gold, ~done_with)


def next_again(connection: Connection, labeler_id: str, *, soon: bool) -> str | None:
    """The set that the labeler ranked the longest ago and only once; unless `soon`, none that they can still change."""
    twice = exists().where(
        given.c.set_id == assignment.set_id,
        given.c.labeler_id == labeler_id,
        given.c.again,
        given.c.state.in_(("open", "submitted", "skipped")),
    )
    once = (assignment.labeler_id == labeler_id) & (assignment.state == "submitted") & ~assignment.again
    search = select(assignment.set_id).where(once, ~twice).order_by(assignment.event).limit(1)
    if not soon:
        fresh = [row.set_id for row in recent(connection, labeler_id, REVISABLE)]
        search = search.where(assignment.set_id.not_in(fresh))
    return connection.execute(search).scalar()


def next_gold(connection: Connection, labeler_id: str, overlap: Overlap) -> str | None:
    """A gold set that the labeler has not seen, when this claim of theirs is one that tests them."""
    if not is_drawn(connection, labeler_id, "", overlap.gold_share):
        return None
    gold = comparison_set.set_id.in_(select(schema.gold.c.set_id))
    unseen = select(comparison_set.set_id).where(gold, ~is_given(labeler_id, "open", "submitted", "skipped"))
    return connection.execute(unseen.order_by(comparison_set.number).limit(1)).scalar()


def is_drawn(connection: Connection, labeler_id: str, what: str, share: float) -> bool:
    """Whether this claim of theirs is one of the share: drawn from the labeler's id, so nobody can tell by counting."""
    return share > 0 and draw(f"{what}{labeler_id}\n{next_turn(connection, labeler_id)}") < share


def next_turn(connection: Connection, labeler_id: str) -> int:
    """The number of the labeler's next claim."""
    last = select(func.max(assignment.turn)).where(assignment.labeler_id == labeler_id)
    return (connection.execute(last).scalar() or 0) + 1


def is_given(labeler_id: str, *states: str) -> ColumnElement[bool]:
    """Whether the labeler has been given the set of a row and it stands so with them."""
    mine = (given.c.set_id == comparison_set.set_id) & (given.c.labeler_id == labeler_id) & ~given.c.again
    return exists().where(mine, given.c.state.in_(states))
