"""Labelers, the links they sign in by and their sessions. Only hashes of tokens are stored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from plumbline.feedback.database import Database

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
        raise NotImplementedError

    def labelers(self) -> list[Labeler]:
        """Everybody, in the order they were added."""
        raise NotImplementedError

    def labeler(self, labeler_id: str) -> Labeler:
        """The labeler of this id; an unknown one is a `UserError`."""
        raise NotImplementedError

    def new_link(self, labeler_id: str, ttl: timedelta) -> str:
        """A token that signs this labeler in once, within `ttl`."""
        raise NotImplementedError

    def redeem(self, token: str) -> Labeler | None:
        """Whom a link's token signs in, once; None where it is forged, used or too old."""
        raise NotImplementedError

    def open_session(self, labeler_id: str, ttl: timedelta) -> str:
        """A token for a signed-in browser, good for `ttl`."""
        raise NotImplementedError

    def session(self, token: str) -> Labeler | None:
        """Whose session it is; None where it is forged, ended or too old."""
        raise NotImplementedError

    def end_session(self, token: str) -> None:
        """Signs a browser out. An unknown token is no error."""
        raise NotImplementedError
