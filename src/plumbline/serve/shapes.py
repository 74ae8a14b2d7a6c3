"""The shapes of what is answered, as the API's document states them. `replies.py` writes them; tests hold it to them.

They are kept apart from the writing, since an answer is made many times a second and needs no check of itself.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class Shape(BaseModel):
    """What holds exactly these fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Usage(Shape):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Head(Shape):
    """What every answer of a model begins with."""

    id: Annotated[str, Field(description="Takes feedback by /v1/feedback.")]
    created: int
    model: Annotated[str, Field(description="The exact version that answered.")]
    system_fingerprint: str


# ---- chats


class Function(Shape):
    name: str
    arguments: Annotated[str, Field(description="JSON, as the model wrote it.")]


class ToolCall(Shape):
    id: str
    type: Literal["function"]
    function: Function


class ToolCallPiece(ToolCall):
    """A call in a stream, where it comes whole."""

    index: int


class Alternative(Shape):
    token: str
    logprob: float
    bytes: list[int]


class Token(Alternative):
    top_logprobs: list[Alternative]


class ChatLogprobs(Shape):
    content: list[Token]
    refusal: None = None


class Message(Shape):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCall] = []


class ChatChoice(Shape):
    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(Head):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class Delta(Shape):
    role: Literal["assistant"] = "assistant"
    content: str = ""
    tool_calls: list[ToolCallPiece] = []


class ChatPiece(Shape):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatChunk(Head):
    """An event of a streamed chat; only the last one may have the usage, and it has no choice."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatPiece]
    usage: Usage | None = None


# ---- completions


class TextLogprobs(Shape):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(Shape):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason


class TextCompletion(Head):
    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: Usage


class TextPiece(Shape):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None


class TextChunk(Head):
    """An event of a streamed completion; only the last one may have the usage, and it has no choice."""

    object: Literal["text_completion"]
    choices: list[TextPiece]
    usage: Usage | None = None


# ---- the rest


class Embedding(Shape):
    object: Literal["embedding"]
    index: int
    embedding: Annotated[list[float] | str, Field(description="Numbers, or 32-bit floats as base64.")]


class Read(Shape):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Shape):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Read


class Model(Shape):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Shape):
    object: Literal["list"]
    data: list[Model]


class Stored(Shape):
    """Feedback is on the disk."""

    object: Literal["feedback"]
    id: str
    kind: Literal["thumb", "edit", "ranks"]
    stored: Literal[True]


class Turn(Shape):
    role: str
    content: str


class Candidate(Shape):
    place: Annotated[int, Field(description="By which ranks name it.")]
    text: str


class Instruction(Shape):
    criterion: str
    version: int
    text: str


class ToRank(Shape):
    set_id: str
    again: Annotated[bool, Field(description="This labeler has ranked it before.")]
    prompt: list[Turn]
    answers: Annotated[list[Candidate], Field(description="In the order in which to show them.")]
    instruction: Instruction


class Claim(Shape):
    object: Literal["claim"]
    set: ToRank | None


class Ranking(Shape):
    """A ranking is on the disk."""

    object: Literal["ranking"]
    set_id: str
    stored: Literal[True]
    replayed: Annotated[bool, Field(description="It was there already.")]


class Skip(Shape):
    """A set was given back for good."""

    object: Literal["skip"]
    set_id: str
    stored: Literal[True]


class Fault(Shape):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(Shape):
    """What is wrong with a request, or with us."""

    error: Fault
