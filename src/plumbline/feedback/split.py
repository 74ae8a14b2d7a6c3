"""Prompts into train, validation and test, so that no user, no prompt and no long answer stands on two sides.

Prompts hang together when one user wrote both, when they are the same, or near-duplicates (`duplicates`), and when they
have the same long answer; what hangs together, by however many steps, goes to one part. The largest go first, each to
the part that lacks most; the seed decides among equals. Who wrote a prompt says the field `key`: `user_id`, or another
that the records carry (`organisation`). A prompt of nobody hangs on near-duplicates and answers alone.

A prompt that has a split already keeps it, and what hangs on it follows, so a data set that grows does not move what a
model was tested on into what the next one learns. Where new data joins what stood in two parts, the first in the order
train, validation, test takes all: it was learned from already.

Of one user at most `cap` prompts are kept, chosen by the seed (Ouyang et al. 2022 took 200); the others get no split.

`check` trusts none of this. It reads only the prompts with their splits and answers, and counts afresh what stands on
two sides.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np

from plumbline.errors import UserError
from plumbline.feedback.duplicates import Ints, Nearness, components, find_links, to_first
from plumbline.records import PromptRecord, Split, prompt_id

PARTS: tuple[Split, ...] = get_args(Split)

Answers = Mapping[str, Collection[int]]
"""By prompt, a number for each of its long answers that no other text has."""


@dataclass(frozen=True)
class Plan:
    """How prompts are split."""

    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """The parts of train, validation and test; they add up to 1."""
    cap: int = 200
    """The most prompts of one user; 0 for no limit."""
    key: str = "user_id"
    """The field that says who wrote a prompt."""
    seed: int = 0
    """Decides among equals."""
    nearness: Nearness = field(default_factory=Nearness)
    """What makes two prompts near-duplicates."""
    answer: int = 40
    """The number of characters from which one answer joins the prompts that have it; 0 for not looking."""

    def __post_init__(self) -> None:
        if len(self.shares) != 3 or min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise UserError(f"the shares are {self.shares!r}: name three for train, validation, test that add up to 1")
        if self.cap < 0:
            raise UserError(f"the cap is {self.cap!r}: it must be a number of prompts, or 0 for no limit")
        if self.answer < 0:
            raise UserError(f"the length of an answer is {self.answer!r}: it must be 1 or more, or 0 for not looking")


def split(
    prompts: Iterable[PromptRecord], plan: Plan | None = None, answers: Answers | None = None
) -> list[PromptRecord]:
    """The prompts, each with its split; None for what is over the cap. Order and number stay as they are."""
    plan = plan or Plan()
    given = list(prompts)
    kept = np.array([place for place, over in enumerate(over_cap(given, plan)) if not over], dtype=np.int64)
    chosen = [given[place] for place in kept]
    alike = find_links([each.prompt for each in chosen], plan.nearness)
    links = [by_key(chosen, plan.key), by_answer(chosen, answers or {}), alike]
    groups = components(np.concatenate(links), len(chosen))
    parts = assign(groups, chosen, plan)
    made: list[Split | None] = [None] * len(given)
    for place, group in zip(kept, groups, strict=True):
        made[place] = parts[int(group)]
    return [each.model_copy(update={"split": part}) for each, part in zip(given, made, strict=True)]


def writer(prompt: PromptRecord, key: str) -> str | None:
    """Who wrote it, None when it does not say."""
    value = getattr(prompt, key, None)
    return None if value in (None, "") else str(value)


def by_key(prompts: Sequence[PromptRecord], key: str) -> Ints:
    """Links between prompts of one writer, and between prompts of one id."""
    return np.concatenate(
        [to_first([writer(each, key) for each in prompts]), to_first([each.prompt_id for each in prompts])]
    )


def by_answer(prompts: Sequence[PromptRecord], answers: Answers) -> Ints:
    """Links between prompts that have one answer."""
    first: dict[int, int] = {}
    both = (
        (first.setdefault(answer, place), place)
        for place, each in enumerate(prompts)
        for answer in answers.get(each.prompt_id, ())
    )
    return np.array([link for link in both if link[0] != link[1]], dtype=np.int64).reshape(-1, 2)


def over_cap(prompts: Sequence[PromptRecord], plan: Plan) -> list[bool]:
    """Whether a prompt is one too many of somebody who wrote it. Those with a split go first, then the seed decides."""
    writers: defaultdict[str, set[str]] = defaultdict(set)
    for each in prompts:
        if who := writer(each, plan.key):
            writers[each.prompt_id].add(who)
    placed = {each.prompt_id for each in prompts if each.split is not None}
    taken: Counter[str] = Counter()
    over = set()
    for name in sorted(writers, key=lambda name: (name not in placed, draw(plan.seed, name))) if plan.cap else ():
        if max(taken[who] for who in writers[name]) < plan.cap:
            taken.update(writers[name])
        else:
            over.add(name)
    return [each.prompt_id in over for each in prompts]


def assign(groups: Ints, prompts: Sequence[PromptRecord], plan: Plan) -> list[Split]:
    """The part of each group, by the group's number."""
    sizes = np.bincount(groups).tolist()
    names: dict[int, str] = {}
    parts: dict[int, Split] = {}
    for group, prompt in zip(groups.tolist(), prompts, strict=True):
        names[group] = min(names.get(group, prompt.prompt_id), prompt.prompt_id)
        if prompt.split is not None:
            parts[group] = min(parts.get(group, prompt.split), prompt.split, key=PARTS.index)
    lack = {part: share * len(prompts) for part, share in zip(PARTS, plan.shares, strict=True) if share}
    for group, part in parts.items():
        lack[part] = lack.get(part, 0.0) - sizes[group]
    for group in sorted(names.keys() - parts.keys(), key=lambda group: (-sizes[group], draw(plan.seed, names[group]))):
        parts[group] = max(lack, key=lambda part: lack[part])
        lack[parts[group]] -= sizes[group]
    return [parts[group] for group in range(len(sizes))]


def draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}: {name}".encode()).digest()


# ---- the proof


@dataclass(frozen=True)
class Report:
    """What stands in each part, and on two sides. Every count comes from the prompts and their splits alone."""

    prompts: dict[str, int]
    """Prompts in each part."""
    users: dict[str, int]
    """Users in each part."""
    shared_users: int
    """Users with prompts in two parts: must be 0."""
    shared_prompts: int
    """Prompts whose text stands in two parts: must be 0."""
    shared_answers: int
    """Long answers that stand in two parts: must be 0."""
    near_duplicates: int
    """Links between near-duplicates that lead from one part to another: must be 0."""
    most_of_a_user: int
    """The most prompts that one user has: must not be above the cap."""
    left_out: int
    """Prompts without a split: over the cap."""
    of_nobody: int
    """Prompts that do not say who wrote them; nothing can be proved about those."""
    largest: float
    """The share of the prompts in the largest group that hangs together."""

    @property
    def sound(self) -> bool:
        return not (self.shared_users or self.shared_prompts or self.shared_answers or self.near_duplicates)


def check(prompts: Iterable[PromptRecord], plan: Plan | None = None, answers: Answers | None = None) -> Report:
    """Counts what stands on two sides of a split, whoever made it."""
    plan = plan or Plan()
    given = list(prompts)
    placed = [each for each in given if each.split is not None]
    users, texts = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    written, said = defaultdict[str, set[str]](set), defaultdict[int, set[str]](set)
    for each in placed:
        assert each.split is not None
        texts[prompt_id(each.prompt)].add(each.split)
        for answer in (answers or {}).get(each.prompt_id, ()):
            said[answer].add(each.split)
        if who := writer(each, plan.key):
            users[who].add(each.split)
            written[who].add(each.prompt_id)
    links = find_links([each.prompt for each in placed], plan.nearness)
    sides = np.array([PARTS.index(each.split) for each in placed if each.split], dtype=np.int64)
    together = [links, by_key(placed, plan.key), by_answer(placed, answers or {})]
    groups = components(np.concatenate(together), len(placed))
    return Report(
        prompts={part: sum(each.split == part for each in placed) for part in PARTS},
        users={part: sum(part in parts for parts in users.values()) for part in PARTS},
        shared_users=count_shared(users),
        shared_prompts=count_shared(texts),
        shared_answers=count_shared(said),
        near_duplicates=int(np.sum(sides[links[:, 0]] != sides[links[:, 1]])),
        most_of_a_user=max(map(len, written.values()), default=0),
        left_out=len(given) - len(placed),
        of_nobody=sum(writer(each, plan.key) is None for each in placed),
        largest=float(np.bincount(groups).max(initial=0)) / max(1, len(placed)),
    )


def count_shared(parts: Mapping[Any, set[str]]) -> int:
    return sum(len(each) > 1 for each in parts.values())
