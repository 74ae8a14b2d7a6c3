"""Whose rankings to look at: everybody held against the others, and against gold sets, never against themselves.

How reliable each labeler is, p, is estimated for all together (Dawid and Skene with one number per labeler: the
probability of choosing the better of two answers). What the others say about two answers is then their votes, each
with the weight log p / (1 − p), so that those who guess count little and those who answer upside down count the other
way round. For the votes on a set, p is estimated from other sets alone (ten parts, each judged by the nine others):
else people would be held against weights that their own votes have made.

A labeler's score on a set is the share of its pairs of answers on which they choose as the others do, or as the gold
ranking where the set has one. Ties, and pairs on which the others give less than 2 to 1 for either answer, say nothing.
Guessing scores 0.5.

Somebody is suggested for exclusion

    as random      where their score lies below the typical labeler's by more than chance explains, and nearer to 0.5
    as reversed    where it lies below 0.5 by more than chance explains

The typical labeler is the median. Scores with and without gold are compared with typical scores of their own kind, as
gold is the easier one to agree with. A set is one observation, whatever its size, and how much a labeler's scores
scatter from set to set is estimated from all labelers together. The one-sided p-values of all labelers and both
questions are adjusted by Benjamini and Hochberg (1995): of those suggested, a share of `level` is wrong on average.
Where all labelers are alike nobody is below the typical one, and where all of them guess nobody is either: that, only
agreement as a whole can tell. Where half of them guess, the typical labeler does, and some are missed. Where most of
them answer upside down, it is the others who seem to, unless there is gold.

A suggestion is evidence for a person to confirm. Nothing is excluded here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Literal, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from plumbline.feedback.agreement import Figure, ratio
from plumbline.feedback.ballots import ROUNDING, Ballots, Floats, gather, set_key
from plumbline.records import Ranking

LEVEL = 0.05
FEWEST_SETS = 10
"""With fewer scored sets nobody is suggested: a score of few sets is not near enough to normal to be tested."""
GUESS = 0.5
DOUBTFUL, SURE = 0.55, 0.95
"""Accuracies further out are not believed, for weights."""
RIGHT, WRONG = 3.0, 1.0
CLEAR = log(2.0)
PARTS = 10
MOST_ROUNDS, ENOUGH = 500, 1e-6

Numbers = NDArray[np.int_]
Suspicion = Literal["random", "reversed"]


@dataclass(frozen=True)
class LabelerScore:
    """What there is to know about one labeler, as numbers."""

    labeler_id: str
    sets: int
    """Sets that they ranked."""
    others: Figure
    """Mean score against the other labelers, over sets without gold."""
    gold: Figure
    """Mean score against gold rankings."""
    accuracy: Figure
    """Share of their choices between two answers that are right, each counted by the probability that it is, which the
    votes of all labelers give it, their own too. The interval takes these probabilities as known."""
    flags: Figure
    """Share of answers that they flag, or do not flag, as most others or the gold ranking do. Where flags are rare it
    is near 1 for anybody who never flags."""
    p_random: float | None
    """Adjusted p-value of: as good as the typical labeler. None with fewer than ten scored sets."""
    p_reversed: float | None
    """Adjusted p-value of: at least as good as guessing."""
    suggestion: Suspicion | None
    evidence: str
    """The suggestion's reason in a sentence."""


class CutOffs(NamedTuple):
    """What a labeler must reach to be taken on."""

    comparisons: float
    flags: float
    demonstrations: float


INSTRUCTGPT = CutOffs(comparisons=0.75, flags=0.75, demonstrations=6.0)
"""Ouyang et al. 2022, appendix B.1: agreement on comparisons and on flags, and a score of 1 to 7 for answers written.
They held applicants against their own labels, so gold sets are what it is meant for."""


def judge_labelers(
    rankings: Iterable[Ranking], *, gold: Iterable[Ranking] = (), level: float = LEVEL, seed: int = 0
) -> list[LabelerScore]:
    """A score for everybody who ranked something, by name. The rankings of a set must arrive together.

    A gold ranking belongs to the set whose ids it has; who made it does not matter.
    """
    known = {set_key(ranking): ranking for ranking in gold}
    sets: Counter[str] = Counter()
    flags: dict[str, list[float]] = {}
    votes: list[Votes] = []
    parts: list[int] = []
    tasks = 0
    for number, ballots in enumerate(gather(rankings)):
        right = known.get(set_key(ballots.rankings[0]))
        sets.update(ballots.labelers)
        parts.append(crc32(ballots.rankings[0].set_id.encode()) % PARTS)
        votes.append(votes_on(ballots, number, tasks, right, list(sets)))
        tasks += len(ballots.texts) * (len(ballots.texts) - 1) // 2
        for labeler, share in zip(ballots.labelers, same_flags(ballots, right), strict=True):
            flags.setdefault(labeler, []).extend(share)
    if not votes:
        return []
    everything = Votes(*(np.concatenate(column) for column in zip(*votes, strict=True)))
    scores = scores_of(everything, len(sets), np.array(parts))
    _, certainty = estimate(everything, len(sets))
    return sorted(
        (
            LabelerScore(
                labeler_id=labeler,
                sets=sets[labeler],
                others=mean_figure(scores[number].others, "undefined: the others say nothing", seed),
                gold=mean_figure(scores[number].gold, "undefined: no gold set ranked", seed),
                accuracy=accuracy(everything, number, certainty, seed),
                flags=mean_figure(flags[labeler], "undefined: nobody else judged the same answers", seed),
                p_random=test.p_random,
                p_reversed=test.p_reversed,
                suggestion=test.suggestion,
                evidence=test.evidence,
            )
            for number, (labeler, test) in enumerate(zip(sets, suspicions(scores, level), strict=True))
        ),
        key=lambda score: score.labeler_id,
    )


