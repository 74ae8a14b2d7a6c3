"""What the labelers of a set say together: one order of its answers, with ties where they leave it open.

    ranked-pairs     Tideman 1987: the clearest majorities first, as far as they do not contradict each other
    kemeny           Kemeny 1959: the order that contradicts the fewest votes; exact, up to nine answers
    bradley-terry    by worth, from all comparisons (`plumbline.feedback.worths`)
    plackett-luce    by worth, from the whole orders

Votes are what labelers say of two answers that they both ranked. Where votes do not decide (one against one, or several
best orders), answers tie; the order in which answers or labelers are listed decides nothing. With ranked pairs and
Kemeny an answer that wins against each other one comes first, and one that loses against each comes last.

Some pairs may be decided and others not: a over b, and c compared with neither. Ranks must place c somewhere, and
it goes where its average place lies: by the number of answers below it less the number above.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from plumbline.errors import UserError
from plumbline.feedback.ballots import ROUNDING, Ballots, Floats, Weights, flagged, gather, tally
from plumbline.feedback.worths import Order, bradley_terry, plackett_luce
from plumbline.records import Ranking

Method = Literal["ranked-pairs", "kemeny", "bradley-terry", "plackett-luce"]
MOST_FOR_KEMENY = 9
SAME_WORTH = 1e-5
"""Log-worths closer than this tie: the fit is no surer."""

Table = NDArray[np.bool_]


def consensus(
    rankings: Iterable[Ranking],
    *,
    method: Method = "ranked-pairs",
    weights: Weights | None = None,
    nonsense: Mapping[tuple[str, str], float] | None = None,
) -> Iterator[Ranking]:
    """One ranking per set, by the labeler "consensus"; the rankings of a set must arrive together.

    An answer is flagged where at least half of the votes on it are flags, or, if `nonsense` is given, where that gives
    its set and text 0.5 or more: `dawid_skene.nonsense` finds these probabilities. `n_votes` is the number of labelers;
    a set of which every labeler has the weight 0 is left out.
    """
    if method not in get_args(Method):
        raise UserError(f"there is no consensus method {method!r}: take one of {', '.join(get_args(Method))}")
    for ballots in gather(rankings, weights):
        set_id = ballots.rankings[0].set_id
        if nonsense is None:
            out = flagged(ballots, weights)
        else:
            out = np.array([nonsense.get((set_id, text), 0.0) >= 0.5 for text in ballots.texts])
        # What nobody ranked has no place in an order, whatever else is known about it.
        out |= np.isnan(ballots.ranks).all(axis=0)
        yield as_ranking(ballots, out, method, weights)


def as_ranking(ballots: Ballots, out: Table, method: Method, weights: Weights | None) -> Ranking:
    first = ballots.rankings[0]
    stay = np.flatnonzero(~out)
    ranks = dict(zip((ballots.texts[place] for place in stay), order(ballots, stay, method, weights), strict=True))
    completions = [*first.completions, *(text for text in ballots.texts if text not in first.completions)]
    versions = {ranking.instruction_version for ranking in ballots.rankings}
    extras = [ranking.model_extra or {} for ranking in ballots.rankings]
    return Ranking.model_validate(
        {
            **{key: value for key, value in extras[0].items() if all(each.get(key) == value for each in extras)},
            "set_id": first.set_id,
            "prompt_id": first.prompt_id,
            "prompt": first.prompt,
            "completions": completions,
            "ranks": [ranks.get(text) for text in completions],
            "flags": [text not in ranks for text in completions],
            "labeler_id": "consensus",
            "instruction_version": "+".join(sorted(versions)),
            "method": method,
            "n_votes": len(ballots.rankings),
        }
    )


def order(ballots: Ballots, stay: NDArray[np.intp], method: Method, weights: Weights | None) -> tuple[int, ...]:
    """The ranks of the answers that stay."""
    if not len(stay):
        return ()
    if method in ("ranked-pairs", "kemeny"):
        votes = tally(ballots, weights)[0][np.ix_(stay, stay)]
        return ranked_pairs(votes) if method == "ranked-pairs" else kemeny(votes)
    model = bradley_terry if method == "bradley-terry" else plackett_luce
    orders = [as_order(ranks) for ranks in ballots.ranks[:, stay]]
    worths = model(orders, len(stay), weights=ballots.weights(weights).tolist())
    return ranks_by(np.array(worths.logs), SAME_WORTH)


def as_order(ranks: Floats) -> Order:
    """The places that have ranks, in groups of the same rank, the best first."""
    return [np.flatnonzero(ranks == rank).tolist() for rank in np.unique(ranks[~np.isnan(ranks)])]


def ranks_by(scores: Floats, same: float = 0.0) -> tuple[int, ...]:
    """Dense ranks, 1 for the highest score; scores that lie no further apart than `same` tie."""
    down = np.argsort(-scores, kind="stable")
    ranks = np.empty(len(scores), dtype=int)
    ranks[down] = 1 + np.cumsum(np.append(0, -np.diff(scores[down]) > same))
    return tuple(ranks.tolist())


# ---- ranked pairs


def ranked_pairs(votes: Floats) -> tuple[int, ...]:
    """Ranks from votes (K, K), `votes[i, j]` of them for i over j.

    Majorities are locked in from the greatest lead down, except where they contradict what is locked already. Those
    with the same lead are locked together; where they contradict each other in a cycle, none of that cycle is.
    """
    leads = np.round(votes - votes.T, 9)
    locked = np.zeros(leads.shape, dtype=np.bool_)
    for lead in sorted({lead for lead in leads.flat if lead > 0}, reverse=True):
        group = (leads == lead) & ~closure(locked).T
        group &= ~closure(locked | group).T
        locked |= group
    return middle_ranks(closure(locked))


def closure(above: Table) -> Table:
    """Who is above whom by any chain: Warshall's algorithm."""
    reach = above.copy()
    for through in range(len(reach)):
        reach |= np.outer(reach[:, through], reach[through])
    return reach


