"""Files of comparisons, ratings and demonstrations as our records, whoever wrote them.

    ours            a ranking, a pair, a rating, a demonstration (`plumbline.records`)
    TRL             {"prompt", "chosen", "rejected"} as text or messages, without a prompt where both begin with it;
                    {"prompt", "completion", "label"}; {"messages"}; {"prompt", "completion"}
    HH-RLHF         {"chosen", "rejected"}, each a transcript with "Human:" and "Assistant:" turns
    LLaMA-Factory   {"instruction", "input", "history", "system"} with "output", "chosen" and "rejected", or "kto_tag";
                    {"conversations": [{"from", "value"}]} with the same; {"messages", "label"}

A file is JSON Lines, or one JSON list as LLaMA-Factory writes it. A line that cannot be used is left out, with its
place and its reason; the others go on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, model_validator

from plumbline.errors import BadRecord
from plumbline.files import BadLine, open_to_read, parse, read_jsonl, shown
from plumbline.records import Demonstration, Pair, Ranking, Rating

Line = Mapping[str, Any]
R = TypeVar("R", bound=BaseModel)

SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function_call": "assistant",
}
"""Who speaks, as others call it, and as a message calls it."""


# ---- the files


class ComparisonLine(BaseModel):
    """A line that says which answers are better than which."""

    record: Ranking | Pair

    @model_validator(mode="before")
    @classmethod
    def _translate(cls, line: Line) -> Line:
        return {"record": as_comparison(line)}


class RatingLine(BaseModel):
    """A line with a thumb up or down."""

    record: Rating

    @model_validator(mode="before")
    @classmethod
    def _translate(cls, line: Line) -> Line:
        return {"record": as_rating(line)}


class DemonstrationLine(BaseModel):
    """A line with an answer to learn."""

    record: Demonstration

    @model_validator(mode="before")
    @classmethod
    def _translate(cls, line: Line) -> Line:
        return {"record": as_demonstration(line)}


def read_comparisons(paths: Iterable[str | Path], left_out: list[str]) -> list[Ranking | Pair]:
    return [line.record for line in read_lines(paths, ComparisonLine, left_out)]


def read_ratings(paths: Iterable[str | Path], left_out: list[str]) -> list[Rating]:
    return [line.record for line in read_lines(paths, RatingLine, left_out)]


def read_demonstrations(paths: Iterable[str | Path], left_out: list[str]) -> list[Demonstration]:
    return [line.record for line in read_lines(paths, DemonstrationLine, left_out)]


def read_lines(paths: Iterable[str | Path], kind: type[R], left_out: list[str]) -> Iterator[R]:
    """The good lines of the files; each bad one adds its place and reason to `left_out`."""
    for path in map(Path, paths):
        if is_list(path):
            yield from read_list(path, kind, left_out)
        else:
            yield from read_jsonl(path, kind, on_bad=lambda bad: left_out.append(str(bad)))


def is_list(path: Path) -> bool:
    with open_to_read(path) as file:
        return path.suffix == ".json" and file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def read_list(path: Path, kind: type[R], left_out: list[str]) -> Iterator[R]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise BadRecord(f"{str(path)!r} begins like a JSON list and is none: {error}") from error
    for number, entry in enumerate(entries, 1):
        try:
            yield parse(kind, entry)
        except BadRecord as error:
            left_out.append(str(BadLine(path, number, str(error))))


# ---- one line


def as_comparison(line: Line) -> Ranking | Pair:
    if "ranks" in line or "completions" in line:
        return parse(Ranking, line)
    missing = [name for name in ("chosen", "rejected") if name not in line]
    if missing:
        raise BadRecord(f"`{missing[0]}` is missing: a comparison has `chosen` and `rejected`, or `ranks`")
    chosen, rejected = (as_messages(line[name]) for name in ("chosen", "rejected"))
    if "prompt" not in line and not is_factory(line):
        prompt, chosen, rejected = part_of_both(chosen, rejected)
    else:
        prompt = asked(line)
    return parse(Pair, {**line, "prompt": prompt, "chosen": chosen, "rejected": rejected})


def as_rating(line: Line) -> Rating:
    label = line.get("label", line.get("kto_tag"))
    if "completion" in line:
        return parse(Rating, {**line, "label": label})
    prompt, answer = with_answer(line)
    return parse(Rating, {**line, "prompt": prompt, "completion": answer, "label": label})


def as_demonstration(line: Line) -> Demonstration:
    if "messages" in line:
        return parse(Demonstration, {**line, "messages": as_messages(line["messages"])})
    prompt, answer = with_answer(line)
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    reply = answer if isinstance(answer, list) else [{"role": "assistant", "content": answer}]
    return parse(Demonstration, {**line, "messages": [*turns, *reply]})


# ---- the parts of a line


def is_factory(line: Line) -> bool:
    """Whether the line is one of LLaMA-Factory's."""
    return "instruction" in line or "conversations" in line


