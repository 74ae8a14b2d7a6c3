"""Streams however they are cut, written and broken off: the answer arrives, or an `EndpointError` says why not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from fake_server import (
    FakeServer,
    block_events,
    last_piece,
    message_events,
    piece,
    send,
    send_pieces,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from plumbline.errors import EndpointError
from plumbline.models.endpoints.transport import Patience, read_events
from plumbline.models.remote import RemoteChat

quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
no_patience = Patience(retries=0)
LONE = re.compile("[\ud800-\udfff]")


def cut(content: bytes, places: list[int]) -> list[bytes]:
    """The bytes cut at these places, none of the pieces empty."""
    ends = sorted({0, len(content), *(place % (len(content) + 1) for place in places)})
    return [content[begin:end] for begin, end in pairwise(ends)]


places = st.lists(st.integers(0, 10_000), max_size=30)
FIELDS = (
    "choices index delta message content refusal tool_calls function name arguments id text finish_reason logprobs"
    " usage prompt_tokens type content_block stop_reason partial_json input output_tokens error"
).split()


# ---- events


def by_the_book(content: bytes) -> list[tuple[str, str]]:
    """What the WHATWG's text makes of a whole stream, line by line, without the fields that nobody asks for here."""
    text = content.decode().removeprefix("\ufeff")
    found, name, data = [], "", ""
    *lines, _ = re.split("\r\n|\n|\r", text)
    for line in lines:
        if line == "":
            if data:
                found.append((name, data.removesuffix("\n")))
            name = data = ""
        elif not line.startswith(":"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            name = value if field == "event" else name
            data += value + "\n" if field == "data" else ""
    return found


lines = st.tuples(
    st.sampled_from(["data: ", "data:", "data", "event: ", ": ", "id: ", "retry: ", "", "", "\ufeffdata: "]),
    st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=5),
    st.sampled_from(["\n", "\r\n", "\r"]),
).map(lambda parts: "".join(parts) if parts[0] else parts[2])


@quick
@given(text=st.lists(lines, max_size=12).map("".join), mark=st.booleans(), places=places)
@example(text="data: a\r\rdata: b\r\r", mark=False, places=[])
@example(text="data: a\n\n", mark=True, places=[1, 2])
def test_events_are_those_of_the_standard(text: str, mark: bool, places: list[int]) -> None:
    content = (b"\xef\xbb\xbf" if mark else b"") + text.encode()
    assert [(each.name, each.data) for each in read_events(cut(content, places))] == by_the_book(content)


# ---- answers


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with FakeServer(send({})) as server:
        yield server


def streamed(server: FakeServer, kind: Any, pieces: list[bytes], *, broken: bool = False) -> tuple[str, Any]:
    """What a client shows while it reads the stream, and the whole at its end."""
    server.script = [send_pieces(pieces, cut=broken)]
    chunks = list(RemoteChat("m", server.url, kind, patience=no_patience).stream("Hello"))
    return "".join(chunk.text for chunk in chunks), chunks[-1].completion


def halves(text: str) -> str:
    """The text with every character beyond 16 bits as two halves, as the escapes of JSON name them."""
    units = text.encode("utf-16-be")
    return "".join(chr(int.from_bytes(units[place : place + 2], "big")) for place in range(0, len(units), 2))


def deltas(kind: str, parts: list[str]) -> bytes:
    """A streamed answer of these parts, as JSON that escapes a half of a character and writes all else as it is."""
    if kind == "openai":
        values = [*(piece({"content": part}) for part in parts), piece({}, "stop"), last_piece()]
    else:
        told = [{"type": "text_delta", "text": part} for part in parts]
        values = message_events(block_events(0, {"type": "text", "text": ""}, told))
    plain = [json.dumps(value, ensure_ascii=False) for value in values]
    written = [json.dumps(json.loads(each)) if LONE.search(each) else each for each in plain]
    return "".join(f"data: {each}\n\n" for each in written).encode()


kinds = st.sampled_from(["openai", "anthropic"])
any_text = st.text(st.characters(categories=None), max_size=30)  # halves of characters among it


@quick
@given(kind=kinds, text=any_text, parts=places, places=places)
@example(kind="openai", text="\U0001fa9f", parts=[1], places=[])
def test_a_text_arrives_whole_however_it_is_cut(
    server: FakeServer, kind: str, text: str, parts: list[int], places: list[int]
) -> None:
    units = halves(text)
    ends = sorted({0, len(units), *(place % (len(units) + 1) for place in parts)})
    content = deltas(kind, [units[begin:end] for begin, end in pairwise(ends)])
    shown, whole = streamed(server, kind, cut(content, places))
    assert (
        shown
        == whole.text
        == LONE.sub("\ufffd", units.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    )
    assert shown.encode().decode() == shown


@quick
@given(kind=kinds, place=st.integers(0, 2000), broken=st.booleans())
def test_a_stream_that_ends_anywhere_gives_the_whole_answer_or_a_fault(
    server: FakeServer, kind: str, place: int, broken: bool
) -> None:
    content = deltas(kind, ["Open ", "the ", "wind", "ows. 🪟"])
    place %= len(content) + 1
    try:
        shown, whole = streamed(server, kind, [content[:place]] if place else [], broken=broken)
    except EndpointError:
        return
    assert shown == whole.text == "Open the windows. 🪟"
    assert b'"stop"' in content[:place] or b"end_turn" in content[:place]


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(categories=None), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)


@quick
@given(kind=kinds, values=st.lists(JSON, max_size=4), tail=st.binary(max_size=20))
@example(kind="openai", values=[], tail=b"data: " + b"[" * 100_000 + b"\n\n")
@example(kind="openai", values=[{"choices": [], "usage": {"prompt_tokens": 10**40}}], tail=b"")
def test_whatever_comes_is_an_answer_or_a_fault(server: FakeServer, kind: str, values: list[Any], tail: bytes) -> None:
    content = "".join(f"data: {json.dumps(value)}\n\n" for value in values).encode() + tail
    try:
        shown, whole = streamed(server, kind, [content] if content else [])
    except EndpointError:
        return
    assert shown.encode() == whole.text.encode()


@quick
@given(kind=kinds, value=JSON)
@example(kind="openai", value={"choices": [{"message": {"content": "\ud83e"}}], "usage": {"prompt_tokens": 2**31}})
@example(kind="openai", value={"choices": [{"message": {"content": "\ud83e"}}]})
def test_so_is_a_reply_in_one_piece(server: FakeServer, kind: Any, value: Any) -> None:
    server.script = [send(json.dumps(value).encode())]
    try:
        ((completion,),) = RemoteChat("m", server.url, kind, patience=no_patience)(["Hello"])
    except EndpointError:
        return
    json.dumps([completion.text, completion.tool_calls], ensure_ascii=False).encode()
    assert 0 <= completion.prompt_tokens < 2**31


def test_a_refusal_that_nests_too_deep_is_quoted(server: FakeServer) -> None:
    server.script = [send(b"[" * 100_000, 400)]
    with pytest.raises(EndpointError, match=r"refused the request \(HTTP 400, '\[\["):
        RemoteChat("m", server.url, patience=no_patience)(["Hello"])
