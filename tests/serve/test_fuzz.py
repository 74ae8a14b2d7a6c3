"""No body, however strange, is an error of ours: it is answered, or refused with a status below 500."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plumbline.serve.requests import Chat, Completions, Embeddings
from serving import KNOCK, Running, write_script

quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
CHAT = {"model": "plumbline", "messages": [{"role": "user", "content": KNOCK}]}
BODIES = {
    "/v1/chat/completions": (Chat, CHAT),
    "/v1/completions": (Completions, {"model": "plumbline", "prompt": KNOCK}),
    "/v1/embeddings": (Embeddings, {"model": "none such", "input": KNOCK}),
    "/v1/feedback": (None, {"id": "chatcmpl-1", "thumb": "up"}),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("fuzz")
    with Running(folder, write_script(folder)) as server:
        yield server


def check(server: Running, path: str, body: Any) -> None:
    try:
        content = json.dumps(body).encode()
    except ValueError:
        return
    answered = server.post(path, content)
    assert answered.status_code < 500, (path, body, answered.text)
    if answered.status_code != 200:
        assert answered.json()["error"]["message"]


@quick
@given(path=st.sampled_from(sorted(BODIES)), body=JSON)
def test_any_json(server: Running, path: str, body: Any) -> None:
    check(server, path, body)


@quick
@given(data=st.data(), path=st.sampled_from(sorted(BODIES)))
def test_a_sound_body_with_any_one_field_changed(server: Running, data: Any, path: str) -> None:
    kind, sound = BODIES[path]
    fields = sorted(kind.model_fields) if kind else ["id", "choice", "thumb", "edit", "ranks", "comment", "user"]
    field = data.draw(st.sampled_from(fields))
    value = data.draw(
        JSON | st.sampled_from([-1, 0, 1, 2**63, -(2**70), 1e300, "", [], {}, [[]], [None], "\0", "a" * 300])
    )
    check(server, path, {**sound, field: value})


@quick
@given(messages=st.lists(st.fixed_dictionaries({}, optional={
    "role": st.sampled_from(["user", "system", "assistant", "tool", "developer", "x"]),
    "content": JSON,
    "tool_calls": JSON,
    "tool_call_id": st.text(max_size=5),
    "name": JSON,
}), max_size=4))  # fmt: skip
def test_any_messages(server: Running, messages: list[dict[str, Any]]) -> None:
    check(server, "/v1/chat/completions", {**CHAT, "messages": messages, "stream": len(messages) % 2 == 1})


@quick
@given(content=st.binary(max_size=200))
def test_any_bytes(server: Running, content: bytes) -> None:
    answered = server.post("/v1/chat/completions", content)
    assert answered.status_code == 400


def test_the_server_is_still_there(server: Running) -> None:
    assert server.ask().status_code == 200
    assert server.serving.service.line.free == server.serving.service.line.places
    assert server.serving.versions.primary.starts == 1
