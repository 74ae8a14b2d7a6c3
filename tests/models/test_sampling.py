"""The distribution that every engine draws from, held against arithmetic written out here."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chisquare

from plumbline.models import Sampling
from plumbline.models.sampling import distribution, draw, noise

BAKERY = {
    "cake": 0.20, "donut": 0.10, "cookie": 0.09, "muffin": 0.09, "pie": 0.08, "scone": 0.08, "tart": 0.07,
    "bagel": 0.07, "waffle": 0.06, "crepe": 0.06, "apple": 0.05, "pear": 0.03, "banana": 0.02,
}  # fmt: skip
WORDS = list(BAKERY)
SHARES = np.array(list(BAKERY.values()))
LOGITS = np.log(SHARES).astype(np.float32)


def kept(**settings: float) -> dict[str, float]:
    """The words that a sampling keeps and their probabilities."""
    shares = distribution(LOGITS, Sampling(**{"temperature": 1.0, **settings}))  # type: ignore[arg-type]
    return {word: share for word, share in zip(WORDS, shares, strict=True) if share > 0}


def test_temperature_one_is_the_model_itself() -> None:
    assert kept() == pytest.approx(BAKERY, abs=1e-6)


def test_top_k_three_keeps_cake_donut_and_one_cookie() -> None:
    # Cookie and muffin are equal; the lower id stays. .20 + .10 + .09 = .39
    assert kept(top_k=3) == pytest.approx({"cake": 0.20 / 0.39, "donut": 0.10 / 0.39, "cookie": 0.09 / 0.39}, abs=1e-6)


def test_top_p_three_tenths_keeps_cake_and_donut() -> None:
    # .20 + .10 reaches .3 exactly, so nothing else is needed.
    assert kept(top_p=0.3) == pytest.approx({"cake": 2 / 3, "donut": 1 / 3}, abs=1e-6)


def test_top_p_just_above_takes_one_more() -> None:
    assert set(kept(top_p=0.3001)) == {"cake", "donut", "cookie"}


def test_top_p_is_of_what_top_k_left() -> None:
    # After top-k 3 the shares are .513, .256, .231: cake and donut reach .75; of the whole they are only .30.
    assert set(kept(top_k=3, top_p=0.75)) == {"cake", "donut"}


def test_low_temperature_favours_cake_and_high_temperature_banana() -> None:
    cold, hot = kept(temperature=0.5), kept(temperature=2.0)
    assert cold["cake"] == pytest.approx(0.2**2 / (SHARES**2).sum(), abs=1e-6)
    assert hot["banana"] == pytest.approx(0.02**0.5 / (SHARES**0.5).sum(), abs=1e-6)
    assert cold["banana"] < BAKERY["banana"] < hot["banana"]


def test_temperature_comes_before_top_p() -> None:
    # At temperature 2 the shares are flatter: cake and donut together no longer reach .3.
    flat = SHARES**0.5 / (SHARES**0.5).sum()
    needed = int(np.argmax(np.cumsum(flat) >= 0.3)) + 1
    assert len(kept(temperature=2.0, top_p=0.3)) == needed == 3


def test_greedy_takes_the_likeliest_and_the_lower_id_of_equals() -> None:
    logits = np.array([0.5, 2.0, 2.0], np.float32)
    drawn = draw(logits, Sampling(temperature=0.0), 0.99)
    assert drawn.token == 1
    assert drawn.logprob == pytest.approx(2.0 - math.log(math.exp(0.5) + 2 * math.exp(2.0)), abs=1e-6)
    assert drawn.sampler_logprob == 0.0


def test_logprobs_before_and_after_truncation() -> None:
    drawn = draw(LOGITS, Sampling(temperature=1.0, top_p=0.3), 0.5)
    assert WORDS[drawn.token] == "cake"
    assert drawn.logprob == pytest.approx(math.log(0.20), abs=1e-6)
    assert drawn.sampler_logprob == pytest.approx(math.log(2 / 3), abs=1e-6)


def test_a_forbidden_token_is_never_drawn_and_the_rest_is_renormalised() -> None:
    allowed = np.array([word in ("donut", "banana") for word in WORDS])
    drawn = draw(LOGITS, Sampling(temperature=1.0), 0.99, allowed)
    assert WORDS[drawn.token] == "banana"
    assert drawn.sampler_logprob == pytest.approx(math.log(0.02 / 0.12), abs=1e-6)
    assert drawn.logprob == pytest.approx(math.log(0.02), abs=1e-6)
    assert WORDS[draw(LOGITS, Sampling(temperature=0.0), 0.0, allowed).token] == "donut"


def test_extreme_uniforms_stay_inside_the_support() -> None:
    logits = np.array([-np.inf, 1.0, -np.inf, 1.0, -np.inf], np.float32)
    for settings in ({}, {"top_k": 4}, {"top_p": 0.9}):
        sampling = Sampling(temperature=1.0, **settings)  # type: ignore[arg-type]
        assert draw(logits, sampling, 0.0).token == 1
        assert draw(logits, sampling, np.nextafter(1.0, 0.0)).token == 3


def test_nan_logits_are_said_not_sampled() -> None:
    with pytest.raises(FloatingPointError, match="1 NaN"):
        draw(np.array([0.0, np.nan], np.float32), Sampling(temperature=1.0), 0.5)


@pytest.fixture(scope="module")
def wide() -> NDArray[np.float32]:
    """Logits over a large vocabulary, so that blocks, first guess and full sort are all walked."""
    return np.random.default_rng(7).normal(0.0, 2.0, 50_000).astype(np.float32)


@pytest.mark.parametrize(
    "settings",
    [{}, {"top_k": 50}, {"top_p": 0.5}, {"top_p": 0.999}, {"top_k": 2000, "top_p": 0.8}, {"temperature": 0.3}],
    ids=str,
)
def test_draw_inverts_the_distribution_of_a_wide_vocabulary(
    wide: NDArray[np.float32], settings: dict[str, float]
) -> None:
    """What `draw` gives over an even grid of uniforms has the frequencies that `distribution` states."""
    sampling = Sampling(**{"temperature": 1.0, **settings})  # type: ignore[arg-type]
    exact = distribution(wide, sampling)
    reference = _plain_distribution(wide, sampling)
    assert np.abs(exact - reference).sum() < 1e-4
    grid = (np.arange(1000) + 0.5) / 1000
    counts = np.bincount([draw(wide, sampling, uniform).token for uniform in grid], minlength=len(wide))
    # An even grid hits an interval of length s between floor(1000 s) and ceil(1000 s) times, rounding apart.
    assert np.abs(counts - exact * 1000).max() <= 1.01


def _plain_distribution(logits: NDArray[np.float32], sampling: Sampling) -> NDArray[np.float64]:
    """The rule in the docstring of sampling.py, in float64 and without any shortcut."""
    weights = np.exp((logits.astype(np.float64) - logits.max()) / sampling.temperature)
    order = np.argsort(-weights, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    shares = weights[order] / weights[order].sum()
    if sampling.top_p < 1.0:
        order = order[: int(np.argmax(np.cumsum(shares) >= sampling.top_p - 1e-6)) + 1]
    result = np.zeros(len(logits))
    result[order] = weights[order] / weights[order].sum()
    return result


SETTINGS = {"plain": {}, "cold": {"temperature": 0.6}, "top-k": {"top_k": 5}, "top-p": {"top_p": 0.55}}


@pytest.mark.parametrize("name", SETTINGS)
def test_frequencies_fit_the_exact_distribution(name: str) -> None:
    """30,000 draws against the exact shares; the threshold lets any seed pass, and a wrong sampler fails it below."""
    sampling = Sampling(**{"temperature": 1.0, **SETTINGS[name]})  # type: ignore[arg-type]
    assert _fit(sampling, _plain_distribution(LOGITS, sampling)) > 1e-9


@pytest.mark.parametrize(
    ("drawn_with", "declared"),
    [
        ({"temperature": 0.9}, {}),
        ({"top_k": 12}, {}),
        ({"top_p": 0.55}, {"top_p": 0.58}),
        ({"temperature": 1.2, "top_p": 0.55}, {"top_p": 0.55}),
    ],
    ids=["temperature slightly off", "rarest token missing", "one token too few", "truncated before the temperature"],
)
def test_a_sampler_that_is_slightly_wrong_fails(drawn_with: dict[str, float], declared: dict[str, float]) -> None:
    """Negative controls: the same test with a distribution that was not drawn from."""
    right = Sampling(**{"temperature": 1.0, **declared})  # type: ignore[arg-type]
    wrong = Sampling(**{"temperature": 1.0, **drawn_with})  # type: ignore[arg-type]
    assert _fit(wrong, _plain_distribution(LOGITS, right)) < 1e-9


def _fit(sampling: Sampling, exact: NDArray[np.float64], count: int = 30_000) -> float:
    """The chi-square p-value of `count` draws; 0 where something outside the support was drawn."""
    uniforms = noise(5, 0, [1, 2, 3])
    counts = np.bincount([draw(LOGITS, sampling, uniforms.random()).token for _ in range(count)], minlength=len(LOGITS))
    support = exact > 0
    if counts[~support].any():
        return 0.0
    return float(chisquare(counts[support], exact[support] * count).pvalue)


def test_noise_depends_on_seed_sample_and_prompt_alone() -> None:
    first = noise(1, 0, [5, 6]).random(4)
    assert (noise(1, 0, [5, 6]).random(4) == first).all()
    for other in (noise(2, 0, [5, 6]), noise(1, 1, [5, 6]), noise(1, 0, [5, 7])):
        assert (other.random(4) != first).all()
