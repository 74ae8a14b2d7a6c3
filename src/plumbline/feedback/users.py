"""What end users leave: ratings and edits; and how all that a user left is erased."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, delete, func, insert, select, union

from plumbline.feedback import schema
from plumbline.feedback.database import Database
from plumbline.feedback.events import count_people, excluded_ids, stored_events
from plumbline.feedback.sets import STREAM, add_prompt, checked, checked_id, digest
from plumbline.project import Project
from plumbline.records import Demonstration, Message, Rating, parse, prompt_id


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
    source: str | None = None


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

    # ---- ratings

    def add_rating(self, rating: Rating, user_id: str, *, once: bool = False) -> None:
        """Stores a thumb. A user's later thumb under the same answer is the one that counts.

        With `once`, the same as the user's latest adds nothing.
        """
        data = rating.model_dump(mode="json")
        row = {
            "user_id": checked_id("`user_id`", user_id),
            "prompt_id": rating.prompt_id,
            "answer": digest(rating.completion),
            "label": rating.label,
            "extra": {name: value for name, value in data.items() if name not in ("prompt", "completion", "label")},
            "completion": rating.completion,
        }
        digest(row["extra"])  # what it carries beside its fields can be written
        with self.write("sets") as connection:
            add_prompt(connection, rating.prompt_id, rating.prompt)
            if not (once and is_latest(connection, row)):
                connection.execute(insert(schema.rating_event).values(**row, at=self.clock()))

    def ratings(self) -> Iterator[Rating]:
        """Each user's latest thumb under each answer, streamed; each carries its `user_id` and `at`."""
        rated, prompts = schema.rating_event.c, schema.prompt.c
        latest = select(func.max(rated.number)).group_by(rated.user_id, rated.prompt_id, rated.answer)
        query = (
            select(schema.rating_event, prompts.prompt)
            .join_from(schema.rating_event, schema.prompt, rated.prompt_id == prompts.prompt_id)
            .where(rated.number.in_(latest))
            .order_by(rated.number)
        )
        with self.read() as connection:
            for row in connection.execute(query, execution_options=STREAM):
                own = {"prompt": row.prompt, "completion": row.completion, "label": row.label}
                more = {"prompt_id": row.prompt_id, "user_id": row.user_id, "at": row.at.isoformat()}
                yield Rating.model_validate({**row.extra, **own, **more})

    # ---- edits

    def add_edit(
        self,
        prompt: str | list[Message],
        original: str | None,
        edited: str,
        user_id: str,
        *,
        source: str | None = None,
    ) -> None:
        """Stores an answer as a user would have it. From a `source`, which may send twice, the same again adds none."""
        parse(Rating, {"prompt": prompt, "completion": edited, "label": True})  # a sound prompt and a real answer
        asked = prompt_id(prompt)
        row = {
            "user_id": checked_id("`user_id`", user_id),
            "prompt_id": asked,
            "original": original and checked("the original", original),
            "edited": edited,
            "source": source,
        }
        with self.write("sets") as connection:
            add_prompt(connection, asked, prompt)
            same = select(schema.edit_event.c.number).filter_by(**row)
            if source is None or connection.execute(same).first() is None:
                connection.execute(insert(schema.edit_event).values(**row, at=self.clock()))

    def edits(self, *, include_excluded: bool = False) -> Iterator[Edit]:
        """Edits by users, and those that belong to labelers' current rankings, streamed."""
        edited, prompts, event = schema.edit_event.c, schema.prompt.c, schema.ranking_event.c
        by_users = (
            select(schema.edit_event, prompts.prompt)
            .join_from(schema.edit_event, schema.prompt, edited.prompt_id == prompts.prompt_id)
            .order_by(edited.number)
        )
        by_labelers = stored_events(current=True).where(event.texts.is_not(None)).order_by(event.number)
        if not include_excluded:
            by_labelers = by_labelers.where(event.labeler_id.not_in(excluded_ids()))
        with self.read() as connection:
            for row in connection.execute(by_users, execution_options=STREAM):
                yield Edit(
                    row.prompt_id,
                    row.prompt,
                    row.original,
                    row.edited,
                    row.at,
                    user_id=row.user_id,
                    source=row.source,
                )
            for row in connection.execute(by_labelers, execution_options=STREAM):
                for words, place in row.texts:
                    original = None if place is None else row.completions[place]["text"]
                    edit = Edit(row.prompt_id, row.prompt, original, words, row.at, row.user_id)
                    yield replace(edit, labeler_id=row.labeler_id, set_id=row.set_id)

    def demonstrations(self, *, include_excluded: bool = False) -> Iterator[Demonstration]:
        """The edits as conversations to learn; each carries the `user_id` of its user and its `source`."""
        for edit in self.edits(include_excluded=include_excluded):
            asked = [{"role": "user", "content": edit.prompt}] if isinstance(edit.prompt, str) else edit.prompt
            messages = [*asked, {"role": "assistant", "content": edit.edited}]
            of = {"user_id": edit.user_id, "source": edit.source}
            told = {name: value for name, value in of.items() if value is not None}
            yield Demonstration.model_validate({"messages": messages, "prompt_id": edit.prompt_id, **told})

    # ---- erasing

    def mark_seen(self, data_hash: str, set_ids: Iterable[str], version: str = "") -> None:
        """Notes that an exported data set held these sets, and which model version was trained on it, if known.

        For rows that come from no set (ratings, edits), the ids are those of their prompts.
        """
        seen = schema.seen_by_version.c
        with self.write("sets") as connection:
            same = (seen.data_hash == data_hash) & (seen.version == version)
            there = set(connection.execute(select(seen.set_id).where(same)).scalars())
            rows = [
                {"data_hash": data_hash, "set_id": each, "version": version, "at": self.clock()}
                for each in dict.fromkeys(set_ids)
                if each not in there
            ]
            if rows:
                connection.execute(insert(schema.seen_by_version), rows)

    def erase(self, user_id: str) -> Erased:
        """Removes all that came from a user: ratings, edits, and the sets of their prompts with all about them."""
        with self.write("queue", "sets", "drafts") as connection:
            hashes, versions = which_saw(connection, seen_of(user_id))
            rows = delete_all_of(connection, user_id)
        self.forget()
        return Erased(rows, tuple(sorted(hashes)), trained_on(self.project, hashes, versions))


