"""Files of comparisons, ratings and demonstrations as our records, whoever wrote them.

    ours            a ranking, a pair, a rating, a rewarded answer, a demonstration (`plumbline.records`)
    TRL             {"prompt", "chosen", "rejected"} as text or messages, without a prompt where both begin with it;
                    {"prompt", "completion", "label"}; {"messages"}; {"prompt", "completion"}
    HH-RLHF         {"chosen", "rejected"}, each a transcript with "Human:" and "Assistant:" turns
    LLaMA-Factory   {"instruction", "input", "history", "system"} with "output", "chosen" and "rejected", or "kto_tag";
                    {"conversations": [{"from", "value"}]} with the same; {"messages", "label"}
    OASST           a tree of messages: a ranking for every prompt with two ranked replies. It is each labeler's where
                    the tree has them, else the one they were merged into. Left out are deleted messages with all
                    below them, and synthetic replies, whose ranks are a model's. A reply that has no rank and was
                    refused in review is flagged

A file is JSON Lines (.jsonl, .jsonl.gz), one JSON list as LLaMA-Factory writes it (.json), Parquet, or a folder of
them as the `datasets` library lays it out. Only a JSON list is held whole. A line that cannot be used is left out, with
its place and its reason; the others go on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, model_validator

from plumbline.errors import BadRecord, UserError
from plumbline.files import BadLine, open_to_read, parse, read_jsonl, shown
from plumbline.records import (
    ComparisonSet,
    Demonstration,
    Id,
    Message,
    Pair,
    PromptRecord,
    Ranking,
    Rating,
    Record,
    Rewarded,
)

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
    """A line that says which answers are better than which; a tree says it of several sets."""

    records: tuple[Ranking | Pair, ...]

    @model_validator(mode="before")
    @classmethod
    def _translate(cls, line: Line) -> Line:
        return {"records": as_rankings(line) if is_tree(line) else [as_comparison(line)]}


class RatingLine(BaseModel):
    """A line with a thumb up or down."""

    records: tuple[Rating, ...]

    @model_validator(mode="before")
    @classmethod
    def _translate(cls, line: Line) -> Line:
        return {"records": [as_rating(line)]}


class RewardedLine(Rewarded):
    """A line with a number for its answer: `reward`, as in `rollouts.jsonl`, or `score`, as `plumb score` writes it."""

    @model_validator(mode="before")
    @classmethod
    def _translate(cls, line: Line) -> Line:
        prompt, answer = with_answer(line)
        number = {"reward": line["score"]} if "score" in line and "reward" not in line else {}
        return {**rest_of(line), "prompt": prompt, "completion": answer, **number}


class DemonstrationLine(BaseModel):
    """A line with an answer to learn."""

    records: tuple[Demonstration, ...]

    @model_validator(mode="before")
    @classmethod
    def _translate(cls, line: Line) -> Line:
        return {"records": [as_demonstration(line)]}


class PromptLine(BaseModel):
    """A line with a prompt, whatever it says of answers; a tree has several."""

    records: tuple[PromptRecord, ...]

    @model_validator(mode="before")
    @classmethod
    def _translate(cls, line: Line) -> Line:
        return {"records": as_prompts(line)}


class AnyLine(BaseModel):
    """A line of any shape, or a set to rank: its fields tell which."""

    records: tuple[Record, ...]

    @model_validator(mode="before")
    @classmethod
    def _translate(cls, line: Line) -> Line:
        return {"records": as_rankings(line) if is_tree(line) else [as_record(line)]}


def read_comparisons(paths: Iterable[str | Path], left_out: list[str]) -> list[Ranking | Pair]:
    return [record for line in read_lines(paths, ComparisonLine, left_out) for record in line.records]


def read_ratings(paths: Iterable[str | Path], left_out: list[str]) -> list[Rating]:
    return [record for line in read_lines(paths, RatingLine, left_out) for record in line.records]


def read_rewarded(paths: Iterable[str | Path], left_out: list[str]) -> list[Rewarded]:
    return list(read_lines(paths, RewardedLine, left_out))


def read_demonstrations(paths: Iterable[str | Path], left_out: list[str]) -> list[Demonstration]:
    return [record for line in read_lines(paths, DemonstrationLine, left_out) for record in line.records]


def read_prompts(paths: Iterable[str | Path], left_out: list[str]) -> list[PromptRecord]:
    """What is asked in records of any kind, and in .txt files, where a line is a prompt."""
    found = []
    for path in map(Path, paths):
        if path.suffix == ".txt":
            with open_to_read(path) as file:
                lines = [line.decode("utf-8-sig", "replace").strip() for line in file.read().splitlines()]
            found += [parse(PromptRecord, {"prompt": line}) for line in lines if line]
        else:
            found += [record for line in read_lines([path], PromptLine, left_out) for record in line.records]
    return found


def read_lines(paths: Iterable[str | Path], kind: type[R], left_out: list[str]) -> Iterator[R]:
    """The good lines of the files; each bad one adds its place and reason to `left_out`."""
    for path in map(Path, paths):
        if path.is_dir():
            yield from read_lines(files_of(path), kind, left_out)
        elif path.suffix == ".parquet":
            yield from read_entries(path, parquet_rows(path), kind, left_out)
        elif is_list(path):
            yield from read_entries(path, list_entries(path), kind, left_out)
        else:
            yield from read_jsonl(path, kind, on_bad=lambda bad: left_out.append(str(bad)))


def files_of(folder: Path) -> list[Path]:
    """The data files of a folder, in the order of their names."""
    found = sorted(path for path in folder.rglob("*") if path.name.endswith((".parquet", ".jsonl", ".jsonl.gz")))
    if not found:
        raise UserError(f"{str(folder)!r} holds no data: it needs files that end in .parquet, .jsonl or .jsonl.gz")
    return found


def is_list(path: Path) -> bool:
    with open_to_read(path) as file:
        return path.suffix == ".json" and file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def list_entries(path: Path) -> Iterator[Any]:
    try:
        yield from json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise BadRecord(f"{str(path)!r} begins like a JSON list and is none: {error}") from error


def parquet_rows(path: Path) -> Iterator[Any]:
    """The rows, a thousand in memory at a time. A column that is empty in a row is no field of it."""
    from pyarrow import ArrowException, parquet

    with open_to_read(path) as file:
        try:
            for batch in parquet.ParquetFile(file).iter_batches(batch_size=1000):
                yield from map(without_empty, batch.to_pylist())
        except (ArrowException, OSError) as error:
            raise BadRecord(f"{str(path)!r} cannot be read as Parquet: {error}") from error


def without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_empty(each) for key, each in value.items() if each is not None}
    return [without_empty(each) for each in value] if isinstance(value, list) else value


def read_entries(path: Path, entries: Iterable[Any], kind: type[R], left_out: list[str]) -> Iterator[R]:
    for number, entry in enumerate(entries, 1):
        try:
            yield parse(kind, entry)
        except BadRecord as error:
            left_out.append(str(BadLine(path, number, str(error))))


# ---- one line


def as_record(line: Line) -> Record:
    """The record in a line of any shape but a tree's, which holds several."""
    if "chosen" in line or "rejected" in line or "ranks" in line:
        return as_comparison(line)
    if "completions" in line:
        return parse(ComparisonSet, line)
    if "label" in line or "kto_tag" in line:
        return as_rating(line)
    if "finish_reason" in line:
        raise BadRecord(
            "is an answer of a model, which nobody has judged: `plumb sample` makes sets to rank of prompts"
        )
    if "message_id" in line:
        raise BadRecord("is one message of an OASST file: take the file with the trees, where each line has them all")
    return as_demonstration(line)


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
    return parse(Pair, {**rest_of(line), "prompt": prompt, "chosen": chosen, "rejected": rejected})


