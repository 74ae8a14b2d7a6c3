"""What is answered, in OpenAI's shapes."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded", 503: "unavailable"}
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Answer:
    """One sample as it goes out."""

    text: str
    finish_reason: str
    tool_calls: tuple[dict[str, Any], ...] = ()
    logprobs: tuple[dict[str, Any], ...] | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Answered:
    """The whole answer to a request, after its row was stored."""

    exchange_id: str
    kind: str
    version: str
    created: int
    answers: tuple[Answer, ...]
    prompt_tokens: int
    completion_tokens: int
    cached: bool = False
    route: str = ""
    """Where a request was routed to."""

    @property
    def usage(self) -> dict[str, Any]:
        read, written = self.prompt_tokens, self.completion_tokens
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def whole(answered: Answered) -> dict[str, Any]:
    """The reply to a request that did not ask for a stream."""
    choice = chat_choice if answered.kind == "chat" else text_choice
    return {
        **head(answered, "chat.completion" if answered.kind == "chat" else "text_completion"),
        "choices": [choice(place, answer) for place, answer in enumerate(answered.answers)],
        "usage": answered.usage,
    }


def head(answered: Answered, kind: str) -> dict[str, Any]:
    return {
        "id": answered.exchange_id,
        "object": kind,
        "created": answered.created,
        "model": answered.version,
        "system_fingerprint": answered.version,
    }


def chat_choice(place: int, answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.tool_calls:
        message |= {"content": answer.text or None, "tool_calls": list(answer.tool_calls)}
    logprobs = None if answer.logprobs is None else {"content": chat_logprobs(answer), "refusal": None}
    return {"index": place, "message": message, "logprobs": logprobs, "finish_reason": answer.finish_reason}


def text_choice(place: int, answer: Answer) -> dict[str, Any]:
    return {
        "index": place,
        "text": answer.text,
        "logprobs": None if answer.logprobs is None else text_logprobs(answer),
        "finish_reason": answer.finish_reason,
    }


def chat_logprobs(answer: Answer) -> list[dict[str, Any]]:
    return [
        {**token(each["token"], each["logprob"]), "top_logprobs": [token(*other) for other in each["top"]]}
        for each in answer.logprobs or ()
    ]


def token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def text_logprobs(answer: Answer) -> dict[str, Any]:
    told = answer.logprobs or ()
    offsets, length = [], 0
    for each in told:
        offsets.append(length)
        length += len(each["token"])
    return {
        "tokens": [each["token"] for each in told],
        "token_logprobs": [each["logprob"] for each in told],
        "top_logprobs": [dict(each["top"]) for each in told],
        "text_offset": offsets,
    }


# ---- streams


class Pieces:
    """The events of a stream, in the order in which they go out."""

    def __init__(self, exchange_id: str, kind: str, version: str, created: int) -> None:
        self.chat = kind == "chat"
        self._head = {
            "id": exchange_id,
            "object": "chat.completion.chunk" if self.chat else "text_completion",
            "created": created,
            "model": version,
            "system_fingerprint": version,
        }

    def first(self) -> bytes:
        """That an answer begins; completions have no such event."""
        return self._event(0, {"role": "assistant", "content": ""}) if self.chat else b""

    def text(self, place: int, text: str) -> bytes:
        return self._event(place, {"content": text} if self.chat else text)

    def last(self, answered: Answered, shown: Sequence[str], *, usage: bool) -> bytes:
        """What ends the stream; of each answer, what `shown` does not hold yet goes out first."""
        events = b""
        for place, answer in enumerate(answered.answers):
            before = shown[place] if place < len(shown) else ""
            rest = answer.text[len(before) :]
            if rest or answer.logprobs is not None:
                events += self._event(place, {"content": rest} if self.chat else rest, answer=answer)
            if answer.tool_calls and self.chat:
                calls = [{"index": number, **call} for number, call in enumerate(answer.tool_calls)]
                events += self._event(place, {"tool_calls": calls})
            events += self._event(place, {} if self.chat else "", finish=answer.finish_reason)
        if usage:
            events += event({**self._head, "choices": [], "usage": answered.usage})
        return events + DONE

    def _event(self, place: int, said: Any, *, answer: Answer | None = None, finish: str | None = None) -> bytes:
        choice: dict[str, Any] = {"index": place, "delta" if self.chat else "text": said, "finish_reason": finish}
        if answer is not None and answer.logprobs is not None:
            told = {"content": chat_logprobs(answer)} if self.chat else text_logprobs(answer)
            choice["logprobs"] = told
        else:
            choice["logprobs"] = None
        return event({**self._head, "choices": [choice]})


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


# ---- the rest


def embedding_list(vectors: Sequence[Sequence[float]], name: str, encoding: str, tokens: int) -> dict[str, Any]:
    """Vectors as lists of numbers, or as base64 of 32-bit floats."""

    def written(vector: Sequence[float]) -> Any:
        if encoding == "float":
            return list(vector)
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()

    data = [{"object": "embedding", "index": n, "embedding": written(each)} for n, each in enumerate(vectors)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": name, "usage": usage}


def error(status: int, sentence: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """A refusal as OpenAI's clients read it."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": sentence, "type": kind, "param": param, "code": code or CODES.get(status)}}


def error_of(request: Request, status: int, sentence: str) -> dict[str, Any] | None:
    """The same for whatever the site refuses under the API's addresses; None for its pages."""
    if not request.url.path.startswith("/v1"):
        return None
    return error(status, sentence)
