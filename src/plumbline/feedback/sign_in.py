"""Labelers, the links they sign in by and their sessions. Only hashes of tokens are stored."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from secrets import token_hex, token_urlsafe
from typing import Literal, get_args

from sqlalchemy import Connection, delete, insert, or_, select, update

from plumbline.errors import UserError
from plumbline.feedback import schema
from plumbline.feedback.database import Database
from plumbline.feedback.sets import checked_id
from plumbline.files import shown

Role = Literal["labeler", "manager"]


@dataclass(frozen=True)
class Labeler:
    """Somebody who ranks; a manager also sees what others did."""

    labeler_id: str
    name: str
    role: Role
    at: datetime


class SignIn(Database):
    """The labelers of a store and how they sign in."""

    def add_labeler(self, name: str, role: Role = "labeler") -> Labeler:
        """Adds somebody under a new id. A name that is taken is a `UserError`."""
        if role not in get_args(Role):
            raise UserError(f"the role is {role!r}: it is one of {', '.join(get_args(Role))}")
        new = Labeler(f"labeler-{token_hex(6)}", checked_id("the name", name.strip()), role, self.clock())
        with self.write("sets") as connection:  # the turn in which an import adds labelers too
            if connection.execute(select(schema.labeler.c.name).where(schema.labeler.c.name == new.name)).first():
                raise UserError(f"there is a labeler {new.name!r} already: take another name")
            connection.execute(insert(schema.labeler).values(vars(new)))
        return new

    def labelers(self) -> list[Labeler]:
        """Everybody, in the order they were added."""
        columns = schema.labeler.c
        with self.read() as connection:
            rows = connection.execute(select(schema.labeler).order_by(columns.at, columns.labeler_id))
            return [Labeler(**row._mapping) for row in rows]

    def labeler(self, labeler_id: str) -> Labeler:
        """The labeler of this id; an unknown one is a `UserError`."""
        with self.read() as connection:
            return find_labeler(connection, labeler_id)

    def person(self, named: str) -> Labeler:
        """The labeler of this id or name, or of "id:ID"; an unknown one, or one of several, is a `UserError`."""
        columns = schema.labeler.c
        fits = or_(columns.labeler_id == named, columns.name == named, columns.labeler_id == named.removeprefix("id:"))
        with self.read() as connection:
            found = (
                connection.execute(select(columns.labeler_id).where(fits).order_by(columns.labeler_id)).scalars().all()
            )
            if len(found) > 1:
                ways = " or ".join(repr(f"id:{each}") for each in found)
                raise UserError(f"there are {len(found)} labelers called {named!r}: say {ways}")
            return find_labeler(connection, found[0] if found else named)

    # ---- links

    def new_link(self, labeler_id: str, ttl: timedelta) -> str:
        """A token that signs this labeler in once, within `ttl`."""
        token = token_urlsafe(32)
        with self.write() as connection:
            find_labeler(connection, labeler_id)
            connection.execute(
                insert(schema.sign_in).values(
                    token_hash=hashed(token), labeler_id=labeler_id, until=self.clock() + ttl, used_at=None
                )
            )
        return token

    def redeem(self, token: str) -> Labeler | None:
        """Whom a link's token signs in, once; None where it is forged, used or too old."""
        links = schema.sign_in.c
        now = self.clock()
        good = (links.token_hash == hashed(token)) & links.used_at.is_(None) & (links.until > now)
        with self.write() as connection:
            # One statement decides, so of two who come at once one signs in.
            used = update(schema.sign_in).where(good).values(used_at=now).returning(links.labeler_id)
            labeler_id = connection.execute(used).scalar()
            return None if labeler_id is None else find_labeler(connection, labeler_id)

    # ---- sessions

    def open_session(self, labeler_id: str, ttl: timedelta) -> str:
        """A token for a signed-in browser, good for `ttl`."""
        token = token_urlsafe(32)
        now = self.clock()
        with self.write() as connection:
            find_labeler(connection, labeler_id)
            connection.execute(delete(schema.session).where(schema.session.c.until <= now))
            connection.execute(
                insert(schema.session).values(token_hash=hashed(token), labeler_id=labeler_id, until=now + ttl)
            )
        return token

    def session(self, token: str) -> Labeler | None:
        """Whose session it is; None where it is forged, ended or too old."""
        sessions = schema.session.c
        running = (sessions.token_hash == hashed(token)) & (sessions.until > self.clock())
        with self.read() as connection:
            labeler_id = connection.execute(select(sessions.labeler_id).where(running)).scalar()
            return None if labeler_id is None else find_labeler(connection, labeler_id)

    def end_session(self, token: str) -> None:
        """Signs a browser out. An unknown token is no error."""
        with self.write() as connection:
            connection.execute(delete(schema.session).where(schema.session.c.token_hash == hashed(token)))


def hashed(token: str) -> str:
    """Tokens are long and random, so a plain hash cannot be turned back."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def find_labeler(connection: Connection, labeler_id: str) -> Labeler:
    row = connection.execute(select(schema.labeler).where(schema.labeler.c.labeler_id == labeler_id)).first()
    if row is None:
        raise UserError(f"there is no labeler {shown(labeler_id)}: `plumb feedback labelers` lists them")
    return Labeler(**row._mapping)
