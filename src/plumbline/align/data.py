"""Comparisons and ratings as token ids, each prompt with all its answers as one group.

    set      a prompt, its different answers, and the orders that people put them in
    order    a rank for each answer: 1 is the best, equal ranks are ties, None was flagged or not judged
    pair     two answers of one order; C(K, 2) of them where K were ranked

Lines about one set (several labelers' rankings, or the pairs of a ranking) are put together again, so that its prompt
and answers are computed once. Every set weighs 1: each of its orders has an equal part of that, and each pair an equal
part of its order's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from plumbline.errors import BadModel, BadRecord
from plumbline.files import BAD_LINES_SHOWN
from plumbline.formats import read_comparisons, read_ratings
from plumbline.models.chat import encode_prompt
from plumbline.models.grouped import Group
from plumbline.models.tokenizer import Tokenizer
from plumbline.records import Message, Pair, Ranking, held_out

if TYPE_CHECKING:
    import torch

    from plumbline.training.devices import Process

Part = Literal["train", "validation", "test"]


# ---- sets and their orders


class Order(NamedTuple):
    """What one person, or one pair, says about the answers of a set."""

    ranks: tuple[int | None, ...]
    margin: float = 1.0


class Comparison(NamedTuple):
    """Two answers of a set, by their places."""

    better: int
    worse: int
    weight: float
    tied: bool
    margin: float


@dataclass(frozen=True)
class RankedSet:
    """A prompt and its different answers, as text, with every order they were put in."""

    name: str
    prompt_id: str
    prompt: str | list[Message]
    completions: tuple[str, ...]
    orders: tuple[Order, ...]
    part: Part


def compare(orders: Sequence[Order], *, ties: bool) -> list[Comparison]:
    """Every pair of ranked answers in every order; the weights add up to 1. Without `ties`, equal ranks are no pair."""
    by_order = []
    for ranks, margin in orders:
        ranked = [(rank, place) for place, rank in enumerate(ranks) if rank is not None]
        pairs = [pair for pair in combinations(sorted(ranked), 2) if ties or pair[0][0] != pair[1][0]]
        if pairs:
            by_order.append((pairs, margin))
    return [
        Comparison(better, worse, 1 / len(by_order) / len(pairs), first == second, margin)
        for pairs, margin in by_order
        for (first, better), (second, worse) in pairs
    ]


def gather(records: Sequence[Ranking | Pair], share: float) -> list[RankedSet]:
    """The sets that the records speak of, in the order of their first lines. A pair without `set_id` is its own."""
    together: dict[Any, list[Ranking | Pair]] = {}
    for number, record in enumerate(records):
        key = (record.set_id, record.prompt_id) if record.set_id else number
        together.setdefault(key, []).append(record)
    return [as_set(lines, share) for lines in together.values()]


def as_set(records: Sequence[Ranking | Pair], share: float) -> RankedSet:
    first = records[0]
    judged = [as_order(record) for record in records]
    completions = tuple(dict.fromkeys(text for ranks, _ in judged for text in ranks))
    return RankedSet(
        name=f"set {first.set_id!r}" if first.set_id else f"the pair on prompt {first.prompt_id!r}",
        prompt_id=first.prompt_id,
        prompt=first.prompt,
        completions=completions,
        orders=tuple(Order(tuple(ranks.get(text) for text in completions), margin) for ranks, margin in judged),
        part=part_of(first, share),
    )


def as_order(record: Ranking | Pair) -> tuple[dict[str, int], float]:
    """The rank of each different text. One that was drawn twice and ranked twice keeps its better rank."""
    if isinstance(record, Pair):
        return {record.chosen: 1, record.rejected: 2}, record.margin
    ranks: dict[str, int] = {}
    for text, rank in zip(record.completions, record.ranks, strict=True):
        if rank is not None:
            ranks[text] = min(rank, ranks.get(text, rank))
    return ranks, 1.0


def part_of(record: Any, share: float) -> Part:
    """The record's split, else by its prompt alone, so that every method holds out the same prompts."""
    said: Part | None = getattr(record, "split", None)
    return said or ("validation" if held_out(record.prompt_id, share) else "train")


# ---- tokens


@dataclass(frozen=True)
class Limits:
    """What fits a model, and what happens to a prompt that does not."""

    tokenizer: Tokenizer
    window: int
    truncate: bool

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, truncate: bool = False) -> Limits:
        if tokenizer.eos_id is None:
            raise BadModel(
                f"{str(tokenizer.folder)!r} names no end-of-text token: put eos_token into its tokenizer_config.json"
            )
        return cls(tokenizer, tokenizer.window, truncate)

    def group(self, name: str, prompt: str | list[Message], completions: Sequence[str], left_out: list[str]) -> Any:
        """The group's token ids, each completion with one end-of-text token; None, told, where it does not fit."""
        assert self.tokenizer.eos_id is not None
        asked = encode_prompt(self.tokenizer, prompt)
        answers = [[*self.tokenizer.encode(text), self.tokenizer.eos_id] for text in completions]
        room = self.window - max(map(len, answers))
        if room < 1:
            left_out.append(
                f"{name}: an answer has {max(map(len, answers))} tokens and the window holds {self.window}: shorten it"
            )
            return None
        if len(asked) > room and not self.truncate:
            left_out.append(
                f"{name}: its prompt has {len(asked)} tokens and the window of {self.window} leaves room for {room}: "
                "shorten it, or pass --truncate-prompt to cut it from the left"
            )
            return None
        return Group(tuple(asked[-room:]), tuple(map(tuple, answers)))


