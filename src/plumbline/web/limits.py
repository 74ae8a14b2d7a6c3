"""How large a request may be, and how often one visitor may do what costs us or helps a guesser."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING

from fastapi import HTTPException
from starlette.requests import Request

from plumbline.web.errors import Refusal, refuse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 4 * 2**20
"""Of a request's body: four times the largest answer that we promise to take."""
MOST_VISITORS = 10_000
"""Visitors that a limit remembers; the one seen longest ago is forgotten first."""


class Limit:
    """`burst` at once and `rate` a second after that, for each visitor; `take` refuses what goes beyond."""

    def __init__(self, burst: int, rate: float, sentence: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.burst = burst
        self.rate = rate
        self.sentence = sentence
        self.clock = clock
        self._left: dict[str, tuple[float, float]] = {}  # visitor -> what is left, and when that was so
        self._lock = Lock()

    def take(self, visitor: str) -> None:
        with self._lock:
            self._keep(visitor, self._checked(visitor) - 1)

    def charge(self, visitor: str, amount: float) -> None:
        """Takes what was used already, however much that is; what goes beyond is owed."""
        with self._lock:
            left, then = self._left.get(visitor, (float(self.burst), self.clock()))
            self._keep(visitor, min(float(self.burst), left + (self.clock() - then) * self.rate) - amount)

    def check(self, visitor: str) -> None:
        """Refuses as `take` does, and takes nothing."""
        with self._lock:
            self._checked(visitor)

    def _checked(self, visitor: str) -> float:
        """What the visitor has left, at least one."""
        left, then = self._left.get(visitor, (float(self.burst), self.clock()))
        left = min(float(self.burst), left + (self.clock() - then) * self.rate)
        if left < 1:
            wait = math.ceil((1 - left) / self.rate)
            raise Refusal(429, f"{self.sentence} Try again in {wait} s.", wait=wait)
        return left

    def _keep(self, visitor: str, left: float) -> None:
        self._left.pop(visitor, None)  # so that the order of the dict is the order of being seen
        self._left[visitor] = (left, self.clock())
        if len(self._left) > MOST_VISITORS:
            del self._left[next(iter(self._left))]


def address(request: Request) -> str:
    return request.client.host if request.client else "nobody"


class BodyLimit:
    """Refuses a body that is too large: by its announced length, or while it comes, whatever was announced."""

    def __init__(self, app: ASGIApp, most: int = MOST_BYTES) -> None:
        self.app = app
        self.most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self.most:
            await refuse(request, 413, self.sentence)(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.most:
                raise HTTPException(413, self.sentence)  # the one exception that FastAPI lets pass while it reads
            return message

        await self.app(scope, counted, send)

    @property
    def sentence(self) -> str:
        return f"The request is larger than {self.most / 2**20:g} MiB: send less at once."
