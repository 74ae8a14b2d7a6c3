"""A model in a process of its own: it dies, and others' requests go on or end cleanly; it is told what went wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from plumbline.errors import BadModel
from plumbline.serve import engine as engine_module
from plumbline.serve.engine import Engine, Spec
from serving import KNOCK, PATIENCE, WHO, Running, message_of

Serve = Callable[..., Running]


def kill(server: Running) -> int:
    """Kills the model's process as the system does when memory is short; its id."""
    pid: int = server.serving.versions.primary.pid
    os.kill(pid, signal.SIGKILL)
    return pid


def test_requests_of_which_nothing_was_sent_survive_the_models_death(serve: Serve, gate: Any) -> None:
    server = serve(gate.model)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(server.ask, f"question {number}") for number in range(4)]
        gate.wait_for(4)
        pid = kill(server)
        gate.wait_for(4)  # the next process asks all four again
        gate.open.set()
        answers = [each.result() for each in asked]
    assert [message_of(answer) for answer in answers] == [f"You said: question {number}" for number in range(4)]
    engine = server.serving.versions.primary
    assert engine.starts == 2 and engine.pid != pid
    assert [row.status for row in server.stored()] == ["answered"] * 4


def test_one_that_kills_the_model_again_fails_cleanly_and_the_server_goes_on(serve: Serve, gate: Any) -> None:
    server = serve(gate.model)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.ask, "poison")
        for _ in range(2):
            gate.wait_for(1)
            kill(server)
        answer = asked.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_crashed")
    assert int(answer.headers["Retry-After"]) >= 1
    gate.open.set()
    assert message_of(server.ask("fine")) == "You said: fine"
    assert [(row.status, row.prompt["messages"][0]["content"]) for row in server.settled(2)] == [
        ("failed", "poison"),
        ("answered", "fine"),
    ]