def asked(line: Line) -> Any:
    """The prompt of a line that holds it apart from its answers."""
    if "conversations" in line:
        return system_of(line) + as_messages(line["conversations"])
    if "instruction" not in line:
        return as_messages(line["prompt"])
    question = "\n".join(str(line[name]) for name in ("instruction", "input") if line.get(name))
    before = [
        {"role": role, "content": text}
        for turn in line.get("history") or ()
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    told = system_of(line) + before
    return [*told, {"role": "user", "content": question}] if told else question


def with_answer(line: Line) -> tuple[Any, Any]:
    """Prompt and answer of a line that rates or shows one answer."""
    if "instruction" in line:
        return asked(line), line.get("output")
    if "prompt" in line and "completion" in line:
        return as_messages(line["prompt"]), as_messages(line["completion"])
    name = next((name for name in ("messages", "conversations") if name in line), None)
    if name is None:
        there = ", ".join(f"`{key}`" for key in line) or "nothing"
        raise BadRecord(f"has no `messages`, `conversations`, `instruction` or `completion` (there is {there})")
    turns = system_of(line) + as_messages(line[name])
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise BadRecord(f"`{name}` is {shown(line[name])}: it must end with an answer to what comes before it")
    return turns[:-1], turns[-1:]


def system_of(line: Line) -> list[dict[str, Any]]:
    return [{"role": "system", "content": line["system"]}] if line.get("system") else []


def as_messages(value: Any) -> Any:
    """Turns written as LLaMA-Factory does become messages; everything else stays as it is."""
    if isinstance(value, Mapping):
        return as_messages([value])
    if not isinstance(value, Sequence) or isinstance(value, str):
        return value
    return [as_message(each) if isinstance(each, Mapping) and "from" in each else each for each in value]


def as_message(turn: Line) -> dict[str, Any]:
    if turn["from"] not in SPEAKERS:
        raise BadRecord(f"has the speaker {shown(turn['from'])}: a turn is `from` one of {', '.join(SPEAKERS)}")
    role, text = SPEAKERS[turn["from"]], turn.get("value")
    if turn["from"] != "function_call":
        return {"role": role, "content": text}
    try:
        call = json.loads(text or "")
        function = {"name": call["name"], "arguments": call["arguments"]}
    except (ValueError, KeyError, TypeError):
        raise BadRecord(f"has the function call {shown(text)}: it must be JSON with `name` and `arguments`") from None
    return {"role": role, "content": None, "tool_calls": [{"type": "function", "function": function}]}


TURN = re.compile(r"\n\n(Human|Assistant):")


def part_of_both(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """The prompt that both answers begin with, and what each goes on with."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        if not TURN.match(chosen) or not TURN.match(rejected):
            raise BadRecord("has no `prompt`, and `chosen` is no transcript with Human: and Assistant: turns")
        chosen, rejected = transcript(chosen), transcript(rejected)
    if not isinstance(chosen, list) or not isinstance(rejected, list):
        raise BadRecord("has no `prompt`: `chosen` and `rejected` must then both hold the whole conversation")
    both = list(takewhile(lambda turns: turns[0] == turns[1], zip(chosen, rejected, strict=False)))
    if len(both) == len(chosen) == len(rejected):
        raise BadRecord(f"`chosen` and `rejected` are both {shown(chosen[-1:])}: a pair needs two different answers")
    if not both or len(chosen) != len(both) + 1 or len(rejected) != len(both) + 1:
        raise BadRecord(
            f"`chosen` and `rejected` part after {len(both)} of {len(chosen)} and {len(rejected)} turns: they must "
            "differ in their last one and in no other"
        )
    prompt = [turns[0] for turns in both]
    return prompt, chosen[len(both) :], rejected[len(both) :]


def transcript(text: str) -> list[dict[str, str]]:
    """The messages of a transcript as HH-RLHF writes it."""
    _, *parts = TURN.split(text)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(parts[::2], parts[1::2], strict=True)]
