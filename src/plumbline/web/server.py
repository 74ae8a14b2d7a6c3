"""`serve`: an application in this process, until Ctrl-C."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from plumbline.errors import UserError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

PORT = 7586
"""Where we listen unless told otherwise. It stays the same from day to day, since a browser keeps its unsent answers
and its session by address and port."""
PATIENCE = 5
"""Seconds that requests in flight get to end after Ctrl-C."""


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens. Without a port it is ours where that is free, else any free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in (PORT, 0) if port is None else (port,):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, number))
            listener.listen(256)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE and port is None:
                continue
            why = "something else listens there: name another --port" if error.errno == errno.EADDRINUSE else str(error)
            raise UserError(f"cannot listen on port {number} of {host!r}: {why}") from error
        except OverflowError:
            listener.close()
            raise UserError(f"the port is {number!r}: it must lie between 0 and 65535") from None
        return listener
    raise AssertionError("port 0 is any free port")


def address(listener: socket.socket, host: str) -> str:
    """The address of the first page, as a browser on this machine opens it."""
    named = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{named}:{listener.getsockname()[1]}"


def serve(
    app: ASGIApp,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serves until Ctrl-C or a termination signal. `ready` is called with our address once we serve."""
    import uvicorn

    class Server(uvicorn.Server):
        """Tells our address once Ctrl-C is its own: before that, Python may drop one in a weak reference's callback."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready(address(listener, host))

    with listen(host, port) as listener:
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=PATIENCE
        )
        with suppress(KeyboardInterrupt):
            Server(config).run(sockets=[listener])
