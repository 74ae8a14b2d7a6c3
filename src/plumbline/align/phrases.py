"""Phrase inflation: which runs of one to five words does the policy use far more at the end than at the beginning?

A phrase's use in a group is the share of the group's answers that hold it. The groups of the first steps are held
against those of the last ones,

    z = (mean use at the end − mean use at the beginning) / (its deviation if the groups' order meant nothing)

and the labels "beginning" and "end" are dealt out anew to the groups, 999 times. A phrase's p is how often the highest
z of *all* phrases reaches its own (Westfall and Young 1993, max T). That pays for having looked at many thousand
phrases, of which many say the same, and it asks of no phrase that its use be normal. A group, not an answer, is what is
dealt out, since the answers to one prompt share its words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from plumbline.align.wording import Words, runs_of

Phrase: TypeAlias = Words
Group: TypeAlias = Sequence[Words]
"""The answers to one prompt in one step."""

LONGEST = 5
DEALS = 999
FEWEST_GROUPS = 4
"""Groups that must hold a phrase, and groups that must be there at each end."""
MOST_PHRASES = 200_000
"""So many of the most used are looked at."""
LEVEL = 0.01
LEAST = 0.1
"""By so much its use must have grown: ten of a hundred answers."""
ALIKE = 0.8
"""Phrases whose uses over the groups correlate so much count as one, and the longest is shown."""


@dataclass(frozen=True)
class Inflated:
    """A phrase whose use grew."""

    words: Phrase
    before: float
    """Share of answers that hold it, at the beginning."""
    after: float
    p: float
    """Corrected for the number of phrases looked at."""


@dataclass(frozen=True)
class Inflation:
    """What `inflation` found, the clearest first; of phrases that are used alike, the longest."""

    phrases: tuple[Inflated, ...]
    looked_at: int
    groups: tuple[int, int]


def phrases_in(words: Words) -> set[Phrase]:
    """All runs of one to five words that begin and end with letters or digits, and runs of signs alone."""
    plain = [word[0].isalnum() for word in words]
    return {
        run
        for length in range(1, LONGEST + 1)
        for run, first, last in zip(runs_of(words, length), plain, plain[length - 1 :], strict=False)
        if (first and last) or not any(word[0].isalnum() for word in run)
    }


def uses(group: Group) -> Counter[Phrase]:
    """For each phrase, in how many of the group's answers it is."""
    return Counter(phrase for words in group for phrase in phrases_in(words))


def inflation(before: Sequence[Group], after: Sequence[Group], *, level: float = LEVEL, most: int = 12) -> Inflation:
    """The phrases whose use grew by `LEAST` and beyond what dealing the groups anew explains, `most` at most."""
    from scipy.sparse import csr_array

    groups = [*before, *after]
    counted = [uses(group) for group in groups]
    held = Counter(phrase for each in counted for phrase in each)
    often = [phrase for phrase, count in held.items() if count >= FEWEST_GROUPS]
    looked_at = sorted(often, key=lambda phrase: (-held[phrase], phrase))[:MOST_PHRASES]
    if min(len(before), len(after)) < FEWEST_GROUPS or not looked_at:
        return Inflation((), len(looked_at), (len(before), len(after)))
    number = {phrase: place for place, phrase in enumerate(looked_at)}
    entries = [
        (row, number[phrase], count / len(group))
        for row, (group, each) in enumerate(zip(groups, counted, strict=True))
        for phrase, count in each.items()
        if phrase in number
    ]
    rows, columns, shares = zip(*entries, strict=True)
    table = csr_array((shares, (rows, columns)), shape=(len(groups), len(looked_at)))
    late = np.zeros((1 + DEALS, len(groups)))
    late[0, len(before) :] = 1
    random = np.random.default_rng(0)
    late[1:] = random.permuted(np.repeat(late[:1], DEALS, 0), axis=1)
    z = growth(table, late)
    highest = z[1:].max(1)
    p = (1 + (highest[:, None] >= z[0] - 1e-9).sum(0)) / (1 + DEALS)
    means = [np.asarray(table[part].mean(0)) for part in (slice(None, len(before)), slice(len(before), None))]
    grown = means[1] - means[0] >= LEAST
    clear = [place for place in np.argsort(-z[0], kind="stable") if p[place] <= level and grown[place]]
    alike = same_use(table[:, clear].toarray())
    found: list[Inflated] = []
    shown = np.zeros(len(clear), bool)
    for first in range(len(clear)):
        if shown[first] or len(found) == most:
            continue
        longest = max(np.flatnonzero(alike[first] & ~shown), key=lambda each: len(looked_at[clear[each]]))
        place = clear[longest]
        found.append(Inflated(looked_at[place], float(means[0][place]), float(means[1][place]), float(p[place])))
        shown |= alike[first] | alike[longest]
    return Inflation(tuple(found), len(looked_at), (len(before), len(after)))


def same_use(shares: NDArray[Any]) -> NDArray[np.bool_]:
    """Which phrases are used by the same groups to the same extent, (phrases, phrases), from (groups, phrases): pieces
    of one sentence, most often."""
    centred = shares - shares.mean(0)
    unit = centred / np.linalg.norm(centred, axis=0)
    same: NDArray[np.bool_] = unit.T @ unit >= ALIKE
    return same


def growth(table: Any, late: NDArray[Any]) -> NDArray[Any]:
    """z of each phrase under each dealing, (dealings, phrases); `late` is 1 where a group counts as an end's."""
    groups, count = late.shape[1], late[0].sum()
    mean = np.asarray(table.mean(0))
    square = np.asarray(table.multiply(table).mean(0))
    variance = (square - mean**2) * groups / (groups - 1)
    deviation = np.sqrt(np.maximum(variance, 1e-12) * (1 / count + 1 / (groups - count)))
    total = mean * groups
    above = late @ table
    z: NDArray[Any] = (above / count - (total - above) / (groups - count)) / deviation
    return z


def within(part: Phrase, whole: Phrase) -> bool:
    """Whether the words of `part` stand in `whole`, side by side."""
    return part in runs_of(whole, len(part))
