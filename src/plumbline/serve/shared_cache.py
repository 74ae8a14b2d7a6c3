"""The exact cache in Redis, for several servers over one database: what one of them has answered, all give again.

    cache = "redis://127.0.0.1:6379/0"      in plumb.toml

The table of exchanges stays the truth. An answer is put here when its row is on the disk, and for a day at most;
`plumb feedback erase` takes it out before the row. A Redis that is gone costs a look at the table and no answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from plumbline.errors import MissingExtra, UserError
from plumbline.feedback.store import Exchange

log = logging.getLogger("plumbline.serve")
T = TypeVar("T")

DAY = 86_400
"""Seconds that an answer is kept at most."""
PATIENCE = 0.25
"""Seconds that Redis gets to answer."""
PAUSE = 5.0
"""Seconds for which it is not asked after it failed."""
LEFT_OUT = ("prompt", "vector", "alike_key")
"""What of an exchange is not needed to give its answer again."""


class SharedCache:
    """The answers of the servers over the database that is `where`. Made on the event loop that serves."""

    def __init__(
        self, url: str, where: str, *, seconds: int = DAY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        library, at_once = libraries()
        self._redis = opened(at_once, url)
        self.name = shown(url)
        self.seconds = seconds
        self._names = Names(where)
        self._clock = clock
        self._not_before = float("-inf")
        self._failures: tuple[type[Exception], ...] = (library.RedisError, OSError, TimeoutError)

    async def get(self, cache_key: str) -> Exchange | None:
        """The answer that was put under this key, if it is still there."""
        text = await self._ask(lambda: self._redis.get(self._names.answer(cache_key)))
        try:
            return None if text is None else read(text)
        except (ValueError, TypeError, KeyError) as error:
            log.error("what %s holds under a key of ours is no answer: %r", self.name, error)
            return None

    async def put(self, exchange: Exchange) -> None:
        """Puts an answer whose row is on the disk."""
        assert exchange.cache_key is not None, exchange
        answer, owner = self._names.answer(exchange.cache_key), self._names.owner(exchange.user_id)

        async def together() -> None:
            async with self._redis.pipeline(transaction=True) as steps:
                steps.set(answer, written(exchange), ex=self.seconds)
                steps.sadd(owner, answer)
                steps.expire(owner, self.seconds)
                await steps.execute()

        await self._ask(together)

    async def close(self) -> None:
        """Gives the connections back."""
        await self._redis.aclose()

    async def _ask(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """What Redis says; None where it fails, and without asking for a while after that."""
        if self._clock() < self._not_before:
            return None
        try:
            async with asyncio.timeout(PATIENCE):
                return await work()
        except self._failures as error:
            self._not_before = self._clock() + PAUSE
            log.error("the cache at %s fails, and the database answers in its place: %r", self.name, error)
            return None


def forget(url: str, where: str, user_id: str) -> int:
    """Takes out all answers to a user; returns how many there were."""
    library, _ = libraries()
    owner = Names(where).owner(user_id)
    try:
        with opened(library, url) as redis:
            answers = list(redis.smembers(owner))
            redis.delete(owner, *answers)
            return len(answers)
    except library.RedisError as error:
        raise UserError(
            f"the cache at {shown(url)} cannot be reached ({error}), and it may hold answers to {user_id!r}: nothing "
            "is erased; start it and erase again, or take `cache` out of plumb.toml a day after it was last used"
        ) from error


class Names:
    """What things are called in Redis: those of one database apart from those of another."""

    def __init__(self, where: str) -> None:
        self._prefix = f"plumbline:{hashlib.sha256(where.encode()).hexdigest()[:16]}"

    def answer(self, cache_key: str) -> str:
        return f"{self._prefix}:answer:{cache_key}"

    def owner(self, user_id: str) -> str:
        """The set of a user's answers; it does not tell who that is."""
        return f"{self._prefix}:user:{hashlib.sha256(user_id.encode()).hexdigest()}"


def written(exchange: Exchange) -> str:
    fields = {name: value for name, value in asdict(exchange).items() if name not in LEFT_OUT}
    return json.dumps({**fields, "at": exchange.at.isoformat()}, separators=(",", ":"))


def read(text: str) -> Exchange:
    fields: dict[str, Any] = json.loads(text)
    return Exchange(**{**fields, "at": datetime.fromisoformat(fields["at"])})


def libraries() -> tuple[Any, Any]:
    """The client of Redis, with its asynchronous half."""
    try:
        import redis
        import redis.asyncio
    except ImportError:
        raise MissingExtra("redis", "a cache in Redis") from None
    return redis, redis.asyncio


def opened(library: Any, url: str) -> Any:
    """A client that does not try again by itself: the caller has another way."""
    from redis.backoff import NoBackoff

    once = library.retry.Retry(NoBackoff(), 0)
    try:
        return library.Redis.from_url(
            url, decode_responses=True, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE, retry=once
        )
    except ValueError:
        raise UserError(
            "the cache's URL in plumb.toml cannot be read: give one like redis://127.0.0.1:6379/0, rediss:// or unix://"
        ) from None


def shown(url: str) -> str:
    """Where it is, without the password that its URL may hold."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 6379}" if parts.hostname else parts.path