def middle_ranks(above: Table) -> tuple[int, ...]:
    """Ranks that keep a partial order (K, K) and put what it leaves open in the middle of where it could be."""
    return ranks_by(above.sum(axis=1) - above.sum(axis=0, dtype=np.float64))


# ---- Kemeny


def kemeny(votes: Floats) -> tuple[int, ...]:
    """Ranks from votes (K, K): one answer is above another if it is so in every order that contradicts fewest votes.

    By dynamic programming over the sets of answers that come first: 2^K sets instead of K! orders.
    """
    size = len(votes)
    if size > MOST_FOR_KEMENY:
        raise UserError(
            f"Kemeny's order of {size} answers takes too long, {MOST_FOR_KEMENY} at most: take 'ranked-pairs'"
        )
    everyone = 2**size - 1
    members = [[item for item in range(size) if first >> item & 1] for first in range(everyone + 1)]
    # To put an answer after those of `first` contradicts the votes that have it above one of them.
    price = [[float(votes[item, members[first]].sum()) for item in range(size)] for first in range(everyone + 1)]
    before = [0.0] * (everyone + 1)  # the cheapest order of the answers in `first`
    for first in range(1, everyone + 1):
        before[first] = min(before[first ^ 1 << item] + price[first ^ 1 << item][item] for item in members[first])
    after = [0.0] * (everyone + 1)  # the cheapest way on from there
    for first in reversed(range(everyone)):
        after[first] = min(price[first][item] + after[first | 1 << item] for item in members[everyone ^ first])
    above = np.zeros((size, size), dtype=np.bool_)  # in some best order
    for first in range(everyone):
        for item in members[everyone ^ first]:
            cost = before[first] + price[first][item] + after[first | 1 << item]
            if cost <= before[everyone] + ROUNDING:
                above[item, members[everyone ^ first ^ 1 << item]] = True
    return middle_ranks(above & ~above.T)
