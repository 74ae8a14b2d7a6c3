"""The server, put together: `create_app` makes the application over a store, `run` serves it until a signal comes.

The first signal ends it in good order: nothing new is accepted, what runs goes on to its end, then the journal is
closed and the engines end. A second one does not wait.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from plumbline.errors import UserError
from plumbline.feedback.database import DatabaseFailed
from plumbline.feedback.queue import Queue
from plumbline.feedback.room import app as room
from plumbline.feedback.store import Store
from plumbline.guard.rails import make_guards
from plumbline.project import Project
from plumbline.serve import playground, replies, traffic
from plumbline.serve.alike import Alike
from plumbline.serve.api import add_api, error_body
from plumbline.serve.journal import Journal
from plumbline.serve.keys import HERE, Keys
from plumbline.serve.line import Line
from plumbline.serve.metrics import Metrics
from plumbline.serve.requests import ApiError
from plumbline.serve.service import Service, refusal_of
from plumbline.serve.settings import Settings
from plumbline.serve.shared_cache import DAY, SharedCache
from plumbline.serve.traces import open_traces
from plumbline.serve.versions import Versions
from plumbline.web.limits import Limit
from plumbline.web.site import create_site

if TYPE_CHECKING:
    from uvicorn import Server

log = logging.getLogger("plumbline.serve")

DRAIN = 30
"""Seconds that what runs gets to end after a signal."""
FIRST_WORD = 20.0
"""Seconds in which a request must have sent its whole header."""
CONNECTIONS = 2000
"""Connections at once; one more is answered with 503."""
SWEEP = 3600.0
"""Seconds between two removals of what is too old."""


class Serving:
    """An application and what runs beside it. Made on the event loop that serves it."""

    def __init__(self, store: Store, project: Project, settings: Settings, *, default: str, keys_needed: bool) -> None:
        self.store = store
        self.settings = settings
        metrics = Metrics()
        self.versions = Versions(settings, project, default)
        failures = Limit(20, 0.5, "Too many keys that do not exist came from here.")
        self.service = Service(
            settings=settings,
            store=store,
            versions=self.versions,
            line=Line(settings.at_once, waiting=settings.waiting, patience=settings.patience),
            journal=Journal(store),
            keys=Keys(store, needed=keys_needed, failures=failures),
            metrics=metrics,
            guards=tuple(make_guards(settings.rails)),
            alike=Alike(store, self.versions, settings.similar) if settings.similar else None,
            shared=shared_cache(settings, store.where),
            traces=open_traces(settings.traces) if settings.traces else None,
        )
        self.app = create_app(self.service)
        self._beside: list[asyncio.Task[None]] = []
        line, journal = self.service.line, self.service.journal
        watched: dict[str, tuple[str, Callable[[], float]]] = {
            "plumbline_waiting": ("Requests that wait for a place.", lambda: line.waiting),
            "plumbline_rows": ("Rows that are being written.", lambda: line.places - line.free),
            "plumbline_commits": ("Commits of the journal.", lambda: journal.commits),
            "plumbline_journal_rows": ("Exchanges stored.", lambda: journal.rows),
            "plumbline_journal_lost": ("Cancelled exchanges that could not be stored.", lambda: journal.lost),
            "plumbline_engine_starts": (
                "Processes started for models.",
                lambda: sum(engine.starts for engine in self.versions.engines()),
            ),
            "plumbline_promotions": ("Promotions since the start.", lambda: self.versions.switches),
        }
        for name, (help, read) in watched.items():
            metrics.watch(name, help, read)

    async def start(self) -> None:
        """Loads the model; what is wrong with it is raised."""
        try:
            await self.versions.start()
            if self.service.alike is not None:
                await self.versions.embedder("")  # else the first question would wait for it
        except BaseException:
            await self.close()
            raise
        self._beside = [asyncio.create_task(self.versions.watch()), asyncio.create_task(self._sweep())]

    async def close(self) -> None:
        """Ends the engines; what waits to be stored is stored."""
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        await self.versions.close()
        await asyncio.to_thread(self.service.journal.close)
        if self.service.shared is not None:
            await self.service.shared.close()
        if self.service.traces is not None:
            await asyncio.to_thread(self.service.traces.close)

    async def _sweep(self) -> None:
        """Removes exchanges that are older than they are kept."""
        while self.settings.keep_days:
            before = self.store.clock() - timedelta(days=self.settings.keep_days)
            try:
                gone = await asyncio.to_thread(self.store.forget_exchanges, before)
            except Exception as error:  # whatever it is: it is tried again in an hour
                log.error("what is too old cannot be removed now: %s", error)
            else:
                log.info("%d exchanges were older than %g days and are removed", gone, self.settings.keep_days)
            await asyncio.sleep(SWEEP)


def shared_cache(settings: Settings, where: str) -> SharedCache | None:
    """The cache that servers over one database share, where one is named."""
    if not settings.cache_url:
        return None
    kept = int(DAY * settings.keep_days) or DAY
    return SharedCache(settings.cache_url, where, seconds=min(kept, DAY))


def create_app(service: Service) -> FastAPI:
    """The application over a service."""

    def health() -> dict[str, Any]:
        faults = [engine.fault for engine in service.versions.engines() if engine.fault]
        faults += [service.versions.fault] if service.versions.fault else []
        status = "degraded" if faults else "ok"
        if service.keys.needed:  # anybody may come by here; names and paths are on the page of the traffic
            return {"status": status}
        return {"status": status, "models": [engine.name for engine in service.versions.engines()], "faults": faults}

    app = create_site(
        room.StoredSessions(service.store),
        roles=room.ROLES,
        folders=[Path(__file__).parent, room.FOLDER],
        refusals=replies.error_of,
        health=health,
    )
    app.state.service = service

    @app.exception_handler(ApiError)
    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError), error
        headers = {} if error.wait is None else {"Retry-After": str(error.wait)}
        body = error_body(error) if request.url.path.startswith("/v1") else {"error": error.sentence}
        return JSONResponse(body, status_code=error.status, headers=headers)

    @app.exception_handler(DatabaseFailed)
    def unstored(request: Request, error: Exception) -> Response:
        log.error("%s", error)
        return refused(request, refusal_of(error, service.settings))

    add_api(app)
    app.include_router(playground.router)
    app.include_router(traffic.router)
    room.add_room(app, service.store, Queue(service.store), beside=(("/playground", "Playground"),))
    return app


# ---- in this process


def check_public(host: str, store: Store, *, keys: bool) -> bool:
    """Whether a key is needed. Listening to others without any key is refused."""
    if host in HERE and not keys:
        return False
    now = store.clock()
    working = [key for key in store.keys() if key.revoked_at is None and (key.until is None or key.until > now)]
    if not working:
        why = "--keys was given" if host in HERE else f"{host!r} is an address for others"
        raise UserError(f"{why} and there is no key that works: make one with `plumb keys add NAME`")
    return True


async def run(
    serving: Callable[[], Serving],
    listener: socket.socket,
    ready: Callable[[Serving], None],
    made: Callable[[Server], None] = lambda server: None,
) -> None:
    """Serves on a socket until a signal, or until the server that `made` was given is told to exit."""
    import uvicorn

    here = serving()
    await here.start()
    try:
        server = uvicorn.Server(
            uvicorn.Config(
                here.app,
                http=cast("Any", patient_protocol()),
                lifespan="off",
                log_level="warning",
                access_log=False,
                server_header=False,
                limit_concurrency=CONNECTIONS,
                timeout_graceful_shutdown=DRAIN,
            )
        )
        made(server)
        ready(here)
        with signals_end_here():
            await server.serve(sockets=[listener])
    finally:
        await here.close()


def run_here(main: Coroutine[Any, Any, None]) -> None:
    """Runs to the end, on uvloop where that is installed."""
    import uvicorn

    with asyncio.Runner(loop_factory=uvicorn.Config("none").get_loop_factory()) as runner:
        runner.run(main)


class signals_end_here:
    """What Uvicorn raises again after it has ended in good order has nothing left to end."""

    def __enter__(self) -> None:
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, lambda *_: None)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def patient_protocol() -> type[asyncio.Protocol]:
    """Uvicorn's protocol, which closes a connection whose next request does not send its whole header in time."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Patient(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._first_word = self.loop.call_later(FIRST_WORD, self._give_up)

        def data_received(self, data: bytes) -> None:
            begins = self._answered() and self.cycle is not None
            super().data_received(data)
            if not self._answered():
                self._first_word.cancel()
            elif begins and (self._first_word.cancelled() or self._first_word.when() < self.loop.time()):
                self._first_word = self.loop.call_later(FIRST_WORD, self._give_up)

        def connection_lost(self, error: Exception | None) -> None:
            self._first_word.cancel()
            super().connection_lost(error)

        def _answered(self) -> bool:
            """Whether nothing that was asked here is open."""
            return self.cycle is None or self.cycle.response_complete

        def _give_up(self) -> None:
            if self._answered():
                with suppress(OSError):
                    self.transport.close()

    return cast("type[asyncio.Protocol]", Patient)
