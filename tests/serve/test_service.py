"""The way of a request: what rails read, what is given again, what is charged, and the one row that is left."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_server import FakeServer, embeddings, last_piece, piece, send, send_pieces, sse

from plumbline.feedback.database import DatabaseFailed
from plumbline.guard import Verdict
from plumbline.guard.rails import Blocklist, PersonalData
from plumbline.models import Sampling
from plumbline.serve.draft import Begun
from plumbline.serve.keys import LOCAL, Caller
from plumbline.serve.replies import Answered
from plumbline.serve.requests import Asked
from serving import KNOCK, PATIENCE, WHO, Running, message_of, write_script

Serve = Callable[..., Running]
MAIL = "ann@example.com"
ASKED = [{"role": "user", "content": KNOCK}]


def called(**arguments: Any) -> dict[str, Any]:
    function = {"name": "send_mail", "arguments": json.dumps(arguments, ensure_ascii=True)}
    return {"id": "call_1", "type": "function", "function": function}


def tool(description: str = "Sends a mail.") -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"to": {"type": "string"}, "count": {"type": "integer"}}}
    return {
        "type": "function",
        "function": {"name": "send_mail", "description": description, "parameters": parameters},
    }


# ---- rails


class Shouts:
    """A rail that lets nothing out but in other words."""

    name = "shouts"

    def __call__(self, text: str, side: Any) -> Verdict:
        return Verdict(self.name, side, "pass") if side == "input" else Verdict(self.name, side, "change", "x", "GONE")


async def told_by_token(message: dict[str, Any], deadline: float) -> AsyncGenerator[dict[str, Any], None]:
    """What a local engine sends of an answer whose tokens are asked for."""
    tokens = [{"token": each, "logprob": -0.5, "top": [[each, -0.5]]} for each in ("I am", " Ann")]
    if message["stream"]:
        yield {"text": "I am"}
    done = {"text": "I am Ann", "finish_reason": "stop", "tool_calls": [], "prompt_tokens": 1, "tokens": 2, "seed": 0}
    yield {"done": [{**done, "logprobs": tokens}]}


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_do_not_tell_what_a_rail_took_out(server: Running, stream: bool) -> None:
    primary = server.serving.versions.primary
    primary.known["logprobs"], primary.ask = True, told_by_token  # type: ignore[method-assign]
    told = server.ask("Hi", logprobs=True, top_logprobs=1, stream=stream).text
    assert '"token":" Ann"' in told
    server.serving.service.guards = (Shouts(),)
    told = server.ask("Hi", logprobs=True, top_logprobs=1, stream=stream).text
    assert "GONE" in told and "Ann" not in told


def test_rails_read_the_calls_of_tools_that_a_model_makes(serve: Serve, tmp_path: Path) -> None:
    replies = [
        send_pieces(sse(piece({"tool_calls": [{"index": 0, **call}]}), piece({}, "tool_calls"), last_piece(), "[DONE]"))
        for call in (called(to=MAIL, count=3), called(to="the war"))
    ]
    words = tmp_path / "words.txt"
    words.write_text("the war\n")
    with FakeServer(*replies) as fake:
        server = serve(f"openai:m@{fake.url}", rails=("personal-data", f"blocklist={words}"))
        changed = server.ask("Write.", tools=[tool()]).json()["choices"][0]
        (call,) = changed["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"to": "[EMAIL]", "count": 3}
        stopped = server.ask("Write.", tools=[tool()]).json()["choices"][0]
    assert stopped["finish_reason"] == "content_filter" and "tool_calls" not in stopped["message"]
    assert "war" not in str(server.stored()[1].answers)


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [tool("Speaks of the war.")]},
        {"messages": [{"role": "assistant", "tool_calls": [called(to="the war")]}, {"role": "user", "content": "Go"}]},
        {"messages": [{"role": "user", "content": "Go", "name": "the war"}]},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "string", "enum": ["the war"]}},
            }
        },
    ],
)
def test_rails_read_all_that_is_asked(serve: Serve, script: str, more: dict[str, Any]) -> None:
    server = serve(script)
    server.serving.service.guards = (Blocklist(["the war"]),)
    refused = server.ask(KNOCK, **more)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "content_filter")
    (row,) = server.settled(1)
    assert row.status == "blocked" and "war" not in str(row)  # what a rail refused is not kept


def test_rails_read_what_is_embedded(serve: Serve, script: str) -> None:
    with FakeServer(send(embeddings([[1.0, 0.0]]))) as fake:
        server = serve(script, embedder=f"openai:e@{fake.url}")
        server.serving.service.guards = (PersonalData(), Blocklist(["the war"]))
        asked = {"model": "plumbline", "input": f"I am {MAIL}"}
        assert server.post("/v1/embeddings", asked).status_code == 200
        assert [request.body["input"] for request in fake.requests] == [["I am [EMAIL]"]]
        refused = server.post("/v1/embeddings", {**asked, "input": ["fine", "the war"]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "content_filter")
        refused = server.post("/v1/embeddings", {**asked, "dimensions": 3})
        assert refused.status_code == 400 and "`dimensions` must be 2" in message_of(refused)
        assert len(fake.requests) == 2
    assert [(row.kind, row.status) for row in server.settled(3)] == [
        ("embedding", "answered"),
        ("embedding", "blocked"),
        ("embedding", "failed"),
    ]


def test_an_answer_that_is_kept_passes_the_rails_of_today(serve: Serve, script: str) -> None:
    server = serve(script)
    server.serving.service.guards = (Blocklist(["something else"]),)
    for hit in (None, "hit"):
        answered = server.ask(temperature=0)
        assert (message_of(answered), answered.headers.get("X-Cache")) == (WHO, hit)
    server.serving.service.guards = (Blocklist(["expect"]),)  # of the same name, as after a start with another list
    stopped = server.ask(temperature=0).json()["choices"][0]
    assert (stopped["message"]["content"], stopped["finish_reason"]) == ("Who is there? ", "content_filter")


# ---- what is given again


def test_an_answer_is_kept_under_the_version_that_gave_it(
    serve: Serve, script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    other = write_script(tmp_path / "other", {KNOCK: ["Go away."]})
    server = serve(script, canary=other)
    versions = server.serving.versions
    before, after = versions.engines()
    turns = iter([before, after])  # another version is promoted while the request waits for its place
    with monkeypatch.context() as promoted:
        promoted.setattr(versions, "pick", lambda model, user: next(turns))
        assert message_of(server.ask(temperature=0)) == "Go away."
    assert message_of(server.ask(temperature=0, model=script)) == WHO
    assert server.ask(temperature=0, model=other).headers.get("X-Cache") == "hit"


# ---- what is charged, and stored


class Halting:
    """A model elsewhere that streams three words and then waits."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, handler: Any, request: Any) -> None:
        send_pieces(self._pieces())(handler, request)

    def _pieces(self) -> Iterator[bytes]:
        yield sse(piece({"role": "assistant", "content": ""}))[0]
        for word in ("One", " two", " three"):
            yield sse(piece({"content": word}))[0]
        self.go.wait(PATIENCE)
        yield from sse(piece({"content": " four"}), piece({}, "stop"), last_piece(), "[DONE]")


