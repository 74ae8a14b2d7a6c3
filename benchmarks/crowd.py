"""A made-up panel of labelers, some of whom guess or rank upside down: who is found, and what people then say together.

Every answer has a true worth, drawn from a normal distribution. A sound labeler ranks by worth with noise of their own,
as much as makes two of them agree about as often as people do. Some rank at random, some rank the other way round. Each
set goes to three labelers, and one in twenty of a labeler's sets is one whose ranks are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

import numpy as np

from plumbline.feedback.agreement import agreement
from plumbline.feedback.ballots import gather, tally
from plumbline.feedback.consensus import consensus
from plumbline.feedback.labelers import judge_labelers, weights_of
from plumbline.records import Ranking

LABELERS, RANDOM, REVERSED = 20, 0.2, 0.1
ANSWERS, VOTES, GOLD = 4, 3, 0.05
NOISE = 0.75

Truth = Mapping[str, Sequence[float]]
TEXTS = tuple(f"answer {number}" for number in range(ANSWERS))


@dataclass(frozen=True)
class Panel:
    """What everybody said, and what is so."""

    rankings: list[Ranking]
    gold: list[Ranking]
    worths: Truth
    """By set, of the sets whose ranks nobody knows."""
    bad: frozenset[str]


def ranking(set_id: str, who: str, scores: Sequence[float]) -> Ranking:
    order = np.argsort(np.argsort(-np.asarray(scores))) + 1
    return Ranking.model_construct(
        set_id=set_id,
        prompt_id=set_id,
        prompt="Which?",
        completions=TEXTS,
        ranks=tuple(order.tolist()),
        flags=(False,) * ANSWERS,
        labeler_id=who,
        instruction_version="1",
    )


def make_panel(seed: int, each: int) -> Panel:
    """A panel in which everybody ranks about `each` sets."""
    random = np.random.default_rng(seed)
    names = [f"labeler-{number:02}" for number in range(LABELERS)]
    guessing, turned = round(LABELERS * RANDOM), round(LABELERS * REVERSED)
    kinds = dict(zip(names, ["random"] * guessing + ["reversed"] * turned + [""] * LABELERS, strict=False))

    def said(set_id: str, who: str, worths: Sequence[float]) -> Ranking:
        heard = np.asarray(worths) + random.normal(0, NOISE, ANSWERS)
        if kinds[who]:
            heard = -heard if kinds[who] == "reversed" else random.normal(size=ANSWERS)
        return ranking(set_id, who, heard)

    known = max(1, round(each * GOLD))
    worths = {f"set-{n}": random.normal(size=ANSWERS) for n in range(round(LABELERS * (each - known) / VOTES))}
    gold = {f"gold-{n}": random.normal(size=ANSWERS) for n in range(known)}
    rankings = [
        said(set_id, str(who), worth)
        for set_id, worth in worths.items()
        for who in random.choice(names, VOTES, replace=False)
    ]
    rankings += [said(set_id, who, worth) for set_id, worth in gold.items() for who in names]
    known_ranks = [ranking(set_id, "gold", worth) for set_id, worth in gold.items()]
    return Panel(rankings, known_ranks, worths, frozenset(name for name in names if kinds[name]))


@dataclass(frozen=True)
class Found:
    """What came of one panel. The last four are shares of choices between two answers that are as the worths say."""

    agreement: float
    """Of two sound labelers."""
    caught: float
    false_alarms: float
    majority: float
    together: float
    without_suggested: float
    weighted: float


def examine(panel: Panel, seed: int) -> Found:
    scores = judge_labelers(panel.rankings, gold=panel.gold, seed=seed)
    suggested = {score.labeler_id for score in scores if score.suggestion}
    sound = [each for each in panel.rankings if each.labeler_id not in panel.bad]
    unknown = [each for each in panel.rankings if each.set_id in panel.worths]
    agreed = agreement(sound, seed=seed).without_ties.value
    assert agreed is not None
    return Found(
        agreement=agreed,
        caught=len(suggested & panel.bad) / len(panel.bad),
        false_alarms=len(suggested - panel.bad) / (LABELERS - len(panel.bad)),
        majority=right(majorities(unknown), panel.worths),
        together=right(merged(unknown), panel.worths),
        without_suggested=right(merged(unknown, dict.fromkeys(suggested, 0.0)), panel.worths),
        weighted=right(merged(unknown, weights_of(scores, suggested)), panel.worths),
    )


Choices = Iterator[tuple[str, np.ndarray]]
"""A set, and for each two of its answers whether the first is better: 1, worse: −1, or as good: 0."""


def majorities(rankings: list[Ranking]) -> Choices:
    for ballots in gather(rankings):
        votes = tally(ballots)[0]
        yield ballots.rankings[0].set_id, np.sign(votes - votes.T)


def merged(rankings: list[Ranking], weights: Mapping[str, float] | None = None) -> Choices:
    for each in consensus(rankings, weights=weights):
        ranks = np.array([np.nan if rank is None else rank for rank in each.ranks])
        yield each.set_id, np.nan_to_num(np.sign(ranks[None, :] - ranks[:, None]))


def right(choices: Choices, worths: Truth) -> float:
    """The share of choices that are right; a tie is half right, as is each choice of a set that nobody is left for."""
    points, total = 0.0, len(worths) * ANSWERS * (ANSWERS - 1) / 2
    left = set(worths)
    for set_id, signs in choices:
        left.discard(set_id)
        for one, other in combinations(range(ANSWERS), 2):
            true = np.sign(worths[set_id][one] - worths[set_id][other])
            points += (1 + signs[one, other] * true) / 2
    return (points + len(left) * ANSWERS * (ANSWERS - 1) / 4) / total


HEAD = [
    "sets a labeler",
    "sound ones agree",
    "bad ones found",
    "false alarms",
    "majority of all",
    "ranked pairs of all",
    "without the suggested",
    "and weighted",
]


def row(each: int, seeds: int) -> list[object]:
    """Means over panels with their 95 % intervals."""
    found = [examine(make_panel(seed, each), seed) for seed in range(seeds)]
    print(f"  {each} sets a labeler, {seeds} panels", flush=True)
    return [each, *(mean([getattr(one, name) for one in found]) for name in Found.__dataclass_fields__)]


def mean(values: Sequence[float]) -> str:
    from scipy.stats import t

    middle, n = float(np.mean(values)), len(values)
    reach = float(np.std(values, ddof=1)) / sqrt(n) * float(t.ppf(0.975, n - 1))
    return f"{100 * middle:.1f} ± {100 * reach:.1f}"


def notes(seeds: int) -> str:
    return (
        f"Percent, means over {seeds} panels with their 95 % intervals. {LABELERS} labelers, {RANDOM:.0%} of them "
        f"guessing and {REVERSED:.0%} reversed, {VOTES} votes a set of {ANSWERS} answers, {GOLD:.0%} of a labeler's "
        "sets gold. The last four columns are shares of choices between two answers that are as the true worths say, "
        "on the sets that are not gold; a tie is half right. The last but one leaves out whom `labelers` suggests, as "
        "a person who confirms every suggestion would, the last also weighs votes by accuracy."
    )
