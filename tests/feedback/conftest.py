"""The databases that the store's tests run on: a SQLite file, and a PostgreSQL server of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from collecting import Clock
from plumbline.feedback import schema
from plumbline.feedback.store import Store

ON_BOTH = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


def server_programs() -> Path | None:
    """The folder of PostgreSQL's server programs, the newest there is."""
    found = shutil.which("initdb")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    return Path(found).parent if found else installed[-1].parent if installed else None


class Server:
    """A PostgreSQL server that only this test run sees: a folder, a socket in it, no port."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder, self.numbers = programs, folder, count()
        # initdb refuses root.
        self.user: dict[str, Any] = {"user": "nobody", "extra_groups": []} if os.geteuid() == 0 else {}
        if self.user:
            shutil.chown(folder, "nobody")

    def run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), "--pgdata", str(self.folder / "data"), *arguments]
        with (self.folder / "log").open("ab") as log:
            subprocess.run(command, check=True, cwd=self.folder, stdout=log, stderr=log, **self.user)

    def start(self) -> None:
        self.run("initdb", "--username=plumb", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        settings = (
            f"-c listen_addresses='' -c unix_socket_directories='{self.folder}' -c max_connections=200 -c fsync=off"
        )
        self.run("pg_ctl", "--wait", "-o", settings, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "--wait", "--mode=immediate", "stop")

    def url(self, name: str) -> str:
        return f"postgresql://plumb@/{name}?host={self.folder}"

    def new_database(self, options: str = "") -> str:
        import psycopg

        name = f"test{next(self.numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} {options}".encode())
        return self.url(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'plumbline[postgres]'")
    programs = server_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server programs are not installed")
    folder = Path(tempfile.mkdtemp(prefix="plumbline-postgres-"))  # short, as the path of a socket must be
    server = Server(programs, folder)
    try:
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def with_tables(postgres: Server) -> str:
    """A database with our tables, which the tests use one after the other; to make one for each takes seconds."""
    url = postgres.new_database()
    Store.open(url).close()
    return url


@pytest.fixture(params=ON_BOTH)
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where there is nothing yet, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return str(tmp_path / "plumb.db")
    server: Server = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture(params=ON_BOTH)
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store without anybody's data is, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return str(tmp_path / "plumb.db")
    url: str = request.getfixturevalue("with_tables")
    with Store.open(url) as store, store.write() as connection:
        connection.exec_driver_sql(f"TRUNCATE {', '.join(schema.metadata.tables)} RESTART IDENTITY")
    return url


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(where: str, clock: Clock) -> Iterator[Store]:
    with Store.open(where, clock=clock) as store:
        yield store
