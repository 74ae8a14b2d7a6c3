"""Criteria with their instructions, and the comparison sets that are ranked by them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, Select, delete, func, insert, select

from plumbline.errors import BadRecord, UserError
from plumbline.feedback import schema
from plumbline.feedback.database import Database
from plumbline.files import parse, shown
from plumbline.records import ComparisonSet, Message, Ranking

R = TypeVar("R")

CHUNK = 500
CHUNK_BYTES = 4_000_000  # of text, so that long answers do not add up in memory either
STREAM = {"yield_per": 50}
LONGEST_ID = 300  # characters; PostgreSQL's indexes take no more than 2,704 bytes, and a key holds two ids


@dataclass(frozen=True)
class Instruction:
    """One version of the words that labelers rank by."""

    criterion: str
    version: int
    text: str
    by: str
    at: datetime


@dataclass(frozen=True)
class Added:
    """How many records were new, and how many the store already had."""

    new: int
    known: int


Ranks = Sequence[int | None]


class Sets(Database):
    """The sets and criteria of a store."""

    # ---- criteria and their instructions

    def add_criterion(self, name: str, text: str, by: str = "") -> Instruction:
        """Begins a criterion with version 1 of its instructions. The same again is no error, another text is."""
        checked_id("the criterion", name)
        with self.write("sets") as connection:
            if name in criteria(connection):
                newest = latest_instruction(connection, name)
                if newest.text != text:
                    raise UserError(f"there is a criterion {name!r} with other instructions: revise them")
                return newest
            return begin_criterion(connection, Instruction(name, 1, checked("the text", text), by, self.clock()))

    def revise(self, name: str, text: str, by: str) -> Instruction:
        """Adds the next version of a criterion's instructions; the same text again adds none."""
        with self.write("sets") as connection:
            newest = latest_instruction(connection, name)
            if newest.text == text:
                return newest
            return add_instruction(
                connection, Instruction(name, newest.version + 1, checked("the text", text), by, self.clock())
            )

    def instruction(self, name: str, version: int | None = None) -> Instruction:
        """A version of a criterion's instructions, the newest when none is named."""
        with self.read() as connection:
            if version is None:
                return latest_instruction(connection, name)
            found = {each.version: each for each in instructions(connection, name)}
        if version not in found:
            raise UserError(f"the instructions of {name!r} have no version {version!r}: the newest is {len(found)}")
        return found[version]

    def instructions(self, name: str) -> list[Instruction]:
        """All versions, the newest last."""
        with self.read() as connection:
            return instructions(connection, name)

    def criteria(self) -> list[str]:
        """The names of the criteria, in the order they were added."""
        with self.read() as connection:
            return criteria(connection)

    # ---- sets

    def add_sets(
        self,
        sets: Iterable[ComparisonSet],
        *,
        criterion: str = "helpful",
        gold: Mapping[str, Ranks] | None = None,
        on_bad: Callable[[ComparisonSet, str], None] | None = None,
    ) -> Added:
        """Adds sets, however many, in chunks that are committed one by one.

        A set that names no criterion gets `criterion`, which is begun where it is new. A set is frozen: one that is
        already there with the same content counts as known, one with other content is bad. Bad sets go to `on_bad`
        with the reason; without it the first raises `BadRecord`. `gold` holds the known ranks of sets by id (None
        where an answer is to be flagged). `user_id` and other fields that a set carries beyond its own come back.
        """
        new = known = 0
        unseen = dict(gold or {})
        for chunk in chunks(sets, lambda each: sum(len(answer.text) for answer in each.completions)):
            bad: list[tuple[ComparisonSet, str]] = []
            with self.write("sets") as connection:
                there = Shelf(connection, chunk, criterion, self.clock())
                for each in chunk:
                    try:
                        known, new = (known + 1, new) if there.place(each) else (known, new + 1)
                    except BadRecord as error:
                        bad.append((each, str(error)))
                there.write()
                for set_id in [each.set_id for each in chunk if each.set_id in unseen]:
                    mark_gold(connection, set_id, unseen.pop(set_id), self.clock())
            report(bad, on_bad)
        with self.write("sets") as connection:
            for set_id, ranks in unseen.items():
                mark_gold(connection, set_id, ranks, self.clock())
        return Added(new, known)

    def sets(self, *, criterion: str | None = None) -> Iterator[ComparisonSet]:
        """All sets, the oldest first, streamed."""
        query = stored_sets().order_by(schema.comparison_set.c.number)
        if criterion is not None:
            query = query.where(schema.comparison_set.c.criterion == criterion)
        with self.read() as connection:
            for row in connection.execute(query, execution_options=STREAM):
                yield as_set(row)

    def comparison_set(self, set_id: str) -> ComparisonSet:
        """The set of this id; an unknown one is a `UserError`."""
        with self.read() as connection:
            return find_set(connection, set_id)

    def count(self) -> int:
        """How many sets there are."""
        with self.read() as connection:
            return connection.execute(select(func.count()).select_from(schema.comparison_set)).scalar_one()

    def gold_sets(self) -> dict[str, tuple[int | None, ...]]:
        """The known ranks of each gold set, in the order of its answers; None where an answer is to be flagged."""
        with self.read() as connection:
            return {row.set_id: tuple(row.ranks) for row in connection.execute(select(schema.gold))}


