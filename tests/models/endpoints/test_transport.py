"""Faults of real servers, injected: what is tried again and what is not, what the caller reads, where the key goes."""

from __future__ import annotations

import logging
import socket
import ssl
import traceback
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fake_server import (
    Behaviour,
    FakeServer,
    Handler,
    Request,
    chat,
    error,
    hang,
    hang_up,
    piece,
    send,
    send_part,
    send_pieces,
    sse,
)

from plumbline.errors import EndpointError, UserError
from plumbline.models.endpoints.transport import Endpoint, Event, Patience, read_events
from plumbline.models.remote import RemoteChat

KEY = "sk-proj-Zq83hTnVx0LrB5mWcE7uYdKa2GfJsP94"


class Clock:
    """Time that passes only where something sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "PLUMBLINE_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeServer]]:
    servers: list[FakeServer] = []

    def start(*script: Behaviour) -> FakeServer:
        servers.append(FakeServer(*script).__enter__())
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__(None, None, None)


def ask(url: str, clock: Clock, **patience: Any) -> dict[str, Any]:
    """One request; waits are doubled from half a second, without jitter, and take no time."""
    waits = {"clock": clock, "sleep": clock.sleep, "jitter": lambda: 1.0} | patience
    return Endpoint("openai", "m", url, Patience(**waits)).post("/chat/completions", {"q": 1}, dict)


# ---- events


STREAM = (
    b": hello\r\n\r\n"
    b'data: {"a": 1}\r\n\r\n'
    b"data: over\r\ndata: CR LF\r\n\r\n"
    b"event: named\ndata: one\ndata:two\nid: 7\n\n"
    b": keep-alive\n\n"
    b"data: first\rdata: second\r\r"
    + 'data: naïve 寒い \u2028 ☂ {"x":\x0b1}\n\n'.encode()
    + b"data:\n\nretry: 5\n\ndata: lost, as no empty line follows\n"
)
EVENTS = [
    Event("", '{"a": 1}'),
    Event("", "over\nCR LF"),
    Event("named", "one\ntwo"),
    Event("", "first\nsecond"),
    Event("", 'naïve 寒い \u2028 ☂ {"x":\x0b1}'),
    Event("", ""),
]


def test_events_are_the_same_however_the_bytes_are_cut() -> None:
    assert list(read_events([STREAM])) == EVENTS
    assert list(read_events(STREAM[place : place + 1] for place in range(len(STREAM)))) == EVENTS
    for place in range(len(STREAM)):  # inside CR LF and inside a character too
        assert list(read_events([STREAM[:place], STREAM[place:]])) == EVENTS


# ---- what is tried again


def test_a_429_waits_as_long_as_the_server_asks(serve: Callable[..., FakeServer], clock: Clock) -> None:
    server = serve(send(error("slow down"), 429, retry_after="2"), send(chat("ok")))
    assert ask(server.url, clock)["object"] == "chat.completion"
    assert clock.slept == [2.0]
    assert len(server.requests) == 2


def test_a_date_is_read_by_the_servers_clock(serve: Callable[..., FakeServer], clock: Clock) -> None:
    server = serve(send(error("slow down"), 429, retry_after="Mon, 01 Jan 2024 00:00:07 GMT"), send(chat("ok")))
    ask(server.url, clock)
    assert clock.slept == [7.0]


def test_three_500s_and_then_an_answer(serve: Callable[..., FakeServer], clock: Clock) -> None:
    down = send(error("oops"), 500)
    server = serve(down, down, down, send(chat("ok")))
    ask(server.url, clock)
    assert clock.slept == [0.5, 1.0, 2.0]


def test_waits_grow_to_the_longest_and_are_spread_over_their_upper_half() -> None:
    half, full = Patience(longest_wait=3.0, jitter=lambda: 0.0), Patience(longest_wait=3.0, jitter=lambda: 1.0)
    assert [full.wait(tries) for tries in (1, 2, 3, 4, 1000)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert [half.wait(tries) for tries in (1, 2, 3, 4, 1000)] == [0.25, 0.5, 1.0, 1.5, 1.5]


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_passing_troubles_are_tried_five_times(status: int, serve: Callable[..., FakeServer], clock: Clock) -> None:
    server = serve(send(error("not now"), status))
    with pytest.raises(EndpointError, match=rf"HTTP {status}, 'not now'.*asked 5 times") as caught:
        ask(server.url, clock)
    assert caught.value.status == status
    assert len(server.requests) == 5
    assert clock.slept == [0.5, 1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (400, "refused the request .HTTP 400, 'no'.: change what it names"),
        (401, "refused a request without a key .*: set PLUMBLINE_API_KEY to a valid key"),
        (403, "does not allow this to a request without a key"),
        (404, "knows no model 'm' at 'http://127.0.0.1:.*check the model's name"),
        (422, "refused the request .HTTP 422"),
    ],
)
def test_what_waiting_does_not_mend_is_asked_once(
    status: int, sentence: str, serve: Callable[..., FakeServer], clock: Clock
) -> None:
    server = serve(send(error("no"), status))
    with pytest.raises(EndpointError, match=f"^'openai:m@{server.url}' {sentence}") as caught:
        ask(server.url, clock)
    assert caught.value.status == status
    assert len(server.requests) == 1
    assert clock.slept == []


def test_an_empty_account_is_asked_once(serve: Callable[..., FakeServer], clock: Clock) -> None:
    server = serve(send(error("You exceeded your current quota", "insufficient_quota"), 429))
    with pytest.raises(EndpointError, match="exceeded your current quota"):
        ask(server.url, clock)
    assert len(server.requests) == 1


def test_a_wait_beyond_the_total_is_not_begun(serve: Callable[..., FakeServer], clock: Clock) -> None:
    server = serve(send(error("later"), 429, retry_after="3600"))
    with pytest.raises(EndpointError, match="asks to slow down .*, and asks to wait 3600 s: wait"):
        ask(server.url, clock, total=600.0)
    assert len(server.requests) == 1
    assert clock.slept == []


@pytest.mark.parametrize(
    "behaviour", [hang, hang_up, send_part(b'{"choices": [')], ids=["hang", "hang up", "cut in the body"]
)
def test_silence_is_tried_again(behaviour: Behaviour, serve: Callable[..., FakeServer], clock: Clock) -> None:
    server = serve(behaviour, send(chat("ok")))
    ask(server.url, clock, read=0.1)
    assert clock.slept == [0.5]


def test_silence_that_lasts_is_said(serve: Callable[..., FakeServer], clock: Clock) -> None:
    with pytest.raises(EndpointError, match=r"gave no answer within 0.05 s: .*\(asked 2 times\)") as caught:
        ask(serve(hang).url, clock, read=0.05, retries=1)
    assert caught.value.status is None
    with pytest.raises(EndpointError, match=r"lost the connection \('Server disconnected"):
        ask(serve(hang_up).url, clock, retries=0)
    with pytest.raises(EndpointError, match=r"lost the connection \('peer closed connection"):
        ask(serve(send_part(b"{")).url, clock, retries=0)


def test_an_answer_that_drips_is_ended_by_the_total(serve: Callable[..., FakeServer]) -> None:
    seconds = count()  # each look at the clock is a second later
    drip = send_pieces([b" "] * 1000)
    with pytest.raises(EndpointError, match="was not done within 9 s"):
        Endpoint("openai", "m", serve(drip).url, Patience(total=9.0, clock=lambda: float(next(seconds)))).post(
            "/chat/completions", {}, dict
        )


# ---- what cannot be reached


def test_a_refused_connection_is_tried_again_and_said(clock: Clock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(EndpointError, match="has no server listening: start it, or check host and port"):
        ask(f"http://127.0.0.1:{port}/v1", clock)
    assert clock.slept == [0.5, 1.0, 2.0, 4.0]


@pytest.mark.parametrize(("reason", "waits"), [(socket.EAI_NONAME, 0), (socket.EAI_AGAIN, 4)])
def test_an_unknown_host_is_said(reason: int, waits: int, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(reason, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(EndpointError, match="is on an unknown host 'models.example': check its spelling"):
        ask("http://models.example/v1", clock)
    assert len(clock.slept) == waits


def test_tls_to_a_server_without_it_is_said_once(serve: Callable[..., FakeServer], clock: Clock) -> None:
    server = serve(send(chat("ok")))
    with pytest.raises(EndpointError, match="cannot be reached over TLS .*check http against https"):
        ask(f"https://{server.address}/v1", clock)
    assert clock.slept == []


def test_a_certificate_must_be_trusted_and_can_be(
    serve: Callable[..., FakeServer], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = Path(__file__).with_name("localhost.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = serve(send(chat("ok")))
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    url = f"https://{server.address}/v1"
    with pytest.raises(EndpointError, match=r"over TLS \(CERTIFICATE_VERIFY_FAILED\)"):
        ask(url, clock)
    assert server.requests == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    ask(url, clock)
    assert len(server.requests) == 1


def test_this_machine_is_asked_past_every_proxy(
    serve: Callable[..., FakeServer], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    ask(serve(send(chat("ok"))).url, clock)


# ---- what is not an answer


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            b"<!doctype html>\n<title>Sign in\x1b[31m</title>",
            r"not JSON \('<!doctype html> <title>Sign in \[31m</title>'\)",
        ),
        (b'{"choices": ', "not JSON"),
        (b"", "not JSON"),
        (b"[1, 2]", "JSON that is not an object"),
        (b'{"error": {"message": "CUDA out of memory"}}', "broke off with an error .'CUDA out of memory'"),
        (b'{"error": "model is loading"}', "model is loading"),
    ],
)
def test_what_is_not_an_answer_is_shown_and_asked_once(
    content: bytes, sentence: str, serve: Callable[..., FakeServer], clock: Clock
) -> None:
    server = serve(send(content))
    with pytest.raises(EndpointError, match=sentence):
        ask(server.url, clock)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "bad key"}}', "'bad key'"),
        (b'{"error": "bad key"}', "'bad key'"),
        (b'{"message": "bad key"}', "'bad key'"),
        (b'{"detail": "bad key"}', "'bad key'"),
        (b'{"detail": [{"loc": ["n"]}]}', r"\[{\"loc\""),
        (b"bad\n  key", "'bad key'"),
        (b"x" * 5000, "'" + "x" * 300 + "…'"),
        (b"", "HTTP 400.: change"),
    ],
)
def test_a_servers_words_are_found_in_every_shape(
    body: bytes, said: str, serve: Callable[..., FakeServer], clock: Clock
) -> None:
    with pytest.raises(EndpointError, match=said):
        ask(serve(send(body, 400)).url, clock)


def test_a_request_that_is_not_json_is_the_callers_fault() -> None:
    with pytest.raises(UserError, match="the request is not JSON .*set"):
        Endpoint("openai", "m", "http://127.0.0.1:9").post("/x", {"tools": {1, 2}}, dict)


# ---- keys


@pytest.mark.parametrize(
    ("kind", "url", "variable"),
    [
        ("openai", None, "OPENAI_API_KEY"),
        ("openai", "https://api.openai.com/v1/", "OPENAI_API_KEY"),
        ("openai", "https://EU.api.openai.com/v1", "OPENAI_API_KEY"),
        ("anthropic", None, "ANTHROPIC_API_KEY"),
        ("openai", "http://api.openai.com/v1", "PLUMBLINE_API_KEY"),
        ("openai", "https://xapi.openai.com/v1", "PLUMBLINE_API_KEY"),
        ("openai", "https://api.openai.com.example/v1", "PLUMBLINE_API_KEY"),
        ("openai", "https://example/api.openai.com", "PLUMBLINE_API_KEY"),
        ("openai", "https://api.anthropic.com/v1", "PLUMBLINE_API_KEY"),
        ("anthropic", "https://api.openai.com/v1", "PLUMBLINE_API_KEY"),
        ("openai", "http://127.0.0.1:8000", "PLUMBLINE_API_KEY"),
    ],
)
def test_each_key_goes_to_its_own_place(kind: Any, url: str | None, variable: str) -> None:
    assert Endpoint(kind, "m", url).variable == variable


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_the_makers_keys_stay_away_from_other_servers(
    kind: Any, serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    server = serve(send({}))
    endpoint = Endpoint(kind, "m", server.url)
    endpoint.post("/chat/completions", {}, dict)
    assert not {"authorization", "x-api-key"} & {name.lower() for name in server.requests[0].headers}
    monkeypatch.setenv("PLUMBLINE_API_KEY", "own\n")  # read anew for each request; a line's end is no part of it
    endpoint.post("/chat/completions", {}, dict)
    headers = server.requests[1].headers
    if kind == "openai":
        assert headers["Authorization"] == "Bearer own"
    else:
        assert (headers["x-api-key"], headers["anthropic-version"]) == ("own", "2023-06-01")


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_a_missing_key_is_named_before_anything_is_sent(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(UserError, match=f"^'{kind}:m' needs a key and {kind.upper()}_API_KEY is not set"):
        Endpoint(kind, "m").post("/x", {}, dict)


@pytest.mark.parametrize("key", [KEY + "\nX-Evil: 1", f"“{KEY}”", f"'{KEY}'", KEY[:9] + " " + KEY[9:], KEY + "\x00"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(
    key: str, serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "\x00" not in key:
        monkeypatch.setenv("PLUMBLINE_API_KEY", key)
    else:  # no environment holds it
        monkeypatch.setattr("os.environ", {"PLUMBLINE_API_KEY": key})
    server = serve(send({}))
    with pytest.raises(UserError, match="PLUMBLINE_API_KEY holds blanks, quotes or other characters") as caught:
        Endpoint("openai", "m", server.url).post("/x", {}, dict)
    assert server.requests == []
    assert KEY[:9] not in _everything(caught.value)


def _everything(raised: BaseException) -> str:
    """An error as the most talkative traceback shows it: with its causes and every local name, but the test's own."""
    trace = traceback.TracebackException.from_exception(raised, capture_locals=True)
    del trace.stack[0]
    return "".join([*trace.format(), str(raised), repr(raised), repr(vars(raised))])


