"""Prompts that are the same but for a few letters, found among very many.

Two prompts are near-duplicates when one of these holds for their normalised texts (compatibility forms folded, lower
case, punctuation and white space as one space; of a conversation all turns but the system's; the first `LONGEST`
characters):

    equal       the texts are the same
    beginning   their first `beginning` characters are the same; Ouyang et al. 2022 dropped such prompts
    alike       their sets of `SHINGLE`-character stretches overlap by `alike` or more (Jaccard: common / all)

MinHash finds candidates for the third (Broder 1997), and each candidate is counted exactly, so what is joined is alike.
Of `HASHES` numbers per text, r at a time must agree; r is the largest with which two texts that overlap by just `alike`
are missed with a chance below `MISSED`. Of more than `CROWD` texts that agree so, the first `CROWD` are compared with
all: near-duplicates by the thousand still come together, through those.

On 500 pairs of questions that people called duplicates and 500 that they did not, most of both differ in their words:
alike 0.7 joins 42 of the first and 30 of the second. It finds copies, not paraphrases.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plumbline.errors import UserError
from plumbline.records import Message

Ints = NDArray[np.int64]

SHINGLE = 5
LONGEST = 1000
HASHES = 120
MISSED = 0.001
CROWD = 20
AT_ONCE = 5_000_000
"""Stretches that are compared at a time."""


@dataclass(frozen=True)
class Nearness:
    """What makes two prompts near-duplicates. 0 turns a rule off."""

    alike: float = 0.7
    """The overlap of their five-character stretches, common over all, from which two prompts count as one."""
    beginning: int = 200
    """The number of equal first characters from which two prompts count as one."""

    def __post_init__(self) -> None:
        if not (self.alike == 0 or 0.5 <= self.alike <= 1):
            raise UserError(f"alike is {self.alike!r}: it must lie between 0.5 and 1, or be 0 for not looking")
        if not 0 <= self.beginning <= LONGEST:
            raise UserError(
                f"beginning is {self.beginning!r}: it must be up to {LONGEST} characters, 0 for not looking"
            )


def group(prompts: Sequence[str | list[Message]], nearness: Nearness | None = None) -> Ints:
    """A number for each prompt; those with the same number are near-duplicates, or linked by some that are."""
    return components(find_links(prompts, nearness or Nearness()), len(prompts))


def find_links(prompts: Sequence[str | list[Message]], nearness: Nearness) -> Ints:
    """Pairs of places, (links, 2): enough to join what belongs together, not every pair of a large group."""
    texts = [normalised(prompt) for prompt in prompts]
    links = [to_first(texts)]
    if nearness.beginning:
        links.append(
            to_first([text[: nearness.beginning] if len(text) >= nearness.beginning else None for text in texts])
        )
    places = np.fromiter(dict(zip(texts[::-1], range(len(texts))[::-1], strict=True)).values(), dtype=np.int64)
    if nearness.alike and len(places) > 1:
        links.append(places[alike([texts[place] for place in places], nearness.alike)])
    return np.concatenate(links)


def to_first(keys: Sequence[str | None]) -> Ints:
    """Each place linked to the first one with the same key."""
    first: dict[str, int] = {}
    links = [(first.setdefault(key, place), place) for place, key in enumerate(keys) if key is not None]
    return np.array([link for link in links if link[0] != link[1]], dtype=np.int64).reshape(-1, 2)


NOT_A_WORD = re.compile(r"[\W_]+")


def normalised(prompt: str | list[Message]) -> str:
    if not isinstance(prompt, str):
        prompt = "\n".join(turn["content"] or "" for turn in prompt if turn["role"] != "system")
    folded = unicodedata.normalize("NFKC", prompt).casefold()
    return (NOT_A_WORD.sub(" ", folded).strip() or folded)[:LONGEST]  # what is punctuation alone stays as it is


# ---- overlap


def alike(texts: Sequence[str], least: float) -> Ints:
    """Pairs of places, (links, 2), whose sets of stretches overlap by `least` or more."""
    sets = shingle_sets(texts)
    sizes = np.diff(sets.indptr)
    links = np.empty((0, 2), dtype=np.int64)
    for band in bands(sets, least):
        pairs = sharing(band)
        label = components(links, len(texts))
        pairs = pairs[label[pairs[:, 0]] != label[pairs[:, 1]]]  # the others are together already
        links = np.concatenate([links, confirm(sets, sizes, pairs, least)])
    return links


def components(links: Ints, count: int) -> Ints:
    """(count,), the same number for places that links lead between."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(links), dtype=bool), (links[:, 0], links[:, 1])), shape=(count, count))
    labels: Ints = connected_components(graph, directed=False)[1].astype(np.int64)
    return labels


