"""The nouns, as typed records with JSON Lines in and out. No torch.

A record is frozen. A field that is not in its shape is kept and written back, so data from elsewhere passes through
whole; a field that is required and missing is named, with the misspelt one that was probably meant. Where `prompt_id`
is missing it is made from the prompt, so the same prompt has the same id in every file.

`read_jsonl` streams the records of a file, `write_jsonl` replaces a file or adds to it, `parse` checks one object; they
live in `plumbline.files` and are named here too, since nobody needs one without the other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    PlainValidator,
    field_serializer,
    field_validator,
    model_validator,
)
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from plumbline.errors import UserError
from plumbline.files import BadLine, parse, read_jsonl, shown, write_jsonl

__all__ = [
    "Answer",
    "AnyAnswer",
    "BadLine",
    "Change",
    "ComparisonSet",
    "Demonstration",
    "Evaluation",
    "Generated",
    "Id",
    "Measured",
    "Message",
    "Pair",
    "PromptRecord",
    "Ranking",
    "Rating",
    "Record",
    "Rewarded",
    "Rollout",
    "StoredPrompt",
    "held_out",
    "parse",
    "prompt_id",
    "read_jsonl",
    "write_jsonl",
]

ROLES = ("system", "user", "assistant", "tool")


class Message(TypedDict):
    """One turn of a conversation, in the shape every chat API uses."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None
    name: NotRequired[str]
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]


# ---- what a field accepts, said in sentences that follow the field's name


def checked_text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"has half of a surrogate pair at character {error.start}, which no file can hold") from None
    return value


def checked_messages(value: object) -> list[Message]:
    """The messages as given, each with a role and with text; only a call of tools may go without text."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ValueError(f"is {shown(value)}: it must be a list of messages")
    if not value:
        raise ValueError("is empty: it must hold at least one message")
    checked: list[Any] = []
    for place, message in enumerate(value, 1):
        if not isinstance(message, Mapping):
            raise ValueError(f"has {shown(message)} as message {place}: a message has a role and a content")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ValueError(f"has the role {shown(role)} in message {place}: a role is one of {', '.join(ROLES)}")
        if content is None and not (role == "assistant" and message.get("tool_calls")):
            raise ValueError(f"has no content in message {place}: only an assistant's tool calls may go without")
        if content is not None and not isinstance(content, str):
            raise ValueError(f"has the content {shown(content)} in message {place}: content must be text")
        checked.append({**message, "content": content and checked_text(content)})
    return checked


def checked_prompt(value: object) -> str | list[Message]:
    if not isinstance(value, str):
        if not isinstance(value, Sequence):
            raise ValueError(f"is {shown(value)}: it must be text or a list of messages")
        return checked_messages(value)
    if not value.strip():
        raise ValueError(f"is {shown(value)}: it needs some text")
    return checked_text(value)


def answer_text(value: object) -> object:
    """The text of an answer that was written as messages, the way TRL does; anything else as it is."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        *others, last = checked_messages(value)
        if others or last["role"] != "assistant" or last["content"] is None:
            raise ValueError(f"is {shown(value)}: an answer is text or one message of the assistant")
        return last["content"]
    return value


def some_text(value: str) -> str:
    if not value.strip():
        raise ValueError(f"is {shown(value)}: an answer needs some text")
    return value


