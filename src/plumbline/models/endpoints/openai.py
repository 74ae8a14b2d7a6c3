"""The dialect of OpenAI's API, spoken by vLLM, llama.cpp, Ollama and most hosts.

Messages go to /chat/completions; `Raw` text and token ids go to /completions. `top_k` is no part of OpenAI's API but of
most other servers': it is refused for OpenAI itself and sent elsewhere. A server's own default for it then holds
where it is 0; a `top_k` as large as the vocabulary says "all" to every server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pydantic import BaseModel

from plumbline.errors import UserError
from plumbline.models import Completion, FinishReason, Prompt, Raw, Sampling
from plumbline.models.chat import conversation, is_tokens
from plumbline.models.endpoints.dialect import Count, Reply, function_call, joined, refuse, sampling_values

_FINISH: dict[str, FinishReason] = {
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "cancelled",
    "abort": "cancelled",  # vLLM, when a request is dropped
}
"""Whatever is not named here ("stop", and what servers invent for it) is an ordinary end."""


class _Function(BaseModel):
    name: str | None = None
    arguments: str | None = None


class _Call(BaseModel):
    index: int = 0
    id: str | None = None
    function: _Function


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Logprob(BaseModel):
    logprob: float


class _Logprobs(BaseModel):
    content: list[_Logprob] | None = None
    token_logprobs: list[float] | None = None  # /completions


class _Choice(BaseModel):
    index: int = 0
    message: _Message | None = None
    delta: _Message | None = None
    text: str | None = None  # /completions
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    prompt_tokens: Count = 0
    completion_tokens: Count = 0


class _Reply(BaseModel):
    """A reply, or one event of a streamed one."""

    choices: list[_Choice]
    usage: _Usage | None = None


class OpenAI:
    """Requests written and replies read for one model."""

    many = True

    def __init__(self, model: str, *, at_home: bool, logprobs: bool = False) -> None:
        self.model = model
        self.at_home = at_home
        self.logprobs = logprobs

    def request(self, prompt: Prompt, sampling: Sampling, *, stream: bool = False) -> tuple[str, dict[str, Any]]:
        """The path and the body."""
        refuse("an OpenAI-compatible API", sampling, ("grammar", "truncate", "ignore_eos"))
        if self.at_home:
            refuse("OpenAI's API", sampling, ("top_k",))
        if self.logprobs and sampling.temperature not in (0.0, 1.0):
            raise UserError(
                f"temperature is {sampling.temperature!r} and logprobs were asked for: such an API gives them at "
                "temperature 1 only, so set the temperature to 1, or to 0 for greedy"
            )
        body: dict[str, Any] = {"model": self.model, **sampling_values(sampling, self.at_home)}
        optional = {"top_k": sampling.top_k, "stop": list(sampling.stop), "n": sampling.n if sampling.n > 1 else 0}
        body |= {name: value for name, value in optional.items() if value}
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if isinstance(prompt, Raw) or is_tokens(prompt):
            return "/completions", body | self._completions(prompt, sampling)
        return "/chat/completions", body | self._chat(prompt, sampling)

    def _completions(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        refuse("the completions API, which Raw text and token ids go to,", sampling, ("schema",))
        text = str(prompt) if isinstance(prompt, str) else list(cast("Sequence[int]", prompt))
        logprobs = {"logprobs": 1} if self.logprobs else {}
        return {"prompt": text, "max_tokens": sampling.max_new_tokens, **logprobs}

    def _chat(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        talk = conversation(prompt)
        # OpenAI's newer models refuse the old name of the limit; other servers know only the old one.
        limit = "max_completion_tokens" if self.at_home else "max_tokens"
        body: dict[str, Any] = {"messages": [dict(message) for message in talk.messages]}
        body[limit] = sampling.max_new_tokens
        if talk.tools:
            body["tools"] = list(talk.tools)
        if sampling.schema is not None:
            named = {"name": "answer", "schema": sampling.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        if self.logprobs:
            body["logprobs"] = True
        return body

    def read(self, reply: dict[str, Any]) -> Reply:
        """The answers in a reply, in the order of their index."""
        parsed = _Reply.model_validate(reply)
        if not parsed.choices:
            raise ValueError("it holds no choice")
        choices = sorted(parsed.choices, key=lambda choice: choice.index)
        usage = parsed.usage or _Usage()
        completions = [self._completion(choice, usage) for choice in choices]
        return Reply(completions, usage.completion_tokens)

    def _completion(self, choice: _Choice, usage: _Usage) -> Completion:
        message = choice.message or _Message(content=choice.text)
        calls = [
            function_call(call.function.name or "", call.function.arguments or "{}", call.id)
            for call in message.tool_calls or ()
        ]
        finish = _FINISH.get(choice.finish_reason or "", "stop")
        logprobs = _numbers(choice.logprobs)
        if self.logprobs and logprobs is None:
            raise ValueError("it holds no logprobs, which were asked for")
        return Completion(
            text=joined(message.content or message.refusal or ""),
            # Some servers say "stop" after a tool call.
            finish_reason="tool_calls" if calls and finish == "stop" else finish,
            logprobs=tuple(logprobs or ()),
            prompt_tokens=usage.prompt_tokens,
            tool_calls=tuple(calls),
        )

    def draft(self) -> _Draft:
        """An empty draft."""
        return _Draft(self)


class _Draft:
    """A streamed answer, gathered into the one choice that an unstreamed reply would hold."""

    def __init__(self, dialect: OpenAI) -> None:
        self._dialect = dialect
        self._text = ""
        self._calls: dict[int, _Call] = {}
        self._logprobs: list[float] | None = None
        self._finish: str | None = None
        self._usage = _Usage()

    @property
    def finished(self) -> bool:
        return self._finish is not None

    def add(self, event: dict[str, Any]) -> str:
        parsed = _Reply.model_validate(event)
        self._usage = parsed.usage or self._usage
        added = ""
        for choice in parsed.choices:
            delta = choice.delta or _Message(content=choice.text)
            added += delta.content or delta.refusal or ""
            for call in delta.tool_calls or ():
                self._add_call(call)
            logprobs = _numbers(choice.logprobs)
            if logprobs is not None:
                self._logprobs = (self._logprobs or []) + logprobs
            self._finish = choice.finish_reason or self._finish
        self._text += added
        return added

    def _add_call(self, piece: _Call) -> None:
        call = self._calls.setdefault(piece.index, _Call(index=piece.index, function=_Function(name="", arguments="")))
        call.id = piece.id or call.id
        call.function.name = (call.function.name or "") + (piece.function.name or "")
        call.function.arguments = (call.function.arguments or "") + (piece.function.arguments or "")

    def reply(self) -> Reply:
        choice = _Choice(
            message=_Message(content=self._text, tool_calls=list(self._calls.values())),
            finish_reason=self._finish,
            logprobs=None if self._logprobs is None else _Logprobs(token_logprobs=self._logprobs),
        )
        completion = self._dialect._completion(choice, self._usage)
        return Reply([completion], self._usage.completion_tokens)


def _numbers(logprobs: _Logprobs | None) -> list[float] | None:
    """The chosen tokens' logprobs in either of the two shapes, None where there are none."""
    if logprobs is None:
        return None
    if logprobs.content is not None:
        return [entry.logprob for entry in logprobs.content]
    return logprobs.token_logprobs
