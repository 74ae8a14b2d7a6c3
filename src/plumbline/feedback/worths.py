"""How much better one answer is than another: worths from comparisons and rankings, with ties.

The model of Davidson and Luce, as Turner, van Etten, Firth and Kosmidis write it (2020, doi
10.1007/s00180-020-00959-3). An order is a row of choices: from the answers A that are left, the next group C is taken,
several answers where they are tied, with

    P(C | A) = f(C) / Σ f(S) over the S ⊆ A of every size that was seen      f(S) = δ_|S| · (Π_{i ∈ S} α_i)^(1 / |S|)

α_i is the worth of answer i, δ_n tells how often n answers tie (δ_1 = 1; a size never seen has δ = 0). With two answers
this is Davidson's model of 1970; without ties it is Plackett and Luce's, and with both Bradley and Terry's.

The prior: every answer also beats an imagined one of worth 1 `prior` times and loses to it as often. So an answer that
never wins, or a group never compared with the rest, has a finite worth, pulled towards the others; `parts` tells them.
For every n ≥ 3 of which n tied, one is also taken alone from n imagined answers `prior` times, so that δ_n is finite.

The sum over the S of one size n is the elementary symmetric polynomial of degree n in α^(1/n), so its cost grows with
|A| · n and not with the number of subsets. The log-likelihood is concave in log α and log δ, so there is one maximum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from plumbline.errors import UserError
from plumbline.feedback.ballots import Floats

Order = Sequence[Sequence[int]]
"""Groups of items, the best first; the items of a group are tied. Items may be missing."""
Choice = tuple[tuple[int, ...], tuple[int, ...]]
"""The items taken, and those that there were to take from."""
Choices = dict[Choice, float]
"""How often each was made."""


@dataclass(frozen=True)
class Worths:
    """What `plackett_luce` and `bradley_terry` found."""

    logs: tuple[float, ...]
    """log α of each item; their mean is 0."""
    ties: dict[int, float]
    """δ of each number of items that tied."""
    log_likelihood: float
    """Of the data alone, without the prior."""
    parts: tuple[tuple[int, ...], ...]
    """The items in groups that the data alone can compare, each by a chain of wins there and back. With more than one,
    how far the groups lie apart is the prior's doing."""

    @property
    def connected(self) -> bool:
        return len(self.parts) == 1


def plackett_luce(
    orders: Sequence[Order], items: int, *, weights: Sequence[float] | None = None, prior: float = 0.5
) -> Worths:
    """The worths of items 0 to items − 1 under which the orders are likeliest, given the prior.

    With `prior=0` it is the maximum likelihood, and an error where that is not finite.
    """
    choices: Choices = {}
    for order, weight in zip(orders, [1.0] * len(orders) if weights is None else weights, strict=True):
        for choice in choices_of(order, items):
            choices[choice] = choices.get(choice, 0.0) + weight
    parts = connected_parts(choices, items)
    if prior < 0:
        raise UserError(f"the prior is {prior!r}: it must be 0 or more")
    if prior == 0 and len(parts) > 1:
        raise UserError(
            f"the comparisons leave the items {list(map(list, parts))} apart, so their worths are not finite: "
            "compare more of them, or set a prior above 0"
        )
    if prior == 0 and not bounded_ties(choices):
        raise UserError("answers tie wherever they can, so how often they do has no bound: set a prior above 0")
    return fit(choices, items, prior, parts)


def bradley_terry(
    orders: Sequence[Order], items: int, *, weights: Sequence[float] | None = None, prior: float = 0.5
) -> Worths:
    """The same from the C(K, 2) comparisons that an order of K items makes: Bradley, Terry and, for ties, Davidson."""
    compared: list[Order] = []
    each: list[float] = []
    for order, weight in zip(orders, [1.0] * len(orders) if weights is None else weights, strict=True):
        for (place, one), (other_place, other) in combinations(
            [(place, item) for place, group in enumerate(order) for item in group], 2
        ):
            compared.append([[one, other]] if place == other_place else [[one], [other]])
            each.append(weight)
    return plackett_luce(compared, items, weights=each, prior=prior)


def choices_of(order: Order, items: int) -> Iterable[Choice]:
    listed = [item for group in order for item in group]
    if len(set(listed)) < len(listed) or not all(0 <= item < items for item in listed):
        raise UserError(f"{list(map(list, order))!r} is no order: each of the items 0 to {items - 1} once at most")
    left = sorted(listed)
    for group in order:
        if group and len(left) > 1:  # the last one of all is no choice
            yield tuple(sorted(group)), tuple(left)
        left = [item for item in left if item not in group]


def connected_parts(choices: Iterable[Choice], items: int) -> tuple[tuple[int, ...], ...]:
    """The items in groups within which each beats each by a chain of choices; a tie counts for both sides."""
    beats = np.zeros((items, items), dtype=np.bool_)
    for taken, left in choices:
        beats[np.ix_(taken, left)] = True
    return strong_parts(beats)


def bounded_ties(choices: Iterable[Choice]) -> bool:
    """Whether each number of answers taken at once was passed over for each other, by a chain: then δ is finite."""
    sizes = sizes_of(choices)
    beats = np.zeros((len(sizes), len(sizes)), dtype=np.bool_)
    for taken, left in choices:
        beats[sizes.index(len(taken)), [size <= len(left) for size in sizes]] = True
    return len(strong_parts(beats)) == 1


