"""The connection to SQLite or PostgreSQL: opened, brought up to date, read and written in short transactions."""

from __future__ import annotations

import os
import re
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Literal, Self

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, InterfaceError, OperationalError

from plumbline.errors import BadProject, MissingExtra, UserError
from plumbline.feedback.schema import REVISION, metadata
from plumbline.files import replaced
from plumbline.project import Project, alone_in

Clock = Callable[[], datetime]
Turn = Literal["migration", "queue", "sets", "drafts"]

FILE = "plumb.db"
PATIENCE = 60.0  # seconds that a writer waits for other processes
# Whoever takes several turns takes them in this order, so that no two wait for each other.
TURNS: dict[Turn, int] = {"migration": 1, "queue": 2, "sets": 3, "drafts": 4}
TURN_SPACE = 0x504C554D  # "PLUM": apart from the advisory locks of whatever else uses the server

WRITERS: defaultdict[str, Lock] = defaultdict(Lock)
"""One lock for each SQLite file that this process writes: threads then take turns without polling the file."""

# SQLite's write-ahead log is memory that processes share, which no file system spanning machines has.
NETWORK = {"afs", "beegfs", "ceph", "cifs", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3"}
NETWORK |= {"smbfs", "fuse.davfs", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"}


class DatabaseFailed(UserError):
    """A disk is full, a lock is held or a server is lost; the same may succeed later."""


class Database:
    """An open database. Made by `open`, closed by `close` or at the end of a `with` block."""

    def __init__(self, engine: Engine, clock: Clock, project: Project | None) -> None:
        self.clock = clock
        self.project = project
        self.engine = engine
        self.file = Path(engine.url.database or "") if engine.dialect.name == "sqlite" else None
        self.where = str(self.file or engine.url.set(drivername="postgresql").render_as_string(hide_password=True))
        self._writing = engine.execution_options(writes=True)

    @classmethod
    def open(cls, where: str | Path | Project, *, url: str | None = None, clock: Clock | None = None) -> Self:
        """Opens a project's database, a file or folder, or a PostgreSQL URL (`postgresql://user@host/name`).

        A project's is `url` where it is given, else what its settings name, else `plumb.db` in its folder. Makes the
        tables where there are none, brings older ones up to date, and lets processes that do so at once take turns.
        `clock` gives the time in UTC.
        """
        location = located(of_project(where, url) if isinstance(where, Project) else where)
        sqlite = location.get_backend_name() == "sqlite"
        engine = sqlite_engine(location) if sqlite else postgres_engine(location)
        database = cls(engine, clock or (lambda: datetime.now(UTC)), where if isinstance(where, Project) else None)
        with ExitStack() as undone:
            undone.callback(engine.dispose)
            if database.file is None:
                database._reach()
            database._bring_up_to_date()
            undone.pop_all()
        return database

    def close(self) -> None:
        """Gives all connections back."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- transactions

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction to read in."""
        with self._explained(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self, *turns: Turn) -> Iterator[Connection]:
        """A transaction to write in; when the block has ended, what it wrote is on the disk.

        SQLite has one writer at a time anyway. On PostgreSQL the blocks that name the same turn go one after the other,
        so that what holds on one database holds on the other; a block without a turn locks only what it writes.
        """
        with self._explained(), self._writer(), self._writing.begin() as connection:
            for turn in sorted(turns, key=TURNS.__getitem__) if self.file is None else ():
                lock = text("SELECT pg_advisory_xact_lock(:space, :turn)")
                connection.execute(lock, {"space": TURN_SPACE, "turn": TURNS[turn]})
            yield connection

    def _writer(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.file is None else WRITERS[str(self.file)]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What goes wrong outside of us (a full disk, a lost server) as a sentence."""
        try:
            yield
        except (OperationalError, InterfaceError) as error:
            raise DatabaseFailed(f"the database {self.where!r} failed: {str(error.orig).strip()}") from error

    def _reach(self) -> None:
        """Finds out whether there is a server, and whether it lets us in."""
        try:
            self.engine.connect().close()
        except (OperationalError, InterfaceError) as error:
            reason = str(error.orig).strip().partition("\n")[0].removeprefix("connection failed: ")
            raise BadProject(
                f"the database {self.where!r} cannot be reached ({reason}): start the server, or mend the URL"
            ) from error

    # ---- the tables

    def _bring_up_to_date(self) -> None:
        """Processes that open at once take turns, from SQLite's switch to its write-ahead log on."""
        try:
            with alone_in(self.file.parent) if self.file else nullcontext():
                if self.file:
                    self.file.touch(mode=0o600)  # what people said, and about whom, is not for everyone to read
                with self.read() as connection:
                    if self._revision(connection) == REVISION:
                        return
                with self.write("migration") as connection:
                    if self._revision(connection) != REVISION:
                        self._migrate(connection)
        except DatabaseError as error:
            raise BadProject(f"{self.where!r} cannot be used as a database: {str(error.orig).strip()}") from error
        except OSError as error:
            raise BadProject(f"{self.where!r} cannot be made or written: {error.strerror}") from error

    def _revision(self, connection: Connection) -> str | None:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()

    def _migrate(self, connection: Connection) -> None:
        from alembic.util import CommandError

        from plumbline.feedback.migrations import upgrade

        taken = {*inspect(connection).get_table_names()} & {*metadata.tables}
        if self._revision(connection) is None and taken:
            raise BadProject(f"{self.where!r} holds a table {min(taken)!r} that is not ours: name another database")
        if self.file is None and connection.execute(text("SHOW server_encoding")).scalar() != "UTF8":
            raise BadProject(f"{self.where!r} cannot hold every text: make it with the encoding UTF8")
        try:
            upgrade(connection)
        except CommandError as error:
            raise BadProject(
                f"{self.where!r} was written by a newer Plumbline or another program ({error}): update Plumbline"
            ) from error

    # ---- copies

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Writes a copy of a SQLite database while it is in use. For PostgreSQL the error names `pg_dump`."""
        self._only_sqlite("pg_dump --format=custom")
        with self._explained(), replaced(Path(path)) as file, self.engine.connect() as connection:
            copy = sqlite3.connect(file.name)
            try:
                os.fchmod(file.fileno(), 0o600)
                sqlite_connection(connection).backup(copy)
                copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
            finally:
                copy.close()

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Puts a copy that `backup` wrote in the place of all that the SQLite database holds."""
        self._only_sqlite("pg_restore --clean")
        path = Path(path)
        if not path.is_file():
            raise UserError(f"there is no backup {str(path)!r}: check its name and folder")
        copy = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            check_copy(copy, path)
            with self._explained(), self._writer(), self.engine.connect() as connection:
                copy.backup(sqlite_connection(connection))
        finally:
            copy.close()
        self._bring_up_to_date()

    def forget(self) -> None:
        """Takes what was deleted out of SQLite's log as well; in the file it is overwritten already.

        PostgreSQL overwrites deleted rows when its own vacuum gets to them.
        """
        if self.file is not None:
            with self._explained(), self._writer(), self.engine.connect() as connection:
                sqlite_connection(connection).execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _only_sqlite(self, command: str) -> None:
        if self.file is None:
            raise UserError(f"{self.where!r} is a PostgreSQL database: use `{command}`")


def sqlite_connection(connection: Connection) -> sqlite3.Connection:
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection), raw
    return raw


def check_copy(copy: sqlite3.Connection, path: Path) -> None:
    """That the file is a whole database of ours."""
    try:
        (state,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
        copy.execute("SELECT version_num FROM alembic_version").fetchone()
        copy.execute("SELECT count(*) FROM ranking_event").fetchone()
    except sqlite3.Error as error:
        raise UserError(f"{str(path)!r} is no backup of a Plumbline database: {error}") from error
    if state != "ok":
        raise UserError(f"{str(path)!r} is damaged ({state}): take another backup")


# ---- where it lies


def of_project(project: Project, url: str | None) -> str | Path:
    """The URL that is given or that the project's settings name, else its folder; a file lies from there."""
    said, where = (url, "--database") if url else (project.config.database, "`database` in plumb.toml")
    if not said:
        return project.folder
    begin, sign, path = said.partition("://")
    if not sign:
        raise BadProject(f"{where} is {said!r}: write a URL, postgresql://USER@HOST/NAME or sqlite:///FILE")
    return f"sqlite:///{project.folder / path[1:]}" if begin == "sqlite" and path[1:] else said


def located(where: str | Path | Project) -> URL:
    """The database that is meant, as a URL for SQLAlchemy."""
    if isinstance(where, str) and "://" in where:
        try:
            url = make_url(where)
        except (ArgumentError, ValueError):
            begin = where.partition("://")[0]  # the rest may hold a password
            raise BadProject(f"'{begin}://...' is no database URL: write postgresql://USER@HOST/NAME") from None
        if url.get_backend_name() in ("postgres", "postgresql"):
            return url.set(drivername="postgresql+psycopg")
        if url.get_backend_name() != "sqlite" or not url.database:
            shown = url.render_as_string(hide_password=True)
            raise BadProject(f"{shown!r} is a database that we do not know: there are SQLite and PostgreSQL")
        where = url.database
    path = where.folder if isinstance(where, Project) else Path(where)
    path = (path / FILE if path.is_dir() else path).resolve()
    if not path.parent.is_dir():
        raise BadProject(f"there is no folder {str(path.parent)!r} to keep the database in: make it, or `plumb init`")
    kind = file_system(path.parent, Path("/proc/self/mountinfo"))
    if kind in NETWORK:
        raise BadProject(
            f"{str(path)!r} lies on a network file system ({kind}), where SQLite loses data: "
            "keep the project on a local disk, or give the URL of a PostgreSQL database"
        )
    return URL.create("sqlite", database=str(path))


def file_system(folder: Path, mounts: Path) -> str:
    """The kind of file system that a folder lies on, "" where the system does not say."""
    if not mounts.exists():
        return ""
    kind, depth = "", 0
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        at = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4]))  # a space is \040
        if folder.is_relative_to(at) and len(at.parts) >= depth:  # a later mount hides an earlier one
            kind, depth = after.split()[0], len(at.parts)
    return kind


def sqlite_engine(url: URL) -> Engine:
    """Connections whose transactions begin as we say; `sqlite3` by itself would begin them late and commit before DDL.

    A full synchronisation for each commit is what makes an acknowledged answer outlast a power cut.
    """
    engine = create_engine(url, connect_args={"timeout": PATIENCE, "isolation_level": None}, max_overflow=-1)

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: object) -> None:
        for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {setting}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")

    return engine


def postgres_engine(url: URL) -> Engine:
    if find_spec("psycopg") is None:
        raise MissingExtra("postgres", "a PostgreSQL database")
    # A turn must see what the turn before it wrote, whatever the server's own default is.
    return create_engine(
        url, isolation_level="READ COMMITTED", pool_pre_ping=True, max_overflow=40, connect_args={"connect_timeout": 10}
    )
