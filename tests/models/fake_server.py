"""A real HTTP server on loopback that answers like OpenAI's and Anthropic's APIs, or goes wrong in a chosen way.

Each request takes the next behaviour of `script`; the last one stays. The shapes are those that the two makers
document, written out by hand.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from plumbline.models import Completion, Conversation, Generate, Prompt, Raw, Sampling
from plumbline.models.scripted import split_tokens


@dataclass(frozen=True)
class Request:
    """What one request said."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FakeServer

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        request = Request(self.path, dict(self.headers), json.loads(self.rfile.read(size)))
        with self.server.lock:
            self.server.requests.append(request)
            place = min(len(self.server.requests), len(self.server.script)) - 1
        self.server.script[place](self, request)

    def send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The header Date, always the same."""
        return "Mon, 01 Jan 2024 00:00:00 GMT"

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


Behaviour = Callable[[Handler, Request], None]


class FakeServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *script: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: Sequence[Behaviour] = script
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        self.over = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.address}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no fault of this server."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()  # what hangs may go
        self.shutdown()
        self._thread.join()
        self.server_close()


# ---- behaviours


def send(value: Any, status: int = 200, **headers: str) -> Behaviour:
    """JSON, or bytes as they are; `retry_after="2"` becomes the header Retry-After."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    named = {"Content-Type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
    return lambda handler, request: handler.send(status, content, named)


def send_pieces(pieces: Iterable[bytes], *, cut: bool = False) -> Behaviour:
    """A stream of pieces, each sent on its own; a cut one lacks its end."""

    def behave(handler: Handler, request: Request) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for piece in pieces:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            handler.wfile.flush()
        if not cut:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True

    return behave


def send_part(content: bytes) -> Behaviour:
    """A body that ends before the length that was announced."""

    def behave(handler: Handler, request: Request) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) + 100))
        handler.end_headers()
        handler.wfile.write(content)
        handler.close_connection = True

    return behave


def hang(handler: Handler, request: Request) -> None:
    """No answer until the server is closed."""
    handler.server.over.wait(60)
    handler.close_connection = True


def hang_up(handler: Handler, request: Request) -> None:
    """The connection closed without a word."""
    handler.close_connection = True


# ---- OpenAI's shapes


def chat(text: str | None, finish: str = "stop", **message: Any) -> dict[str, Any]:
    """A chat completion with one choice."""
    return chats([{"content": text, **message}], finish)


def chats(messages: Sequence[dict[str, Any]], finish: str = "stop") -> dict[str, Any]:
    """A chat completion with several."""
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "refusal": None, "annotations": [], **message},
            "logprobs": None,
            "finish_reason": finish,
        }
        for index, message in enumerate(messages)
    ]
    usage = {"prompt_tokens": 7, "completion_tokens": 3 * len(choices), "total_tokens": 7 + 3 * len(choices)}
    named = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000, "model": "m-2026"}
    return {**named, "choices": choices, "usage": usage, "service_tier": "default", "system_fingerprint": "fp_1"}


def sse(*values: Any, end: str = "\n") -> list[bytes]:
    """Events of data only, as OpenAI sends them; texts as they are, everything else as JSON."""
    texts = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values]
    return [f"data: {text}{end}{end}".encode() for text in texts]


def piece(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    """One chunk of a streamed chat completion."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    named = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "m-2026"}
    return {**named, "choices": [choice], "usage": None}


def last_piece(prompt_tokens: int = 7, completion_tokens: int = 3) -> dict[str, Any]:
    """The chunk that tells the usage and holds no choice."""
    total = prompt_tokens + completion_tokens
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}
    return {**piece({}), "choices": [], "usage": usage}


def embeddings(vectors: Sequence[Sequence[float]]) -> dict[str, Any]:
    """A list of embeddings."""
    data = [{"object": "embedding", "index": index, "embedding": list(row)} for index, row in enumerate(vectors)]
    return {"object": "list", "data": data, "model": "e", "usage": {"prompt_tokens": 5, "total_tokens": 5}}


def error(message: str, code: str | None = None) -> dict[str, Any]:
    """An error body."""
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


# ---- Anthropic's shapes


def message(*content: dict[str, Any], stop: str = "end_turn") -> dict[str, Any]:
    """A message of the given blocks."""
    usage = {"input_tokens": 5, "cache_creation_input_tokens": 1, "cache_read_input_tokens": 2, "output_tokens": 3}
    named = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m-2026"}
    return {**named, "content": list(content), "stop_reason": stop, "stop_sequence": None, "usage": usage}


def named_sse(*values: dict[str, Any]) -> list[bytes]:
    """Events with a name, as Anthropic sends them."""
    return [f"event: {value['type']}\ndata: {json.dumps(value, ensure_ascii=False)}\n\n".encode() for value in values]


def block_events(index: int, block: dict[str, Any], deltas: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events of one content block."""
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def message_events(blocks: Sequence[dict[str, Any]], stop: str = "end_turn", output: int = 3) -> list[dict[str, Any]]:
    """The events of a whole message around those of its blocks."""
    start = {**message(), "stop_reason": None}
    return [
        {"type": "message_start", "message": start},
        {"type": "ping"},
        *blocks,
        {
            "type": "message_delta",
            "delta": {"stop_reason": stop, "stop_sequence": None},
            "usage": {"output_tokens": output},
        },
        {"type": "message_stop"},
    ]


# ---- a whole server over a Generate


def speak(generate: Generate, *, several: bool = True) -> Behaviour:
    """Both APIs over a `Generate`; without `several` a request gets one choice, however many it asks for."""

    def behave(handler: Handler, request: Request) -> None:
        body = request.body
        (answers,) = generate([_prompt(body)], _sampling(body, several))
        anthropic = request.path == "/v1/messages"
        if body.get("stream"):
            pieces = _anthropic_stream(answers[0]) if anthropic else _openai_stream(answers[0])
            send_pieces(pieces)(handler, request)
        elif anthropic:
            stop = "max_tokens" if answers[0].finish_reason == "length" else "end_turn"
            send(message({"type": "text", "text": answers[0].text}, stop=stop))(handler, request)
        else:
            reply = chats([{"content": answer.text} for answer in answers])
            for choice, answer in zip(reply["choices"], answers, strict=True):
                choice["finish_reason"] = answer.finish_reason
            send(reply)(handler, request)

    return behave


def _prompt(body: dict[str, Any]) -> Prompt:
    if "prompt" in body:
        return Raw(body["prompt"]) if isinstance(body["prompt"], str) else body["prompt"]
    return Conversation(body["messages"])


def _sampling(body: dict[str, Any], several: bool) -> Sampling:
    return Sampling(
        n=body.get("n", 1) if several else 1,
        max_new_tokens=body["max_tokens"],
        temperature=body["temperature"],
        seed=body.get("seed"),
        stop=tuple(body.get("stop") or body.get("stop_sequences") or ()),
    )


def _openai_stream(answer: Completion) -> list[bytes]:
    tokens = split_tokens(answer.text)
    return sse(
        piece({"role": "assistant", "content": "", "refusal": None}),
        *(piece({"content": token}) for token in tokens),
        piece({}, answer.finish_reason),
        last_piece(completion_tokens=len(tokens)),
        "[DONE]",
    )


def _anthropic_stream(answer: Completion) -> list[bytes]:
    deltas = [{"type": "text_delta", "text": token} for token in split_tokens(answer.text)]
    stop = "max_tokens" if answer.finish_reason == "length" else "end_turn"
    return named_sse(*message_events(block_events(0, {"type": "text", "text": ""}, deltas), stop, len(deltas)))
