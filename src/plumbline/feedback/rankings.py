"""Rankings as people submit them: events that are only added, each stored once, the latest in force."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from plumbline.errors import BadRecord, UserError
from plumbline.feedback import schema
from plumbline.feedback.database import Database
from plumbline.feedback.events import (
    add_imported,
    as_ranking,
    count_people,
    digests_there,
    event_row,
    excluded_ids,
    exclusions,
    find_assignment,
    is_row,
    place_rankings,
    point_at_current,
    recent,
    stored_events,
)
from plumbline.feedback.places import free_places, overlap_in_force
from plumbline.feedback.sets import (
    STREAM,
    Added,
    checked,
    checked_id,
    checked_ranking,
    chunks,
    find_set,
    instructions,
    report,
)
from plumbline.feedback.sign_in import find_labeler
from plumbline.files import shown
from plumbline.records import ComparisonSet, Ranking

REVISABLE = 10  # of what a labeler was done with last

assignment, event = schema.assignment.c, schema.ranking_event.c


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

    # ---- drafts

    def draft(self, set_id: str, labeler_id: str) -> dict[str, Any] | None:
        """What the labeler had begun, None where there is nothing. Submitting removes it, skipping keeps it."""
        columns = schema.draft.c
        with self.read() as connection:
            mine = (columns.set_id == set_id) & (columns.labeler_id == labeler_id)
            return connection.execute(select(columns.body).where(mine)).scalar()

    def save_draft(self, set_id: str, labeler_id: str, body: Mapping[str, Any]) -> None:
        """Keeps what the labeler has begun in the place of what was there."""
        columns = schema.draft.c
        checked("the draft", json.dumps(body, ensure_ascii=False))
        with self.write("drafts") as connection:
            find_assignment(connection, set_id, labeler_id, again=None)
            connection.execute(delete(schema.draft).where(columns.set_id == set_id, columns.labeler_id == labeler_id))
            connection.execute(
                insert(schema.draft).values(set_id=set_id, labeler_id=labeler_id, body=dict(body), at=self.clock())
            )

    # ---- what labelers submit

    def submit(self, submission: Submission) -> Receipt:
        """Stores a ranking; when this returns it is on the disk.

        The same key again gives the first receipt, with another body it is a `UserError`. The labeler must have been
        given the set; that the lease expired since does not matter. A set that the labeler has submitted before is
        revised, which goes for the last ten.
        """
        row = self._checked_event(submission)
        with self.write("queue") as connection:
            at = self.clock()
            before = connection.execute(select(schema.ranking_event).where(event.key == row["key"])).first()
            if before is not None:
                if before.digest != row["digest"]:
                    raise UserError(f"the key {row['key']!r} is taken by another submission: make a new one for each")
                return Receipt(before.number, before.at, True, before.surplus)
            mine = find_assignment(connection, submission.set_id, submission.labeler_id, again=submission.again)
            row["surplus"] = self._is_surplus(connection, mine, at)
            added = connection.execute(insert(schema.ranking_event).values(**row, at=at).returning(event.number))
            number = added.scalar_one()
            connection.execute(update(schema.assignment).where(is_row(mine)).values(lease_until=at))
            point_at_current(connection, [submission.set_id])
            connection.execute(
                delete(schema.draft).where(
                    schema.draft.c.set_id == mine.set_id, schema.draft.c.labeler_id == mine.labeler_id
                )
            )
            return Receipt(number, at, False, row["surplus"])

    def _checked_event(self, given: Submission) -> dict[str, Any]:
        """The row of a submission that says something sound about a set that is there."""
        version = str(given.instruction_version)
        with self.read() as connection:
            of = find_set(connection, given.set_id)
            assert of.criterion is not None, of
            versions = [str(each.version) for each in instructions(connection, of.criterion)]
        if version not in versions:
            raise UserError(f"the instructions of {of.criterion!r} have no version {version!r}: load the set again")
        places = range(len(of.completions))
        if given.shown_order is not None and sorted(given.shown_order) != list(places):
            raise BadRecord(f"`shown_order` is {shown(given.shown_order)}: it holds each of 0 to {places[-1]} once")
        if given.seconds is not None and not 0 <= given.seconds < math.inf:
            raise BadRecord(f"`seconds` is {given.seconds!r}: it is how long the ranking took")
        for text in given.texts:
            if not text.text.strip() or (text.place is not None and text.place not in places):
                raise BadRecord(f"{shown(text)} is no answer: it needs some text, and a place from 0 to {places[-1]}")
            checked("an answer", text.text)
        ranking = checked_ranking(of, given.ranks, given.flags, given.labeler_id, version)
        texts = [[text.text, text.place] for text in given.texts] or None
        return {
            **event_row(ranking, texts, again=given.again),
            "key": checked_id("`key`", given.key),
            "shown_order": given.shown_order and list(given.shown_order),
            "seconds": given.seconds,
            "client_time": given.client_time and checked_id("`client_time`", given.client_time),
            "source": None,
        }

    def _is_surplus(self, connection: Connection, mine: Row[Any], at: datetime) -> bool:
        """Whether the set has no place for this ranking. A revision has that of the ranking it takes the place of."""
        if mine.event is not None:
            if mine.event not in [row.event for row in recent(connection, mine.labeler_id, REVISABLE)]:
                raise UserError(f"the set {mine.set_id!r} lies too far back: the last {REVISABLE} can be changed")
            return bool(connection.execute(select(event.surplus).where(event.number == mine.event)).scalar_one())
        if mine.again or (mine.state == "open" and mine.lease_until > at):
            return False
        return free_places(connection, mine.set_id, overlap_in_force(connection), at) <= 0

    def skip(self, set_id: str, labeler_id: str, reason: str, *, again: bool = False) -> None:
        """Gives the set back for good, with a reason. Submitting it later undoes that."""
        with self.write("queue") as connection:
            mine = find_assignment(connection, set_id, labeler_id, again=again)
            if mine.state == "submitted":
                raise UserError(f"the set {set_id!r} is ranked already: change the ranking instead of skipping it")
            skipped = {"state": "skipped", "reason": checked("the reason", reason), "lease_until": self.clock()}
            connection.execute(update(schema.assignment).where(is_row(mine)).values(skipped))

    def history(self, labeler_id: str, last: int = REVISABLE) -> list[Past]:
        """What the labeler submitted or skipped, the latest first."""
        with self.read() as connection:
            return [as_past(connection, row) for row in recent(connection, labeler_id, last)]

    def ranked_by(self, labeler_id: str) -> int:
        """How many sets the labeler has ranked."""
        mine = (assignment.labeler_id == labeler_id) & assignment.event.is_not(None) & ~assignment.again
        with self.read() as connection:
            return connection.execute(select(func.count()).select_from(schema.assignment).where(mine)).scalar_one()

    # ---- all rankings

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
        query = stored_events(current=current).where(event.again == again)
        query = query.order_by(schema.comparison_set.c.number, event.number)
        if criterion is not None:
            query = query.where(schema.comparison_set.c.criterion == criterion)
        if by is not None:
            query = query.where(event.labeler_id == by)
        if not include_excluded:
            query = query.where(event.labeler_id.not_in(excluded_ids()))
        with self.read() as connection:
            for row in connection.execute(query, execution_options=STREAM):
                yield as_ranking(row)

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
        new = known = 0
        checked("the source", source)
        for chunk in chunks(rankings, lambda each: sum(map(len, each.completions))):
            bad: list[tuple[Ranking, str]] = []
            with self.write("queue", "sets") as connection:
                at = self.clock()
                sound = place_rankings(connection, chunk, criterion, at, bad)
                there = digests_there(connection, {each.set_id for each in sound})
                said = {row["digest"]: row for row in (event_row(each, None, again=False) for each in sound)}
                rows = [row for row in said.values() if row["digest"] not in there]
                add_imported(connection, rows, source, at)
            report(bad, on_bad)
            new, known = new + len(rows), known + len(sound) - len(rows)
        return Added(new, known)

    # ---- exclusions

    def exclude(self, labeler_id: str, evidence: Mapping[str, Any], by: str) -> None:
        """Leaves a labeler's rankings out of `rankings()`, until `include`. Nothing is deleted.

        Their places are free again, so each of their sets goes to one more person; they are given no more sets.
        """
        self._set_excluded(labeler_id, True, evidence, by)

    def include(self, labeler_id: str, by: str) -> None:
        """Takes an exclusion back. A set whose place somebody has taken since has one ranking more than asked."""
        self._set_excluded(labeler_id, False, {}, by)

    def _set_excluded(self, labeler_id: str, excluded: bool, evidence: Mapping[str, Any], by: str) -> None:
        checked("the evidence", json.dumps(evidence, ensure_ascii=False))
        row = {"excluded": excluded, "evidence": dict(evidence), "by": checked("`by`", by), "at": self.clock()}
        with self.write("queue", "sets") as connection:
            find_labeler(connection, labeler_id)
            connection.execute(insert(schema.exclusion_event).values(labeler_id=labeler_id, **row))
            count_people(connection, select(event.set_id).where(event.labeler_id == labeler_id))

    def excluded(self) -> dict[str, Exclusion]:
        """Who is left out now, by id."""
        with self.read() as connection:
            rows = connection.execute(exclusions())
            return {row.labeler_id: Exclusion(row.labeler_id, row.evidence, row.by, row.at) for row in rows}


def as_past(connection: Connection, row: Row[Any]) -> Past:
    of = find_set(connection, row.set_id)
    if row.state == "skipped":
        return Past(of, "skipped", row.lease_until, reason=row.reason, again=row.again)
    said = connection.execute(select(schema.ranking_event).where(event.number == row.event)).one()
    texts = tuple(Written(text, place) for text, place in said.texts or ())
    return Past(of, "submitted", said.at, tuple(said.ranks), tuple(said.flags), texts, again=row.again)
