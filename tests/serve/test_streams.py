"""What is streamed is read back whole by OpenAI's own client, whatever is said, however it is cut, whoever hangs up."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import httpx
import openai
import pytest
from fake_server import FakeServer, piece, send, send_pieces
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from plumbline.models.endpoints.openai import OpenAI
from plumbline.models.endpoints.transport import read_events
from plumbline.serve import shapes
from plumbline.serve.replies import Answer, Answered, Pieces
from serving import KNOCK, PATIENCE, Running

quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
letters = st.text(st.characters(categories=None, exclude_categories=["Cs"]), max_size=12)
places = st.lists(st.integers(0, 5_000), max_size=20)


def cut(content: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({0, len(content), *(place % len(content) for place in places)})
    return [content[begin:end] for begin, end in pairwise(ends)]


def read_by_client(pieces: list[bytes], kind: str) -> list[Any]:
    """The events of a stream that comes in these pieces, as OpenAI's client gives them."""
    headers = {"Content-Type": "text/event-stream"}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, content=iter(pieces)))
    with openai.OpenAI(
        base_url="http://here/v1", api_key="none", http_client=httpx.Client(transport=transport)
    ) as client:
        if kind == "chat":
            return list(client.chat.completions.create(model="m", messages=[], stream=True))
        return list(client.completions.create(model="m", prompt="", stream=True))


@quick
@given(kind=st.sampled_from(["chat", "completion"]), said=st.lists(letters, max_size=5), rest=letters, places=places)
@example(kind="chat", said=["\u2028\x85\x0b", "\r\n\ndata: [DONE]\n\n"], rest="\0", places=[1])
def test_what_is_written_is_read_back_by_both_readers(kind: str, said: list[str], rest: str, places: list[int]) -> None:
    pieces = Pieces("id", kind, "v@1", 1)
    shown = "".join(said)
    answered = Answered("id", kind, "v@1", 1, (Answer(shown + rest, "stop"),), 3, 4)
    content = pieces.first() + b"".join(pieces.text(0, text) for text in said)
    content += pieces.last(answered, [shown], usage=True)

    events = read_by_client(cut(content, places), kind)
    choices = [choice for event in events for choice in event.choices]
    texts = [(choice.delta.content if kind == "chat" else choice.text) or "" for choice in choices]
    assert "".join(texts) == shown + rest
    assert choices[-1].finish_reason == "stop" and events[-1].usage.total_tokens == 7

    draft = OpenAI("m", at_home=False).draft()
    *told, last = read_events(cut(content, places))
    assert "".join(draft.add(json.loads(event.data)) for event in told) == shown + rest and last.data == "[DONE]"
    assert draft.finished and draft.reply().completions[0].text == shown + rest


# ---- through a server


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[FakeServer]:
    with FakeServer(send({})) as server:
        yield server


@pytest.fixture(scope="module")
def server(elsewhere: FakeServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("streams"), f"openai:m@{elsewhere.url}") as server:
        yield server


@quick
@given(
    parts=st.lists(st.text(st.characters(categories=None), max_size=6), max_size=4),
    tail=st.sampled_from([b"", b"data: {}\n\n", b"data: \xff\n\n", b"data: [[[\n\n", b'data: {"error": "x"}\n\n']),
    finish=st.sampled_from([None, "stop", "length", "content_filter", "abort", "\ud83e"]),
    stream=st.booleans(),
    broken=st.booleans(),
)
@example(parts=["\ud83e", "\ude9f"], tail=b"", finish="stop", stream=True, broken=False)
@example(parts=["\ud83e"], tail=b"", finish="stop", stream=False, broken=False)
def test_whatever_the_model_elsewhere_sends_the_client_reads_an_answer_or_an_error(
    server: Running,
    elsewhere: FakeServer,
    parts: list[str],
    tail: bytes,
    finish: str | None,
    stream: bool,
    broken: bool,
) -> None:
    values = [*(piece({"content": part}) for part in parts), piece({}, finish)]
    content = "".join(f"data: {json.dumps(value)}\n\n" for value in values).encode()
    elsewhere.script = [send_pieces([content + tail], cut=broken)]
    answered = server.ask("Hello", stream=stream)
    assert answered.status_code in (200, 502), answered.text
    if answered.status_code == 502:
        shapes.Error.model_validate_json(answered.content)
    elif not stream:
        shapes.ChatCompletion.model_validate_json(answered.content)
    else:
        *events, last = read_events([answered.content])
        ended = last.data == "[DONE]"
        (shapes.Error if not ended else shapes.ChatChunk).model_validate_json(
            last.data if not ended else events[-1].data
        )
        for event in events:
            shapes.ChatChunk.model_validate_json(event.data)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_closes_its_own_half_leaves_a_row_and_its_place(
    serve: Callable[..., Running], script: str, stream: bool
) -> None:
    server = serve(script)
    content = json.dumps({"messages": [{"role": "user", "content": KNOCK}], "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    host, _, port = server.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as link:
        link.sendall(head + content)
        link.shutdown(socket.SHUT_WR)
        while link.recv(65536):
            pass
    (row,) = server.settled(1)
    assert row.status in ("answered", "cancelled")
    assert server.serving.service.line.free == server.serving.service.line.places
