"""The shipped fakes of the seams `Generate`, `Embed` and `Score`: no model, no randomness, every answer written down.

    Scripted(["Yes.", "No."])                       in this order, one for each sample; a third is an error
    Scripted({"Knock, knock": "Who is there?"})     by prompt; several answers take turns, from sample to sample
    Scripted(lambda prompt: "You said: " + prompt)  by a function, which may return several to take turns as well

An answer is a text, a `Completion` (for calls of tools, or logprobs), or an exception, which is raised. The last two
forms have no memory: the same prompt, seed and sample give the same answer, and another seed begins at another answer.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from pydantic import BaseModel

from plumbline.errors import BadRecord, UserError
from plumbline.models import Chunk, Completion, Prompt, Sampling, Speed
from plumbline.models.chat import conversation, is_tokens
from plumbline.records import Message

if TYPE_CHECKING:
    from numpy.typing import NDArray

Answer: TypeAlias = str | Completion | Exception
Answers: TypeAlias = Answer | Sequence[Answer]


@dataclass(frozen=True)
class Call:
    """One call that a `Scripted` received."""

    prompts: tuple[Prompt, ...]
    sampling: Sampling
    streamed: bool = False


class Scripted:
    """A `Generate` that answers from a script. `calls` holds what it was asked.

    A token is a word with the white space before it (`count_tokens`), and the end of an answer is one more: an answer
    of three words ends with "length" where `max_new_tokens` is 3. A schema, a grammar, temperature, top-k and top-p
    change nothing.
    """

    def __init__(
        self, answers: Sequence[Answer] | Mapping[str, Answers] | Callable[[Any], Answers], name: str = "scripted"
    ) -> None:
        if isinstance(answers, str):
            raise UserError(f"answers is the text {answers!r}: give a list, a dict or a function")
        self.answers = answers
        self.name = name
        self.speed = Speed()
        self.calls: list[Call] = []
        self._given = count()

    @classmethod
    def from_file(cls, name: str, path: str | Path) -> Scripted:
        """A script in JSON Lines of {"prompt", "completion"}, or of {"completion"} alone to be given in order."""
        from plumbline.records import read_jsonl

        lines = list(read_jsonl(path, _Line))
        if all(line.prompt is None for line in lines):
            return cls([line.completion for line in lines], name)
        by_prompt: defaultdict[str, list[Answer]] = defaultdict(list)
        for line in lines:
            if line.prompt is None:
                raise BadRecord(f"{str(path)!r} gives some answers a prompt and others none: give each one, or none")
            by_prompt[prompt_text(line.prompt)].append(line.completion)
        return cls(by_prompt, name)

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling | None = None) -> list[list[Completion]]:
        """For each prompt its samples, in order."""
        sampling = sampling or Sampling()
        self.calls.append(Call(tuple(prompts), sampling))
        return [[self._answer(prompt, sampling, sample) for sample in range(sampling.n)] for prompt in prompts]

    def stream(self, prompt: Prompt, sampling: Sampling | None = None) -> Iterator[Chunk]:
        """The answer token by token; the last piece carries the whole."""
        sampling = sampling or Sampling()
        if sampling.n != 1:
            raise UserError(f"n is {sampling.n}: a stream carries one answer")
        self.calls.append(Call((prompt,), sampling, streamed=True))
        completion = self._answer(prompt, sampling, 0)
        for token in split_tokens(completion.text):
            yield Chunk(token)
        yield Chunk("", completion)

    def _answer(self, prompt: Prompt, sampling: Sampling, sample: int) -> Completion:
        seed = sampling.seed or 0
        answer = self._find(prompt, seed + sample)
        if isinstance(answer, Exception):
            raise answer
        completion = answer if isinstance(answer, Completion) else Completion(answer, "stop")
        completion = replace(
            _cut(completion, sampling),
            prompt_tokens=count_tokens(prompt_text(prompt)),
            seed=seed,
            model=self.name,
        )
        self.speed.prompt_tokens += completion.prompt_tokens
        self.speed.new_tokens += count_tokens(completion.text) + (completion.finish_reason == "stop")
        return completion

    def _find(self, prompt: Prompt, turn: int) -> Answer:
        if isinstance(self.answers, Mapping):
            text = prompt_text(prompt)
            if text not in self.answers:
                known = ", ".join(map(repr, list(self.answers)[:5]))
                raise UserError(f"{self.name!r} has no answer to {text!r}: add one to its script, which knows {known}")
            found = self.answers[text]
        elif callable(self.answers):
            found = self.answers(prompt)
        else:
            place = next(self._given)
            if place >= len(self.answers):
                raise UserError(
                    f"{self.name!r} has {len(self.answers)} answers and was asked for one more: lengthen its script"
                )
            return self.answers[place]
        if isinstance(found, str | Completion | Exception):
            return found
        return found[turn % len(found)]


class ScriptedEmbed:
    """An `Embed` whose vectors hang on nothing but the text: equal texts, equal vectors; all others lie anyhow."""

    def __init__(self, dimensions: int = 16, name: str = "scripted") -> None:
        self.dimensions = dimensions
        self.name = name

    def __call__(self, texts: Sequence[str]) -> NDArray[Any]:
        """One row of unit length per text, float32."""
        import hashlib

        import numpy as np

        rows = np.empty((len(texts), self.dimensions), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
            normal = np.random.default_rng(seed).standard_normal(self.dimensions)
            row[:] = normal / np.linalg.norm(normal)
        return rows


class ScriptedScore:
    """A `Score` from a function of prompt and completion, or the same number for all."""

    def __init__(self, score: float | Callable[[Any, str], float] = 0.0, name: str = "scripted") -> None:
        self.score = score
        self.name = name

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """One number for each pair."""
        if len(prompts) != len(completions):
            raise UserError(f"{len(prompts)} prompts and {len(completions)} completions were given: give pairs")
        pairs = zip(prompts, completions, strict=True)
        return [float(self.score(*pair) if callable(self.score) else self.score) for pair in pairs]


class _Line(BaseModel):
    """One line of a script."""

    prompt: str | list[Message] | None = None
    completion: str


def split_tokens(text: str) -> list[str]:
    """The text in pieces: words with the white space before them, and what white space is left at the end."""
    return re.findall(r"\s*\S+|\s+\Z", text)


def count_tokens(text: str) -> int:
    """How many pieces `split_tokens` makes of the text."""
    return len(split_tokens(text))


def prompt_text(prompt: Prompt) -> str:
    """A prompt as a script names it: its text, the last message's content, or its token ids with blanks between."""
    if isinstance(prompt, str):
        return str(prompt)
    if is_tokens(prompt):
        return " ".join(map(str, cast("Sequence[int]", prompt)))
    return conversation(prompt).messages[-1]["content"] or ""


def _cut(completion: Completion, sampling: Sampling) -> Completion:
    """The answer up to its limit, then up to the first stop string in that."""
    tokens = split_tokens(completion.text)
    text = "".join(tokens[: sampling.max_new_tokens])
    begins = [text.find(stop) for stop in sampling.stop if stop in text]
    if begins:
        return replace(completion, text=text[: min(begins)], finish_reason="stop")
    if len(tokens) >= sampling.max_new_tokens and completion.finish_reason == "stop":
        return replace(completion, text=text, finish_reason="length")
    return replace(completion, text=text)
