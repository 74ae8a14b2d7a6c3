"""Which label to believe where people contradict each other: Dawid and Skene 1979, doi 10.2307/2346806.

A task has one true class, and a worker labels a task of class k with l as often as is their habit. The classes and the
habits are estimated together by expectation maximisation, which starts from the shares of each task's labels:

    class of a task      P(k) ∝ share_k · Π P(l | k, worker)      over its labels
    habit of a worker    P(l | k, worker) ∝ prior + their labels l on tasks of class k, by how likely each is of class k

The prior adds `right` labels to the diagonal of each worker's table and `wrong` to its other cells, so that somebody
with three labels is judged by what people are mostly like, and not by those three. Without it, (0, 0), this is the
paper's maximum likelihood. Products are sums of logarithms, so a task may have thousands of labels.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plumbline.errors import UserError
from plumbline.feedback.ballots import Floats, gather
from plumbline.records import Ranking

PRIOR = (2.0, 0.5)
MOST_ROUNDS = 2000
ENOUGH = 1e-9


@dataclass(frozen=True)
class Classes:
    """What `dawid_skene` found."""

    labels: tuple[Hashable, ...]
    """The classes, in the order of the arrays' axes."""
    posterior: dict[Hashable, Floats]
    """By task, the probability of each class: (classes,)."""
    habits: dict[Hashable, Floats]
    """By worker, the probability of each label given the true class: (classes, labels)."""
    shares: Floats
    """How common each class is: (classes,)."""
    log_likelihood: float
    """Of the labels, without the prior."""
    converged: bool

    def best(self, task: Hashable) -> Hashable:
        """The likeliest class; of equally likely ones the first in `labels`."""
        return self.labels[int(self.posterior[task].argmax())]


@dataclass(frozen=True)
class Answers:
    """Labels as numbers, one entry each."""

    task: NDArray[np.intp]
    worker: NDArray[np.intp]
    label: NDArray[np.intp]
    tasks: int
    workers: int
    labels: int


def dawid_skene(
    answers: Iterable[tuple[Hashable, Hashable, Hashable]],
    *,
    labels: Sequence[Hashable] | None = None,
    prior: tuple[float, float] = PRIOR,
) -> Classes:
    """From (task, worker, label) in any order; somebody may label a task several times.

    `labels` names the classes, where some may never have been given. It ends when no probability moves by more than
    1e-9, or after 2000 rounds, and then `converged` is false.
    """
    rows = list(answers)
    given = sorted({label for _, _, label in rows}, key=repr) if labels is None else labels
    if not rows or min(prior) < 0:
        raise UserError(
            f"there are {len(rows)} labels and the prior is {prior!r}: give some labels, and a prior of 0 or more"
        )
    columns = [list(dict.fromkeys(column)) for column in (*list(zip(*rows, strict=True))[:2], given)]
    places = [{each: number for number, each in enumerate(column)} for column in columns]
    coded = np.array([[place[each] for place, each in zip(places, row, strict=True)] for row in rows])
    table = Answers(coded[:, 0], coded[:, 1], coded[:, 2], *map(len, columns))

    posterior = np.zeros((table.tasks, table.labels))
    np.add.at(posterior, (table.task, table.label), 1.0)
    posterior /= posterior.sum(axis=1, keepdims=True)
    for _ in range(MOST_ROUNDS):
        before = posterior
        shares, habits = maximise(table, posterior, prior)
        posterior, log_likelihood = expect(table, shares, habits)
        if converged := bool(np.abs(posterior - before).max() <= ENOUGH):
            break
    return Classes(
        labels=tuple(columns[2]),
        posterior=dict(zip(columns[0], posterior, strict=True)),
        habits=dict(zip(columns[1], habits, strict=True)),
        shares=shares,
        log_likelihood=log_likelihood,
        converged=converged,
    )


def maximise(table: Answers, posterior: Floats, prior: tuple[float, float]) -> tuple[Floats, Floats]:
    """The shares of the classes (k,) and everybody's habits (workers, k, l) that suit the tasks' classes best."""
    right, wrong = prior
    counts = np.zeros((table.workers, table.labels, table.labels))
    np.add.at(counts.transpose(0, 2, 1), (table.worker, table.label), posterior[table.task])
    counts += np.where(np.eye(table.labels, dtype=bool), right, wrong)
    totals = counts.sum(axis=2, keepdims=True)
    # Somebody who, without a prior, never labeled a task of a class has no habit there, and it weighs nothing.
    habits = np.divide(counts, totals, out=np.full(counts.shape, 1 / table.labels), where=totals > 0)
    return posterior.mean(axis=0), habits


def expect(table: Answers, shares: Floats, habits: Floats) -> tuple[Floats, float]:
    """The probability of each task's classes (tasks, k), and the log-likelihood of the labels."""
    with np.errstate(divide="ignore"):  # log 0: a class that is ruled out
        logs = np.tile(np.log(shares), (table.tasks, 1))
        np.add.at(logs, table.task, np.log(habits)[table.worker, :, table.label])
    top = logs.max(axis=1, keepdims=True)
    weights = np.exp(logs - top)
    totals = weights.sum(axis=1, keepdims=True)
    return weights / totals, float((np.log(totals) + top).sum())


def nonsense(rankings: Iterable[Ranking], *, prior: tuple[float, float] = PRIOR) -> dict[tuple[str, str], float]:
    """How likely each answer that somebody flagged makes no sense, by set and text, given how everybody flags.

    The rankings of a set must arrive together. `consensus` takes this as its `nonsense`.
    """
    answers = []
    suspects = set()
    for ballots in gather(rankings):
        set_id = ballots.rankings[0].set_id
        for place, text in enumerate(ballots.texts):
            for row in np.flatnonzero(ballots.judged[:, place]):
                flag = bool(ballots.flags[row, place])
                answers.append(((set_id, text), ballots.labelers[row], flag))
                if flag:
                    suspects.add((set_id, text))
    if not suspects:
        return {}
    found = dawid_skene(answers, labels=(False, True), prior=prior)
    return {suspect: float(found.posterior[suspect][1]) for suspect in sorted(suspects)}