def weights_of(scores: Iterable[LabelerScore], excluded: Collection[str] = ()) -> dict[str, float]:
    """How much each vote should count: log p / (1 − p) for an accuracy p, on average 1; 0 for the excluded.

    With independent errors that is the best weight. Nobody is left out who is not excluded: an accuracy below 0.55
    counts as 0.55.
    """
    kept = [score for score in scores if score.labeler_id not in excluded]
    odds = {
        score.labeler_id: log(p / (1 - p))
        for score in kept
        for p in [min(max(0.5 if score.accuracy.value is None else score.accuracy.value, DOUBTFUL), SURE)]
    }
    mean = sum(odds.values()) / max(len(odds), 1)
    return {labeler: value / mean for labeler, value in odds.items()} | dict.fromkeys(excluded, 0.0)


def missed(score: LabelerScore, cut_offs: CutOffs = INSTRUCTGPT, *, demonstrations: float | None = None) -> list[str]:
    """The cut-offs that a labeler does not reach, a sentence each; gold counts before the others where there is some.

    A number that is not known is not held against anybody.
    """
    comparisons = score.others if score.gold.value is None else score.gold
    found = {"comparisons": comparisons.value, "flags": score.flags.value, "demonstrations": demonstrations}
    return [
        f"{name}: {value:.2f}, and {cut_off:.2f} are asked for"
        for (name, value), cut_off in zip(found.items(), cut_offs, strict=True)
        if value is not None and value < cut_off
    ]


# ---- what a set says


class Votes(NamedTuple):
    """Choices between two answers of one set, ties left out, an entry each."""

    set: Numbers
    task: Numbers  # which two answers, over all sets
    labeler: Numbers
    sign: Floats  # 1 for the first answer, −1 for the second
    known: Floats  # what gold says, 0 for nothing


def votes_on(ballots: Ballots, number: int, tasks: int, right: Ranking | None, labelers: Sequence[str]) -> Votes:
    """The votes on set `number`, before which there were so many tasks."""
    upper = np.triu(np.ones((len(ballots.texts),) * 2, dtype=bool), 1)
    signs = np.nan_to_num(ballots.preferences[:, upper])
    known = np.zeros(signs.shape[1]) if right is None else gold_preferences(ballots, right)[upper]
    rows, columns = np.nonzero(signs)
    who = np.array([labelers.index(labeler) for labeler in ballots.labelers])
    return Votes(np.full(len(rows), number), tasks + columns, who[rows], signs[rows, columns], known[columns])


def gold_preferences(ballots: Ballots, right: Ranking) -> Floats:
    """(answers, answers), as `Ballots.preferences`, with 0 where the gold ranking does not say."""
    known = dict(zip(right.completions, right.ranks, strict=True))
    ranks = np.array([known.get(text) for text in ballots.texts], dtype=float)  # None becomes NaN
    return np.asarray(np.nan_to_num(np.sign(ranks[None, :] - ranks[:, None])))


def same_flags(ballots: Ballots, right: Ranking | None) -> list[list[float]]:
    """By labeler, the share of answers flagged or left as most others do, or as gold does: one number, or none."""
    flags, judged = ballots.flags.astype(int), ballots.judged.astype(int)
    if right is None:
        against, of = flags.sum(axis=0) - flags, judged.sum(axis=0) - judged
    else:
        known = dict(zip(right.completions, right.flags, strict=True))
        against = np.tile([int(known.get(text, False)) for text in ballots.texts], (len(flags), 1))
        of = np.tile([int(text in known) for text in ballots.texts], (len(flags), 1))
    decided = ballots.judged & (2 * against != of)
    same = ballots.flags == (2 * against > of)
    return [[float(same[row, some].mean())] if some.any() else [] for row, some in enumerate(decided)]


# ---- how reliable everybody is


