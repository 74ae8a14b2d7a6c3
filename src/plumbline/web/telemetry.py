"""How many requests there were and how long they took: counts in memory, for `/health` and for a page.

Each request gets an id here. It is in the answer's headers, in error messages and in the log.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from secrets import token_hex
from threading import Lock
from typing import TYPE_CHECKING, Any

from starlette.datastructures import MutableHeaders

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

REMEMBERED = 2048
"""Requests whose time is kept for the percentiles."""


class Telemetry:
    """What the server did since it started. The clock counts seconds from any point."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._begun = clock()
        self._lock = Lock()
        self._statuses: Counter[int] = Counter()
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)

    def add(self, status: int, seconds: float) -> None:
        with self._lock:
            self._statuses[status] += 1
            self._seconds.append(seconds)

    def report(self) -> dict[str, Any]:
        """Counts since the start, and the median and 95th percentile over the last 2,048 requests."""
        with self._lock:
            statuses, seconds = dict(self._statuses), sorted(self._seconds)
        return {
            "status": "ok",
            "seconds_up": round(self.clock() - self._begun, 3),
            "requests": sum(statuses.values()),
            "failed": sum(count for status, count in statuses.items() if status >= 500),
            "median_ms": percentile(seconds, 0.5),
            "p95_ms": percentile(seconds, 0.95),
        }


def percentile(seconds: list[float], share: float) -> float | None:
    """The nearest-rank percentile of sorted times, in milliseconds; None where there is none."""
    if not seconds:
        return None
    return round(1000 * seconds[min(len(seconds) - 1, int(share * len(seconds)))], 3)


class Measured:
    """Gives each request its id, counts it and times it until its answer is out."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self.app = app
        self.telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        name = scope["plumbline.request_id"] = token_hex(6)
        begun, status = self.telemetry.clock(), 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = name
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            self.telemetry.add(status, self.telemetry.clock() - begun)
