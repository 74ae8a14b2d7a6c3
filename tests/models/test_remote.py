"""`RemoteChat` and `RemoteEmbed` against a real server: many prompts at once, streams that break, vectors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fake_server import (
    Behaviour,
    FakeServer,
    Handler,
    Request,
    block_events,
    chat,
    chats,
    embeddings,
    error,
    hang,
    last_piece,
    message,
    message_events,
    named_sse,
    piece,
    send,
    send_pieces,
    sse,
)

from plumbline.errors import EndpointError, UserError
from plumbline.models import Chunk, Embed, Raw, Sampling
from plumbline.models.endpoints.transport import Patience
from plumbline.models.remote import RemoteChat, RemoteEmbed, _ask_all

NO_WAIT = Patience(sleep=lambda seconds: None)
START = piece({"role": "assistant", "content": ""})


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLUMBLINE_API_KEY", raising=False)


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeServer]]:
    servers: list[FakeServer] = []

    def start(*script: Behaviour) -> FakeServer:
        servers.append(FakeServer(*script).__enter__())
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__(None, None, None)


def asked(request: Request) -> str:
    return str(request.body["messages"][-1]["content"])


# ---- many prompts


def test_answers_come_one_by_one_in_order_and_all_before_a_failure_are_given(serve: Callable[..., FakeServer]) -> None:
    def behave(handler: Handler, request: Request) -> None:
        if asked(request) in ("3", "5"):
            send(error("no more"), 401)(handler, request)
        else:
            send(chats([{"content": f"to {asked(request)}"}, {"content": "more"}]))(handler, request)

    model = RemoteChat("m", serve(behave).url)
    found = []
    with pytest.raises(EndpointError) as caught:
        for answers in model.each([str(number) for number in range(8)], Sampling(n=2, seed=5)):
            found.append([completion.text for completion in answers])
    assert caught.value.status == 401
    assert found == [[f"to {number}", "more"] for number in range(3)]
    whole = model(["0", "1"], Sampling(n=2, seed=5))
    assert list(model.each(["0", "1"], Sampling(n=2, seed=5))) == whole
    assert list(model.each([])) == []


def test_answers_keep_the_order_of_the_prompts_whichever_comes_first(serve: Callable[..., FakeServer]) -> None:
    second_is_done = threading.Event()

    def behave(handler: Handler, request: Request) -> None:
        if asked(request) == "first":
            assert second_is_done.wait(30)
        send(chat(f"to {asked(request)}"))(handler, request)
        if asked(request) == "second":
            second_is_done.set()

    model = RemoteChat("m", serve(behave).url)
    answers = model(["first", "second", "third"], Sampling(seed=5))
    assert [completion.text for (completion,) in answers] == ["to first", "to second", "to third"]
    assert answers[0][0].model == model.name
    assert answers[0][0].seed == 5


def test_no_more_requests_than_allowed_are_under_way(serve: Callable[..., FakeServer]) -> None:
    pair, lock, under_way, most = threading.Barrier(2), threading.Lock(), 0, 0

    def behave(handler: Handler, request: Request) -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        pair.wait(30)  # a third would break into the next pair and be counted
        with lock:
            under_way -= 1
        send(chat("ok"))(handler, request)

    answers = RemoteChat("m", serve(behave).url, at_once=2)(["a", "b", "c", "d", "e", "f"])
    assert len(answers) == 6
    assert most == 2


def test_what_cannot_be_asked_is_refused_before_anything_is_sent(serve: Callable[..., FakeServer]) -> None:
    server = serve(send(chat("ok")))
    with pytest.raises(UserError, match="the prompt holds no message"):
        RemoteChat("m", server.url)(["fine", []])
    with pytest.raises(UserError, match="logprobs were asked for, which Anthropic's API does not give"):
        RemoteChat("m", server.url, "anthropic", logprobs=True)
    assert server.requests == []


def test_a_failure_is_raised_at_once(serve: Callable[..., FakeServer]) -> None:
    def behave(handler: Handler, request: Request) -> None:
        if asked(request) == "bad":
            send(error("too long"), 400)(handler, request)
        else:
            hang(handler, request)

    server = serve(behave)
    with pytest.raises(EndpointError, match="refused the request .HTTP 400, 'too long'") as caught:
        RemoteChat("m", server.url)(["hangs", "bad"])
    assert caught.value.status == 400


def test_after_a_failure_nothing_more_is_begun() -> None:
    failed, begun, threads = threading.Event(), list[int](), set[threading.Thread]()

    def job(number: int) -> None:
        begun.append(number)
        threads.add(threading.current_thread())
        if number == 1:
            raise ValueError("broken")
        assert failed.wait(30)

    with pytest.raises(ValueError, match="broken"):
        _ask_all(job, range(100), at_once=2)
    failed.set()
    for thread in threads:
        thread.join()
    assert len(begun) <= 3  # the thread that failed may have taken one more


# ---- several samples


def test_samples_are_asked_in_one_request(serve: Callable[..., FakeServer]) -> None:
    server = serve(send(chats([{"content": text} for text in "abc"])))
    model = RemoteChat("m", server.url)
    ((a, b, c),) = model(["Hi"], Sampling(n=3))
    assert (a.text, b.text, c.text) == ("a", "b", "c")
    assert [request.body["n"] for request in server.requests] == [3]
    assert {completion.prompt_tokens for completion in (a, b, c)} == {7}
    assert model.speed.new_tokens == 9 and model.speed.new_seconds > 0
    assert model.speed.prompt_tokens == 0 and model.speed.prefill == 0  # nobody knows how long it read


def test_a_server_that_gives_one_choice_is_asked_again_with_another_seed(serve: Callable[..., FakeServer]) -> None:
    server = serve(*(send(chat(text)) for text in "abc"))
    ((a, b, c),) = RemoteChat("m", server.url)(["Hi"], Sampling(n=3, seed=10))
    assert (a.text, b.text, c.text) == ("a", "b", "c")
    assert [(request.body.get("n"), request.body["seed"]) for request in server.requests] == [
        (3, 10),
        (2, 11),
        (None, 12),
    ]
    assert {a.seed, b.seed, c.seed} == {10}


def test_a_server_that_refuses_several_is_asked_for_one_at_a_time(serve: Callable[..., FakeServer]) -> None:
    only_one = send(error("Only one completion choice is allowed"), 400)
    server = serve(only_one, send(chat("a")), send(chat("b")))
    ((a, b),) = RemoteChat("m", server.url)(["Hi"], Sampling(n=2))
    assert (a.text, b.text) == ("a", "b")
    assert [request.body.get("n") for request in server.requests] == [2, None, None]


def test_a_server_that_gives_too_many_is_cut(serve: Callable[..., FakeServer]) -> None:
    server = serve(send(chats([{"content": text} for text in "abc"])))
    ((a,), (b,)) = RemoteChat("m", server.url, at_once=1)(["Hi", "Ho"])
    assert (a.text, b.text) == ("a", "a")


def test_anthropics_samples_are_one_request_each(serve: Callable[..., FakeServer]) -> None:
    server = serve(*(send(message({"type": "text", "text": text})) for text in "abcd"))
    answers = RemoteChat("m", server.url, "anthropic", at_once=1)(["Hi", "Ho"], Sampling(n=2))
    assert [[sample.text for sample in samples] for samples in answers] == [["a", "b"], ["c", "d"]]
    assert [asked(request) for request in server.requests] == ["Hi", "Hi", "Ho", "Ho"]
    assert {request.path for request in server.requests} == {"/v1/messages"}


def test_raw_text_goes_to_completions(serve: Callable[..., FakeServer]) -> None:
    server = serve(send({"choices": [{"index": 0, "text": " a time", "finish_reason": "stop"}]}))
    ((completion,),) = RemoteChat("m", server.url)([Raw("Once upon")])
    assert completion.text == " a time"
    assert server.requests[0].path == "/v1/completions"


# ---- streams


def stream(server: FakeServer, kind: Any = "openai") -> Iterator[Chunk]:
    return RemoteChat("m", server.url, kind, patience=NO_WAIT).stream("Hi")


def test_a_stream_that_is_cut_everywhere_else_says_the_same(serve: Callable[..., FakeServer]) -> None:
    """Pieces of one byte: inside a character, inside an event, between CR and LF."""
    events = sse(START, piece({"content": "naïve 寒い"}), piece({"content": " \u2028☂"}), piece({}, "stop"), end="\r\n")
    whole = b": keep-alive\r\n\r\n".join([*events, *sse(last_piece(4, 2), "[DONE]", end="\r\n")])
    server = serve(send_pieces([whole[place : place + 1] for place in range(len(whole))]))
    *pieces, last = stream(server)
    assert [piece.text for piece in pieces] == ["naïve 寒い", " \u2028☂"]
    assert last.completion is not None
    assert last.completion.text == "naïve 寒い \u2028☂"
    assert last.completion.prompt_tokens == 4


def test_nothing_is_read_after_the_end_of_a_stream(serve: Callable[..., FakeServer]) -> None:
    """The connection stays open and silent after the last event."""

    def behave(handler: Handler, request: Request) -> None:
        pieces = sse(START, piece({"content": "ok"}), piece({}, "stop"), "[DONE]")
        if request.path == "/v1/messages":
            pieces = named_sse(*message_events(block_events(0, {"type": "text", "text": "ok"}, [])))
        send_pieces(pieces, cut=True)(handler, request)
        hang(handler, request)

    for kind in ("openai", "anthropic"):
        assert "".join(piece.text for piece in stream(serve(behave), kind)) == "ok"


def test_reading_and_writing_are_told_apart_in_a_stream(serve: Callable[..., FakeServer]) -> None:
    model = RemoteChat(
        "m", serve(send_pieces(sse(START, piece({"content": "ok"}), piece({}, "stop"), last_piece(4, 2)))).url
    )
    list(model.stream("Hi"))
    assert (model.speed.prompt_tokens, model.speed.new_tokens) == (4, 2)
    assert model.speed.prompt_seconds > 0 and model.speed.new_seconds > 0
    assert model.speed.prefill == 4 / model.speed.prompt_seconds


def test_opening_a_stream_is_tried_again(serve: Callable[..., FakeServer]) -> None:
    good = send_pieces(sse(START, piece({"content": "ok"}), piece({}, "stop"), "[DONE]"))
    server = serve(send(error("busy"), 503), send(error("slow down"), 429), good)
    assert "".join(piece.text for piece in stream(server)) == "ok"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [
        (send_pieces(sse(START, piece({"content": "so far"})), cut=True), "lost the connection"),
        (send_pieces(sse(START, piece({"content": "so far"}))), "closed the stream before the answer ended: ask again"),
        (send_pieces([*sse(piece({"content": "so far"})), b'data: {"choices"\n\n']), "not JSON"),
        (send_pieces([*sse(piece({"content": "so far"})), b"data: \xff\xfe\n\n"]), "bytes that are not UTF-8"),
        (send_pieces(sse(piece({"content": "so far"}), error("out of memory"))), "broke off .*'out of memory'"),
        (
            send_pieces(sse(piece({"content": "so far"}), {"choices": [{"delta": {"content": 3}}]})),
            "choices.0.delta.content",
        ),
    ],
    ids=["cut", "closed early", "garbage", "not UTF-8", "error", "wrong shape"],
)
def test_a_stream_that_breaks_gives_what_came_and_then_says_why(
    behaviour: Behaviour, sentence: str, serve: Callable[..., FakeServer]
) -> None:
    server = serve(behaviour)
    pieces = stream(server)
    assert next(pieces).text == "so far"
    with pytest.raises(EndpointError, match=sentence):
        next(pieces)
    assert len(server.requests) == 1  # what was given cannot be taken back


def test_anthropics_error_in_a_stream_is_said(serve: Callable[..., FakeServer]) -> None:
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    begin = message_events(block_events(0, {"type": "text", "text": ""}, [{"type": "text_delta", "text": "so far"}]))
    pieces = stream(serve(send_pieces(named_sse(*begin[:4], overloaded))), "anthropic")
    assert next(pieces).text == "so far"
    with pytest.raises(EndpointError, match="broke off with an error .'Overloaded'"):
        next(pieces)


def test_a_reader_that_leaves_hangs_up(serve: Callable[..., FakeServer]) -> None:
    noticed = threading.Event()

    def behave(handler: Handler, request: Request) -> None:
        def endless() -> Iterator[bytes]:
            while True:
                yield from sse(piece({"content": "more "}))

        try:
            send_pieces(endless())(handler, request)
        except OSError:
            noticed.set()

    pieces = RemoteChat("m", serve(behave).url).stream("Hi")
    assert next(pieces).text == "more "
    pieces.close()  # type: ignore[attr-defined]
    assert noticed.wait(30)


# ---- vectors


def test_vectors_are_of_unit_length_and_in_order(serve: Callable[..., FakeServer]) -> None:
    def behave(handler: Handler, request: Request) -> None:
        body = embeddings([[float(len(text)), 0.0, 3.0] for text in request.body["input"]])
        body["data"].reverse()
        send(body)(handler, request)

    server = serve(behave)
    embed = RemoteEmbed("e", server.url, batch=2)
    vectors = embed(["four", "", "x" * 1000, "four", "four"])
    assert vectors.dtype == np.float32
    expected = [[0.8, 0, 0.6], [0, 0, 1], [1000 / 1000009**0.5, 0, 3 / 1000009**0.5], [0.8, 0, 0.6], [0.8, 0, 0.6]]
    assert vectors == pytest.approx(np.array(expected), abs=1e-7)
    assert sorted(len(request.body["input"]) for request in server.requests) == [1, 2, 2]
    assert embed.dimensions == 3
    assert len(server.requests) == 3  # known from the vectors
    assert isinstance(embed, Embed)
    assert embed.name == f"openai:e@{server.url}"


def test_no_texts_no_rows_and_the_dimensions_are_asked_for(serve: Callable[..., FakeServer]) -> None:
    server = serve(send(embeddings([[1.0, 2.0]])))
    assert RemoteEmbed("e", server.url)([]).shape == (0, 2)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([[1.0, 0.0]], "holds 1 vectors for 2 texts"),
        ([[1.0, 0.0], [1.0]], "differ in length"),
        ([[1.0, 0.0], [0.0, 0.0]], "a vector of zeros"),
        ([[1.0, 0.0], [float("nan"), 1.0]], r"data\.1\.embedding\.0: Input should be a finite number"),
    ],
)
def test_vectors_that_cannot_be_used_are_refused(
    rows: list[list[float]], sentence: str, serve: Callable[..., FakeServer]
) -> None:
    with pytest.raises(EndpointError, match=sentence):
        RemoteEmbed("e", serve(send(embeddings(rows))).url)(["a", "b"])


def test_a_later_batch_of_another_length_is_refused(serve: Callable[..., FakeServer]) -> None:
    server = serve(send(embeddings([[1.0, 0.0]])), send(embeddings([[1.0, 0.0, 0.0]])))
    with pytest.raises(EndpointError, match="differ in length"):
        RemoteEmbed("e", server.url, batch=1, at_once=1)(["a", "b"])
