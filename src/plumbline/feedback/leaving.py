"""A labeler who leaves and wants to be forgotten: the name and the sign-in go, the rankings go where asked.

Rankings that stay belong to nobody from then on: to an id and a name that are drawn, and that no earlier file or backup
holds. What was exported is left as it is, and named.
"""

from __future__ import annotations

from datetime import datetime
from secrets import token_hex
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, delete, insert, select, union_all, update

from plumbline.feedback import schema
from plumbline.feedback.database import Database
from plumbline.feedback.events import as_said, count_people
from plumbline.feedback.sets import digest
from plumbline.feedback.sign_in import Labeler, find_labeler
from plumbline.feedback.users import Erased, trained_on, which_saw

SOMEBODY = "somebody"
"""Who did what a labeler did whose name is gone."""
event, assignment = schema.ranking_event.c, schema.assignment.c


class Leaving(Database):
    """How the labelers of a store are forgotten."""

    def erase_labeler(self, labeler_id: str, *, with_rankings: bool = False) -> Erased:
        """Removes a labeler's name, links, sessions and drafts, and with `with_rankings` all that they said.

        Rankings that stay are those of a new labeler with a drawn name. An exclusion stays in force, without its
        evidence. No exported file changes; those that may hold the rankings are named.
        """
        with self.write("queue", "sets", "drafts") as connection:
            who = find_labeler(connection, labeler_id)
            hashes, versions = which_saw(connection, seen_of(labeler_id))
            rows = delete_sign_in(connection, who)
            rows |= delete_said(connection, who) if with_rankings else hand_over(connection, who, self.clock())
        self.forget()
        return Erased(rows, tuple(sorted(hashes)), trained_on(self.project, hashes, versions))


def seen_of(labeler_id: str) -> Select[Any]:
    """The exports that came after a ranking of theirs and held its set, or for what they wrote, its prompt."""
    sets, seen = schema.comparison_set.c, schema.seen_by_version.c
    mine = event.labeler_id == labeler_id
    wrote = select(sets.prompt_id, event.at).join(schema.ranking_event, event.set_id == sets.set_id)
    said = union_all(select(event.set_id, event.at).where(mine), wrote.where(mine, event.texts.is_not(None))).subquery()
    return select(seen.data_hash).join(said, (seen.set_id == said.c.set_id) & (seen.at >= said.c.at))


def delete_sign_in(connection: Connection, who: Labeler) -> dict[str, int]:
    """Takes away what signs them in and what they had begun, and their name where they decided something."""
    tables = (schema.sign_in, schema.session, schema.draft)
    rows = {each.name: remove(connection, each, who) for each in tables}
    for table in (schema.instruction, schema.exclusion_event):
        connection.execute(update(table).where(table.c.by == who.name).values(by=SOMEBODY))
    return rows


def remove(connection: Connection, table: Any, who: Labeler) -> int:
    return connection.execute(delete(table).where(table.c.labeler_id == who.labeler_id)).rowcount


def delete_said(connection: Connection, who: Labeler) -> dict[str, int]:
    """Removes all that they said; the places of it are free again."""
    ranked = list(
        connection.execute(select(event.set_id).distinct().where(event.labeler_id == who.labeler_id)).scalars()
    )
    tables = (schema.assignment, schema.ranking_event, schema.exclusion_event, schema.labeler)
    rows = {each.name: remove(connection, each, who) for each in tables}
    for begin in range(0, len(ranked), 500):
        count_people(connection, ranked[begin : begin + 500])
    return rows


def hand_over(connection: Connection, who: Labeler, at: datetime) -> dict[str, int]:
    """Gives their rankings to somebody drawn, and what they hold back to the queue."""
    drawn = f"erased-{token_hex(6)}"
    connection.execute(insert(schema.labeler).values(labeler_id=drawn, name=drawn, role=who.role, at=at))
    mine = assignment.labeler_id == who.labeler_id
    connection.execute(update(schema.assignment).where(mine, assignment.state == "open").values(state="released"))
    renamed = [
        new_names(row, drawn)
        for row in connection.execute(select(schema.ranking_event).where(event.labeler_id == who.labeler_id))
    ]
    if renamed:
        named: dict[str, Any] = {name: bindparam(f"new_{name}") for name in ("labeler_id", "digest", "key")}
        connection.execute(update(schema.ranking_event).where(event.number == bindparam("of")).values(named), renamed)
    for table in (schema.assignment, schema.exclusion_event):
        connection.execute(update(table).where(table.c.labeler_id == who.labeler_id).values(labeler_id=drawn))
    without = schema.exclusion_event.c.labeler_id == drawn
    connection.execute(update(schema.exclusion_event).where(without).values(evidence={}))
    return {"labeler": remove(connection, schema.labeler, who)}


def new_names(row: Row[Any], drawn: str) -> dict[str, Any]:
    """What tells whose a ranking is, for the one drawn: the hash of it did, and so did the key of one imported."""
    said = digest({**as_said(row), "labeler_id": drawn})
    key = row.key if row.source is None else f"import:{said}"
    return {"of": row.number, "new_labeler_id": drawn, "new_digest": said, "new_key": key}
