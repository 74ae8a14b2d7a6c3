"""The tables: one schema for SQLite and PostgreSQL. What people did is added and never changed.

Two columns are derived and can be made again from the events (`Store.rebuild`): `comparison_set.counted`, the number
of people who have ranked a set, those left out apart, and `assignment.event`, the ranking of it that is a labeler's
current one.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
)

REVISION = "0005"
"""The newest of the migrations; together they make what stands here."""

ESCAPE = "\x10"  # "data link escape": the control character that is made for this, and that no text holds


class Words(TypeDecorator[str]):
    """Any text. PostgreSQL has no room for U+0000, so it is written as an escape on both databases."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None or ("\0" not in value and ESCAPE not in value):
            return value
        return value.replace(ESCAPE, ESCAPE + "1").replace("\0", ESCAPE + "0")

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None or ESCAPE not in value:
            return value
        return re.sub(ESCAPE + "([01])", lambda found: "\0" if found[1] == "0" else ESCAPE, value)


class Json(TypeDecorator[Any]):
    """A document that is stored and read whole; no query looks into it. JSON writes U+0000 as an escape by itself."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class Moment(TypeDecorator[datetime]):
    """A time in UTC. SQLite has no time zones, so there it is written without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite counts up only a key of type INTEGER, and gives the number of a deleted row again unless it is AUTOINCREMENT.
Number = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# ---- what is ranked, and by which words

criterion = Table("criterion", metadata, Column("name", Words, primary_key=True), Column("at", Moment, nullable=False))

