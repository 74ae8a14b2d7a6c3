"""How far people agree: shares, Krippendorff's alpha, Kendall's tau-b, each with its interval and its n.

The unit of rankings is a pair of answers of one set; a labeler says +1 (the first is better), 0 (a tie) or −1 of it.
A pair is counted from either side, so nothing depends on the order in which answers are listed. Ranks themselves will
not do as units: rank 2 of 2 is the worst and rank 2 of 9 is good, so where sets differ in size, labelers who guess
would seem to agree. Over pairs guessing is 0 whatever the sizes, ties lie halfway between the two orders, and without
ties alpha is 2 · agreement − 1, up to its correction for small samples.

Two labelers of a pair are one comparison; m labelers weigh m, so each of their m (m − 1) / 2 comparisons counts
2 / (m − 1), as in Krippendorff's coincidences.

Answers of one set are judged in one go and are no independent evidence, so the bootstrap draws whole sets, with
replacement, and the interval holds the middle 95 % of the values. n is the number of sets that have something to say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from plumbline.errors import UserError
from plumbline.feedback.ballots import Ballots, Floats, gather, lay_out, set_key
from plumbline.records import Ranking

Level = Literal["nominal", "ordinal", "interval", "ratio"]
RESAMPLES = 1000
AT_ONCE = 2_000_000
"""Numbers that a bootstrap draws at a time."""

UNANIMOUS = "undefined: unanimous"
NOBODY_TWICE = "undefined: nobody ranked the same set"
NOTHING_TWICE = "undefined: no two answers ranked both times"
ALL_TIES = "undefined: every comparison has a tie"
ALL_TIED = "undefined: one of the two ties everything"


@dataclass(frozen=True)
class Figure:
    """A number with its 95 % interval and what it was counted over, or the reason why there is none."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    why: str = ""
    """Why there is no value; or no interval, where there is a value."""

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.why} (n = {self.n})"
        interval = self.why if self.low is None else f"{self.low:.3f} to {self.high:.3f}"
        return f"{self.value:.3f} ({interval}, n = {self.n})"


@dataclass(frozen=True)
class Agreement:
    """What `agreement` found."""

    sets: int
    """All of them."""
    shared: int
    """Those that more than one labeler ranked: only they tell of agreement."""
    labelers: int
    comparisons: int
    """Two labelers on one pair of answers."""
    without_ties: Figure
    """Where both labelers chose, the share in which they chose the same answer. 0.5 is guessing."""
    with_ties: Figure
    """Of all comparisons, the share with the same outcome of three: first, tie, second."""
    alpha: Figure
    """Krippendorff's ordinal alpha over pairs of answers: 1 is full agreement, 0 what guessing gives."""
    flags: Figure
    """Krippendorff's nominal alpha over answers, flagged or not."""


# ---- from rankings


class SetSums(NamedTuple):
    """What one set adds. `pairs` and `flags` are Krippendorff's coincidences, flat, of the values below."""

    pairs: Floats  # (9,)
    flags: Floats  # (4,)
    comparisons: int


OUTCOMES = (-1, 0, 1)
# Places among the nine coincidences of two outcomes.
SAME_CHOICE = [0, 8]
BOTH_CHOSE = [0, 2, 6, 8]
SAME_OUTCOME = [0, 4, 8]


def agreement(rankings: Iterable[Ranking], *, seed: int = 0) -> Agreement:
    """Over all sets, whatever their criterion; the rankings of a set must arrive together."""
    sets, labelers = sums_over(gather(rankings))
    return summary(sets, labelers, seed)


def agreement_by_criterion(rankings: Iterable[Ranking], *, seed: int = 0) -> dict[str | None, Agreement]:
    """The same for each criterion apart. It is a field that a ranking may have beside those it must have."""
    by_criterion: dict[str | None, list[Ballots]] = {}
    for ballots in gather(rankings):
        by_criterion.setdefault(getattr(ballots.rankings[0], "criterion", None), []).append(ballots)
    return {criterion: summary(*sums_over(sets), seed) for criterion, sets in by_criterion.items()}


def sums_over(sets: Iterable[Ballots]) -> tuple[list[SetSums], set[str]]:
    sums, labelers = [], set()
    for ballots in sets:
        labelers.update(ballots.labelers)
        sums.append(sums_of(ballots))
    return sums, labelers


