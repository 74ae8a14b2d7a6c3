"""Things that are made once and kept: under a lock, beside their place, renamed when whole."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from plumbline.errors import UserError

_PATIENCE = 2.0  # seconds after which a waiting process says what it waits for


def build_once(target: Path, build: Callable[[Path], None], *, what: str) -> Path:
    """The folder `target`, made by `build(scratch)` where it does not exist yet.

    Two processes at once: one builds and the other waits. A process that dies leaves only its scratch folder, which
    the next one removes. A full disk is a `UserError` and leaves nothing.
    """
    if target.is_dir():
        return target
    from filelock import FileLock, Timeout

    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.parent / f"{target.name}.lock")
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout:
        print(f"plumb: another process is making {what}; waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        if not target.is_dir():
            scratch = target.parent / f"{target.name}.scratch"
            shutil.rmtree(scratch, ignore_errors=True)  # of a process that died
            scratch.mkdir()
            try:
                build(scratch)
                flush(scratch)
                os.rename(scratch, target)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise UserError(disk_full(what, target)) from error
                raise
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    finally:
        lock.release()
    return target


def disk_full(what: str, target: Path) -> str:
    """The sentence for a disk without room."""
    free = shutil.disk_usage(target.parent).free / 1e6
    return (
        f"no room to write {what} in {str(target.parent)!r} ({free:,.0f} MB free): make room, or point "
        "PLUMBLINE_CACHE at a larger disk"
    )


def flush(folder: Path) -> None:
    """Write a folder's files and names through to the disk."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def folder_digest(folder: Path) -> str:
    """Changes when the model in the folder does: the small files' bytes, the weights' sizes and times."""
    digest = hashlib.blake2b(digest_size=12)
    for path in sorted(folder.glob("*")):
        if path.suffix == ".json":
            digest.update(path.name.encode() + path.read_bytes())
        elif path.suffix == ".safetensors":
            state = path.stat()
            digest.update(f"{path.name} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()