def test_who_leaves_before_the_end_has_used_what_was_written(serve: Serve) -> None:
    halting = Halting()
    with FakeServer(halting) as fake:
        server = serve(f"openai:m@{fake.url}", keys=True)
        key, _ = server.store.add_key("shop", tokens_a_minute=4)
        headers = {"Authorization": f"Bearer {key}"}
        body = {"model": "", "stream": True, "messages": [{"role": "user", "content": "Count now."}]}
        with httpx.stream("POST", f"{server.address}/v1/chat/completions", json=body, headers=headers) as reply:
            for line in reply.iter_lines():
                if "three" in line:
                    break
        (row,) = server.settled(1)
        halting.go.set()
        assert (row.status, row.prompt_tokens, row.completion_tokens) == ("cancelled", 2, 3)
        refused = server.ask(key=key)
        assert refused.status_code == 429 and "4 tokens a minute" in message_of(refused)


def test_who_leaves_during_the_commit_leaves_one_row(serve: Serve, script: str) -> None:
    server = serve(script)
    begun, go, add = threading.Event(), threading.Event(), server.store.add_exchanges

    def slow(rows: Any) -> None:
        begun.set()
        assert go.wait(PATIENCE)
        add(rows)

    server.store.add_exchanges = slow  # type: ignore[method-assign]
    body = {"model": "", "messages": [{"role": "user", "content": KNOCK}]}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.address}/v1/chat/completions", json=body, timeout=httpx.Timeout(PATIENCE, read=0.3))
    assert begun.wait(PATIENCE)
    server.on_loop(until_free(server))
    go.set()
    server.stop()  # and with it the journal, which writes what it has
    assert [row.status for row in server.stored()] == ["answered"]
    assert server.serving.service.journal.lost == 0