def as_rating(line: Line) -> Rating:
    label = line.get("label", line.get("kto_tag"))
    if "completion" in line:
        return parse(Rating, {**line, "label": label})
    prompt, answer = with_answer(line)
    return parse(Rating, {**rest_of(line), "prompt": prompt, "completion": answer, "label": label})


def as_demonstration(line: Line) -> Demonstration:
    if "messages" in line:
        return parse(Demonstration, {**line, "messages": as_messages(line["messages"])})
    prompt, answer = with_answer(line)
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    reply = answer if isinstance(answer, list) else [{"role": "assistant", "content": answer}]
    return parse(Demonstration, {**rest_of(line), "messages": [*turns, *reply]})


def as_prompts(line: Line) -> list[PromptRecord]:
    """The prompts of a line: alone, or with answers, which are left behind."""
    if is_tree(line):
        return [as_prompt(ranking.prompt, dict(ranking.model_dump())) for ranking in as_rankings(line)]
    if ("prompt" in line or "instruction" in line) and not ({"chosen", "rejected", "messages"} & line.keys()):
        return [as_prompt(asked(line), line)]
    record: Any = as_record(line)
    if not isinstance(record, Demonstration):
        return [as_prompt(record.prompt, line)]
    turns = list(record.messages)
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    return [as_prompt(turns, line)]


