"""Commands that go wrong, each in its own way."""

from __future__ import annotations

import errno
from typing import Annotated

import typer

from plumbline.errors import EngineCrashed, UserError

WAYS: dict[str, BaseException] = {
    "user": UserError("the colour is 'plaid': choose one of red, green"),
    "engine": EngineCrashed("the engine's process ended with status -9; ask again"),
    "disk": OSError(errno.ENOSPC, "No space left on device", "out.jsonl"),
    "interrupt": KeyboardInterrupt(),
    "bug": KeyError("missing"),
}


def fail(way: Annotated[str, typer.Argument()]) -> None:
    """Fail."""
    raise WAYS[way]
