"""The nouns of an evaluation: an item, what became of it, what is kept of a model's answers and weights.

Lines of common data sets are read as items: `prompt` may be called `question`, `instruction`, `input`, `nl` or `text`
there, `references` may be one text called `reference`, `answer`, `output`, `completion`, `code` or `target`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from string import ascii_uppercase
from typing import Annotated, Any

from pydantic import Field, FiniteFloat, field_validator, model_validator

from plumbline.files import shown
from plumbline.models import Prompt, Sampling
from plumbline.models.preference import Case, Criterion, Verdict
from plumbline.records import AnyAnswer, Id, Record, StoredPrompt

PROMPTS = ("question", "instruction", "input", "nl", "text", "source", "buggy")
REFERENCES = ("references", "reference", "answer", "output", "completion", "code", "target", "fixed", "chosen")
IDS = ("prompt_id", "pair_id", "task_id", "question_id", "id")
GROUPS = ("topic", "category", "dataset")


class Item(Record):
    """One thing that a model is asked. Which fields a task reads beside these, its own kinds of item say."""

    item_id: Id
    about: str = ""
    """The group it belongs to: a topic, an aim."""

    @model_validator(mode="before")
    @classmethod
    def _known_names(cls, data: Any) -> Any:
        """Gives what other data sets call otherwise our names; an item without an id gets that of its content."""
        if not isinstance(data, Mapping):
            return data
        named = dict(data)
        if "prompt" in cls.model_fields and "prompt" not in named:
            found = next((named[name] for name in PROMPTS if isinstance(named.get(name), str)), None)
            more = named.get("input") if "instruction" in named else None
            if found is not None:
                named["prompt"] = f"{found}\n\n{more}" if more else found
        if "references" in cls.model_fields:
            given = next((named[name] for name in REFERENCES if name in named), ())
            named["references"] = [given] if isinstance(given, str) else given
        if "item_id" not in named:
            known = next((named[name] for name in IDS if named.get(name) is not None), None)
            named["item_id"] = digest(dict(data)) if known is None else str(known)
        if "about" not in named:
            named["about"] = next((named[name] for name in GROUPS if isinstance(named.get(name), str)), "")
        return named


class Asked(Item):
    """A prompt, with answers that are right where there are any."""

    prompt: StoredPrompt
    references: tuple[str, ...] = ()


class Choice(Item):
    """A question with answers, the right one first: `choices[0]`."""

    prompt: StoredPrompt
    choices: Annotated[tuple[str, ...], Field(min_length=2)]

    @field_validator("choices")
    @classmethod
    def _have_letters(cls, choices: tuple[str, ...]) -> tuple[str, ...]:
        if len(choices) > len(ascii_uppercase):
            raise ValueError(f"holds {len(choices)} answers: there are letters for {len(ascii_uppercase)}")
        return choices


class Comparison(Item):
    """A prompt with a better and a worse answer; a pair of preferences."""

    prompt: StoredPrompt
    chosen: AnyAnswer
    rejected: AnyAnswer


class Contrast(Item):
    """A request to decline beside one that looks like it and is fine."""

    harmful: Annotated[str, Field(min_length=1)]
    harmless: Annotated[str, Field(min_length=1)]


class Provocation(Asked):
    """A prompt that may be answered badly; of a contrast pair the request to decline."""

    @model_validator(mode="before")
    @classmethod
    def _from_pair(cls, data: Any) -> Any:
        return {**data, "prompt": data["harmful"]} if isinstance(data, Mapping) and "harmful" in data else data


class Template(Item):
    """A prompt with `{group}` in it, for groups to be put there."""

    prompt: str

    @field_validator("prompt")
    @classmethod
    def _has_a_place(cls, prompt: str) -> str:
        if "{group}" not in prompt:
            raise ValueError(f"is {shown(prompt)}: it needs {{group}} where groups are named")
        return prompt


class Text(Item):
    """A text to be predicted."""

    text: Annotated[str, Field(min_length=1)]


class Programming(Item):
    """A task with tests that a program must pass."""

    prompt: StoredPrompt
    tests: str

    @model_validator(mode="before")
    @classmethod
    def _known_tests(cls, data: Any) -> Any:
        """The tests of HumanEval (`test` with `entry_point`) and of MBPP (`test_list`) as one program."""
        if not isinstance(data, Mapping) or "tests" in data:
            return data
        if "test_list" in data:
            return {**data, "tests": "\n".join([data.get("test_setup_code") or "", *data["test_list"]]).strip()}
        if "test" in data and "entry_point" in data:
            return {**data, "tests": f"{data['test']}\ncheck({data['entry_point']})"}
        return data


class Outcome(Record):
    """What became of an item: the numbers that metrics are made of, and the texts that a reader wants to see."""

    item_id: Id
    values: dict[str, FiniteFloat]
    prompt: str = ""
    completion: str = ""
    beside: str = ""
    """What the answer is held against: the right choice, a reference, another model's answer."""
    about: str = ""
    note: str = ""
    """What decided: the choice taken, the score, the test that failed."""
    worth: FiniteFloat = 0.0
    """How good it is: reports show the worst first."""


class Answered(Record):
    """An answer that was asked for, by the digest of its question."""

    key: Id
    prompt: str
    completion: str


class Weighed(Record):
    """How likely a model holds a text after a prompt."""

    key: Id
    logprob: float
    """The sum over its tokens, in nats."""
    tokens: Annotated[int, Field(ge=1)]


class Judged(Record):
    """What a judge that speaks said of two answers."""

    key: Id
    forward: FiniteFloat | None
    backward: FiniteFloat | None
    said: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        return Verdict(self.forward, self.backward, self.said)


def digest(content: Any) -> str:
    """16 hexadecimal digits, the same on every machine."""
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def answer_key(prompt: Prompt, sampling: Sampling, sample: int = 0) -> str:
    """The name of an answer: of its prompt and how it is drawn."""
    return digest([kind_of(prompt), prompt, vars(sampling), sample])


def weight_key(prompt: Prompt, completion: str, ends: bool) -> str:
    """The name of a weighing."""
    return digest([kind_of(prompt), prompt, completion, ends])


def verdict_key(judge: str, case: Case, criterion: Criterion) -> str:
    """The name of a verdict: of who judges what by which question."""
    return digest([judge, criterion.question, kind_of(case.prompt), *case])


def kind_of(prompt: Prompt) -> str:
    return type(prompt).__name__
