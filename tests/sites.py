"""Sessions in memory and a clock that stands, for sites that tests make."""

from __future__ import annotations

from plumbline.web.auth import Visitor

LINK, SESSION = "a-link-for-ann", "a-session-of-ann"


class Sessions:
    """Sessions in memory; a link opens one once."""

    def __init__(self) -> None:
        self.links = {LINK: SESSION}
        self.people = {
            SESSION: Visitor("1", "Ann <b>", "labeler", SESSION),
            "mia's": Visitor("2", "Mia", "manager", "mia's"),
        }

    def open(self, link: str) -> str | None:
        return self.links.pop(link, None)

    def find(self, session: str) -> Visitor | None:
        return self.people.get(session)

    def end(self, session: str) -> None:
        self.people.pop(session, None)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