@dataclass(frozen=True)
class Preference:
    """A ranked set as tokens."""

    name: str
    group: Group
    orders: tuple[Order, ...]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Opinion:
    """A rated answer as tokens."""

    name: str
    group: Group
    good: bool


@dataclass(frozen=True)
class Preferences:
    """A method's data: what to learn from, what to measure on, and what was left out and why."""

    train: list[Preference]
    held_out: list[Preference]
    left_out: list[str]


@dataclass(frozen=True)
class Opinions:
    """The same for ratings."""

    train: list[Opinion]
    held_out: list[Opinion]
    left_out: list[str]


def load_preferences(paths: Sequence[str], limits: Limits, *, ties: bool, share: float) -> Preferences:
    """Reads files of comparisons. What is marked as test is kept for later and not looked at here."""
    left_out: list[str] = []
    parts: dict[Part, list[Preference]] = {"train": [], "validation": [], "test": []}
    for each in gather(read_comparisons(paths, left_out), share):
        comparisons = compare(each.orders, ties=ties)
        if not comparisons:
            why = "holds fewer than two ranked answers" if len(each.completions) < 2 else "has all its answers tied"
            left_out.append(f"{each.name}: {why}, so it says of no answer that it is better")
            continue
        group = limits.group(each.name, each.prompt, each.completions, left_out)
        if group is not None:
            parts[each.part].append(Preference(each.name, group, each.orders, tuple(comparisons)))
    if not any(not one.tied for each in parts["train"] for one in each.comparisons):
        raise BadRecord(nothing_left(paths, "no comparison in which one answer is better", left_out))
    return Preferences(parts["train"], parts["validation"], left_out)


def load_opinions(paths: Sequence[str], limits: Limits, *, share: float) -> Opinions:
    """Reads files of ratings."""
    left_out: list[str] = []
    parts: dict[Part, list[Opinion]] = {"train": [], "validation": [], "test": []}
    for number, rating in enumerate(read_ratings(paths, left_out), 1):
        name = f"rating {number} (prompt {rating.prompt_id!r})"
        group = limits.group(name, rating.prompt, [rating.completion], left_out)
        if group is not None:
            parts[part_of(rating, share)].append(Opinion(name, group, rating.label))
    if len(parts["train"]) < 2:
        raise BadRecord(nothing_left(paths, "fewer than two ratings", left_out))
    return Opinions(parts["train"], parts["validation"], left_out)


def nothing_left(paths: Sequence[str], what: str, left_out: Sequence[str]) -> str:
    named = ", ".join(repr(str(path)) for path in paths)
    return f"{named}: there is {what} to train on" + (f"; {tell(left_out)}" if left_out else "")


def tell(left_out: Sequence[str]) -> str:
    """What was left out, in a few lines."""
    shown = [f"\n  {line}" for line in left_out[:BAD_LINES_SHOWN]]
    more = [f"\n  and {len(left_out) - len(shown)} more"] if len(left_out) > len(shown) else []
    return f"{len(left_out)} left out:" + "".join([*shown, *more])


def announce(left_out: Sequence[str], process: Process) -> None:
    """Says on the terminal what was left out, if anything was."""
    if left_out and process.first:
        print(f"plumb: {tell(left_out)}", file=sys.stderr)


# ---- tensors


@dataclass(frozen=True)
class Pairs:
    """The comparisons of some sets, one a row, as places in the list of all these sets' answers.

    `weight` and `vote` are shares of a whole step, so that a sum over its micro-batches is the step's mean.
    """

    better: torch.Tensor  # (pairs,)
    worse: torch.Tensor  # (pairs,)
    weight: torch.Tensor  # (pairs,), adds up to 1 over the step
    vote: torch.Tensor  # (pairs,), the same over the pairs that are no ties; 0 for a tie
    tied: torch.Tensor  # (pairs,)
    margin: torch.Tensor  # (pairs,)


def pairs_of(examples: Sequence[Preference], step: Sequence[Preference], device: Any = "cpu") -> Pairs:
    """The comparisons of one micro-batch, weighed as parts of its whole step."""
    import torch

    rows: list[tuple[int, Comparison]] = []
    begin = 0
    for example in examples:
        rows += [(begin, each) for each in example.comparisons]
        begin += len(example.group.completions)
    strict = sum(each.weight for example in step for each in example.comparisons if not each.tied)
    return Pairs(
        better=torch.tensor([first + each.better for first, each in rows], device=device),
        worse=torch.tensor([first + each.worse for first, each in rows], device=device),
        weight=torch.tensor([each.weight / len(step) for _, each in rows], device=device),
        vote=torch.tensor([0.0 if each.tied else each.weight / strict for _, each in rows], device=device),
        tied=torch.tensor([each.tied for _, each in rows], device=device),
        margin=torch.tensor([each.margin for _, each in rows], device=device),
    )
