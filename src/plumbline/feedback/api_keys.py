"""Keys of applications: made, listed, revoked. A key is shown once, when it is made; what is stored is its hash."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from secrets import token_hex, token_urlsafe
from typing import Any, Literal, get_args

from sqlalchemy import Row, insert, select, update

from plumbline.errors import UserError
from plumbline.feedback import schema
from plumbline.feedback.database import Database
from plumbline.feedback.sets import checked_id
from plumbline.feedback.sign_in import hashed

Scope = Literal["chat", "feedback", "label", "manage", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""Ask the model; say what one thinks of an answer; rank the project's sets; read the metrics; all of it."""
PREFIX = "plumb"
RESERVED = ("local", "playground")
"""Whose exchanges those are that came without a key: of this machine, and of the visitors of the playground."""

columns = schema.api_key.c


@dataclass(frozen=True)
class ApiKey:
    """What is known of a key."""

    key_id: str
    name: str
    """Whose it is. Keys of one name see each other's exchanges, so that one can take another's place."""
    key_hash: str = field(repr=False)
    scopes: frozenset[str]
    at: datetime
    until: datetime | None = None
    revoked_at: datetime | None = None
    requests_a_minute: int | None = None
    tokens_a_minute: int | None = None
    at_once: int | None = None
    keeps_content: bool = True

    def may(self, scope: Scope) -> bool:
        """Whether the key has the scope; admin has all."""
        return scope in self.scopes or "admin" in self.scopes


class ApiKeys(Database):
    """The keys of a store."""

    def add_key(
        self,
        name: str,
        scopes: Collection[str] = ("chat", "feedback"),
        *,
        until: datetime | None = None,
        requests_a_minute: int | None = None,
        tokens_a_minute: int | None = None,
        at_once: int | None = None,
        keeps_content: bool = True,
    ) -> tuple[str, ApiKey]:
        """A new key, in full for this once, and what is kept of it."""
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown or not scopes:
            raise UserError(f"the scopes are {list(scopes)!r}: give some of {', '.join(SCOPES)}")
        limits = {"requests_a_minute": requests_a_minute, "tokens_a_minute": tokens_a_minute, "at_once": at_once}
        for what, limit in limits.items():
            if limit is not None and limit < 1:
                raise UserError(f"{what} is {limit!r}: a limit is at least 1")
        if name.strip() in RESERVED:
            raise UserError(f"the name is {name!r}, which is ours: what it names would be open to this key")
        if "/" in name:
            raise UserError(f"the name is {name!r}: a slash parts it from its users, so take another sign")
        key_id = token_hex(6)
        secret = f"{PREFIX}-{key_id}-{token_urlsafe(32)}"
        row = {
            "key_id": key_id,
            "name": checked_id("the name", name.strip()),
            "key_hash": hashed(secret),
            "scopes": sorted(scopes),
            "until": until,
            "revoked_at": None,
            **limits,
            "keeps_content": keeps_content,
            "at": self.clock(),
        }
        with self.write() as connection:
            connection.execute(insert(schema.api_key).values(row))
        return secret, ApiKey(**{**row, "scopes": frozenset(scopes)})  # type: ignore[arg-type]

    def keys(self) -> list[ApiKey]:
        """All keys, also those that work no longer, in the order they were made."""
        with self.read() as connection:
            return [as_key(row) for row in connection.execute(select(schema.api_key).order_by(columns.at))]

    def revoke_key(self, key_id: str) -> ApiKey:
        """Makes a key useless from now on; again is no error. An unknown one is a `UserError`."""
        with self.write() as connection:
            mine = columns.key_id == key_id
            connection.execute(
                update(schema.api_key).where(mine, columns.revoked_at.is_(None)).values(revoked_at=self.clock())
            )
            row = connection.execute(select(schema.api_key).where(mine)).first()
            if row is None:
                raise UserError(f"there is no key {key_id!r}: `plumb keys list` shows them")
            return as_key(row)


def as_key(row: Row[Any]) -> ApiKey:
    return ApiKey(**{**row._mapping, "scopes": frozenset(row.scopes)})
