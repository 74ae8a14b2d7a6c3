"""The cache in Redis, over a real server: found by all, gone with the user, and missed by nobody when it is down."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from typer.testing import CliRunner

from collecting import an_exchange
from plumbline.cli.main import app
from plumbline.errors import MissingExtra, UserError
from plumbline.serve.shared_cache import SharedCache, forget, read, written
from serving import KNOCK, PATIENCE, WHO, Running, message_of, write_script

pytest.importorskip("redis", reason="redis is not installed: pip install 'plumbline[redis]'")


class RedisServer:
    """A Redis of this test's own, in memory, on a free port of this machine."""

    def __init__(self, program: str, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        end = time.monotonic() + PATIENCE
        while not self.answers():
            assert self._process.poll() is None and time.monotonic() < end, "redis-server did not start"
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as link:
                link.sendall(b"PING\r\n")
                return link.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def look(self) -> Any:
        import redis

        return redis.Redis.from_url(self.url, decode_responses=True)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    with RedisServer(program, tmp_path) as server:
        yield server


def ask(server: Running, **more: Any) -> tuple[str, str | None]:
    answered = server.ask(temperature=0, **more)
    return message_of(answered), answered.headers.get("x-cache")


def blind(server: Running) -> None:
    """Lets a server look for answers in the table no more."""
    server.store.cached = lambda cache_key: None  # type: ignore[method-assign]


def test_what_one_server_answered_another_one_over_the_same_database_gives_again(
    serve: Callable[..., Running], script: str, redis: RedisServer
) -> None:
    one, other = serve(script, cache_url=redis.url), serve(script, cache_url=redis.url)
    blind(other)
    assert ask(one) == (WHO, None)
    assert ask(other) == (WHO, "hit")
    first, second = one.stored()
    assert second.settings["cached"] == first.exchange_id and second.answers == first.answers
    with redis.look() as look:
        (answer,) = look.keys("plumbline:*:answer:*")
        assert 0 < look.ttl(answer) <= 86_400 and KNOCK not in look.get(answer)


def test_it_is_kept_no_longer_than_its_row(serve: Callable[..., Running], script: str, redis: RedisServer) -> None:
    ask(serve(script, cache_url=redis.url, keep_days=0.01))
    with redis.look() as look:
        assert [0 < look.ttl(key) <= 864 for key in look.keys()] == [True, True]


def test_another_database_and_a_key_without_content_share_nothing(tmp_path: Path, redis: RedisServer) -> None:
    for name, more in (("a", {}), ("b", {}), ("c", {"keys": True})):
        (tmp_path / name).mkdir()
        with Running(tmp_path / name, write_script(tmp_path / name), cache_url=redis.url, **more) as server:
            key = server.store.add_key("quiet", keeps_content=False)[0] if more else None
            assert ask(server, key=key) == (WHO, None)
    with redis.look() as look:
        prefixes = {key.partition(":answer:")[0] for key in look.keys("*:answer:*")}
        assert len(prefixes) == len(look.keys("*:answer:*")) == 2


def test_erasing_a_user_takes_the_answers_out(
    serve: Callable[..., Running],
    script: str,
    redis: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = serve(script, cache_url=redis.url)
    ask(server, user="ann")
    ask(server, user="bob", prompt="My house is too hot. What can I do?")
    settings = tmp_path / "plumb.toml"
    settings.write_text(settings.read_text().replace('cache = ""', f'cache = "{redis.url}"'))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["feedback", "erase", "local/ann", "--yes"])
    assert done.exit_code == 0, done.output
    with redis.look() as look:
        assert len(look.keys("*:answer:*")) == 1
    assert ask(server, user="cid") == (WHO, None)


def test_erasing_while_it_is_down_erases_nothing_and_says_so(
    serve: Callable[..., Running], script: str, redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(script, cache_url=redis.url)
    ask(server, user="ann")
    redis.__exit__()
    settings = tmp_path / "plumb.toml"
    settings.write_text(settings.read_text().replace('cache = ""', f'cache = "{redis.url}"'))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["feedback", "erase", "local/ann", "--yes"])
    assert done.exit_code == 2 and "nothing is erased" in " ".join(done.output.split())
    assert len(server.stored()) == 1


def test_a_redis_that_goes_away_costs_no_answer_and_is_asked_again_later(
    serve: Callable[..., Running], script: str, redis: RedisServer
) -> None:
    server = serve(script, cache_url=redis.url)
    redis.__exit__()
    assert ask(server) == (WHO, None)
    assert ask(server) == (WHO, "hit")  # from the table
    shared = server.serving.service.shared
    assert shared is not None and shared._not_before > time.monotonic() - 5
    with redis:
        shared._not_before = 0.0  # as if the pause were over
        ask(server, prompt="My house is too hot. What can I do?")
        with redis.look() as look:
            assert len(look.keys("*:answer:*")) == 1


def test_what_is_no_answer_is_a_miss(serve: Callable[..., Running], script: str, redis: RedisServer) -> None:
    server = serve(script, cache_url=redis.url)
    ask(server)
    blind(server)
    with redis.look() as look:
        (answer,) = look.keys("*:answer:*")
        for strange in ("{", "[]", "{}", '{"at": "noon"}'):
            look.set(answer, strange)
            assert ask(server) == (WHO, None)


def test_an_exchange_is_read_as_it_was_written_but_for_what_was_typed() -> None:
    whole = an_exchange(answers=[{"text": "naïve 🪟", "tool_calls": []}], settings={"temperature": 0.0}, cache_key="k")
    assert read(written(whole)) == whole
    assert read(written(an_exchange(prompt={"text": "secret"}, vector=b"\0"))).prompt is None


@pytest.mark.parametrize("url", ["localhost", "http://u:secret@host", "redis://u:secret@host:port/0"])
def test_a_url_that_cannot_be_read_is_refused_and_its_password_not_shown(url: str) -> None:
    with pytest.raises(UserError, match="redis://127.0.0.1:6379/0") as refused:
        SharedCache(url, "here")
    assert "secret" not in str(refused.value)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingExtra, match=r"plumbline\[redis\]"):
        forget("redis://127.0.0.1:1/0", "here", "ann")
