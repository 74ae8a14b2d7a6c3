"""The one thread that writes exchanges: many requests to a commit, and each is told when its own is on the disk.

    await journal.write(exchange)     # returns when it is on the disk; a refusal where it cannot be written

While one commit is under way the next rows gather, so a disk that is slow to synchronise gets larger commits, not a
longer queue.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from plumbline.errors import UserError
from plumbline.feedback.database import DatabaseFailed
from plumbline.feedback.store import Exchange, Store
from plumbline.web.errors import Refusal

log = logging.getLogger("plumbline.serve")

MOST = 512
"""Rows of one commit."""
WAITING = 8192
"""Rows that wait at most."""


@dataclass
class Entry:
    exchange: Exchange
    done: asyncio.Future[None] | None
    loop: asyncio.AbstractEventLoop | None


class Journal:
    """The writer of a store. Made on the server's event loop, closed when nothing more comes."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.commits = 0
        self.rows = 0
        self.lost = 0
        """Rows of requests that had ended before and that could not be written."""
        self._entries: queue.Queue[Entry | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    async def write(self, exchange: Exchange) -> None:
        """Stores the exchange; when this returns it is on the disk."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        try:
            self._entries.put_nowait(Entry(exchange, done, loop))
        except queue.Full:
            raise Refusal(503, "The disk does not keep up. Try again in a moment.", wait=5) from None
        await done

    def note(self, exchange: Exchange) -> None:
        """Stores an exchange that nobody waits for any more: the client went away, or the answer failed."""
        try:
            self._entries.put_nowait(Entry(exchange, None, None))
        except queue.Full:
            self.lost += 1

    def close(self) -> None:
        """Writes what waits and ends the thread."""
        self._entries.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._entries.get()) is not None:
            entries, ends = [first], False
            while len(entries) < MOST:
                try:
                    more = self._entries.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    ends = True
                    break
                entries.append(more)
            self._write(entries)
            if ends:
                return

    def _write(self, entries: Sequence[Entry]) -> None:
        error: Exception | None = None
        try:
            self.store.add_exchanges([entry.exchange for entry in entries])
            self.commits += 1
            self.rows += len(entries)
        except Exception as failed:
            # One row that cannot be written must not take the others with it; a database that fails takes them all.
            if len(entries) > 1 and not isinstance(failed, DatabaseFailed):
                for entry in entries:
                    self._write([entry])
                return
            why = failed if isinstance(failed, UserError) else type(failed).__name__  # whose words repeat the row
            log.error("an exchange cannot be stored: %s", why)
            error = failed
            self.lost += sum(entry.done is None for entry in entries)
        waiting = [entry for entry in entries if entry.done is not None]
        if waiting and waiting[0].loop is not None and not waiting[0].loop.is_closed():
            waiting[0].loop.call_soon_threadsafe(tell, waiting, error)


def tell(entries: Sequence[Entry], error: Exception | None) -> None:
    """Wakes those who wait for a commit; on the event loop."""
    for entry in entries:
        if entry.done is None or entry.done.done():
            continue
        if error is None:
            entry.done.set_result(None)
        else:
            said = "The answer cannot be stored, so it is not given: the disk or the database fails."
            entry.done.set_exception(Refusal(503, said, wait=30))
