"""A PostgreSQL server of a measurement's own, started from the installed programs."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def programs() -> Path | None:
    """The folder of PostgreSQL's programs, the newest version's."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    return installed[-1].parent if installed else None


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """The URL of an empty database, as durable as PostgreSQL is by default; the server ends with the block.

    PostgreSQL refuses to run as root, so there it runs as the system's own `postgres`, or as `nobody`.
    """
    bin_folder = programs()
    assert bin_folder is not None, "PostgreSQL's programs are not installed: apt install postgresql"
    data, port = folder / "data", free_port()
    data.mkdir(parents=True)
    user: dict[str, Any] = {}
    if os.getuid() == 0:
        names = {entry.pw_name: entry for entry in pwd.getpwall()}
        entry = names.get("postgres") or names["nobody"]
        os.chown(data, entry.pw_uid, entry.pw_gid)
        user = {"user": entry.pw_uid, "group": entry.pw_gid}
        for above in (folder, *folder.parents):  # it must be able to reach its own folder
            if above.stat().st_uid == 0 and not above.stat().st_mode & 0o001:
                above.chmod(above.stat().st_mode | 0o011)
    make = [str(bin_folder / "initdb"), "-D", str(data), "-U", "plumb", "-A", "trust", "-E", "UTF8", "--no-locale"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=data, **user)
    options = ["-p", str(port), "-h", "127.0.0.1", "-k", "", "-c", "max_connections=120"]
    command = [str(bin_folder / "postgres"), "-D", str(data), *options]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=data, **user)
    try:
        ready = [str(bin_folder / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]
        while subprocess.run(ready, check=False).returncode:
            assert server.poll() is None, f"PostgreSQL ended with {server.returncode}"
            time.sleep(0.1)
        yield f"postgresql+psycopg://plumb@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # its fast stop: SIGTERM waits until everyone has gone
        server.wait()