def strong_parts(beats: NDArray[np.bool_]) -> tuple[tuple[int, ...], ...]:
    from scipy.sparse.csgraph import connected_components

    _, part = connected_components(beats, connection="strong")
    return tuple(sorted(tuple(np.flatnonzero(part == number).tolist()) for number in np.unique(part)))


def sizes_of(choices: Iterable[Choice]) -> tuple[int, ...]:
    """How many were taken at once, 1 first."""
    return tuple(sorted({1, *(len(taken) for taken, _ in choices)}))


# ---- the fit


@dataclass(frozen=True)
class Table:
    """The choices as arrays, for all at once. The imagined item comes after the real ones, and then one of worth 0."""

    count: Floats  # (choices,)
    left: NDArray[np.int_]  # (choices, most), filled up with the item of worth 0
    sizes: tuple[int, ...]  # how many were taken at once, 1 first
    items: int

    @property
    def parameters(self) -> int:
        return self.items + len(self.sizes) - 1


def fit(choices: Choices, items: int, prior: float, parts: tuple[tuple[int, ...], ...]) -> Worths:
    from scipy.optimize import minimize

    imagined = items
    with_prior = dict(choices)
    for item in range(items if prior else 0):
        for winner in (item, imagined):
            with_prior[(winner,), (item, imagined)] = prior
    for size in sizes_of(choices) if prior else ():
        if size > 2:
            with_prior[(imagined,), (imagined,) * size] = prior
    data, seen = tabulate(choices, items), tabulate(with_prior, items)
    sums, data_sums = sufficient(with_prior, seen), sufficient(choices, seen)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        total, slope = log_normalisers(seen, parameters)
        return total - float(sums @ parameters), slope - sums

    found = minimize(
        loss,
        np.zeros(seen.parameters),
        jac=True,
        method="BFGS",
        options={"maxiter": 10_000, "gtol": 1e-8},
    )
    best: Floats = found.x
    logs = best[:items] - best[:items].mean()
    likelihood = float(data_sums @ best) - log_normalisers(data, best)[0]
    ties = {size: float(np.exp(value)) for size, value in zip(seen.sizes[1:], best[items:], strict=True)}
    return Worths(tuple(logs.tolist()), ties, likelihood, parts)


def tabulate(choices: Choices, items: int) -> Table:
    most = max((len(left) for _, left in choices), default=1)
    return Table(
        count=np.array(list(choices.values()), dtype=np.float64),
        left=np.array([(*left, *[items + 1] * (most - len(left))) for _, left in choices], np.int_).reshape(-1, most),
        sizes=sizes_of(choices),
        items=items,
    )


def sufficient(choices: Choices, table: Table) -> Floats:
    """What the log-likelihood's numerators add up to, as a linear function of the parameters: (parameters,)."""
    sums = np.zeros(table.parameters)
    for (taken, _), count in choices.items():
        for item in taken:
            if item < table.items:
                sums[item] += count / len(taken)
        if len(taken) > 1:
            sums[table.items + table.sizes.index(len(taken)) - 1] += count
    return sums


def log_normalisers(table: Table, parameters: Floats) -> tuple[float, Floats]:
    """The sum of the choices' log denominators, and its gradient: (parameters,)."""
    log_worths = np.append(parameters[: table.items], [0.0, -np.inf])[table.left]  # (choices, most)
    log_ties = np.append(0.0, parameters[table.items :])
    top = log_worths.max(axis=1, keepdims=True, initial=-np.inf)
    scaled = log_worths - top
    total, slope = np.zeros(len(scaled)), np.zeros(scaled.shape)
    terms = []
    for size, log_tie in zip(table.sizes, log_ties, strict=True):
        roots = np.exp(scaled / size)
        whole, without = symmetric(roots, size)
        terms.append(np.exp(log_tie) * whole)
        total += terms[-1]
        slope += np.exp(log_tie) * roots * without / size
    gradient = np.zeros(table.items + 2)
    np.add.at(gradient, table.left, (table.count / total)[:, None] * slope)
    ties = [float(table.count @ (term / total)) for term in terms[1:]]
    return float(table.count @ (np.log(total) + top[:, 0])), np.append(gradient[: table.items], ties)


def symmetric(values: Floats, degree: int) -> tuple[Floats, Floats]:
    """The elementary symmetric polynomial of each row, and the one a degree lower without each value of the row.

    (rows, n) → (rows,), (rows, n). Built from both ends, so that nothing is ever subtracted.
    """
    rows, most = values.shape
    before = np.zeros((most + 1, degree + 1, rows))
    after = np.zeros((most + 1, degree + 1, rows))
    before[0, 0] = after[most, 0] = 1.0
    for place in range(most):
        before[place + 1] = before[place]
        before[place + 1, 1:] += values[:, place] * before[place, :-1]
    for place in reversed(range(most)):
        after[place] = after[place + 1]
        after[place, 1:] += values[:, place] * after[place + 1, :-1]
    # (n, rows): the degree left over, degree − 1, is shared out between the values before and those after.
    without = sum((before[:-1, below] * after[1:, degree - 1 - below] for below in range(degree)), np.zeros(1)).T
    return before[most, degree], without
