"""Rankings in, pairs out: K answers are C(K, 2) comparisons, and each becomes one pair with its votes.

    margin = (votes for − votes against) / votes

Everyone who ranked both answers has a vote; a tie is a vote for neither. A margin of 0 (a tie, one against one) gives
no pair, nor does an answer that at least half of its judges flagged; a flag by fewer takes away those labelers' votes
on that answer and no more. Two answers with the same text are never a pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import get_args

from plumbline.errors import BadRecord
from plumbline.feedback.ballots import ROUNDING, Ballots, Weights, flagged, gather, tally
from plumbline.records import Pair, Ranking, Split


def pairs_of(rankings: Iterable[Ranking], *, weights: Weights | None = None) -> Iterator[Pair]:
    """The pairs of every set, the preferred answer first; the rankings of a set must arrive together.

    `weights` says how much a labeler's vote counts, 1 where it says nothing; with 0 it does not count at all.
    `n_votes` is the number of people, whatever they weigh.
    """
    for ballots in gather(rankings, weights):
        yield from pairs_within(ballots, weights)


def pairs_within(ballots: Ballots, weights: Weights | None) -> Iterator[Pair]:
    first = ballots.rankings[0]
    split = split_of(first)
    votes_for, votes = (table.tolist() for table in tally(ballots, weights))
    people = tally(ballots)[1].tolist()
    stay = [place for place, out in enumerate(flagged(ballots, weights).tolist()) if not out]
    for number, one in enumerate(stay):
        for other in stay[number + 1 :]:
            lead = votes_for[one][other] - votes_for[other][one]
            if abs(lead) <= ROUNDING:
                continue
            better, worse = (one, other) if lead > 0 else (other, one)
            # Every text was checked when its ranking was read; checking it K − 1 times again takes most of the time.
            yield Pair.model_construct(
                prompt=first.prompt,
                chosen=ballots.texts[better],
                rejected=ballots.texts[worse],
                set_id=first.set_id,
                prompt_id=first.prompt_id,
                margin=abs(lead) / votes[one][other],
                n_votes=int(people[one][other]),
                split=split,
            )


def split_of(ranking: Ranking) -> Split | None:
    split: Split | None = getattr(ranking, "split", None)
    if split is not None and split not in get_args(Split):
        raise BadRecord(
            f"set {ranking.set_id!r} has the split {split!r}: it must be one of {', '.join(get_args(Split))}"
        )
    return split
