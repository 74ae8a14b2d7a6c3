"""A model in a process of its own: asked from the server's event loop, watched, and started anew when it dies.

A request of which nothing has been sent when the process dies is asked again of the next one, once; the others end with
`EngineCrashed`. The next process is started at once, and after each further death within a minute a while later.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from plumbline import errors
from plumbline.errors import BadModel, EngineCrashed, UserError

log = logging.getLogger("plumbline.serve")

LONGEST_LINE = 64 * 2**20
"""Bytes of one message; many embeddings at once come to some."""
LONGEST_WAIT = 30.0
"""Seconds between two starts of a process that goes on dying."""
SOUND = 60.0
"""Seconds after which a process that dies was not broken from the start."""


@dataclass(frozen=True)
class Spec:
    """Which model a process holds, and how it runs."""

    name: str
    engine: str = "auto"
    mode: str | None = None
    embeds: bool = False
    scores: bool = False


class Engine:
    """The model of a spec. `start` returns when it is ready; `ask` may then be called as often at once as one likes."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.known: dict[str, Any] = {}
        """What the process tells of its model: its name, whether it is local, what it can."""
        self.running = 0
        """Requests that are not over."""
        self.starts = 0
        self.fault = ""
        """Why there is no process at the moment; "" where there is one."""
        self.pid = 0
        self._numbers = itertools.count()
        self._pending: dict[int, asyncio.Queue[dict[str, Any]]] = {}
        self._ready = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._writer: asyncio.StreamWriter | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The exact name of the model."""
        return str(self.known.get("name", self.spec.name))

    async def start(self) -> None:
        """Starts the process and waits for its model. What is wrong with the model is raised."""
        reader = await self._launch()
        self._watching = asyncio.create_task(self._watch(reader))

    async def close(self) -> None:
        """Ends the process, whatever it does."""
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        await self._end()
        self._fail("the server ends")

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """For as long as a request is answered by this engine, from the moment it was picked: it is not drained."""
        self.running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.running -= 1
            if not self.running:
                self._idle.set()

    async def drain(self) -> None:
        """Ends the process when its last request is over."""
        await self._idle.wait()
        await self.close()

    async def ask(self, message: dict[str, Any], deadline: float | None = None) -> AsyncGenerator[dict[str, Any], None]:
        """The pieces of what comes back, the one with `done` last. Leaving before that cancels the work.

        After the deadline, by the event loop's clock, it is a `TimeoutError`.
        """
        for last in (False, True):
            begun = False
            try:
                async with aclosing(self._once(message, deadline)) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield piece
                return
            except EngineCrashed:
                if begun or last or self._closed:
                    raise

    async def whole(self, message: dict[str, Any], deadline: float | None = None) -> dict[str, Any]:
        """The last piece alone."""
        async with aclosing(self.ask(message, deadline)) as pieces:
            return [piece async for piece in pieces][-1]

    async def _once(self, message: dict[str, Any], deadline: float | None) -> AsyncGenerator[dict[str, Any], None]:
        async with asyncio.timeout_at(deadline):
            await self._ready.wait()
        if self._closed:
            raise EngineCrashed(self.fault)
        number, news, over = next(self._numbers), asyncio.Queue[dict[str, Any]](), False
        self._pending[number] = news
        self._send({**message, "number": number})
        try:
            while not over:
                async with asyncio.timeout_at(deadline):
                    piece = await news.get()
                over = "text" not in piece
                if "error" in piece:
                    raise error_of(piece)
                yield piece
        finally:
            del self._pending[number]
            if not over:
                self._send({"do": "cancel", "number": number})

    def _send(self, message: dict[str, Any]) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    # ---- the process

    async def _launch(self) -> asyncio.StreamReader:
        """A fresh process whose model is loaded."""
        ours, theirs = socket.socketpair()
        with tempfile.TemporaryFile() as words, theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "plumbline.serve.worker", str(theirs.fileno()), json.dumps(asdict(self.spec))],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
                start_new_session=True,  # Ctrl-C is for the server, which lets requests end first
            )
            theirs.close()  # else its end would never be seen
            self._words = os.dup(words.fileno())
        self.starts += 1
        self.pid = self._process.pid
        reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=LONGEST_LINE)
        try:
            first = await reader.readline()
            if not first:
                raise EngineCrashed(f"the process of {self.spec.name!r} died while loading: {await self._end()}")
            message = json.loads(first)
            if "error" in message:
                raise error_of(message)
        except BaseException:
            await self._end()
            raise
        self.known, self.fault = message["ready"], ""
        self._ready.set()
        return reader

    async def _watch(self, reader: asyncio.StreamReader) -> None:
        """Hands out what comes, and starts the process anew when nothing more can come."""
        loop = asyncio.get_running_loop()
        wait = 0.0
        while True:
            begun = loop.time()
            await self._read(reader)
            self._ready.clear()
            words = await self._end()
            self.fault = f"the process of {self.name!r} died ({words}) and is started anew"
            log.error("%s", self.fault)
            self._fail(self.fault)
            if loop.time() - begun > SOUND:
                wait = 0.0
            while not self._ready.is_set():
                await asyncio.sleep(wait)
                wait = min(LONGEST_WAIT, 2 * wait or 1.0)
                try:
                    reader = await self._launch()
                except Exception as error:  # whatever it is: without this task nobody would start it again
                    self.fault = f"{self.name!r} cannot be loaded again: {error}"
                    log.error("%s", self.fault)
            log.warning("%r is there again, in process %d", self.name, self.pid)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                message = json.loads(line)
                if news := self._pending.get(message["number"]):
                    news.put_nowait(message)
        except OSError:
            pass  # it is gone
        except ValueError as error:
            log.error("the process of %r sent what cannot be read: %s", self.name, error)

    async def _end(self) -> str:
        """Ends the process, if it has not by itself; its last words."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._process is None:
            return ""
        process, self._process = self._process, None
        process.kill()
        status = await asyncio.to_thread(process.wait)
        said = await asyncio.to_thread(last_words, self._words)
        return f"{said or 'it said nothing'}; status {status}"

    def _fail(self, why: str) -> None:
        for news in self._pending.values():
            news.put_nowait({"error": why, "kind": "EngineCrashed"})


def last_words(words: int) -> str:
    """The last line that a process wrote; its file is closed."""
    with os.fdopen(words, "rb") as file:
        file.seek(0)
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def error_of(message: dict[str, Any]) -> Exception:
    """The error that the process tells of, of the same kind where we know it."""
    kind, said = str(message["kind"]), str(message["error"])
    found = getattr(errors, kind, None)
    if kind == "PromptTooLong":
        return TooLong(said)
    if found in (EngineCrashed, errors.EndpointError, BadModel, errors.UnknownModel, errors.HubUnreachable):
        return found(said)  # type: ignore[no-any-return]
    if isinstance(found, type) and issubclass(found, UserError):
        return UserError(said)
    return RuntimeError(said)


class TooLong(UserError):
    """A prompt does not fit the model's window, as the process says it."""