def shingle_sets(texts: Sequence[str]) -> Any:
    """(texts, 2^63): a sparse matrix of ones; a stretch's column is its hash, which no other stretch is to share."""
    from scipy.sparse import csr_array

    padded = [f" {text} ".ljust(SHINGLE) for text in texts]
    columns = np.concatenate([hashed(padded[begin : begin + 5000]) for begin in range(0, len(padded), 5000)])
    begins = np.concatenate([[0], np.cumsum([len(text) - SHINGLE + 1 for text in padded])])
    sets = csr_array((np.ones(len(columns), dtype=np.int16), columns, begins), shape=(len(texts), 2**63 - 1))
    sets.sum_duplicates()
    sets.data[:] = 1
    return sets


def hashed(texts: Sequence[str]) -> Ints:
    """A hash of 63 bits for every stretch, text after text."""
    letters = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    hashes = np.zeros(len(letters) - SHINGLE + 1, dtype=np.uint64)
    for offset in range(SHINGLE):
        hashes = mixed(hashes + letters[offset : offset + len(hashes)] + np.uint64(1))
    ends = np.cumsum([len(text) for text in texts])[:-1]
    crossing = (ends[:, None] - np.arange(1, SHINGLE)).ravel()  # they begin in one text and end in the next
    return (np.delete(hashes, crossing) >> np.uint64(1)).view(np.int64)


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers that look like chance: a product, its high half folded onto the low one."""
    numbers = numbers * np.uint64(0x9E3779B97F4A7C15)
    return numbers ^ (numbers >> np.uint64(32))


def rows_of_a_band(least: float) -> int:
    """How many of the hashes must agree at once."""
    fits = [rows for rows in range(1, HASHES) if (1 - least**rows) ** (HASHES // rows) < MISSED]
    return max(fits)


def bands(sets: Any, least: float) -> Iterator[NDArray[np.uint64]]:
    """(texts,) of numbers, time after time: two texts have the same one with the chance of their overlap to the r."""
    rows = rows_of_a_band(least)
    draw = np.random.default_rng(0)
    for _ in range(HASHES // rows):
        key = np.zeros(sets.shape[0], dtype=np.uint64)
        for factor in draw.integers(1, 2**63, size=rows, dtype=np.uint64) * np.uint64(2) + np.uint64(1):
            key = mixed(key + smallest(sets, factor))
        yield key


def smallest(sets: Any, factor: np.uint64) -> NDArray[np.uint64]:
    """(texts,), the smallest hash of each set, the hashes multiplied first; a part at a time, to stay in the cache."""
    least = np.empty(sets.shape[0], dtype=np.uint64)
    hashes = sets.indices.view(np.uint64)
    for begin in range(0, len(least), 500):
        ends = sets.indptr[begin : begin + 501]
        part = hashes[ends[0] : ends[-1]] * factor
        least[begin : begin + 500] = np.minimum.reduceat(part, ends[:-1] - ends[0])
    return least


def sharing(keys: NDArray[np.uint64]) -> Ints:
    """Pairs of places with the same key, each of them with the first `CROWD` that have it."""
    order = np.argsort(keys, kind="stable")
    begins = np.flatnonzero(np.concatenate([[True], keys[order][1:] != keys[order][:-1]]))
    counts = np.diff(np.concatenate([begins, [len(keys)]]))
    within = np.arange(len(keys)) - np.repeat(begins, counts)
    first = np.repeat(begins, counts)
    pairs = [
        np.stack([order[first[later] + back], order[later]], axis=1)
        for back in range(min(CROWD, counts.max(initial=0)))
        if len(later := np.flatnonzero(within > back))
    ]
    return np.concatenate([np.empty((0, 2), dtype=np.int64), *pairs])


def confirm(sets: Any, sizes: Ints, pairs: Ints, least: float) -> Ints:
    """Those of the pairs that overlap by `least`, counted exactly."""
    step = max(1, AT_ONCE // max(1, int(sizes.mean())))
    kept = [pairs[:0]]
    for begin in range(0, len(pairs), step):
        part = pairs[begin : begin + step]
        common = sets[part[:, 0]].multiply(sets[part[:, 1]]).sum(axis=1)
        kept.append(part[common >= least * (sizes[part].sum(axis=1) - common) - 1e-9])
    return np.concatenate(kept)
