"""Who is next: places in the engine go to the key that had the fewest so far, and a queue that would grow is refused.

    async with line.place("shop", rows=1, size=len(body)):
        ...

A place is a row of the engine's batch, so a request for eight samples takes eight. What a key has had is counted in
rows since the line was last empty; a key that comes new begins with as much as the one that was served last had before
that, so nobody saves up.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from plumbline.web.errors import Refusal

LONGEST_ADVICE = 60
"""Most seconds that a refused client is told to wait."""


@dataclass
class Waiter:
    rows: int
    size: int
    free: asyncio.Future[None]


class Line:
    """The places of one server, all on one event loop."""

    def __init__(
        self,
        places: int,
        *,
        waiting: int = 256,
        size: int = 64 * 2**20,
        patience: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.places = places
        self.free = places
        self.patience = patience
        self._most, self._most_size = waiting, size
        self._clock = clock
        self._waiting: dict[str, deque[Waiter]] = {}
        self._had: dict[str, int] = {}
        self._floor = 0
        self._pace = 1.0  # seconds for a row to come free, of late
        self._freed = clock()

    @property
    def waiting(self) -> int:
        """Requests that have no place yet."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def place(self, who: str, rows: int = 1, size: int = 0) -> AsyncIterator[None]:
        """That many rows, when it is this one's turn; given back at the end of the block."""
        await self._enter(who, rows, size)
        try:
            yield
        finally:
            self._leave(rows)

    async def _enter(self, who: str, rows: int, size: int) -> None:
        if rows > self.places:
            raise Refusal(
                400, f"{rows} answers were asked for at once and there are {self.places} places: ask for fewer"
            )
        waiters = [waiter for line in self._waiting.values() for waiter in line]
        too_many = len(waiters) >= self._most or sum(waiter.size for waiter in waiters) + size > self._most_size
        if too_many and (waiters or rows > self.free):
            wait = self._advice()
            raise Refusal(429, f"{len(waiters)} requests wait already. Try again in {wait} s.", wait=wait)
        mine = Waiter(rows, size, asyncio.get_running_loop().create_future())
        self._had[who] = max(self._had.get(who, 0), self._floor)
        self._waiting.setdefault(who, deque()).append(mine)
        self._grant()
        try:
            async with asyncio.timeout(self.patience):
                await mine.free
        except TimeoutError:
            self._forget(who, mine)
            sentence = f"No place came free within {self.patience:g} s: try again later."
            raise Refusal(503, sentence, wait=self._advice()) from None
        except BaseException:
            self._forget(who, mine)
            raise

    def _forget(self, who: str, waiter: Waiter) -> None:
        """Whoever gives up leaves the line, or gives back the place that came in the same moment."""
        if waiter.free.done() and not waiter.free.cancelled():
            self._leave(waiter.rows)
            return
        line = self._waiting.get(who)
        if line and waiter in line:
            line.remove(waiter)
            if not line:
                del self._waiting[who]
        self._grant()

    def _leave(self, rows: int) -> None:
        now = self._clock()
        self._pace += 0.1 * (min(60.0, (now - self._freed) / rows) - self._pace)
        self._freed = now
        self.free += rows
        self._grant()

    def _grant(self) -> None:
        """Places for those whose turn it is. A request for many rows is not overtaken, or it would wait for ever."""
        while self._waiting:
            who = min(self._waiting, key=lambda name: self._had[name])
            first = self._waiting[who][0]
            if first.rows > self.free:
                return
            self._waiting[who].popleft()
            if not self._waiting[who]:
                del self._waiting[who]
            self.free -= first.rows
            self._floor = self._had[who]
            self._had[who] += first.rows
            if not first.free.done():
                first.free.set_result(None)
            else:
                self.free += first.rows
        if self.free == self.places:
            self._had.clear()
            self._floor = 0

    def _advice(self) -> int:
        """Seconds until a place for one more may be there."""
        rows = sum(waiter.rows for line in self._waiting.values() for waiter in line)
        return max(1, min(LONGEST_ADVICE, math.ceil(rows * self._pace)))
