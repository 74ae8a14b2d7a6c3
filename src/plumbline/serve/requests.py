"""What may be asked, in OpenAI's shapes, and what it means in ours.

A field that we do not know is refused, and so is one that we know and cannot follow, unless it asks for what we do
anyway (a penalty of 0). Fields that change no answer (`metadata`, `store`) are taken and left alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.config import JsonValue

from plumbline.errors import UserError
from plumbline.models import Sampling
from plumbline.serve import tools
from plumbline.web.errors import Refusal

B = TypeVar("B", bound="Body")

MOST_STOPS = 4
MOST_PROMPTS = 128
MOST_TEXTS = 2048
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


WITH_WORDS: list[JsonValue] = [
    {"required": ["content"], "properties": {"content": {"type": ["string", "array"]}}},
    {"required": ["tool_calls"], "properties": {"tool_calls": {"type": "array", "minItems": 1}}},
]
"""What the API's document says of a message: it has words, or it calls tools."""


class ApiError(Refusal):
    """A refusal that names the field and carries the code by which OpenAI's clients tell it."""

    def __init__(
        self, status: int, sentence: str, *, param: str | None = None, code: str | None = None, wait: int | None = None
    ) -> None:
        super().__init__(status, sentence, wait=wait)
        self.param = param
        self.code = code


def refuse(param: str, sentence: str, code: str | None = None) -> NoReturn:
    raise ApiError(400, f"`{param}` {sentence}", param=param, code=code)


@dataclass(frozen=True)
class Asked:
    """A request in our own words: prompts as they travel to the engine, and how to answer them."""

    kind: Literal["chat", "completion", "embedding"]
    model: str
    prompts: tuple[dict[str, Any], ...]
    sampling: Sampling
    stream: bool = False
    usage: bool = False
    """Whether a stream ends with the counts."""
    logprobs: int | None = None
    logprobs_needed: bool = True
    """Whether an engine that tells none is refused; else it answers without."""
    user: str = ""
    tools: tuple[dict[str, Any], ...] = ()
    choice: str = "none"
    """Of tools: "none", "auto", "required" or the name of one."""
    consent: bool = False
    """Whether what was typed may become a prompt of the next round."""
    dimensions: int | None = None
    """How long a vector must be."""

    @property
    def rows(self) -> int:
        return len(self.prompts) * self.sampling.n

    def message(self, number: int) -> dict[str, Any]:
        """What the engine is sent for one of the prompts."""
        sampling = {name: value for name, value in vars(self.sampling).items() if value is not None}
        return {
            "do": "answer",
            "prompt": self.prompts[number],
            "sampling": {**sampling, "stop": list(self.sampling.stop)},
            "stream": self.stream,
            "logprobs": self.logprobs,
        }


# ---- the bodies


def stated(**schema: Any) -> Any:
    """What the API's document says of a field beyond its type, where our own words say it to who does otherwise."""
    return Field(json_schema_extra=schema)


def whole(given: Any) -> Any:
    """JSON knows one kind of number: 2.0 and 1e3 are whole."""
    return int(given) if isinstance(given, float) and given.is_integer() else given


Words = Annotated[str, stated(minLength=1)]
WHOLE = BeforeValidator(whole)


class Body(BaseModel):
    """What is read strictly: a number in quotes is no number, and "yes" is not true."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: bool = False


class Drawn(Body):
    """What chats and completions have in common."""

    model: str = ""
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0), WHOLE] | None = None
    n: Annotated[int, Field(ge=1, le=128), WHOLE] | None = None
    max_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    stop: Words | Annotated[list[Words], stated(maxItems=MOST_STOPS)] | None = None
    seed: Annotated[int, WHOLE] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=200)] | None = None
    safety_identifier: Annotated[str, Field(max_length=200)] | None = None
    frequency_penalty: Annotated[float | None, stated(enum=[0, None])] = None
    presence_penalty: Annotated[float | None, stated(enum=[0, None])] = None
    logit_bias: Annotated[dict[str, float] | None, stated(maxProperties=0)] = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None

    def follow(self) -> None:
        """Refuses what we cannot do."""
        for name in ("frequency_penalty", "presence_penalty", "logit_bias"):
            if getattr(self, name):
                refuse(name, "is not supported here: leave it out", "unsupported_parameter")
        if self.stream_options is not None and not self.stream:
            refuse("stream_options", "goes with `stream`: true")

    def sampling(self, limit: int, **more: Any) -> Sampling:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stop) > MOST_STOPS or not all(stop):
            refuse("stop", f"holds {len(stop)} texts: give up to {MOST_STOPS}, none of them empty")
        seed = None if self.seed is None else self.seed % 2**63
        drawn = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k, "n": self.n}
        given = {name: value for name, value in drawn.items() if value is not None}
        try:
            return Sampling(**{"temperature": 1.0, **given, **more}, max_new_tokens=limit, seed=seed, stop=tuple(stop))
        except UserError as error:
            raise ApiError(400, str(error)) from error

    def who(self) -> str:
        return self.safety_identifier or self.user or ""

    def agrees(self) -> bool:
        """Whether the user agreed that the prompt may be trained on."""
        return (self.metadata or {}).get("consent") == "yes"


class Part(Body):
    model_config = ConfigDict(json_schema_extra={"required": ["type", "text"]})

    type: Annotated[str, stated(const="text")]
    text: str | None = None


class Turn(BaseModel):
    """A message; what else a client writes of a turn of the model's (`refusal`, `audio`) is left alone."""

    model_config = ConfigDict(extra="ignore", strict=True, json_schema_extra={"anyOf": WITH_WORDS})

    role: Annotated[str, stated(enum=list(ROLES))]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class JsonSchema(Body):
    name: str
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Chat(Drawn):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Turn], Field(min_length=1, max_length=2048)]
    max_completion_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    response_format: ResponseFormat | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[list[str] | None, stated(enum=[["text"], None])] = None
    reasoning_effort: str | None = None
    verbosity: str | None = None

    def asked(self, default: int) -> Asked:
        """What it means; `default` is the most tokens where it does not say."""
        self.follow()
        if self.modalities not in (None, ["text"]):
            refuse("modalities", f"is {self.modalities!r}: answers here are text")
        if self.top_logprobs is not None and not self.logprobs:
            refuse("top_logprobs", "goes with `logprobs`: true")
        choice, offered = tools.chosen(self.tools or (), self.tool_choice)
        schema = self._schema()
        if schema is not None and choice not in ("none", "auto"):
            refuse("response_format", "asks for a schema, and a call of a tool is required: give one of them")
        messages = [message_of(turn, place) for place, turn in enumerate(self.messages)]
        return Asked(
            "chat",
            self.model,
            ({"messages": messages},),
            self.sampling(self.max_completion_tokens or self.max_tokens or default, schema=schema),
            stream=bool(self.stream),
            usage=bool(self.stream_options and self.stream_options.include_usage),
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            user=self.who(),
            consent=self.agrees(),
            tools=offered,
            choice=choice,
        )

    def _schema(self) -> dict[str, Any] | None:
        if self.response_format is None or self.response_format.type == "text":
            return None
        if self.response_format.type == "json_object":
            return {"type": "object"}
        if self.response_format.json_schema is None:
            refuse("response_format", "is of the type json_schema and holds none")
        return self.response_format.json_schema.schema_