def at_least_two(completions: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(completions) < 2:
        raise ValueError(f"holds {len(completions)}: comparing takes at least two")
    return completions


Id = Annotated[str, Field(min_length=1, coerce_numbers_to_str=True)]
StoredPrompt = Annotated[str | list[Message], PlainValidator(checked_prompt)]
AnyAnswer = Annotated[str, BeforeValidator(answer_text)]
RealAnswer = Annotated[AnyAnswer, AfterValidator(some_text)]
Split = Literal["train", "validation", "test"]


# ---- the records


class Record(BaseModel):
    """What every record has in common."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _named_prompt(cls, data: Any) -> Any:
        """Gives a record that came without `prompt_id` the one of its prompt, when the prompt is sound."""
        if not isinstance(data, Mapping) or "prompt_id" not in cls.model_fields or data.get("prompt_id") is not None:
            return data
        try:
            return {**data, "prompt_id": prompt_id(cls._asked(data))}
        except ValueError:
            return {**data, "prompt_id": "none"}  # the prompt is bad, and that is the fault to report

    @classmethod
    def _asked(cls, data: Mapping[str, Any]) -> str | list[Message]:
        """The prompt within raw data."""
        return checked_prompt(data.get("prompt"))


class PromptRecord(Record):
    """A prompt to answer."""

    prompt_id: Id
    prompt: StoredPrompt
    user_id: Id | None = None
    source: str | None = None
    criterion: str | None = None
    split: Split | None = None


class Answer(Record):
    """One of the answers of a comparison set. It may be empty: a model can end at once, and people then flag it."""

    text: AnyAnswer
    model: str = ""
    sampling: dict[str, Any] = {}
    seed: int | None = None


class ComparisonSet(Record):
    """A prompt and its answers, ready to be ranked."""

    set_id: Id
    prompt_id: Id
    prompt: StoredPrompt
    completions: Annotated[tuple[Answer, ...], AfterValidator(at_least_two)]
    criterion: str | None = None


class Ranking(Record):
    """One labeler's ranking of a set: 1 is the best, equal ranks are ties, 1, 1, 3 is read as 1, 1, 2.

    A flagged answer makes no sense to the labeler: it has no rank.
    """

    set_id: Id
    prompt_id: Id
    prompt: StoredPrompt
    completions: Annotated[tuple[AnyAnswer, ...], AfterValidator(at_least_two)]
    ranks: tuple[int | None, ...]
    flags: tuple[bool, ...]
    labeler_id: Id
    instruction_version: Id

    @field_validator("ranks")
    @classmethod
    def _dense(cls, ranks: tuple[int | None, ...]) -> tuple[int | None, ...]:
        given = sorted({rank for rank in ranks if rank is not None})
        if given and given[0] < 1:
            raise ValueError(f"holds {given[0]}: the best rank is 1")
        return tuple(None if rank is None else given.index(rank) + 1 for rank in ranks)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for field, values in (("ranks", self.ranks), ("flags", self.flags)):
            if len(values) != len(self.completions):
                raise ValueError(f"`{field}` has {len(values)} entries for {len(self.completions)} completions")
        for place, (text, rank, flag) in enumerate(zip(self.completions, self.ranks, self.flags, strict=True), 1):
            if flag and rank is not None:
                raise ValueError(f"completion {place} is flagged and has rank {rank}: a flagged one has rank null")
            if not flag and rank is None:
                raise ValueError(f"completion {place} has no rank and is not flagged: rank it or flag it")
            if not flag and not text.strip():
                raise ValueError(f"completion {place} is {shown(text)}: an empty one can only be flagged")
        return self


class Pair(Record):
    """Two answers, the preferred one first. `margin` is (votes for - votes against) / votes.

    With a prompt of messages the answers are written as messages too, since that is how TRL tells chat data from text.
    """

    prompt: StoredPrompt
    chosen: RealAnswer
    rejected: RealAnswer
    set_id: Id | None = None
    prompt_id: Id
    margin: FiniteFloat = 1.0
    n_votes: Annotated[int, Field(ge=1)] = 1
    split: Split | None = None

    @model_validator(mode="after")
    def _different(self) -> Self:
        if self.chosen == self.rejected:
            raise ValueError(
                f"`chosen` and `rejected` are both {shown(self.chosen)}: a pair needs two different answers"
            )
        return self

    @field_serializer("chosen", "rejected")
    def _as_asked(self, text: str) -> str | list[Message]:
        return in_the_form_of(self.prompt, text)


class Rating(Record):
    """A thumb up (`label` true) or down under one answer; written the way TRL's KTO reads it."""

    prompt: StoredPrompt
    completion: RealAnswer
    label: bool
    prompt_id: Id
    split: Split | None = None

    @field_serializer("completion")
    def _as_asked(self, text: str) -> str | list[Message]:
        return in_the_form_of(self.prompt, text)


class Rewarded(Record):
    """An answer with a number: the higher, the better. It may be empty, since a model can end at once."""

    prompt: StoredPrompt
    completion: AnyAnswer
    reward: FiniteFloat
    prompt_id: Id
    split: Split | None = None


class Demonstration(Record):
    """A conversation that ends with the answer to learn; `prompt_id` names what comes before that answer."""

    messages: Annotated[list[Message], PlainValidator(checked_messages)]
    prompt_id: Id
    split: Split | None = None

    @classmethod
    def _asked(cls, data: Mapping[str, Any]) -> str | list[Message]:
        return checked_messages(data.get("messages"))[:-1]

    @field_validator("messages")
    @classmethod
    def _ends_with_an_answer(cls, messages: list[Message]) -> list[Message]:
        if messages[-1]["role"] != "assistant":
            raise ValueError(
                f"ends with a message of the {messages[-1]['role']}: the last one is the assistant's answer"
            )
        if len(messages) == 1:
            raise ValueError("holds an answer alone: put the message before it that it answers")
        if not messages[-1].get("tool_calls"):
            some_text(messages[-1]["content"] or "")
        return messages


class Generated(Record):
    """One answer, as `plumb generate` writes it. It may be empty, since a model can end at once."""

    prompt_id: Id
    prompt: StoredPrompt
    completion: AnyAnswer
    model: str
    sampling: dict[str, Any] = {}
    finish_reason: str
    seed: int | None = None


class Rollout(Record):
    """One answer that a policy sampled while it was trained. Lines of one step and one prompt are one group."""

    step: Annotated[int, Field(ge=0)]
    """The iteration, from 1; 0 is before any update."""
    prompt_id: Id
    prompt: StoredPrompt
    completion: AnyAnswer
    reward: FiniteFloat
    """The reward that is trained, as the scorer gave it."""
    kl: FiniteFloat
    """Sum over the tokens of log pi - log pi_ref: the estimate from this one sample, which may be negative."""
    tokens: Annotated[int, Field(ge=1)]
    """Tokens of the answer, its end-of-text included."""
    ended: bool
    """Whether it wrote its end-of-text before the limit."""
    reference_logprob: FiniteFloat
    """Sum over the tokens of log pi_ref."""


class Change(Record):
    """What a model has above another one over the same items; the interval holds 95 %."""

    other: FiniteFloat
    """The other model's figure."""
    value: FiniteFloat
    """This model's figure minus the other's."""
    low: FiniteFloat
    high: FiniteFloat


class Measured(Record):
    """A figure about a model, with what it takes to doubt it."""

    task: Id
    metric: Id
    value: FiniteFloat
    n: Annotated[int, Field(ge=0)]
    """How many items it is made of."""
    low: FiniteFloat
    high: FiniteFloat
    """The 95 % interval."""
    better: Literal["higher", "lower"] | None = None
    """Which way is good; None where neither is."""
    change: Change | None = None
    """Against the evaluation's other model, where there is one."""
    command: str = ""
    """The command line that measured it."""
    items: str | None = None
    """The file that holds each item; in a project as seen from its folder."""

    @property
    def verdict(self) -> Literal["better", "worse", "same", "unknown"]:
        """What the change says; the same where its interval holds 0, unknown without a change or a good way."""
        if self.change is None or self.better is None:
            return "unknown"
        if self.change.low <= 0 <= self.change.high:
            return "same"
        return "better" if (self.change.value > 0) == (self.better == "higher") else "worse"


class Evaluation(Record):
    """What was measured of a model at one time, alone or beside another one."""

    version: Id
    """The model, a version as `name@n`."""
    against: Id | None = None
    """The other model that it was compared with."""
    measured: tuple[Measured, ...]
    data: dict[str, str] = {}
    """The SHA-256 of each file of items, also of those that ship."""
    code_version: str = ""
    created: str = ""
    """When, in UTC."""


def in_the_form_of(prompt: str | list[Message], text: str) -> str | list[Message]:
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


# ---- ids and what is held out


def prompt_id(prompt: str | Sequence[Message]) -> str:
    """The id of a prompt that came without one: 16 hexadecimal digits, the same on every machine.

    A text is one turn of the user, so both ways to write it have one id.
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(each) for each in prompt]
    canonical = [{key: value for key, value in each.items() if value is not None} for each in messages]
    text = json.dumps(canonical, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def held_out(prompt_id: str, fraction: float = 0.1) -> bool:
    """Whether records of this prompt are kept from training, where they name no split.

    Decided by the id alone, so every method holds out the same prompts; a larger fraction holds out the same and more.
    """
    if not 0.0 <= fraction <= 1.0:
        raise UserError(f"the held-out fraction is {fraction!r}: it must lie between 0 and 1")
    draw = hashlib.sha256(f"held out: {prompt_id}".encode()).digest()
    return int.from_bytes(draw[:8], "big") < fraction * 2**64