# ---- what a value must be


def checked(what: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(
            f"{what} has half of a surrogate pair at character {error.start}, which no database can hold"
        ) from None
    return text


def checked_id(what: str, text: str) -> str:
    if not text or len(text) > LONGEST_ID:
        raise BadRecord(f"{what} is {shown(text)}: it needs 1 to {LONGEST_ID} characters")
    return checked(what, text)


def checked_ranking(
    given: ComparisonSet, ranks: Ranks, flags: Sequence[bool], labeler_id: str, version: str
) -> Ranking:
    """The ranks as a record, with every fault of theirs named."""
    return parse(
        Ranking,
        {
            "set_id": given.set_id,
            "prompt_id": given.prompt_id,
            "prompt": given.prompt,
            "completions": [answer.text for answer in given.completions],
            "ranks": list(ranks),
            "flags": list(flags),
            "labeler_id": labeler_id,
            "instruction_version": version,
        },
    )


def digest(content: Any) -> str:
    """The SHA-256 of what JSON can say."""
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(checked("it", text).encode()).hexdigest()


def draw(text: str) -> float:
    """A number in [0, 1) that the text decides."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


# ---- chunks


def chunks(records: Iterable[R], size: Callable[[R], int]) -> Iterator[list[R]]:
    """The records in lists that are neither long nor heavy."""
    chunk: list[R] = []
    weight = 0
    for record in records:
        chunk.append(record)
        weight += size(record)
        if len(chunk) == CHUNK or weight >= CHUNK_BYTES:
            yield chunk
            chunk, weight = [], 0
    if chunk:
        yield chunk


def report(bad: Iterable[tuple[R, str]], on_bad: Callable[[R, str], None] | None) -> None:
    for record, reason in bad:
        if on_bad is None:
            raise BadRecord(reason)
        on_bad(record, reason)


class Shelf:
    """Where the sets of one chunk go: what is there of them already, and the rows to add."""

    def __init__(
        self, connection: Connection, chunk: Sequence[ComparisonSet | Ranking], criterion: str, at: datetime
    ) -> None:
        self.connection, self.criterion, self.at = connection, criterion, at
        columns = schema.comparison_set.c
        ids, prompts = {each.set_id for each in chunk}, {each.prompt_id for each in chunk}
        found = connection.execute(select(columns.set_id, columns.digest).where(columns.set_id.in_(ids)))
        self.sets = {row.set_id: row.digest for row in found}
        self.prompts = prompts_there(connection, prompts)
        self.criteria = set(criteria(connection))
        self.new_sets: list[dict[str, Any]] = []
        self.new_prompts: list[dict[str, Any]] = []

    def place(self, given: ComparisonSet) -> bool:
        """Whether the set is known. A new one gets a row; one that is there with other content is a `BadRecord`."""
        row, asked = set_row(given, self.criterion, self.at)
        if given.set_id in self.sets:
            if self.sets[given.set_id] != row["digest"]:
                raise BadRecord(f"the set {given.set_id!r} is there with other content: a set never changes, rename it")
            return True
        if self.prompts.setdefault(given.prompt_id, asked["digest"]) != asked["digest"]:
            raise BadRecord(f"the prompt {given.prompt_id!r} is there with another text: give this one another id")
        self.sets[given.set_id] = row["digest"]
        self.new_sets.append(row)
        self.new_prompts.append(asked)
        return False

    def write(self) -> None:
        for name in dict.fromkeys(row["criterion"] for row in self.new_sets):
            if name not in self.criteria:
                text = f"Rank the answers from the best to the worst by this criterion: {name}."
                begin_criterion(self.connection, Instruction(name, 1, text, "", self.at))
        there = prompts_there(self.connection, {row["prompt_id"] for row in self.new_prompts})
        prompts = {row["prompt_id"]: row for row in self.new_prompts if row["prompt_id"] not in there}
        if prompts:
            self.connection.execute(insert(schema.prompt), list(prompts.values()))
        if self.new_sets:
            self.connection.execute(insert(schema.comparison_set), self.new_sets)


def set_row(given: ComparisonSet, criterion: str, at: datetime) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows of a set and of its prompt."""
    data = given.model_dump(mode="json")
    own = {name: data.pop(name) for name in ComparisonSet.model_fields}
    name = checked_id("`criterion`", own["criterion"] or criterion)
    user_id = data.get("user_id")
    content = [own["prompt_id"], turns_of(own["prompt"]), name, own["completions"]]
    row = {
        "set_id": checked_id("`set_id`", given.set_id),
        "criterion": name,
        "prompt_id": checked_id("`prompt_id`", given.prompt_id),
        "user_id": None if user_id is None else checked_id("`user_id`", str(user_id)),
        "draw": draw(given.set_id),
        "counted": 0,
        "digest": digest(content),
        "at": at,
        "extra": data,
        "completions": own["completions"],
    }
    digest(data)  # what it carries beside its fields can be written too
    return row, prompt_row(given.prompt_id, own["prompt"])


def prompt_row(prompt_id: str, prompt: str | list[Message]) -> dict[str, Any]:
    return {"prompt_id": checked_id("`prompt_id`", prompt_id), "digest": digest(turns_of(prompt)), "prompt": prompt}


def turns_of(prompt: str | list[Message]) -> list[Message]:
    """The prompt in the one form in which a text equals the one turn of a user that it stands for."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def prompts_there(connection: Connection, ids: Iterable[str]) -> dict[str, str]:
    columns = schema.prompt.c
    found = connection.execute(select(columns.prompt_id, columns.digest).where(columns.prompt_id.in_(list(ids))))
    return {row.prompt_id: row.digest for row in found}


def add_prompt(connection: Connection, prompt_id: str, prompt: str | list[Message]) -> None:
    """Adds a prompt that is not there yet."""
    row = prompt_row(prompt_id, prompt)
    there = prompts_there(connection, [prompt_id])
    if there.get(prompt_id, row["digest"]) != row["digest"]:
        raise BadRecord(f"the prompt {prompt_id!r} is there with another text: give this one another id")
    if not there:
        connection.execute(insert(schema.prompt).values(row))


def mark_gold(connection: Connection, set_id: str, ranks: Ranks, at: datetime) -> None:
    """Notes the ranks that a set is known to have, in the place of others."""
    flags = [rank is None for rank in ranks]
    checked_as = checked_ranking(find_set(connection, set_id), ranks, flags, "gold", "gold")
    connection.execute(delete(schema.gold).where(schema.gold.c.set_id == set_id))
    connection.execute(insert(schema.gold).values(set_id=set_id, ranks=list(checked_as.ranks), at=at))


# ---- rows in and out


def stored_sets() -> Select[Any]:
    """The columns of a set, as `as_set` reads them."""
    sets, prompts = schema.comparison_set.c, schema.prompt.c
    return select(sets.set_id, sets.criterion, sets.prompt_id, sets.extra, sets.completions, prompts.prompt).join_from(
        schema.comparison_set, schema.prompt, sets.prompt_id == prompts.prompt_id
    )


def as_set(row: Row[Any]) -> ComparisonSet:
    own = {"set_id": row.set_id, "prompt_id": row.prompt_id, "prompt": row.prompt, "completions": row.completions}
    return ComparisonSet.model_validate({**row.extra, **own, "criterion": row.criterion})


def find_set(connection: Connection, set_id: str) -> ComparisonSet:
    row = connection.execute(stored_sets().where(schema.comparison_set.c.set_id == set_id)).first()
    if row is None:
        raise UserError(f"there is no set {shown(set_id)}: it was never added, or it was erased")
    return as_set(row)


def criteria(connection: Connection) -> list[str]:
    columns = schema.criterion.c
    return list(connection.execute(select(columns.name).order_by(columns.at, columns.name)).scalars())


def instructions(connection: Connection, name: str) -> list[Instruction]:
    columns = schema.instruction.c
    found = connection.execute(select(schema.instruction).where(columns.criterion == name).order_by(columns.version))
    versions = [Instruction(**row._mapping) for row in found]
    if not versions:
        there = ", ".join(repr(each) for each in criteria(connection)) or "none yet"
        raise UserError(f"there is no criterion {shown(name)}: there is {there}")
    return versions


def latest_instruction(connection: Connection, name: str) -> Instruction:
    return instructions(connection, name)[-1]


def begin_criterion(connection: Connection, first: Instruction) -> Instruction:
    connection.execute(insert(schema.criterion).values(name=first.criterion, at=first.at))
    return add_instruction(connection, first)


def add_instruction(connection: Connection, instruction: Instruction) -> Instruction:
    connection.execute(insert(schema.instruction).values(vars(instruction)))
    return instruction
