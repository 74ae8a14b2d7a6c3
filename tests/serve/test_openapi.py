"""The document of the API is true: requests made of it are understood, and whatever comes back has the stated shape."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import schemathesis
from fake_server import FakeServer, Handler, Request, embeddings, send, speak
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi_checks

from plumbline.models.endpoints.transport import read_events
from plumbline.models.scripted import Scripted
from plumbline.serve import replies, shapes
from plumbline.serve.openapi import OPERATIONS, REFUSALS, document
from plumbline.serve.replies import Answer, Answered, Pieces
from serving import Running

CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.negative_data_rejection,
    openapi_checks.unsupported_method,
]
bounded = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

ANSWER = "Open the windows at night — and “close” them at noon. 🪟"
API = schemathesis.openapi.from_dict(document(keys=False))


def behave(handler: Handler, request: Request) -> None:
    """A model and an embedder elsewhere that answer whatever they are asked."""
    if request.path == "/v1/embeddings":
        send(embeddings([[1.0, float(len(text))] for text in request.body["input"]]))(handler, request)
    else:
        speak(Scripted(lambda prompt: ANSWER))(handler, request)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with FakeServer(behave) as elsewhere:
        folder = tmp_path_factory.mktemp("openapi")
        with Running(folder, f"openai:m@{elsewhere.url}", embedder=f"openai:e@{elsewhere.url}") as server:
            yield server


@pytest.fixture(scope="module")
def there(server: Running) -> Iterator[dict[str, Any]]:
    """What exists, and a connection that stays: most of a request's time is else spent on making one."""
    with requests.Session() as session:
        yield {"id": server.ask().json()["id"], "model": "plumbline", "session": session}


@pytest.mark.slow
@API.parametrize()
@bounded
def test_requests_made_of_the_document(case: Any, server: Running, there: dict[str, Any]) -> None:
    known = there | ({"model": server.settings.embedder} if case.path == "/v1/embeddings" else {})
    if isinstance(case.body, dict):
        for name in ("id", "model"):
            if case.body.get(name) and isinstance(
                case.body[name], str
            ):  # else nearly every request would name what is not there
                case.body[name] = known[name]
    answered = case.call(base_url=server.address, session=there["session"])
    case.validate_response(answered, checks=CHECKS)


# ---- what is answered


STREAMED = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "?"}]}, shapes.ChatChunk),
    ("/v1/completions", {"prompt": "?"}, shapes.TextChunk),
]


@pytest.mark.parametrize(("path", "body", "shape"), STREAMED)
@pytest.mark.parametrize("more", [{}, {"stream_options": {"include_usage": True}}, {"n": 3}])
def test_each_event_of_a_stream_has_its_shape(
    server: Running, path: str, body: dict[str, Any], shape: type[BaseModel], more: dict[str, Any]
) -> None:
    *events, last = read_events([server.post(path, {**body, "stream": True, **more}).content])
    assert last.data == "[DONE]" and len(events) >= 2
    for each in events:
        shape.model_validate_json(each.data)


texts = st.text(max_size=12)
numbers = st.floats(max_value=0, allow_nan=False, allow_infinity=False)
told = st.fixed_dictionaries(
    {"token": texts, "logprob": numbers, "top": st.lists(st.tuples(texts, numbers).map(list), max_size=2)}
)
called = st.fixed_dictionaries({"name": texts, "arguments": texts}).map(
    lambda function: {"id": "call_1", "type": "function", "function": function}
)
answers = st.builds(
    Answer,
    texts,
    st.sampled_from(["stop", "length", "tool_calls", "content_filter"]),
    st.lists(called, max_size=2).map(tuple),
    st.none() | st.lists(told, max_size=3).map(tuple),
)
whole_answers = st.builds(
    Answered,
    st.just("chatcmpl-1"),
    st.sampled_from(["chat", "completion"]),
    texts,
    st.integers(0),
    st.lists(answers, min_size=1, max_size=3).map(tuple),
    st.integers(0),
    st.integers(0),
)


@bounded
@given(answered=whole_answers, usage=st.booleans())
def test_whatever_is_written_has_its_shape(answered: Answered, usage: bool) -> None:
    chat = answered.kind == "chat"
    gives, streams = (shapes.ChatCompletion, shapes.ChatChunk) if chat else (shapes.TextCompletion, shapes.TextChunk)
    gives.model_validate_json(json.dumps(replies.whole(answered)))
    pieces = Pieces(answered.exchange_id, answered.kind, answered.version, answered.created)
    *events, last = read_events([pieces.first() + pieces.text(0, "A") + pieces.last(answered, [], usage=usage)])
    assert last.data == "[DONE]"
    for each in events:
        streams.model_validate_json(each.data)


def test_a_model_is_looked_at_by_its_name(server: Running) -> None:
    listed = shapes.ModelList.model_validate_json(server.http.get(f"{server.address}/v1/models").content)
    for each in listed.data:
        found = server.http.get(f"{server.address}/v1/models/{each.id}")
        assert shapes.Model.model_validate_json(found.content) == each


# ---- refusals


@pytest.mark.parametrize("status", [404, 405, 413])
def test_a_program_is_never_refused_by_a_page(server: Running, status: int) -> None:
    path = {404: "/v1/none", 405: "/v1/feedback", 413: "/v1/feedback"}[status]
    method, content = ("POST", b" " * 5_000_000) if status == 413 else ("GET", None)
    answered = server.http.request(method, server.address + path, content=content, headers={"Accept": "text/html"})
    assert answered.status_code == status
    shapes.Error.model_validate_json(answered.content)
    assert answered.headers.get("allow") == ("POST" if status == 405 else None)


def test_where_keys_are_needed_the_document_says_so_and_every_operation_asks(
    serve: Callable[..., Running], script: str
) -> None:
    server = serve(script, keys=True)
    told = server.http.get(f"{server.address}/openapi.json").json()
    assert told["security"] == [{"key": []}] and document(keys=False)["security"] == []
    for each in OPERATIONS:
        described = told["paths"][each.path][each.method]["responses"]
        assert (
            "401" in described and set(map(int, described)) == {200, *each.refuses} and set(each.refuses) <= {*REFUSALS}
        )
        answered = server.http.request(each.method, server.address + each.path.format(model="plumbline"), content=b"{}")
        assert answered.status_code == 401
        shapes.Error.model_validate_json(answered.content)