def estimate(votes: Votes, labelers: int) -> tuple[Floats, Floats]:
    """Everybody's probability p of choosing the better answer (labelers,), and that each vote did (votes,).

    log odds that the first answer is the better one = Σ ± log p / (1 − p) over its votes, or what gold says. A prior
    of three right choices and one wrong keeps p off 0 and 1. With everybody upside down the votes are as likely: which
    of the two it is, the start decides, that most people are right, or what gold says of them.
    """

    def share(right: Floats, of: Floats) -> Floats:
        sums, counts = (np.bincount(votes.labeler, each, labelers) for each in (right, of))
        return (RIGHT + sums) / (RIGHT + WRONG + counts)

    known = (votes.known != 0).astype(float)
    right = (votes.known == votes.sign).astype(float)
    p = share(right, known)
    for _ in range(MOST_ROUNDS):
        odds = np.bincount(votes.task, votes.sign * log_odds(p)[votes.labeler])[votes.task]
        right = np.where(votes.known == 0, 1 / (1 + np.exp(-votes.sign * odds)), votes.sign == votes.known)
        before, p = p, share(right, np.ones(len(right)))
        if np.abs(p - before).max() < ENOUGH:
            break
    return p, right


def log_odds(p: Floats) -> Floats:
    return np.log(p / (1 - p))


def accuracy(votes: Votes, labeler: int, right: Floats, seed: int) -> Figure:
    own = votes.labeler == labeler
    if not own.any():
        return Figure(None, None, None, 0, "undefined: no choice between two answers")
    sums, counts = (np.bincount(votes.set[own], each[own]) for each in (right, np.ones(len(right))))
    return ratio(sums, counts, "", seed)


# ---- scores and tests


class Scores(NamedTuple):
    """One labeler's, a number per set."""

    others: Floats
    gold: Floats


def scores_of(votes: Votes, labelers: int, parts: Numbers) -> list[Scores]:
    """Everybody's scores; `parts` (sets,) says which sets belong together."""
    part = parts[votes.set]
    p = np.array(
        [estimate(Votes(*(column[part != number] for column in votes)), labelers)[0] for number in range(PARTS)]
    )  # (parts, labelers), from the sets of all other parts
    own = votes.sign * log_odds(p[part, votes.labeler])
    others = np.bincount(votes.task, own)[votes.task] - own
    clear = np.where(np.abs(others) >= CLEAR - ROUNDING, np.sign(others), 0.0)
    reference = np.where(votes.known == 0, clear, votes.known)
    found = []
    for labeler in range(labelers):
        kinds = []
        for kind in (votes.known == 0, votes.known != 0):
            entries = (votes.labeler == labeler) & kind & (reference != 0)
            same = np.bincount(votes.set[entries], votes.sign[entries] == reference[entries])
            counts = np.bincount(votes.set[entries])
            kinds.append(same[counts > 0] / counts[counts > 0])
        found.append(Scores(*kinds))
    return found


def mean_figure(scores: Sequence[float] | Floats, why: str, seed: int) -> Figure:
    if not len(scores):
        return Figure(None, None, None, 0, why)
    return ratio(np.array(scores), np.ones(len(scores)), why, seed)


class Test(NamedTuple):
    p_random: float | None
    p_reversed: float | None
    suggestion: Suspicion | None
    evidence: str


def suspicions(scores: Sequence[Scores], level: float) -> list[Test]:
    """A test for each labeler, in their order."""
    from scipy.stats import false_discovery_control, t

    typical = [
        float(np.median([kind.mean() for kind in kinds if len(kind)])) if any(map(len, kinds)) else GUESS
        for kinds in zip(*scores, strict=True)
    ]
    spread, freedom = scatter(scores)
    tested, lows = [], []
    for number, each in enumerate(scores):
        own, usual = np.concatenate(each), np.repeat(typical, list(map(len, each)))
        if len(own) >= FEWEST_SETS:
            tested.append((number, float(own.mean()), float(usual.mean()), len(own)))
            error = spread / sqrt(len(own))
            lows += [t.cdf((own - level).mean() / error, freedom) for level in (usual, GUESS)]
    adjusted = false_discovery_control(lows).tolist() if lows else []
    found = [Test(None, None, None, f"fewer than {FEWEST_SETS} scored sets: too few to tell")] * len(scores)
    for (number, score, usual_score, n), p_random, p_reversed in zip(
        tested, adjusted[::2], adjusted[1::2], strict=True
    ):
        low = p_random <= level and score < (usual_score + GUESS) / 2
        found[number] = Test(
            p_random,
            p_reversed,
            "reversed" if p_reversed <= level else "random" if low else None,
            f"chooses as others or gold do {score:.0%} of the time on {n} sets, the typical labeler {usual_score:.0%}",
        )
    return found


def scatter(scores: Sequence[Scores]) -> tuple[float, int]:
    """How far a labeler's scores lie from their own mean, over all labelers, and its degrees of freedom."""
    groups = [kind for each in scores for kind in each if len(kind)]
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    freedom = max(1, sum(len(group) - 1 for group in groups))
    return max(sqrt(squares / freedom), ROUNDING), freedom