def as_prompt(prompt: Any, line: Line) -> PromptRecord:
    kept = {name: line[name] for name in ("prompt_id", "user_id", "source", "criterion", "split") if line.get(name)}
    return parse(PromptRecord, {**kept, "prompt": prompt})


# ---- the parts of a line

TRANSLATED = {"instruction", "input", "history", "system", "conversations", "messages", "output", "kto_tag"}
TRANSLATED |= {"prompt", "completion", "chosen", "rejected"}
"""Fields with the texts of a line, which the record has in its own."""


def rest_of(line: Line) -> dict[str, Any]:
    """What a line says beside its texts. They are not to be there twice: who cleans a record cleans its own fields."""
    return {name: value for name, value in line.items() if name not in TRANSLATED}


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


# ---- OASST trees


class RankingEvent(BaseModel):
    """One labeler's ranking of the replies to a message, the best first."""

    user_id: Id | None = None
    ranked_message_ids: list[str] = []
    ranks: dict[str, int | None] | None = None
    """Ours: the same with ties, and with None for a reply that makes no sense. Others have no place for those."""
    instruction_version: Id | None = None
    """Ours."""
    not_rankable: bool | None = None


class Events(BaseModel):
    ranking: list[RankingEvent] = []


class Node(BaseModel):
    """A message of a tree and the replies to it."""

    message_id: Id
    text: str
    role: Literal["prompter", "assistant"]
    rank: int | None = None
    """0 is the best."""
    review_result: bool | None = None
    deleted: bool | None = None
    synthetic: bool | None = None
    replies: list[Node] | None = None
    events: Events | None = None
    # ours, where we wrote the tree
    set_id: Id | None = None
    prompt_id: Id | None = None
    split: str | None = None

    @property
    def refused(self) -> bool:
        return self.review_result is False and self.rank is None


class Tree(BaseModel):
    prompt: Node


def is_tree(line: object) -> bool:
    return isinstance(line, Mapping) and "message_tree_id" in line


def as_rankings(line: Line) -> list[Ranking]:
    """What the tree says of the replies to each of its prompts, those nearest the root first."""
    found: list[Ranking] = []
    waiting: list[tuple[Node, list[Message]]] = [(parse(Tree, line).prompt, [])]
    for node, before in waiting:  # which grows as we go down
        if node.deleted:
            continue
        asks = node.role == "prompter"
        turns = [*before, Message(role="user" if asks else "assistant", content=node.text)]
        found += rankings_of(node, turns) if asks else []
        waiting += [(reply, turns) for reply in node.replies or ()]
    return found


def rankings_of(node: Node, prompt: list[Message]) -> list[Ranking]:
    """Nothing where fewer than two replies have ranks."""
    there = [reply for reply in node.replies or () if not reply.deleted and not reply.synthetic]
    judged = [reply for reply in there if reply.rank is not None or reply.refused]
    votes = [
        (event.user_id or f"oasst-{number}", event.instruction_version, order_of(event, judged))
        for number, event in enumerate(node.events.ranking if node.events else (), 1)
    ]
    if not votes or any(ranks is None for _, _, ranks in votes):
        votes = [("oasst", None, [None if reply.rank is None else reply.rank + 1 for reply in judged])]
        judged = judged if sum(reply.rank is not None for reply in judged) > 1 else []
    if len(judged) < 2:
        return []
    return [
        parse(
            Ranking,
            {
                "set_id": node.set_id or node.message_id,
                "prompt_id": node.prompt_id,
                "prompt": prompt,
                "completions": [reply.text for reply in judged],
                "ranks": ranks,
                "flags": [rank is None for rank in ranks or ()],
                "labeler_id": labeler,
                "instruction_version": version or "oasst",
                "split": node.split,
            },
        )
        for labeler, version, ranks in votes
    ]


def order_of(event: RankingEvent, replies: Sequence[Node]) -> list[int | None] | None:
    """The rank of each reply; None where the labeler saw others than these."""
    if event.not_rankable:
        return [None] * len(replies)
    ranks = event.ranks or {name: place for place, name in enumerate(event.ranked_message_ids, 1)}
    return [ranks[reply.message_id] for reply in replies] if all(each.message_id in ranks for each in replies) else None