def is_latest(connection: Connection, row: Mapping[str, Any]) -> bool:
    """Whether that is what the user said last of the answer."""
    rated = schema.rating_event
    same = [rated.c[name] == row[name] for name in ("user_id", "prompt_id", "answer")]
    last = connection.execute(select(rated).where(*same).order_by(rated.c.number.desc()).limit(1)).first()
    return last is not None and (last.label, last.extra) == (row["label"], row["extra"])


def of_user(table: Table, user_id: str) -> ColumnElement[bool]:
    """Whose row it is: the user's own, or about a set of theirs."""
    if "user_id" in table.c:
        return table.c.user_id == user_id
    sets = schema.comparison_set.c
    return table.c.set_id.in_(select(sets.set_id).where(sets.user_id == user_id))


def seen_of(user_id: str) -> Select[Any]:
    """The exported data sets that held any of a user's rows, by hash."""
    seen = schema.seen_by_version.c
    theirs = union(
        select(schema.comparison_set.c.set_id).where(of_user(schema.comparison_set, user_id)),
        select(schema.rating_event.c.prompt_id).where(of_user(schema.rating_event, user_id)),
        select(schema.edit_event.c.prompt_id).where(of_user(schema.edit_event, user_id)),
    )
    return select(seen.data_hash).where(seen.set_id.in_(theirs))


def which_saw(connection: Connection, exports: Select[Any]) -> tuple[set[str], set[str]]:
    """The hashes that a query gives, and the versions that are known to have been trained on those data sets."""
    seen = schema.seen_by_version.c
    hashes = set(connection.execute(exports).scalars())
    rows = connection.execute(select(seen.version).where(seen.data_hash.in_(hashes)))
    return hashes, {version for version in rows.scalars() if version}


def trained_on(project: Project | None, hashes: set[str], versions: set[str]) -> tuple[str, ...]:
    """The same versions, and those whose record names one of the data sets."""
    known = project.versions() if project else []
    return tuple(sorted(versions | {version.ref for version in known if hashes & {*version.data.values()}}))


def delete_all_of(connection: Connection, user_id: str) -> dict[str, int]:
    """Removes a user's rows, then the prompts that nobody else asked. Returns how many rows of each table went."""
    rows = {}
    ranked = delete_as_labeler(connection, f"user:{user_id}")
    for table in (
        schema.draft,
        schema.gold,
        schema.seen_by_version,
        schema.assignment,
        schema.ranking_event,
        schema.rating_event,
        schema.edit_event,
        schema.exchange,
        schema.comparison_set,
    ):
        rows[table.name] = connection.execute(delete(table).where(of_user(table, user_id))).rowcount
    rows["ranking_event"] += ranked
    asked = schema.prompt.c.prompt_id
    rows["prompt"] = connection.execute(
        delete(schema.prompt).where(
            *(
                asked.not_in(select(table.c.prompt_id))
                for table in (schema.comparison_set, schema.rating_event, schema.edit_event)
            )
        )
    ).rowcount
    return rows


def delete_as_labeler(connection: Connection, labeler_id: str) -> int:
    """Removes what a user ranked of answers to others, and their name among the labelers; returns how many rankings."""
    said = schema.ranking_event
    sets = list(connection.execute(select(said.c.set_id).distinct().where(said.c.labeler_id == labeler_id)).scalars())
    gone = 0
    for table in (schema.draft, schema.assignment, schema.ranking_event, schema.labeler):
        removed = connection.execute(delete(table).where(table.c.labeler_id == labeler_id)).rowcount
        gone += removed if table is said else 0
    for begin in range(0, len(sets), 500):
        count_people(connection, sets[begin : begin + 500])
    return gone
