"""The connection to SQLite or PostgreSQL: opened, brought up to date, read and written in short transactions."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from plumbline.project import Project

Clock = Callable[[], datetime]


class Database:
    """An open database. Made by `open`, closed by `close` or at the end of a `with` block."""

    @classmethod
    def open(cls, where: str | Path | Project, *, clock: Clock | None = None) -> Self:
        """Opens a project's `plumb.db`, a file or folder, or a PostgreSQL URL (`postgresql://user@host/name`).

        Makes the tables where there are none, brings older ones up to date, and lets processes that do so at once take
        turns. `clock` gives the time in UTC.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Gives all connections back."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def backup(self, path: Path) -> None:
        """Writes a copy of a SQLite database while it is in use. For PostgreSQL the error names `pg_dump`."""
        raise NotImplementedError

    def restore(self, path: Path) -> None:
        """Puts a copy that `backup` wrote in the place of all that the SQLite database holds."""
        raise NotImplementedError