async def until_free(server: Running) -> None:
    """Until the request has noticed that its client is gone."""
    async with asyncio.timeout(PATIENCE):
        while server.serving.service.keys._running.get("", 0):
            await asyncio.sleep(0.01)


def test_of_a_key_without_content_only_numbers_stay(serve: Serve, script: str) -> None:
    server = serve(script, keys=True)
    key, _ = server.store.add_key("silent", keeps_content=False)
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"title": "my diagnosis"}}}
    for more in ({"stop": ["my secret"], "temperature": 0.5}, {"response_format": format}, {"tools": [tool()]}):
        assert server.ask(KNOCK, key, **more).status_code == 200
    rows = server.stored()
    assert rows[0].settings is not None and rows[0].settings["temperature"] == 0.5
    for word in ("my secret", "my diagnosis", "send_mail"):
        assert word not in str(rows)


def test_an_engine_is_not_ended_between_its_choice_and_the_answer(server: Running) -> None:
    """A promotion at that moment drains it; the request that has it still gets its answer."""
    service, primary = server.serving.service, server.serving.versions.primary

    async def scenario() -> list[Any]:
        prompt = {"messages": [{"role": "user", "content": KNOCK}]}
        events = service.answer(Asked("chat", "", (prompt,), Sampling(), stream=True), Caller(LOCAL))
        happened: list[Any] = [await anext(events)]
        drained = asyncio.create_task(primary.drain())
        for _ in range(20):
            await asyncio.sleep(0)
        happened += [each async for each in events]
        await drained
        return happened

    happened = server.on_loop(scenario())
    assert isinstance(happened[0], Begun) and isinstance(happened[-1], Answered)
    assert happened[-1].answers[0].text == WHO


@pytest.mark.parametrize(
    ("where", "path", "body"),
    [
        ("cached", "/v1/chat/completions", {"model": "", "temperature": 0, "messages": ASKED}),
        ("exchange", "/v1/feedback", {"id": "chatcmpl-1", "thumb": "up"}),
        ("keys", "/v1/feedback", {"id": "chatcmpl-1", "thumb": "up"}),
    ],
)  # fmt: skip
def test_a_database_that_fails_is_no_fault_of_the_client(
    serve: Serve, script: str, where: str, path: str, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(script, keys=True)
    key, _ = server.store.add_key("shop")

    def fails(*given: Any, **more: Any) -> Any:
        raise DatabaseFailed("the database '/srv/ann/plumb.db' failed: database is locked")

    monkeypatch.setattr(server.store, where, fails)
    refused = server.post(path, body, key)
    assert (refused.status_code, refused.json()["error"]["type"]) == (503, "server_error")
    assert int(refused.headers["Retry-After"]) > 0 and "plumb.db" not in refused.text
