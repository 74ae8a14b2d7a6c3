"""Rooms that run, and real browsers in them.

`enter(name)` opens the page of that labeler in Chromium. When the test ends, no page may have complained on its
console, and none may have asked anybody but this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rooms import HOT, HOT_ANSWERS, Room


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """An open room with one set: the house that is too hot."""
    room = Room(tmp_path / "plumb.db")
    room.add("hot", HOT, *HOT_ANSWERS)
    yield room
    room.close()


@pytest.fixture
def enter(room: Room, chromium: Any) -> Iterator[Callable[..., Any]]:
    """`enter("ann")` is the first page that she sees, in a fresh profile; settings go to the browser's context.

    `expected` names words of complaints that the test causes on purpose, such as a cut connection's.
    """
    contexts: list[Any] = []
    heard: list[str] = []
    expects: list[str] = []

    def watch(page: Any) -> None:
        page.on("pageerror", lambda error: heard.append(f"an exception: {error}"))
        page.on("console", lambda line: heard.append(line.text) if line.type in ("error", "warning") else None)
        page.on("request", lambda sent: None if sent.url.startswith(room.address) else heard.append(f"to {sent.url}"))

    def open_page(name: str, *, expected: tuple[str, ...] = (), **settings: Any) -> Any:
        expects.extend(expected)
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 860}, **settings})
        contexts.append(context)
        context.on("page", watch)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.goto(room.link(name))
        page.get_by_role("button", name="Sign in").click()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in heard if not any(word in line for word in expects)] == []
