"""The rows beneath rankings: assignments, events, which event is current, and who is left out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, insert, or_, select, update

from plumbline.errors import BadRecord, UserError
from plumbline.feedback import schema
from plumbline.feedback.sets import Shelf, checked_id, digest, turns_of
from plumbline.files import shown
from plumbline.records import ComparisonSet, Ranking

assignment, event = schema.assignment.c, schema.ranking_event.c

# ---- assignments


def find_assignment(connection: Connection, set_id: str, labeler_id: str, *, again: bool | None) -> Row[Any]:
    """That the labeler was given the set; with `again=None` the first time or the second."""
    first = is_theirs(set_id, labeler_id, again=False)
    second = is_theirs(set_id, labeler_id, again=True)
    mine = or_(first, second) if again is None else second if again else first
    row = connection.execute(select(schema.assignment).where(mine).limit(1)).first()
    if row is None:
        raise UserError(f"the set {shown(set_id)} was never given to the labeler {shown(labeler_id)}: ask for a set")
    return row


def is_row(row: Row[Any]) -> ColumnElement[bool]:
    return is_theirs(row.set_id, row.labeler_id, again=row.again)


def is_theirs(set_id: str, labeler_id: str, *, again: bool) -> ColumnElement[bool]:
    return and_(assignment.set_id == set_id, assignment.labeler_id == labeler_id, assignment.again == again)


def recent(connection: Connection, labeler_id: str, last: int) -> Sequence[Row[Any]]:
    """The assignments that the labeler was done with last, the latest first."""
    done = (assignment.labeler_id == labeler_id) & assignment.state.in_(("submitted", "skipped"))
    latest = (assignment.lease_until.desc(), func.coalesce(assignment.event, 0).desc())
    return connection.execute(select(schema.assignment).where(done).order_by(*latest).limit(last)).all()


# ---- events


def event_row(ranking: Ranking, texts: list[list[Any]] | None, *, again: bool) -> dict[str, Any]:
    """The columns that say what a labeler said. Two rows with one digest say the same."""
    said = {
        "set_id": ranking.set_id,
        "labeler_id": ranking.labeler_id,
        "again": again,
        "ranks": list(ranking.ranks),
        "flags": list(ranking.flags),
        "instruction_version": ranking.instruction_version,
        "texts": texts,
    }
    return {**said, "digest": digest(said)}


def as_said(row: Row[Any]) -> dict[str, Any]:
    """The columns of an event that its digest is made of."""
    names = ("set_id", "labeler_id", "again", "ranks", "flags", "instruction_version", "texts")
    return {name: row._mapping[name] for name in names}


def digests_there(connection: Connection, set_ids: Collection[str]) -> set[str]:
    return set(connection.execute(select(event.digest).where(event.set_id.in_(set_ids))).scalars())


def add_imported(connection: Connection, rows: Sequence[dict[str, Any]], source: str, at: datetime) -> None:
    """Adds events from elsewhere, and the assignments that their labelers would have had."""
    if not rows:
        return
    here = {"key": "", "surplus": False, "source": source, "at": at}
    events = [{**row, **here, "key": f"import:{row['digest']}"} for row in rows]
    connection.execute(insert(schema.ranking_event), events)
    set_ids = {row["set_id"] for row in rows}
    there = select(assignment.set_id, assignment.labeler_id).where(assignment.set_id.in_(set_ids), ~assignment.again)
    given = {(row.set_id, row.labeler_id) for row in connection.execute(there)}
    missing = dict.fromkeys((row["set_id"], row["labeler_id"]) for row in rows)
    now = {"again": False, "state": "submitted", "turn": 0, "leased_at": at, "lease_until": at}
    new = [{"set_id": of, "labeler_id": by, **now} for of, by in missing if (of, by) not in given]
    if new:
        connection.execute(insert(schema.assignment), new)
    point_at_current(connection, set_ids)


def point_at_current(connection: Connection, set_ids: Collection[str] | None = None) -> int:
    """Derives what is derived: each labeler's current event of a set, and how many people have ranked it.

    Of the given sets, or of all. Returns how many rows were not as they should be.
    """
    same = (event.set_id == assignment.set_id) & (event.labeler_id == assignment.labeler_id)
    latest = select(func.max(event.number)).where(same, event.again == assignment.again).scalar_subquery()
    stale = or_(assignment.event.is_distinct_from(latest), assignment.state != "submitted")
    pointed = update(schema.assignment).where(latest.is_not(None), stale).values(event=latest, state="submitted")
    if set_ids is not None:
        pointed = pointed.where(assignment.set_id.in_(set_ids))
    return connection.execute(pointed).rowcount + count_people(connection, set_ids)


def count_people(connection: Connection, set_ids: Collection[str] | Select[Any] | None = None) -> int:
    """Derives how many people have ranked a set, those who are left out apart. Returns how many counts were others."""
    sets = schema.comparison_set.c
    counts = (event.set_id == sets.set_id) & ~event.again & event.labeler_id.not_in(excluded_ids())
    ranked_by = select(func.count(event.labeler_id.distinct())).where(counts).scalar_subquery()
    counted = update(schema.comparison_set).where(sets.counted != ranked_by).values(counted=ranked_by)
    if set_ids is not None:
        counted = counted.where(sets.set_id.in_(set_ids))
    return connection.execute(counted).rowcount


def stored_events(*, current: bool) -> Select[Any]:
    """Events with the content of their sets, as `as_ranking` reads them."""
    sets, prompts = schema.comparison_set.c, schema.prompt.c
    query = (
        select(schema.ranking_event, sets.criterion, sets.prompt_id, sets.user_id, sets.completions, prompts.prompt)
        .join_from(schema.ranking_event, schema.comparison_set, event.set_id == sets.set_id)
        .join(schema.prompt, sets.prompt_id == prompts.prompt_id)
    )
    return query.join(schema.assignment, assignment.event == event.number) if current else query


def as_ranking(row: Row[Any]) -> Ranking:
    data = {
        "set_id": row.set_id,
        "prompt_id": row.prompt_id,
        "prompt": row.prompt,
        "completions": [answer["text"] for answer in row.completions],
        "ranks": row.ranks,
        "flags": row.flags,
        "labeler_id": row.labeler_id,
        "instruction_version": row.instruction_version,
        "criterion": row.criterion,
        "at": row.at.isoformat(),
        "seconds": row.seconds,
        "shown_order": row.shown_order,
    }
    more = {"user_id": row.user_id, "source": row.source}
    return Ranking.model_validate({**data, **{name: value for name, value in more.items() if value is not None}})


# ---- rankings from elsewhere


def place_rankings(
    connection: Connection,
    chunk: Sequence[Ranking],
    criterion: str,
    at: datetime,
    bad: list[tuple[Ranking, str]],
) -> list[Ranking]:
    """Adds the sets and labelers that the rankings need. Returns the rankings that fit, the others go to `bad`."""
    shelf = Shelf(connection, chunk, criterion, at)
    sets = schema.comparison_set.c
    found = connection.execute(
        select(sets.set_id, sets.prompt_id, sets.completions).where(sets.set_id.in_({each.set_id for each in chunk}))
    )
    shown_there = {row.set_id: (row.prompt_id, [answer["text"] for answer in row.completions]) for row in found}
    sound: list[Ranking] = []
    for each in chunk:
        try:
            checked_id("`labeler_id`", each.labeler_id)
            checked_id("`instruction_version`", each.instruction_version)
            content = (each.prompt_id, list(each.completions))
            if each.set_id not in shown_there:
                shelf.place(set_of(each))
                shown_there[each.set_id] = content
            elif content != shown_there[each.set_id] or shelf.prompts[each.prompt_id] != digest(turns_of(each.prompt)):
                raise BadRecord(f"the set {each.set_id!r} is there with other content: a set never changes, rename it")
            sound.append(each)
        except BadRecord as error:
            bad.append((each, str(error)))
    shelf.write()
    add_labelers(connection, (each.labeler_id for each in sound), at)
    return sound


def set_of(ranking: Ranking) -> ComparisonSet:
    """The set that a ranking tells of; which models answered it does not say."""
    kept = {name: value for name, value in (ranking.model_extra or {}).items() if name in ("criterion", "user_id")}
    completions = [{"text": text} for text in ranking.completions]
    own = {"set_id": ranking.set_id, "prompt_id": ranking.prompt_id, "prompt": ranking.prompt}
    return ComparisonSet.model_validate({**kept, **own, "completions": completions})


def add_labelers(connection: Connection, ids: Iterable[str], at: datetime) -> None:
    """Adds those who are not there yet, under their ids as names."""
    wanted = dict.fromkeys(ids)
    there = set(connection.execute(select(schema.labeler.c.labeler_id)).scalars())
    new = [{"labeler_id": each, "name": each, "role": "labeler", "at": at} for each in wanted if each not in there]
    if new:
        connection.execute(insert(schema.labeler), new)


# ---- who is left out


def exclusions() -> Select[Any]:
    """The decisions in force that leave somebody out."""
    decided = schema.exclusion_event.c
    latest = select(func.max(decided.number)).group_by(decided.labeler_id)
    return select(schema.exclusion_event).where(decided.number.in_(latest), decided.excluded)


def excluded_ids() -> Select[Any]:
    return exclusions().with_only_columns(schema.exclusion_event.c.labeler_id)


def is_excluded(connection: Connection, labeler_id: str) -> bool:
    return connection.execute(exclusions().where(schema.exclusion_event.c.labeler_id == labeler_id)).first() is not None
