"""Any `Generate` with rails before and behind it, itself a `Generate`.

    model = Guarded(load("smollm2-135m"), make_guards(["personal-data", "length=8000"]))

A prompt that may not pass raises `Blocked`; an answer that may not pass is replaced by nothing and ends with
"cancelled". A stream holds back what no rail has seen together with all that went before it: it lets text out at the
end of sentences and lines, and when more of it may not pass, what is left stays inside.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from plumbline.errors import UserError
from plumbline.guard import Guard, Ruling, Side, Verdict, check
from plumbline.models import Chunk, Completion, Conversation, Generate, Prompt, Raw, Sampling, Speed

END = re.compile(r"(?s).*(?:[.!?…。！？]\s|\n)")
"""Up to the last end of a sentence or a line."""


class Blocked(UserError):
    """A rail does not let the prompt pass."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        why = verdict.reason if verdict.outcome == "block" else "the rail failed, and what it did not see may not pass"
        super().__init__(f"the {verdict.side} is stopped by the rail {verdict.guard!r}: {why}")


def checked_prompt(guards: Sequence[Guard], prompt: Prompt) -> tuple[Prompt, tuple[Verdict, ...]]:
    """The prompt as it may be asked, and what was said of it; `Blocked` where it may not."""
    if isinstance(prompt, str):
        ruling = passed(check(guards, prompt, "input"))
        return (Raw(ruling.text) if isinstance(prompt, Raw) else ruling.text), ruling.verdicts
    if not isinstance(prompt, Conversation) and prompt and isinstance(prompt[0], int):
        raise UserError("the prompt is token ids, which rails cannot read: give text")
    talk = prompt if isinstance(prompt, Conversation) else Conversation(prompt)  # type: ignore[arg-type]
    messages: list[Any] = []
    verdicts: list[Verdict] = []
    for message in talk.messages:
        ruling = passed(check(guards, message["content"] or "", "input"))
        beside = {name: value for name, value in message.items() if name not in ("role", "content")}
        called, said = checked_value(guards, beside, "input")
        verdicts += [*ruling.verdicts, *said]
        content = {"content": ruling.text} if message["content"] else {}
        messages.append({**message, **content, **called})
    tools, said = checked_value(guards, list(talk.tools), "input")
    return Conversation(messages, tools), (*verdicts, *said)


def checked_value(guards: Sequence[Guard], value: Any, side: Side) -> tuple[Any, tuple[Verdict, ...]]:
    """A value of JSON (tools, a schema, a call) as it may pass, and what was said of it; `Blocked` where it may not.

    Its texts, the names of its fields and its numbers are read together, and where that may pass only in other words,
    one by one.
    """
    words = "\n".join(words_of(value))
    if not words:
        return value, ()
    ruling = passed(check(guards, words, side))
    return (value if ruling.text == words else reworded(guards, value, side)), ruling.verdicts


def words_of(value: Any) -> Iterator[str]:
    """All that is said in a value of JSON."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from words_of(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from words_of(inner)
    elif not isinstance(value, bool | None):
        yield str(value)


def reworded(guards: Sequence[Guard], value: Any, side: Side) -> Any:
    """A value of JSON with each of its words as it may pass."""
    if isinstance(value, dict):
        return {reworded(guards, name, side): reworded(guards, inner, side) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [reworded(guards, inner, side) for inner in value]
    if isinstance(value, bool | None):
        return value
    text = passed(check(guards, str(value), side)).text
    return value if text == str(value) else text


def passed(ruling: Ruling) -> Ruling:
    if ruling.stopped is not None:
        raise Blocked(ruling.stopped)
    return ruling


class Held:
    """A stream between the model and the reader: what goes in comes out when rails have seen all up to it."""

    def __init__(self, guards: Sequence[Guard]) -> None:
        self.guards = guards
        self.verdicts: tuple[Verdict, ...] = ()
        self.stopped: Verdict | None = None
        self._whole = ""
        self._seen = 0  # characters of that which rails have looked at
        self._out = ""

    def add(self, text: str) -> str:
        """More of the answer; what may come out now."""
        if not self.guards:
            return text
        self._whole += text
        found = END.match(self._whole)
        return self._let(found.end()) if found and found.end() > self._seen else ""

    def end(self) -> str:
        """The rest, when the answer is whole."""
        return self._let(len(self._whole)) if self.guards else ""

    def _let(self, end: int) -> str:
        if self.stopped is not None:
            return ""
        ruling = check(self.guards, self._whole[:end], "output")
        self._seen, self.verdicts, self.stopped = end, ruling.verdicts, ruling.stopped
        if self.stopped is None and not ruling.text.startswith(self._out):
            changed = next((each for each in ruling.verdicts if each.outcome == "change"), ruling.verdicts[-1])
            self.stopped = replace(changed, outcome="block", text=None)  # it begins in what is out already
        if self.stopped is not None:
            return ""
        new, self._out = ruling.text[len(self._out) :], ruling.text
        return new


class Guarded:
    """A model with rails around it."""

    def __init__(self, model: Generate, guards: Sequence[Guard]) -> None:
        self.model = model
        self.guards = tuple(guards)
        self.name = model.name

    @property
    def speed(self) -> Speed:
        return self.model.speed

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling | None = None) -> list[list[Completion]]:
        """For each prompt its samples, as far as they may pass."""
        asked = [checked_prompt(self.guards, prompt)[0] for prompt in prompts]
        answers = self.model(asked, sampling or Sampling())
        return [[self._passed(each) for each in samples] for samples in answers]

    def stream(self, prompt: Prompt, sampling: Sampling | None = None) -> Iterator[Chunk]:
        """The answer in pieces, each when it may pass; the last carries the whole of what passed."""
        held, out = Held(self.guards), ""
        for chunk in self.model.stream(checked_prompt(self.guards, prompt)[0], sampling or Sampling()):
            text = held.add(chunk.text)
            if chunk.completion is not None:
                text += held.end()
                whole = chunk.completion
            out += text
            if held.stopped is not None:
                yield Chunk(text, Completion(out, "cancelled", model=self.name))
                return
            if chunk.completion is not None:
                yield Chunk(text, replace(whole, text=out))
            elif text:
                yield Chunk(text)

    def _passed(self, completion: Completion) -> Completion:
        ruling = check(self.guards, completion.text, "output")
        if ruling.stopped is not None:
            return Completion("", "cancelled", prompt_tokens=completion.prompt_tokens, model=completion.model)
        return completion if ruling.text == completion.text else replace(completion, text=ruling.text)