def sums_of(ballots: Ballots) -> SetSums:
    preferences = ballots.preferences[:, ~np.eye(len(ballots.texts), dtype=bool)]  # (labelers, ordered pairs)
    outcomes = np.array([(preferences == outcome).sum(axis=0) for outcome in OUTCOMES])
    flags = np.array([(ballots.judged & ~ballots.flags).sum(axis=0), ballots.flags.sum(axis=0)])
    voters = outcomes.sum(axis=0)
    return SetSums(coincidences(outcomes), coincidences(flags), int((voters * (voters - 1)).sum()) // 4)


def coincidences(counts: NDArray[np.int_]) -> Floats:
    """Krippendorff's coincidences, flat (values · values,), of how often each unit got each value: (values, units)."""
    observers = counts.sum(axis=0)
    counts = counts[:, observers > 1]
    shared = counts / (observers[observers > 1] - 1)
    table: Floats = shared @ counts.T - np.diag(shared.sum(axis=1))
    return table.ravel()


def summary(sets: Sequence[SetSums], labelers: Collection[str], seed: int) -> Agreement:
    shared = [each for each in sets if each.pairs.any() or each.flags.any()]
    pairs = np.array([each.pairs for each in sets if each.pairs.any()]).reshape(-1, 9)
    flags = np.array([each.flags for each in sets if each.flags.any()]).reshape(-1, 4)
    return Agreement(
        sets=len(sets),
        shared=len(shared),
        labelers=len(labelers),
        comparisons=sum(each.comparisons for each in sets),
        without_ties=ratio(pairs[:, SAME_CHOICE].sum(axis=1), pairs[:, BOTH_CHOSE].sum(axis=1), ALL_TIES, seed),
        with_ties=ratio(pairs[:, SAME_OUTCOME].sum(axis=1), pairs.sum(axis=1), NOBODY_TWICE, seed),
        alpha=figure(pairs, lambda sums: alphas(sums, OUTCOMES, "ordinal"), UNANIMOUS, seed),
        flags=figure(flags, lambda sums: alphas(sums, (0, 1), "nominal"), UNANIMOUS, seed),
    )


def tau(rankings: Iterable[Ranking], *, seed: int = 0) -> dict[tuple[str, str], Figure]:
    """Kendall's tau-b of every two labelers who share a set: 1 the same order, −1 the reversed one.

    Over all pairs of answers that both ranked, within sets: Σ a·b / √(Σ a² · Σ b²), where a and b are 1, 0 or −1.
    """
    sums: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for ballots in gather(rankings):
        upper = np.triu(np.ones((len(ballots.texts),) * 2, dtype=bool), 1)
        preferences = dict(zip(ballots.labelers, ballots.preferences[:, upper], strict=True))
        for one, other in combinations(sorted(preferences), 2):
            both = ~np.isnan(preferences[one] + preferences[other])
            a, b = preferences[one][both], preferences[other][both]
            if len(a):
                sums.setdefault((one, other), []).append((float(a @ b), float(a @ a), float(b @ b)))
    return {
        pair: figure(np.array(rows), lambda sums: divide(sums[:, 0], np.sqrt(sums[:, 1] * sums[:, 2])), ALL_TIED, seed)
        for pair, rows in sums.items()
    }


def with_themselves(first: Iterable[Ranking], again: Iterable[Ranking], *, seed: int = 0) -> dict[str, Figure]:
    """How far each labeler who was asked the same set twice says the same again.

    Of the pairs of answers that they ranked both times, the share with the same outcome of three: first, tie, second.
    n counts their sets.
    """
    asked_twice = {(ranking.labeler_id, set_key(ranking)): ranking for ranking in again}
    sums: dict[str, list[Floats]] = {}
    for before in first:
        after = asked_twice.get((before.labeler_id, set_key(before)))
        if after is not None:
            both = lay_out({"before": before, "after": after})
            sums.setdefault(before.labeler_id, []).append(sums_of(both).pairs)
    return {
        labeler: ratio(pairs[:, SAME_OUTCOME].sum(axis=1), pairs.sum(axis=1), NOTHING_TWICE, seed)
        for labeler, pairs in ((labeler, np.array(rows)) for labeler, rows in sums.items())
    }


# ---- from any table


def alpha(
    table: Sequence[Sequence[float | None]],
    level: Level,
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Figure:
    """Krippendorff's alpha of a reliability table: a row per unit, in it the value that each observer gave, or None.

    1 − observed / expected disagreement, over the units with two values or more. The bootstrap draws units, or whole
    clusters of units where `clusters` names that of each. n is the number of what it draws.
    """
    from scipy.sparse import csr_array

    rows = [[value for value in row if value is not None] for row in table]
    values = sorted({value for row in rows for value in row})
    check(level, values)
    place = {value: number for number, value in enumerate(values)}
    cluster_place: dict[Hashable, int] = {}
    entries: list[tuple[int, int, float]] = []
    for cluster, row in zip(range(len(rows)) if clusters is None else clusters, rows, strict=True):
        if len(row) > 1:
            drawn = cluster_place.setdefault(cluster, len(cluster_place))
            both = permutations([place[value] for value in row], 2)
            entries += [(drawn, one * len(values) + other, 1 / (len(row) - 1)) for one, other in both]
    lines, columns, amounts = zip(*entries, strict=True) if entries else ((), (), ())
    sums = csr_array((amounts, (lines, columns)), shape=(len(cluster_place), len(values) ** 2))
    return figure(sums, lambda sums: alphas(sums, values, level), UNANIMOUS, seed)


def check(level: str, values: Sequence[float]) -> None:
    if level not in get_args(Level):
        raise UserError(f"there is no level {level!r}: take one of {', '.join(get_args(Level))}")
    wrong = [value for value in values if not np.isfinite(value) or (level == "ratio" and value < 0)]
    if wrong:
        raise UserError(
            f"the table holds {wrong[0]!r}: values must be finite, and for a ratio not below 0; None is no value"
        )


def alphas(sums: Floats, values: Sequence[float], level: Level) -> Floats:
    """Krippendorff's alpha of each row of flat coincidences: (rows, values · values) → (rows,), NaN where undefined."""
    size = len(values)
    observed = sums.reshape(-1, size, size)
    totals = observed.sum(axis=2)  # how often each value was given
    n = totals.sum(axis=1)
    apart = distances(totals, np.asarray(values, dtype=float), level)
    by_chance = np.einsum("rc,rk,rck->r", totals, totals, np.broadcast_to(apart, observed.shape))
    found: Floats = 1 - divide((n - 1) * (observed * apart).sum(axis=(1, 2)), by_chance)
    return found


def distances(totals: Floats, values: Floats, level: Level) -> Floats:
    """How far two values lie apart, squared: (values, values), or (rows, values, values) where it depends on totals."""
    if level == "nominal":
        return 1 - np.eye(len(values))
    if level == "ordinal":  # the values given between the two, half of either's own: the distance of their mean ranks
        mean_ranks = totals.cumsum(axis=1) - totals / 2
        return np.asarray((mean_ranks[:, :, None] - mean_ranks[:, None, :]) ** 2)
    gap = values[:, None] - values
    return np.asarray(
        gap**2 if level == "interval" else np.divide(gap, values[:, None] + values, where=gap != 0, out=gap) ** 2
    )


# ---- intervals


def ratio(tops: NDArray[Any], bottoms: NDArray[Any], why: str, seed: int) -> Figure:
    """Σ tops / Σ bottoms over sets; those with a bottom of 0 say nothing and are left out."""
    table = np.column_stack([tops, bottoms])[bottoms > 0]
    if len(bottoms) and not len(table):
        return Figure(None, None, None, 0, why)
    return figure(table, lambda sums: divide(sums[:, 0], sums[:, 1]), why, seed)


def figure(table: Any, value: Callable[[Floats], Floats], why: str, seed: int) -> Figure:
    """A value of the sums over the rows of `table` (sets, quantities), with its bootstrap interval.

    `value` takes sums (resamples, quantities) and gives (resamples,), NaN where it is not defined; `why` says why.
    """
    n, width = table.shape
    if n == 0:
        return Figure(None, None, None, 0, NOBODY_TWICE)
    found = float(value(np.ones((1, n)) @ table)[0])
    if np.isnan(found):
        return Figure(None, None, None, n, why)
    random = np.random.default_rng(seed)
    part = max(1, min(RESAMPLES, AT_ONCE // (n + width)))
    sizes = [min(part, RESAMPLES - begin) for begin in range(0, RESAMPLES, part)]
    drawn = np.concatenate([value(resample(n, size, random) @ table) for size in sizes])
    drawn = drawn[~np.isnan(drawn)]  # a draw of sets that are all unanimous
    if np.ptp(drawn) < 1e-12:
        return Figure(found, None, None, n, "no interval: one set" if n == 1 else "no interval: all sets alike")
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Figure(found, float(low), float(high), n)


def resample(n: int, times: int, random: np.random.Generator) -> NDArray[np.int_]:
    """How often each of n sets is drawn when n are drawn with replacement: (times, n)."""
    rows = n * np.arange(times)[:, None] + random.integers(n, size=(times, n))
    return np.bincount(rows.ravel(), minlength=times * n).reshape(times, n)


def divide(top: Floats, bottom: Floats) -> Floats:
    found: Floats = np.divide(top, bottom, out=np.full(np.shape(bottom), np.nan), where=bottom > 0)
    return found
