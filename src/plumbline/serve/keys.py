"""Who asks, what they may, and how much.

A key is `plumb-ID-SECRET`; it is found by its public part and compared by its hash, in constant time. What is known of
the keys is kept in memory and read again when it is two seconds old, so that is how long a revoked key still works.
Where no key is needed, everybody on this machine is the tenant "local".
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from starlette.requests import Request

from plumbline.feedback.api_keys import PREFIX, Scope
from plumbline.feedback.sign_in import hashed
from plumbline.feedback.store import ApiKey, Store
from plumbline.serve.requests import ApiError
from plumbline.web.csrf import check_origin
from plumbline.web.limits import Limit, address

FRESH = 2.0
"""Seconds for which what is known of the keys holds."""
LOCAL = ApiKey("", "local", "", frozenset({"admin"}), datetime.fromtimestamp(0, UTC))
HERE = ("127.0.0.1", "localhost", "::1")
"""What this machine is called by those who are on it."""
NOWHERE = hashed("no key has this hash")


@dataclass(frozen=True)
class Caller:
    """Who asks: a key, and the user of its application."""

    key: ApiKey
    user: str = ""
    traceparent: str = ""
    """The span of the caller's own, below which ours are told."""

    @property
    def tenant(self) -> str:
        return self.key.name

    @property
    def user_id(self) -> str:
        """The user as everything that is stored names them; two applications' users are never one."""
        return f"{self.key.name}/{self.user}" if self.user else self.key.name


class Keys:
    """The keys of a store, and what each of them has used."""

    def __init__(
        self,
        store: Store,
        *,
        needed: bool,
        failures: Limit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.needed = needed
        self._failures = failures
        self._clock = clock
        self._known: dict[str, ApiKey] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        self._requests: dict[str, Limit] = {}
        self._tokens: dict[str, Limit] = {}
        self._running: dict[str, int] = {}

    async def caller(self, request: Request, scope: Scope) -> Caller:
        """Whose request it is; a refusal where they may not."""
        check_origin(request)
        traceparent = request.headers.get("traceparent", "")
        if not self.needed:
            check_host(request)
            return Caller(LOCAL, traceparent=traceparent)
        key = await self.find(secret_of(request))
        if key is None:
            # Only now: behind one address there may be a guesser and everybody else.
            self._failures.take(address(request))
            raise ApiError(
                401, "The API key is missing, unknown, revoked or too old: send `Authorization: Bearer KEY`."
            )
        if not key.may(scope):
            said = f"This key may {', '.join(sorted(key.scopes))}, and this takes the scope {scope!r}."
            raise ApiError(403, said, code="insufficient_scope")
        return Caller(key, traceparent=traceparent)

    async def find(self, secret: str) -> ApiKey | None:
        """The key of this secret, if it works now."""
        if self._clock() - self._read_at > FRESH:
            async with self._reading:
                if self._clock() - self._read_at > FRESH:
                    known = await asyncio.to_thread(self.store.keys)
                    self._known = {key.key_id: key for key in known}
                    self._read_at = self._clock()
        prefix, _, rest = secret.partition("-")
        key = self._known.get(rest.partition("-")[0])
        # A secret whose public part is unknown is compared too: how long it takes tells nothing of what is known.
        same = hmac.compare_digest(hashed(secret), NOWHERE if key is None else key.key_hash)
        if key is None or not same or prefix != PREFIX or key.revoked_at is not None:
            return None
        return key if key.until is None or key.until > self.store.clock() else None

    # ---- how much

    @contextmanager
    def admitted(self, key: ApiKey) -> Iterator[None]:
        """Counts a request in, and for as long as it runs; a refusal where that is more than the key's share."""
        running = self._running.get(key.key_id, 0)
        if key.at_once is not None and running >= key.at_once:
            said = f"This key has {running} requests under way, its most. Try again when one has ended."
            raise ApiError(429, said, code="concurrency_limit", wait=1)
        if key.tokens_a_minute is not None:
            limit(self._tokens, key, key.tokens_a_minute, "tokens", self._clock).check(key.key_id)
        if key.requests_a_minute is not None:
            limit(self._requests, key, key.requests_a_minute, "requests", self._clock).take(key.key_id)
        self._running[key.key_id] = running + 1
        try:
            yield
        finally:
            self._running[key.key_id] -= 1

    def charge(self, key: ApiKey, tokens: int) -> None:
        """Counts tokens after they were used; what goes beyond the share is owed."""
        if key.tokens_a_minute is not None:
            limit(self._tokens, key, key.tokens_a_minute, "tokens", self._clock).charge(key.key_id, tokens)


def limit(limits: dict[str, Limit], key: ApiKey, a_minute: int, what: str, clock: Callable[[], float]) -> Limit:
    if key.key_id not in limits:
        limits[key.key_id] = Limit(a_minute, a_minute / 60, f"This key has used its {a_minute} {what} a minute.", clock)
    return limits[key.key_id]


def check_host(request: Request) -> None:
    """Refuses a request that names us by another name: a page whose domain was pointed at this machine does."""
    named = request.headers.get("host", "")
    try:
        host = urlsplit(f"//{named}").hostname
    except ValueError:  # a bracket that is not closed
        host = None
    if host not in HERE:
        raise ApiError(403, f"The host is {named!r}, and without keys only this machine is served, as 127.0.0.1.")


def secret_of(request: Request) -> str:
    """The key that a request carries. One header only: two forms would be two authenticators."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""
