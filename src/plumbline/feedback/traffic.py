"""What a served model was asked and answered: one row for each exchange, found by its id and by whose it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Integer, Row, delete, func, insert, select

from plumbline.feedback import schema
from plumbline.feedback.database import Database
from plumbline.feedback.sets import STREAM
from plumbline.records import PromptRecord, parse

Status = Literal["answered", "blocked", "cancelled", "failed"]

columns = schema.exchange.c


@dataclass(frozen=True)
class Exchange:
    """A request and what came of it."""

    exchange_id: str
    kind: Literal["chat", "completion", "embedding"]
    tenant: str
    """The name of the key that asked; "local" where none was needed."""
    user_id: str
    version: str
    """The exact model version that answered; "" where none came to it."""
    status: Status
    at: datetime
    latency_ms: float
    first_ms: float | None = None
    """Until the first piece of the answer."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    settings: dict[str, Any] | None = None
    """Sampling, finish reasons, verdicts of rails, what went wrong."""
    prompt: Any = None
    """The messages or the text; None where the key keeps no content."""
    answers: list[dict[str, Any]] | None = None
    cache_key: str | None = None
    """What the same request would have; None where it must be answered anew."""
    alike_key: str | None = None
    """What requests would have that differ from this one in their last question alone."""
    vector: bytes | None = None
    """That question's, as 32-bit floats."""
    route: str | None = None
    """Which model a routed request went to: small, large, or fallback to the small one."""
    cost: float | None = None
    """By the prices in plumb.toml; None where it cost nothing."""


NAMES = [field.name for field in fields(Exchange)]


@dataclass(frozen=True)
class Hour:
    """The exchanges of one version in one hour."""

    hour: str
    version: str
    exchanges: int
    failed: int
    tokens: int
    mean_ms: float


class Traffic(Database):
    """The exchanges of a store."""

    def add_exchanges(self, exchanges: Sequence[Exchange]) -> None:
        """Adds them in one transaction; when this returns they are on the disk, all or none."""
        rows = [
            {**{name: getattr(each, name) for name in NAMES}, "settings": each.settings or {}} for each in exchanges
        ]
        with self.write() as connection:
            connection.execute(insert(schema.exchange), rows)

    def exchange(self, exchange_id: str, tenant: str) -> Exchange | None:
        """The exchange of this id, if it is of that tenant."""
        theirs = (columns.exchange_id == exchange_id) & (columns.tenant == tenant)
        with self.read() as connection:
            row = connection.execute(select(schema.exchange).where(theirs)).first()
            return None if row is None else as_exchange(row)

    def cached(self, cache_key: str) -> Exchange | None:
        """The latest exchange with that key, which names its tenant and its version."""
        same = (columns.cache_key == cache_key) & columns.answers.is_not(None)
        with self.read() as connection:
            row = connection.execute(
                select(schema.exchange).where(same).order_by(columns.number.desc()).limit(1)
            ).first()
            return None if row is None else as_exchange(row)

    def vectors(self, alike_key: str, most: int) -> list[tuple[str, bytes]]:
        """The ids and vectors of the latest exchanges with that key."""
        with self.read() as connection:
            rows = connection.execute(
                select(columns.exchange_id, columns.vector)
                .where(columns.alike_key == alike_key, columns.answers.is_not(None))
                .order_by(columns.number.desc())
                .limit(most)
            )
            return [(row.exchange_id, row.vector) for row in rows]

    def exchanges(self, *, tenant: str | None = None) -> Iterator[Exchange]:
        """All of them, the oldest first, streamed."""
        query = select(schema.exchange).order_by(columns.number)
        if tenant is not None:
            query = query.where(columns.tenant == tenant)
        with self.read() as connection:
            for row in connection.execute(query, execution_options=STREAM):
                yield as_exchange(row)

    def forget_exchanges(self, before: datetime) -> int:
        """Removes what is older, however it ended; returns how many rows went."""
        with self.write() as connection:
            gone = connection.execute(delete(schema.exchange).where(columns.at < before)).rowcount
        if gone:
            self.forget()
        return gone

    def hours(self, since: datetime) -> list[Hour]:
        """What each version answered in each hour, the latest hour first."""
        hour = func.substr(columns.at, 1, 13) if self.file else func.to_char(columns.at, "YYYY-MM-DD HH24")
        query = (
            select(
                hour.label("hour"),
                columns.version,
                func.count().label("exchanges"),
                func.sum((columns.status == "failed").cast(Integer)).label("failed"),
                func.sum(columns.prompt_tokens + columns.completion_tokens).label("tokens"),
                func.avg(columns.latency_ms).label("mean_ms"),
            )
            .where(columns.at >= since)
            .group_by(hour, columns.version)
            .order_by(hour.desc(), columns.version)
        )
        with self.read() as connection:
            return [Hour(**row._mapping) for row in connection.execute(query)]

    def thumbs(self, since: datetime) -> dict[str, tuple[int, int]]:
        """By version: how many thumbs went up and how many down."""
        rated, counts = schema.rating_event.c, dict[str, list[int]]()
        with self.read() as connection:
            for row in connection.execute(select(rated.label, rated.extra).where(rated.at >= since)):
                counts.setdefault(row.extra.get("version", ""), [0, 0])[0 if row.label else 1] += 1
        return {version: (up, down) for version, (up, down) in counts.items()}


def as_exchange(row: Row[Any]) -> Exchange:
    return Exchange(**{name: row._mapping[name] for name in NAMES})


# ---- prompts of the next round


@dataclass(frozen=True)
class Consented:
    """What users asked and agreed that it may be trained on."""

    prompts: list[PromptRecord]
    users: int
    over: int
    """How many were left out, since their users had given as many as the cap."""


def consented(store: Traffic, cap: int) -> Consented:
    """The prompts of users who agreed, each once for each of them, and of one user `cap` at most, the first ones."""
    taken: dict[str, dict[str, PromptRecord]] = {}
    over = 0
    for each in store.exchanges():
        if each.status != "answered" or not (each.settings or {}).get("consent") or not isinstance(each.prompt, dict):
            continue
        prompt = each.prompt.get("messages") or each.prompt.get("text")
        if not prompt:
            continue
        record = parse(PromptRecord, {"prompt": prompt, "user_id": each.user_id, "source": "serve"})
        mine = taken.setdefault(each.user_id, {})
        if record.prompt_id in mine:
            continue
        if len(mine) == cap:
            over += 1
            continue
        mine[record.prompt_id] = record
    return Consented([record for mine in taken.values() for record in mine.values()], len(taken), over)
