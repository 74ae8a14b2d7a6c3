r"""Our records as the rows that other tools read. What reads them back is `plumbline.formats`.

    rankings            ours                         a ranking a row
    trl-dpo             prompt, chosen, rejected     a pair; also for OpenRLHF and the like
    trl-reward          chosen, rejected, margin     a pair, the prompt within both answers
    kto                 prompt, completion, label    a thumb
    sft                 messages                     an answer to learn
    hh-rlhf             chosen, rejected             a pair, as transcripts
    llama-factory       conversations, chosen, …     a pair in sharegpt's shape, with its entry in dataset_info.json
    llama-factory-kto   conversations, kto_tag       a thumb
    oasst               message_tree_id, prompt      a set as a tree: the merged ranks, and each labeler's as events

Every row carries those of `set_id`, `prompt_id`, `split`, `n_votes`, `margin`, `source`, `user_id` and `labeler_id`
that its kind of record has. A text prompt is written as one message of the user, which is the same prompt with the same
id. What each format cannot carry, and what happens then:

    format          does not carry                                  what happens
    all             fields beyond those of the record               dropped
    in Parquet      tool calls and names within messages            refused, as JSON Lines they are kept
    trl-reward      where the prompt ends                           found again: where the two answers part
    pairs           ties, flags, who voted how                      a tie or a flagged answer is in no pair
    hh-rlhf         a system's or a tool's message                  that row is left out
                    white space around a turn, a speaker's name     dropped
                    a turn that holds "\n\nHuman:" itself              that row is left out
    llama-factory   turns that do not alternate, tools              that row is left out
                    a speaker's name                                dropped
    oasst           a system's or a tool's message                  that row is left out
                    a speaker's name                                dropped

Rows that are left out are counted by reason. OASST's readers know no ties; the trees hold them in a field of ours,
`ranks`, that those readers do not look at.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import UUID, uuid5

from plumbline.errors import BadRecord, UserError
from plumbline.feedback.containers import Column, Row, written
from plumbline.files import replaced
from plumbline.formats import TURN
from plumbline.records import Demonstration, Message, Pair, Ranking, Rating, parse

Holds = Literal["rankings", "pairs", "ratings", "demonstrations", "sets"]


class Format(NamedTuple):
    """How one kind of record is written."""

    holds: Holds
    row: Callable[[Any], Row]
    columns: dict[str, Column]
    help: str


# ---- rows

ABOUT: dict[str, Column] = {
    "set_id": "text",
    "prompt_id": "text",
    "split": "text",
    "n_votes": "int",
    "margin": "float",
    "source": "text",
}
OF_ONE: dict[str, Column] = {"prompt_id": "text", "split": "text", "user_id": "text", "source": "text"}


def about(record: object, columns: Iterable[str]) -> Row:
    """What a record says of itself; where it came from stands there only when that is known."""
    said = {name: getattr(record, name, None) for name in columns}
    return {name: value for name, value in said.items() if name != "source" or value is not None}


def turns(prompt: str | list[Message]) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def reply(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


RANKING: dict[str, Column] = {
    "set_id": "text",
    "prompt_id": "text",
    "prompt": "messages",
    "completions": "texts",
    "ranks": "ints",
    "flags": "bools",
    "labeler_id": "text",
    "instruction_version": "text",
    "split": "text",
    "user_id": "text",
    "n_votes": "int",
    "source": "text",
}


def ranking_row(ranking: Ranking) -> Row:
    return {**about(ranking, RANKING), "prompt": turns(ranking.prompt)}


def dpo_row(pair: Pair) -> Row:
    answers = {"chosen": reply(pair.chosen), "rejected": reply(pair.rejected)}
    return {"prompt": turns(pair.prompt), **answers, **about(pair, ABOUT)}


def reward_row(pair: Pair) -> Row:
    asked = turns(pair.prompt)
    return {
        "chosen": [*asked, *reply(pair.chosen)],
        "rejected": [*asked, *reply(pair.rejected)],
        **about(pair, ABOUT),
    }


def kto_row(rating: Rating) -> Row:
    return {
        "prompt": turns(rating.prompt),
        "completion": reply(rating.completion),
        "label": rating.label,
        **about(rating, OF_ONE),
    }


def sft_row(demonstration: Demonstration) -> Row:
    return {"messages": demonstration.messages, **about(demonstration, OF_ONE)}


def hh_row(pair: Pair) -> Row:
    asked = turns(pair.prompt)
    chosen, rejected = (transcript([*asked, *reply(text)]) for text in (pair.chosen, pair.rejected))
    if chosen == rejected:
        raise BadRecord("the two answers differ in white space alone, which a transcript does not keep")
    return {"chosen": chosen, "rejected": rejected, **about(pair, ABOUT)}


def transcript(messages: Sequence[Message]) -> str:
    check_roles(messages, "a transcript", ("user", "assistant"))
    said = [(turn["content"] or "").strip() for turn in messages]
    if any(TURN.search(text) for text in said):
        raise BadRecord("a text holds a line that begins a turn, so a transcript would be read otherwise")
    names = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{names[turn['role']]}: {text}" for turn, text in zip(messages, said, strict=True))


def check_roles(messages: Sequence[Message], what: str, roles: Sequence[str]) -> None:
    for turn in messages:
        if turn["role"] not in roles or turn.get("tool_calls"):
            kind = "a call of tools" if turn.get("tool_calls") else f"a message of the {turn['role']}"
            raise BadRecord(f"{what} has no place for {kind}")


# ---- LLaMA-Factory


def factory_row(pair: Pair) -> Row:
    chosen, rejected = ({"from": "gpt", "value": text} for text in (pair.chosen, pair.rejected))
    asked = conversation(turns(pair.prompt), "user")
    return {"conversations": asked, "chosen": chosen, "rejected": rejected, **about(pair, ABOUT)}


def factory_kto_row(rating: Rating) -> Row:
    spoken = conversation([*turns(rating.prompt), *reply(rating.completion)], "assistant")
    return {"conversations": spoken, "kto_tag": rating.label, **about(rating, OF_ONE)}


def conversation(messages: Sequence[Message], last: str) -> list[dict[str, str]]:
    """Turns as sharegpt names them: the system's first if there is one, then user and assistant by turns."""
    check_roles(messages[:1], "LLaMA-Factory", ("system", "user"))
    begin = 1 if messages[0]["role"] == "system" else 0
    check_roles(messages[begin:], "LLaMA-Factory", ("user", "assistant"))
    order = [turn["role"] for turn in messages[begin:]]
    if order != ["user", "assistant"] * (len(order) // 2) + ["user"] * (len(order) % 2) or order[-1:] != [last]:
        raise BadRecord("LLaMA-Factory takes turns of user and assistant that alternate, the user's first")
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return [{"from": names[turn["role"]], "value": turn["content"] or ""} for turn in messages]


def register(path: Path, columns: Mapping[str, Column]) -> Path:
    """Enters a file into the dataset_info.json beside it; entries of other files stay."""
    registry = path.with_name("dataset_info.json")
    try:
        known = json.loads(registry.read_text(encoding="utf-8")) if registry.exists() else {}
        entry: dict[str, Any] = {"file_name": path.name, "formatting": "sharegpt"}
        if "chosen" in columns:
            names = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
            entry |= {"ranking": True, "columns": names}
        else:
            entry |= {"columns": {"messages": "conversations", "kto_tag": "kto_tag"}}
        known[path.name.partition(".")[0]] = entry
    except (ValueError, TypeError) as error:
        raise UserError(f"{str(registry)!r} is no registry of LLaMA-Factory ({error}): mend it or move it") from error
    with replaced(registry) as file:
        file.write(json.dumps(known, indent=2, ensure_ascii=False).encode() + b"\n")
    return registry


# ---- OASST trees


class RankedSet(NamedTuple):
    """All that was said of one set, and what that comes to."""

    merged: Ranking
    votes: Sequence[Ranking]


NAMES = UUID("6f1cbb0e-54a7-4c5b-9b1e-0d3f6b7f2a11")
"""The namespace of the ids that messages of our trees have."""


def tree_row(ranked: RankedSet) -> Row:
    merged, votes = ranked
    asked = turns(merged.prompt)
    check_roles(asked, "an OASST tree", ("user", "assistant"))
    if asked[-1]["role"] != "user":
        raise BadRecord("an OASST tree takes a prompt that ends with a turn of the user")
    if any(vote.completions != merged.completions for vote in votes):
        raise BadRecord("the rankings of a set list its answers in different orders")
    path = [str(uuid5(NAMES, f"{merged.set_id}/prompt/{place}")) for place in range(len(asked))]
    ids = [str(uuid5(NAMES, f"{merged.set_id}/answer/{place}")) for place in range(len(merged.completions))]
    below: list[Row] = [
        message(name, path[-1], "assistant", text, rank=None if rank is None else rank - 1, review_result=not flag)
        for name, text, rank, flag in zip(ids, merged.completions, merged.ranks, merged.flags, strict=True)
    ]
    for place in reversed(range(len(asked))):
        role = "prompter" if asked[place]["role"] == "user" else "assistant"
        node = message(path[place], path[place - 1] if place else None, role, asked[place]["content"] or "", below)
        if place == len(asked) - 1:
            events = [event(vote, ids, path[-1], path[0]) for vote in votes]
            node |= {**about(merged, ("set_id", "prompt_id", "split")), "events": {"ranking": events}}
        below = [node]
    return {"message_tree_id": path[0], "tree_state": "ready_for_export", "origin": "plumbline", "prompt": below[0]}


def message(
    name: str, parent: str | None, role: str, text: str, replies: Sequence[Row] = (), **rest: object
) -> dict[str, Any]:
    """A node with all the fields that OASST's own have."""
    unknown = (
        "user_id",
        "lang",
        "review_count",
        "review_result",
        "rank",
        "synthetic",
        "model_name",
        "emojis",
        "labels",
    )
    given = {"message_id": name, "parent_id": parent, "role": role, "text": text}
    return {**given, **dict.fromkeys(unknown), "deleted": False, **rest, "events": None, "replies": list(replies)}


def event(vote: Ranking, ids: Sequence[str], parent: str, tree: str) -> dict[str, Any]:
    ranked = sorted((rank, place) for place, rank in enumerate(vote.ranks) if rank is not None)
    return {
        "type": "ranking",
        "user_id": vote.labeler_id,
        "ranking": [place for _, place in ranked],
        "ranked_message_ids": [ids[place] for _, place in ranked],
        "ranking_parent_id": parent,
        "message_tree_id": tree,
        "not_rankable": not ranked,
        "ranks": dict(zip(ids, vote.ranks, strict=True)),
        "instruction_version": vote.instruction_version,
    }


# ---- all formats

TEXT_PAIR: dict[str, Column] = {"chosen": "text", "rejected": "text"}
PAIR: dict[str, Column] = {"chosen": "messages", "rejected": "messages"}

FORMATS = {
    "rankings": Format("rankings", ranking_row, RANKING, "ours: what each labeler said, ties and flags included"),
    "trl-dpo": Format("pairs", dpo_row, {"prompt": "messages", **PAIR, **ABOUT}, "TRL's DPO: a prompt, two answers"),
    "trl-reward": Format("pairs", reward_row, {**PAIR, **ABOUT}, "TRL's reward trainer: two conversations, a margin"),
    "kto": Format(
        "ratings",
        kto_row,
        {"prompt": "messages", "completion": "messages", "label": "bool", **OF_ONE},
        "TRL's KTO: thumbs of users",
    ),
    "sft": Format("demonstrations", sft_row, {"messages": "messages", **OF_ONE}, "TRL's SFT: answers to learn"),
    "hh-rlhf": Format("pairs", hh_row, {**TEXT_PAIR, **ABOUT}, "HH-RLHF: two transcripts"),
    "llama-factory": Format(
        "pairs",
        factory_row,
        {"conversations": "turns", "chosen": "turn", "rejected": "turn", **ABOUT},
        "LLaMA-Factory: pairs, with their entry in dataset_info.json",
    ),
    "llama-factory-kto": Format(
        "ratings",
        factory_kto_row,
        {"conversations": "turns", "kto_tag": "bool", **OF_ONE},
        "LLaMA-Factory: thumbs, with their entry in dataset_info.json",
    ),
    "oasst": Format("sets", tree_row, {}, "OASST: a tree for each set, with every labeler's ranking"),
}


def format_of(name: str) -> Format:
    if name not in FORMATS:
        raise UserError(f"there is no format {name!r}: take one of {', '.join(FORMATS)}")
    return FORMATS[name]


@dataclass(frozen=True)
class Exported:
    """What was written."""

    rows: int
    splits: dict[str, int]
    """Rows of each split; of those without one under the name "none"."""
    left_out: dict[str, int]
    """Why rows were left out, and how many."""
    files: tuple[Path, ...]


def export(records: Iterable[Any], out: Path, format: str, *, force: bool = False) -> Exported:
    """Writes records of the kind that the format holds, as a stream. All of it is on the disk at the end, or nothing.

    The name says the container: `.jsonl`, `.jsonl.gz`, `.parquet`, and a name without an ending is a folder as the
    `datasets` library reads it. What is there is replaced only with `force`.
    """
    shape = format_of(format)
    if format.startswith("llama-factory") and out.suffix not in (".jsonl", ".parquet"):
        raise UserError(f"{str(out)!r}: LLaMA-Factory reads a .jsonl or a .parquet file, so name one")
    left_out: Counter[str] = Counter()
    splits: Counter[str] = Counter()

    def rows() -> Iterator[Row]:
        for record in records:
            try:
                row = shape.row(record)
            except BadRecord as error:
                left_out[str(error)] += 1
                continue
            splits[row.get("split") or "none"] += 1
            yield row

    files = written(rows(), out, shape.columns, format, force=force)
    if format.startswith("llama-factory"):
        files.append(register(out, shape.columns))
    return Exported(splits.total(), dict(splits), dict(left_out), tuple(files))


# ---- pairs as votes

MOST_VOTES = 1000


def votes_of(pair: Pair, source: str) -> Iterator[Ranking]:
    """The rankings that a pair of `n_votes` and `margin` may have come from, so that they give the same pair again.

    With n votes and a margin of m, n·m more were for than against; what cannot be shared out evenly is a tie. A margin
    that is no share of votes, some difference of scores, counts as one vote for.
    """
    if pair.n_votes > MOST_VOTES:
        raise BadRecord(f"`n_votes` is {pair.n_votes}: a pair of more than {MOST_VOTES} votes is none of people")
    lead = round(pair.margin * pair.n_votes) if 0 < pair.margin <= 1 else pair.n_votes
    ties = (pair.n_votes - lead) % 2
    against = (pair.n_votes - lead - ties) // 2
    texts = sorted((pair.chosen, pair.rejected))  # so that the set is the same whichever was preferred
    name = hashlib.sha256(json.dumps([pair.prompt_id, *texts]).encode()).hexdigest()[:16]
    better = (1, 2) if texts[0] == pair.chosen else (2, 1)
    for number in range(pair.n_votes):
        ranks = (1, 1) if number < ties else better[::-1] if number < ties + against else better
        yield parse(
            Ranking,
            {
                "set_id": f"pair-{name}",
                "prompt_id": pair.prompt_id,
                "prompt": pair.prompt,
                "completions": texts,
                "ranks": ranks,
                "flags": (False, False),
                "labeler_id": f"{source}-{number + 1}",
                "instruction_version": source,
                "split": pair.split,
            },
        )