instruction = Table(
    "instruction",
    metadata,
    Column("criterion", Words, ForeignKey("criterion.name"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("text", Words, nullable=False),
    Column("by", Words, nullable=False),
    Column("at", Moment, nullable=False),
)

prompt = Table(
    "prompt",
    metadata,
    Column("prompt_id", Words, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("prompt", Json, nullable=False),
)

# The large column comes last: SQLite reads the others without it.
comparison_set = Table(
    "comparison_set",
    metadata,
    Column("number", Number, primary_key=True),
    Column("set_id", Words, nullable=False, unique=True),
    Column("criterion", Words, ForeignKey("criterion.name"), nullable=False),
    Column("prompt_id", Words, ForeignKey("prompt.prompt_id"), nullable=False, index=True),
    Column("user_id", Words, index=True),
    Column("draw", Double, nullable=False),  # of the set's id, in [0, 1): below the calibration share, more rank it
    Column("counted", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("at", Moment, nullable=False),
    Column("extra", Json, nullable=False),
    Column("completions", Json, nullable=False),
    Index(None, "counted", "number", "draw", "set_id"),  # a claim looks for a set here, without reading the rows
    sqlite_autoincrement=True,
)

gold = Table(
    "gold",
    metadata,
    Column("set_id", Words, ForeignKey("comparison_set.set_id"), primary_key=True),
    Column("ranks", Json, nullable=False),
    Column("at", Moment, nullable=False),
)

# ---- who ranks

labeler = Table(
    "labeler",
    metadata,
    Column("labeler_id", Words, primary_key=True),
    Column("name", Words, nullable=False),
    Column("role", Text, CheckConstraint("role IN ('labeler', 'manager')", name="role"), nullable=False),
    Column("at", Moment, nullable=False),
)

sign_in = Table(
    "sign_in",
    metadata,
    Column("token_hash", Text, primary_key=True),
    Column("labeler_id", Words, ForeignKey("labeler.labeler_id"), nullable=False),
    Column("until", Moment, nullable=False),
    Column("used_at", Moment),
)

session = Table(
    "session",
    metadata,
    Column("token_hash", Text, primary_key=True),
    Column("labeler_id", Words, ForeignKey("labeler.labeler_id"), nullable=False),
    Column("until", Moment, nullable=False),
)

exclusion_event = Table(
    "exclusion_event",
    metadata,
    Column("number", Number, primary_key=True),
    Column("labeler_id", Words, ForeignKey("labeler.labeler_id"), nullable=False, index=True),
    Column("excluded", Boolean, nullable=False),
    Column("evidence", Json, nullable=False),
    Column("by", Words, nullable=False),
    Column("at", Moment, nullable=False),
    sqlite_autoincrement=True,
)

# ---- who has which set; the last row of `overlap` is in force

overlap = Table(
    "overlap",
    metadata,
    Column("number", Number, primary_key=True),
    Column("each", Integer, nullable=False),
    Column("calibration_share", Double, nullable=False),
    Column("calibration_each", Integer, nullable=False),
    Column("lease_seconds", Double, nullable=False),
    Column("gold_share", Double, nullable=False),
    Column("again_share", Double, nullable=False, server_default="0"),
    Column("at", Moment, nullable=False),
    sqlite_autoincrement=True,
)

ranking_event = Table(
    "ranking_event",
    metadata,
    Column("number", Number, primary_key=True),
    Column("key", Words, nullable=False, unique=True),
    Column("digest", Text, nullable=False),
    Column("set_id", Words, ForeignKey("comparison_set.set_id"), nullable=False),
    Column("labeler_id", Words, ForeignKey("labeler.labeler_id"), nullable=False),
    Column("again", Boolean, nullable=False),
    Column("ranks", Json, nullable=False),
    Column("flags", Json, nullable=False),
    Column("shown_order", Json),
    Column("seconds", Double),
    Column("instruction_version", Words, nullable=False),
    Column("client_time", Words),  # a claim of the browser's clock; orders nothing
    Column("surplus", Boolean, nullable=False),
    Column("source", Words),  # where it was read from, none for what was submitted here
    Column("texts", Json),
    Column("at", Moment, nullable=False),
    Index(None, "set_id", "labeler_id", "again", "number"),
    sqlite_autoincrement=True,
)

assignment = Table(
    "assignment",
    metadata,
    Column("set_id", Words, ForeignKey("comparison_set.set_id"), primary_key=True),
    Column("labeler_id", Words, ForeignKey("labeler.labeler_id"), primary_key=True),
    Column("again", Boolean, primary_key=True),
    Column(
        "state",
        Text,
        CheckConstraint("state IN ('open', 'submitted', 'skipped', 'expired', 'released')", name="state"),
        nullable=False,
    ),
    Column("turn", Integer, nullable=False),  # the how-manieth claim of the labeler, 0 where there was none
    Column("leased_at", Moment, nullable=False),
    Column("lease_until", Moment, nullable=False),  # when the labeler was done with it, once they are
    Column("reason", Words),
    Column("event", Number, ForeignKey("ranking_event.number"), index=True),
    Index(None, "labeler_id", "state", "turn"),
    Index(None, "state", "lease_until"),
)

draft = Table(
    "draft",
    metadata,
    Column("set_id", Words, ForeignKey("comparison_set.set_id"), primary_key=True),
    Column("labeler_id", Words, ForeignKey("labeler.labeler_id"), primary_key=True),
    Column("body", Json, nullable=False),
    Column("at", Moment, nullable=False),
)

# ---- what end users leave

rating_event = Table(
    "rating_event",
    metadata,
    Column("number", Number, primary_key=True),
    Column("user_id", Words, nullable=False),
    Column("prompt_id", Words, ForeignKey("prompt.prompt_id"), nullable=False, index=True),
    Column("answer", Text, nullable=False),  # the hash of the completion: one live vote of a user on an answer
    Column("label", Boolean, nullable=False),
    Column("at", Moment, nullable=False),
    Column("extra", Json, nullable=False),
    Column("completion", Words, nullable=False),
    Index(None, "user_id", "prompt_id", "answer", "number"),
    sqlite_autoincrement=True,
)

edit_event = Table(
    "edit_event",
    metadata,
    Column("number", Number, primary_key=True),
    Column("user_id", Words, nullable=False, index=True),
    Column("prompt_id", Words, ForeignKey("prompt.prompt_id"), nullable=False, index=True),
    Column("at", Moment, nullable=False),
    Column("original", Words),
    Column("edited", Words, nullable=False),
    Column("source", Words),  # where a served answer was edited; none for one that was imported
    sqlite_autoincrement=True,
)

# ---- what a served model was asked and answered, and who may ask it

exchange = Table(
    "exchange",
    metadata,
    Column("number", Number, primary_key=True),
    Column("exchange_id", Words, nullable=False, unique=True),
    Column("kind", Text, nullable=False),  # chat, completion, embedding
    Column("tenant", Words, nullable=False),  # the name of the key; nobody else finds the row
    Column("user_id", Words, nullable=False, index=True),
    Column("version", Words, nullable=False),
    Column("status", Text, nullable=False),  # answered, blocked, cancelled, failed
    Column("at", Moment, nullable=False, index=True),
    Column("first_ms", Double),
    Column("latency_ms", Double, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("settings", Json, nullable=False),
    Column("prompt", Json),  # this and the answers are none where the key keeps no content
    Column("answers", Json),
    Column("cache_key", Text, index=True),  # of an answer that the same request of the same tenant may get again
    Column("alike_key", Text, index=True),  # and of one that a question which is alike may get, by its vector
    Column("vector", LargeBinary),
    Column("route", Text),  # of a request that was routed: small, large, fallback
    Column("cost", Double),
    sqlite_autoincrement=True,
)

api_key = Table(
    "api_key",
    metadata,
    Column("key_id", Text, primary_key=True),  # the public part, which also stands in the key
    Column("name", Words, nullable=False),  # whose it is; several keys may have one name, for a change of keys
    Column("key_hash", Text, nullable=False),
    Column("scopes", Json, nullable=False),
    Column("until", Moment),
    Column("revoked_at", Moment),
    Column("requests_a_minute", Integer),
    Column("tokens_a_minute", Integer),
    Column("at_once", Integer),
    Column("keeps_content", Boolean, nullable=False),
    Column("at", Moment, nullable=False),
)

# ---- which data set held which set, so that an erasure can name what has seen it

seen_by_version = Table(
    "seen_by_version",
    metadata,
    Column("data_hash", Text, primary_key=True),
    Column("set_id", Words, primary_key=True, index=True),
    Column("version", Words, primary_key=True),
    Column("at", Moment, nullable=False),
)