class Halting:
    """A model elsewhere that streams a few words and then waits."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def pieces(self) -> Any:
        from fake_server import last_piece, piece, sse

        yield sse(piece({"role": "assistant", "content": ""}))[0]
        for word in ("One", " two", " three"):
            yield sse(piece({"content": word}))[0]
        self.go.wait(PATIENCE)
        yield from sse(piece({"content": " four"}), piece({}, "stop"), last_piece(), "[DONE]")


def test_a_stream_that_has_begun_ends_with_an_error_and_what_was_written_is_stored(serve: Serve) -> None:
    from fake_server import FakeServer, send_pieces

    halting = Halting()

    def behave(handler: Any, request: Any) -> None:
        send_pieces(halting.pieces())(handler, request)

    with FakeServer(behave) as fake:
        server = serve(f"openai:m@{fake.url}")
        body = {"model": "", "stream": True, "messages": [{"role": "user", "content": "Count."}]}
        text, errors = "", []
        with server.http.stream("POST", f"{server.address}/v1/chat/completions", json=body) as reply:
            for line in reply.iter_lines():
                if not line.startswith("data: "):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    errors.append(event["error"]["code"])
                    continue
                text += event["choices"][0]["delta"].get("content") or ""
                if text.endswith("three"):
                    kill(server)
        halting.go.set()
        assert (text, errors) == ("One two three", ["engine_crashed"])
        (row,) = server.settled(1)
        assert (row.status, row.answers) == ("failed", [{"text": "One two three"}])


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_stops_the_work_and_leaves_a_row(serve: Serve, gate: Any, stream: bool) -> None:
    server = serve(gate.model, at_once=1)
    body = {"model": "", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.address}/v1/chat/completions", json=body, timeout=httpx.Timeout(PATIENCE, read=0.3))
    server.settled(1)
    gate.open.set()
    assert message_of(server.ask("next")) == "You said: next"  # its only place is free again
    assert [row.status for row in server.stored()] == ["cancelled", "answered"]
    assert server.serving.service.line.free == 1


def test_a_stream_that_is_left_half_way_is_stored_as_far_as_it_came(serve: Serve) -> None:
    from fake_server import FakeServer, send_pieces

    halting = Halting()
    with FakeServer(lambda handler, request: send_pieces(halting.pieces())(handler, request)) as fake:
        server = serve(f"openai:m@{fake.url}")
        body = {"model": "", "stream": True, "messages": [{"role": "user", "content": "Count."}]}
        with httpx.stream("POST", f"{server.address}/v1/chat/completions", json=body) as reply:
            for line in reply.iter_lines():
                if "three" in line:
                    break
        (row,) = server.settled(1)
        halting.go.set()
        assert (row.status, row.answers) == ("cancelled", [{"text": "One two three"}])


def test_an_answer_that_takes_too_long_is_ended(serve: Serve, gate: Any) -> None:
    server = serve(gate.model, limit=0.2)
    answer = server.ask("Hi")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    gate.open.set()
    (row,) = server.settled(1)
    assert row.status == "failed" and (row.settings or {})["fault"].startswith("TimeoutError")


def test_more_than_can_wait_is_turned_away_with_a_time_to_come_back(serve: Serve, gate: Any) -> None:
    server = serve(gate.model, at_once=2, waiting=3)
    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(server.ask, str(number)) for number in range(5)]
        gate.wait_for(2)
        end = time.monotonic() + PATIENCE
        while server.serving.service.line.waiting < 3:
            assert time.monotonic() < end, "the others did not come"
        refused = server.ask("one too many")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(refused.headers["Retry-After"]) >= 1
        gate.open.set()
        assert [each.result().status_code for each in asked] == [200] * 5


def test_a_model_that_fails_in_one_answer_fails_that_answer_alone(serve: Serve, script: str, tmp_path: Path) -> None:
    server = serve(script)
    refused = server.ask("What is that?")
    assert refused.status_code == 400 and "has no answer to 'What is that?'" in message_of(refused)
    assert message_of(server.ask(KNOCK)) == WHO
    assert server.serving.versions.primary.starts == 1


def test_a_remote_that_fails_is_said_to_be_the_one(serve: Serve) -> None:
    from fake_server import FakeServer, error, send

    with FakeServer(send(error("no such model", "model_not_found"), 404)) as fake:
        server = serve(f"openai:m@{fake.url}")
        answer = server.ask("Hi")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
    assert "no such model" in message_of(answer)


# ---- the watch over the process


class Dying(Engine):
    """An engine whose every process is ready and then dies; `trouble` is raised instead of the next starts."""

    def __init__(self, *trouble: Exception) -> None:
        super().__init__(Spec("m"))
        self.trouble = [*trouble]
        self.says = b""

    async def _launch(self) -> asyncio.StreamReader:
        self.starts += 1
        if self.starts > 1 and self.trouble:
            raise self.trouble.pop(0)
        self.fault = ""
        self._ready.set()
        reader = asyncio.StreamReader()
        reader.feed_data(self.says)
        reader.feed_eof()
        return reader


def waits(engine: Engine, monkeypatch: pytest.MonkeyPatch, most: int) -> list[float]:
    """The seconds before each of the next starts."""
    found: list[float] = []
    rest = asyncio.sleep

    async def scenario() -> None:
        over = asyncio.Event()

        async def told(seconds: float) -> None:
            found.append(seconds)
            await (rest(0) if len(found) < most else over.wait())

        monkeypatch.setattr(engine_module.asyncio, "sleep", told)
        await engine.start()
        async with asyncio.timeout(PATIENCE):
            while len(found) < most:
                await rest(0)
        assert "is started anew" in engine.fault or "cannot be loaded again" in engine.fault
        await engine.close()

    asyncio.run(scenario())
    return found


def test_one_that_dies_again_and_again_is_started_ever_later(monkeypatch: pytest.MonkeyPatch) -> None:
    assert waits(Dying(), monkeypatch, 8) == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_whatever_goes_wrong_at_a_new_start_is_not_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = (RuntimeError("not enough memory"), ValueError("no JSON"), BadModel("'m' is damaged"))
    engine = Dying(*trouble)
    assert waits(engine, monkeypatch, 5) == [0.0, 1.0, 2.0, 4.0, 8.0]
    assert engine.starts == 5 and engine.trouble == []


def test_a_message_that_cannot_be_read_ends_the_process_and_not_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Dying()
    engine.says = b"no JSON\n"
    assert waits(engine, monkeypatch, 3) == [0.0, 1.0, 2.0]
    assert engine.starts == 3