def _echo(status: int, template: str, **headers: str) -> Behaviour:
    """A server that answers with the key it was given; `%s` stands for it."""

    def behave(handler: Handler, request: Request) -> None:
        key = request.headers["Authorization"].removeprefix("Bearer ")
        filled = {name: text.replace("%s", key) for name, text in headers.items()}
        send(template.replace("%s", key).encode(), status, **filled)(handler, request)

    return behave


def _echo_stream(handler: Handler, request: Request) -> None:
    key = request.headers["Authorization"]
    send_pieces(sse(piece({"content": "so "}), error(f"upstream refused {key}")))(handler, request)


LEAKS: dict[str, Behaviour] = {
    "401": _echo(401, '{"error": {"message": "Incorrect API key provided: %s."}}'),
    "403 in text": _echo(403, "your header was: Authorization: Bearer %s"),
    "404": _echo(404, '{"detail": "%s"}'),
    "500 at the cut": _echo(500, "x" * 280 + "%s"),
    "nested": _echo(400, '{"error": {"headers": {"%s": ["%s"]}}}'),
    "escaped": _echo(400, '{"error": "' + "".join(f"\\u{ord(letter):04x}" for letter in KEY) + '"}'),
    "redirect": _echo(307, "", location="https://example.com/?key=%s"),
    "not JSON": _echo(200, "<html>%s</html>"),
    "error in a 200": _echo(200, '{"error": "%s"}'),
    "wrong shape": _echo(200, '{"choices": [{"%s": 1, "index": "%s"}]}'),
    "in a stream": _echo_stream,
    "garbage in a stream": lambda handler, request: send_pieces(sse(request.headers["Authorization"]))(
        handler, request
    ),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_no_error_log_or_traceback_shows_the_key(
    leak: str,
    serve: Callable[..., FakeServer],
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("PLUMBLINE_API_KEY", KEY)
    server = serve(LEAKS[leak])
    model = RemoteChat("m", server.url, patience=Patience(clock=clock, sleep=clock.sleep))
    # A redirect's headers are logged by the HTTP library at DEBUG; everything else is read at the finest level.
    with caplog.at_level(logging.INFO if leak == "redirect" else logging.DEBUG), pytest.raises(EndpointError) as caught:
        list(model.stream("Hello")) if "stream" in leak else model(["Hello"])
    assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"  # there was something to leak
    shown = _everything(caught.value) + caplog.text + repr(model) + repr(vars(model)) + repr(vars(model._endpoint))
    assert not [KEY[begin : begin + 8] for begin in range(len(KEY) - 7) if KEY[begin : begin + 8] in shown]
    if leak != "wrong shape":
        assert "[key]" in str(caught.value)


def test_a_redirect_is_not_followed(serve: Callable[..., FakeServer], clock: Clock) -> None:
    other = serve(send(chat("ok")))
    server = serve(send({}, 307, location=f"{other.url}/chat/completions"))
    with pytest.raises(EndpointError, match=f"redirects .HTTP 307, '{other.url}/chat/completions'.*give it as the URL"):
        ask(server.url, clock)
    assert other.requests == []


# ---- URLs


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("https://host/openai/v3", "https://host/openai/v3"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
    ],
)
def test_a_bare_host_gets_its_path(given: str, meant: str) -> None:
    endpoint = Endpoint("openai", "m", given)
    assert endpoint.url == meant
    assert endpoint.name == f"openai:m@{meant}"


def test_the_makers_url_is_left_out_of_the_name() -> None:
    assert Endpoint("openai", "m").name == Endpoint("openai", "m", "https://api.openai.com/").name == "openai:m"
    assert Endpoint("anthropic", "m").name == "anthropic:m"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://", "http://host:port"])
def test_a_url_that_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="the endpoint's URL .*: give one like http://host:8000/v1"):
        Endpoint("openai", "m", url)


@pytest.mark.parametrize(
    "url",
    ["http://me:{}@host/v1", "http://me:{}@host:port/v1", "http://host/v1?key={}", "http://host/v1#{}", "me:{}@host"],
)
def test_a_url_that_may_hold_a_key_is_refused_unseen(url: str) -> None:
    with pytest.raises(UserError) as caught:
        Endpoint("openai", "m", url.format(KEY))
    assert KEY not in str(caught.value)
