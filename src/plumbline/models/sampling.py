"""From a row of logits to the next token: the one place that makes the distribution which every engine draws from.

    p(t) ∝ exp(logit_t / temperature), then top-k, then top-p, then renormalised

Top-k keeps the k likeliest tokens. Top-p keeps the smallest set of likeliest tokens whose probabilities (at the
temperature, renormalised after top-k) reach p; the token that reaches it is kept. Equal probabilities are taken in
the order of their ids. Sums are in float64 and "reach" allows 1e-6, the rounding of float32 logits.

A draw reads the inverse of the cumulative distribution at one uniform number, so a token costs one number and a
row's text depends on its own noise alone, never on what else is in the batch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plumbline.models import Sampling

_REACHED = 1e-6
_BLOCK = 256  # the cumulative sum is taken over blocks first: one pass over the vocabulary instead of a float64 copy
_FIRST_GUESS, _GROWTH = 512, 8  # top-p rarely keeps more than the first guess; sorting a whole row takes milliseconds


@dataclass(frozen=True)
class Draw:
    """The token drawn, and its log-probability before and after truncation."""

    token: int
    logprob: float
    sampler_logprob: float


def noise(seed: int, sample: int, prompt: Sequence[int]) -> np.random.Generator:
    """The uniform numbers of one answer: a function of the seed, the sample's number and the prompt alone."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(np.array([seed, sample], dtype=np.uint64).tobytes())
    digest.update(np.asarray(prompt, dtype=np.int64).tobytes())
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest.digest(), "little")))


def draw(
    logits: NDArray[np.float32],
    sampling: Sampling,
    uniform: float,
    allowed: NDArray[np.bool_] | None = None,
) -> Draw:
    """One token from a row of logits (vocabulary,); `allowed` masks out what a grammar forbids."""
    greedy = sampling.temperature == 0.0
    weights, log_total = _weights(logits, 1.0 if greedy else sampling.temperature)
    drawn_from = weights if allowed is None else np.where(allowed, weights, np.float32(0.0))
    if greedy:
        # Among logits, not weights: two large logits can round to one weight.
        token = int(np.argmax(logits if allowed is None else np.where(allowed, logits, -np.inf)))
        return Draw(token, _logprob(logits, token, 1.0, log_total), 0.0)
    if sampling.top_k or sampling.top_p < 1.0:
        kept, mass = _truncate(drawn_from, sampling.top_k, sampling.top_p)
        place = int(np.searchsorted(np.cumsum(mass), uniform * mass.sum(), side="right"))
        place = min(place, len(kept) - 1)
        token, share = int(kept[place]), float(mass[place] / mass.sum())
        return Draw(token, _logprob(logits, token, sampling.temperature, log_total), math.log(share))
    token, total = _invert(drawn_from, uniform)
    logprob = _logprob(logits, token, sampling.temperature, log_total)
    if allowed is None:
        return Draw(token, logprob, logprob)
    return Draw(token, logprob, math.log(float(drawn_from[token]) / total))


def distribution(
    logits: NDArray[np.float32], sampling: Sampling, allowed: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """The whole distribution (vocabulary,) that `draw` draws from; one-hot when greedy."""
    result = np.zeros(len(logits), dtype=np.float64)
    if sampling.temperature == 0.0:
        result[draw(logits, sampling, 0.0, allowed).token] = 1.0
        return result
    weights, _ = _weights(logits, sampling.temperature)
    if allowed is not None:
        weights = np.where(allowed, weights, np.float32(0.0))
    kept, mass = _truncate(weights, sampling.top_k, sampling.top_p)
    result[kept] = mass / mass.sum()
    return result


def _weights(logits: NDArray[np.float32], temperature: float) -> tuple[NDArray[np.float32], float]:
    """exp((logit - max) / temperature), and the log of exp(logit / temperature) summed."""
    top = logits.max()
    scaled = logits - top
    if temperature != 1.0:
        scaled *= np.float32(1.0 / temperature)
    weights: NDArray[np.float32] = np.exp(scaled, out=scaled)
    total = float(weights.sum(dtype=np.float64))
    if not math.isfinite(total):
        raise FloatingPointError(f"the model's logits hold {int(np.isnan(logits).sum())} NaN and a maximum of {top}")
    return weights, math.log(total) + float(top) / temperature


def _logprob(logits: NDArray[np.float32], token: int, temperature: float, log_total: float) -> float:
    return min(0.0, float(logits[token]) / temperature - log_total)


def _truncate(weights: NDArray[np.float32], top_k: int, top_p: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids kept by top-k and top-p, likeliest first, and their weights."""
    size = len(weights)
    total = None
    if top_k and top_k < size:
        ids = _largest(weights, top_k)
    elif top_p < 1.0:
        total = float(weights.sum(dtype=np.float64))
        guess = _FIRST_GUESS
        while guess < size:
            ids = _largest(weights, guess)
            if float(weights[ids].sum(dtype=np.float64)) >= top_p * total:
                break
            guess *= _GROWTH
        else:
            ids = np.argsort(-weights, kind="stable")
    else:
        ids = np.argsort(-weights, kind="stable")
    mass = weights[ids].astype(np.float64)
    if top_p < 1.0:
        reached = np.cumsum(mass) >= (top_p - _REACHED) * (mass.sum() if total is None else total)
        keep = int(np.argmax(reached)) + 1
        ids, mass = ids[:keep], mass[:keep]
    positive = mass > 0.0
    return ids[positive], mass[positive]


def _largest(weights: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Ids of the `count` largest weights, largest first, equal ones by id."""
    threshold = np.partition(weights, -count)[-count]
    above = np.flatnonzero(weights > threshold)
    equal = np.flatnonzero(weights == threshold)[: count - len(above)]
    return np.concatenate([above[np.argsort(-weights[above], kind="stable")], equal])


def _invert(weights: NDArray[np.float32], uniform: float) -> tuple[int, float]:
    """The id at which the cumulative weight passes `uniform`, and the total weight."""
    blocks = np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK), dtype=np.float64)
    cumulative = np.cumsum(blocks)
    total = float(cumulative[-1])
    target = uniform * total
    block = min(int(np.searchsorted(cumulative, target, side="right")), len(blocks) - 1)
    before = float(cumulative[block - 1]) if block else 0.0
    inside = np.cumsum(weights[block * _BLOCK : (block + 1) * _BLOCK], dtype=np.float64)
    place = min(int(np.searchsorted(inside, target - before, side="right")), len(inside) - 1)
    while weights[block * _BLOCK + place] == 0.0 and place > 0:  # rounding carried the target past the last weight
        place -= 1
    return block * _BLOCK + place, total
