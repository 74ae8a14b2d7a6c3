"""Where a server listens, and that it stops on Ctrl-C."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import httpx
import pytest

from plumbline.errors import UserError
from plumbline.web import server
from plumbline.web.server import address, listen

PROGRAM = """
from fastapi import FastAPI
from plumbline.web.server import serve
app = FastAPI()
app.get("/")(lambda: "here")
serve(app, port=0, ready=lambda address: print(address, flush=True))
print("ended")
"""


def test_our_own_port_where_it_is_free_and_any_other_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with listen("127.0.0.1", 0) as taken:
        number = taken.getsockname()[1]
        monkeypatch.setattr(server, "PORT", number)
        with listen("127.0.0.1", None) as other:
            assert other.getsockname()[1] not in (0, number)
            assert address(other, "127.0.0.1") == f"http://127.0.0.1:{other.getsockname()[1]}"
    with listen("127.0.0.1", None) as ours:
        assert ours.getsockname()[1] == number


def test_a_port_that_was_asked_for_and_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on port {number} .*: something else listens there"):
            listen("127.0.0.1", number)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_cannot_be_is_an_error(port: int) -> None:
    with pytest.raises(UserError, match="must lie between 0 and 65535"):
        listen("127.0.0.1", port)


def test_an_address_that_is_not_ours_is_an_error() -> None:
    with pytest.raises(UserError, match="cannot listen on port 0 of '192.0.2.1'"):
        listen("192.0.2.1", 0)


def test_an_address_for_all_is_shown_as_one_to_open() -> None:
    with listen("127.0.0.1", 0) as listener:
        number = listener.getsockname()[1]
        assert address(listener, "0.0.0.0") == f"http://127.0.0.1:{number}"
        assert address(listener, "::1") == f"http://[::1]:{number}"


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(stop: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        where = process.stdout.readline().strip()
        assert httpx.get(where).json() == "here"
        process.send_signal(stop)
        rest = process.stdout.read()
    assert rest == ("ended\n" if stop is signal.SIGINT else "")
    assert process.returncode == (0 if stop is signal.SIGINT else -signal.SIGTERM)