def message_of(turn: Turn, place: int) -> dict[str, Any]:
    """A turn as our records have it."""
    where = f"messages.{place}"
    if turn.role not in ROLES:
        refuse(f"{where}.role", f"is {turn.role!r}: it is one of {', '.join(ROLES)}")
    content = turn.content
    if isinstance(content, list):
        strange = [part.type for part in content if part.type != "text" or part.text is None]
        if strange:
            refuse(f"{where}.content", f"holds a part of the type {strange[0]!r}: only text is read here")
        content = "".join(part.text or "" for part in content)
    if content is None and not turn.tool_calls:
        refuse(f"{where}.content", "is missing: only a turn that calls tools goes without")
    kept = {"name": turn.name, "tool_calls": turn.tool_calls, "tool_call_id": turn.tool_call_id}
    more = {name: value for name, value in kept.items() if value is not None}
    return {"role": ROLES[turn.role], "content": content, **more}


class Completions(Drawn):
    """The body of /v1/completions: text without a chat template."""

    prompt: Annotated[str | list[str] | list[int] | list[list[int]], stated(minItems=1)]
    logprobs: Annotated[int, Field(ge=0, le=5), WHOLE] | None = None
    echo: Annotated[bool | None, stated(enum=[False, None])] = None
    suffix: Annotated[str | None, stated(enum=["", None])] = None
    best_of: Annotated[int, WHOLE] | None = None

    def asked(self, default: int) -> Asked:
        """What it means; `default` is the most tokens where it does not say."""
        self.follow()
        for name in ("echo", "suffix"):
            if getattr(self, name):
                refuse(name, "is not supported here: leave it out", "unsupported_parameter")
        if self.best_of not in (None, self.n or 1):
            refuse("best_of", "is not supported here: leave it out", "unsupported_parameter")
        prompts = tuple(self._prompts())
        if not 1 <= len(prompts) <= MOST_PROMPTS:
            refuse("prompt", f"holds {len(prompts)} prompts: give 1 to {MOST_PROMPTS}")
        if self.stream and len(prompts) > 1:
            refuse("stream", "carries one prompt: ask for the others apart")
        return Asked(
            "completion",
            self.model,
            prompts,
            self.sampling(self.max_tokens or default),
            stream=bool(self.stream),
            usage=bool(self.stream_options and self.stream_options.include_usage),
            logprobs=self.logprobs,
            user=self.who(),
            consent=self.agrees(),
        )

    def _prompts(self) -> Sequence[dict[str, Any]]:
        if isinstance(self.prompt, str):
            return [{"text": self.prompt}]
        if self.prompt and isinstance(self.prompt[0], int):
            return [{"tokens": self.prompt}]
        return [{"text": each} if isinstance(each, str) else {"tokens": each} for each in self.prompt]


class Embeddings(Body):
    """The body of /v1/embeddings."""

    model: str = ""
    input: Words | Annotated[list[Words], stated(minItems=1, maxItems=MOST_TEXTS)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, WHOLE] | None = None
    user: Annotated[str, Field(max_length=200)] | None = None

    def asked(self) -> Asked:
        """What it means."""
        texts = [self.input] if isinstance(self.input, str) else self.input
        if not 1 <= len(texts) <= MOST_TEXTS or not all(text for text in texts):
            refuse("input", f"holds {len(texts)} texts: give 1 to {MOST_TEXTS}, none of them empty")
        prompts = tuple({"text": text} for text in texts)
        return Asked("embedding", self.model, prompts, Sampling(), user=self.user or "", dimensions=self.dimensions)


def read(kind: type[B], body: bytes) -> B:
    """The body as that shape; what is wrong with it is a refusal that names the field."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise ApiError(400, f"The body is no JSON: {first['msg']}", code="invalid_json") from None
        param = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ApiError(
                400, f"`{param}` is no field that is known here: leave it out", param=param, code="unknown_parameter"
            ) from None
        raise ApiError(400, f"`{param}`: {first['msg']}", param=param) from None


def characters(asked: Asked) -> int:
    """How long the prompts are, as JSON."""
    return sum(len(json.dumps(prompt, ensure_ascii=False)) for prompt in asked.prompts)
