"""The reference engine: equal to transformers, exact in distribution, and blind to what else is in the batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from plumbline.errors import PromptTooLong, UserError
from plumbline.models import Sampling
from plumbline.models.chat import encode_prompt
from plumbline.models.generate import Reference

PROMPTS = [
    "Knock, knock",
    "My house is too hot. What can I do about it before the night comes and the windows can be opened?",
    "Why?",
    "The cafeteria had 23 apples.",
]
CAUSAL = ("llama", "llama-tied", "mistral", "qwen2", "qwen3", "glm", "glm4", "gpt2")
SEQ2SEQ = ("t5", "bart")


@pytest.fixture(scope="module")
def open_tiny(tiny_model: Callable[[str], Path]) -> Callable[[str], Reference]:
    opened: dict[str, Reference] = {}

    def get(family: str) -> Reference:
        if family not in opened:
            opened[family] = Reference.open(tiny_model(family), name=family)
        return opened[family]

    return get


@pytest.mark.parametrize("family", CAUSAL + SEQ2SEQ)
def test_greedy_equals_transformers(open_tiny: Callable[[str], Reference], family: str) -> None:
    """Each prompt by itself through `generate`, all of ours in one left-padded batch."""
    import torch

    ours = open_tiny(family)
    answers = ours(PROMPTS, Sampling(temperature=0.0, max_new_tokens=24))
    for prompt, (answer,) in zip(PROMPTS, answers, strict=True):
        ids = torch.tensor([encode_prompt(ours.tokenizer, prompt)])
        theirs = ours.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=24,
            do_sample=False,
            forced_eos_token_id=None,  # BART's habit of ending whatever is cut off
        )
        new = theirs[0, 1:] if family in SEQ2SEQ else theirs[0, ids.shape[1] :]
        assert list(answer.tokens) == new.tolist()
        assert answer.prompt_tokens == ids.shape[1]


@pytest.mark.parametrize("family", CAUSAL + SEQ2SEQ)
def test_logprobs_are_those_of_one_plain_forward_pass(open_tiny: Callable[[str], Reference], family: str) -> None:
    import torch

    ours = open_tiny(family)
    sampling = Sampling(temperature=0.7, top_k=20, max_new_tokens=12, seed=3, n=2)
    for prompt, samples in zip(PROMPTS, ours(PROMPTS, sampling), strict=True):
        ids = encode_prompt(ours.tokenizer, prompt)
        for sample in samples:
            new = list(sample.tokens)
            with torch.inference_mode():
                if family in SEQ2SEQ:
                    start = ours.model.config.decoder_start_token_id
                    decoder = torch.tensor([[start, *new[:-1]]])
                    logits = ours.model(input_ids=torch.tensor([ids]), decoder_input_ids=decoder).logits[0]
                else:
                    logits = ours.model(torch.tensor([ids + new])).logits[0, len(ids) - 1 : -1]
            plain = (logits.double() / 0.7).log_softmax(-1)
            expected = plain[range(len(new)), new].tolist()
            assert sample.logprobs == pytest.approx(expected, abs=2e-4)
            best = torch.zeros_like(plain).scatter(1, plain.topk(20).indices, 1).bool()
            kept = plain.masked_fill(~best, -torch.inf).log_softmax(-1)
            assert sample.sampler_logprobs == pytest.approx(kept[range(len(new)), new].tolist(), abs=2e-4)


def test_the_batch_and_its_order_change_no_answer(open_tiny: Callable[[str], Reference]) -> None:
    ours = open_tiny("llama")
    sampling = Sampling(temperature=1.0, max_new_tokens=16, seed=11, n=3)
    together = ours(PROMPTS, sampling)
    backwards = ours(PROMPTS[::-1], sampling)[::-1]
    alone = [ours([prompt], sampling)[0] for prompt in PROMPTS]
    texts = [[[sample.tokens for sample in samples] for samples in run] for run in (together, backwards, alone)]
    assert texts[0] == texts[1] == texts[2]
    assert len({sample.tokens for sample in together[0]}) == 3, "three samples of one prompt are three answers"


def test_seeds(open_tiny: Callable[[str], Reference]) -> None:
    ours = open_tiny("llama")
    first = ours(PROMPTS[:1], Sampling(temperature=1.0, max_new_tokens=16))[0][0]
    assert first.seed is not None
    again = ours(PROMPTS[:1], Sampling(temperature=1.0, max_new_tokens=16, seed=first.seed))[0][0]
    other = ours(PROMPTS[:1], Sampling(temperature=1.0, max_new_tokens=16, seed=first.seed + 1))[0][0]
    assert again.tokens == first.tokens != other.tokens


def test_two_tokens_have_the_exact_joint_distribution(open_tiny: Callable[[str], Reference]) -> None:
    """6,000 answers of two tokens from a top-k of 3: nine pairs whose probabilities are computed here."""
    assert _fit_of_pairs(open_tiny("llama"), drawn_at=1.3) > 1e-9


def test_a_wrong_temperature_is_found_by_the_same_test(open_tiny: Callable[[str], Reference]) -> None:
    """Negative control."""
    assert _fit_of_pairs(open_tiny("llama"), drawn_at=2.6) < 1e-9


def _fit_of_pairs(ours: Reference, drawn_at: float, stated: float = 1.3, count: int = 6000) -> float:
    import torch

    ids = encode_prompt(ours.tokenizer, PROMPTS[0])

    def top3(past: list[int]) -> dict[int, float]:
        with torch.inference_mode():
            logits = ours.model(torch.tensor([past])).logits[0, -1].double()
        best = (logits / stated).topk(3)
        return dict(zip(best.indices.tolist(), best.values.softmax(-1).tolist(), strict=True))

    exact = {
        (first, second): share * then
        for first, share in top3(ids).items()
        for second, then in top3([*ids, first]).items()
    }
    sampling = Sampling(temperature=drawn_at, top_k=3, max_new_tokens=2, seed=1, n=count, ignore_eos=True)
    drawn = [sample.tokens for sample in ours(PROMPTS[:1], sampling)[0]]
    assert set(drawn) <= set(exact)
    counts = [drawn.count(pair) for pair in exact]
    return float(chisquare(counts, np.array(list(exact.values())) * count).pvalue)


def test_streamed_pieces_are_the_answer(open_tiny: Callable[[str], Reference]) -> None:
    ours = open_tiny("llama")
    sampling = Sampling(temperature=1.0, max_new_tokens=60, seed=2)
    chunks = list(ours.stream(PROMPTS[0], sampling))
    whole = ours([PROMPTS[0]], sampling)[0][0]
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [chunk.completion is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1].completion is not None and chunks[-1].completion.tokens == whole.tokens


def test_a_stop_string_ends_the_answer_and_is_never_shown(open_tiny: Callable[[str], Reference]) -> None:
    ours = open_tiny("llama")
    free = Sampling(temperature=1.0, max_new_tokens=60, seed=2, ignore_eos=True)
    text = ours([PROMPTS[0]], free)[0][0].text
    middle = len(text) // 2
    stop = text[middle : middle + 5]
    stopped = Sampling(**{**free.__dict__, "stop": ("not in it at all", stop)})
    answer = ours([PROMPTS[0]], stopped)[0][0]
    assert answer.text == text[: text.index(stop)]
    assert answer.finish_reason == "stop"
    pieces = [chunk.text for chunk in ours.stream(PROMPTS[0], stopped)]
    assert "".join(pieces) == answer.text
    for shown in itertools.accumulate(pieces):
        assert answer.text.startswith(shown), "nothing is taken back once it was shown"


def test_the_window_limits_prompt_and_answer(open_tiny: Callable[[str], Reference]) -> None:
    ours = open_tiny("llama")
    long = "hot " * 2000
    with pytest.raises(PromptTooLong, match=r"prompt 1 has \d+ tokens and .* 511") as refused:
        ours(["short", long], Sampling(max_new_tokens=8))
    assert refused.value.limit == 511
    cut = ours([long], Sampling(max_new_tokens=8, truncate=True, ignore_eos=True))[0][0]
    assert (cut.prompt_tokens, len(cut.tokens)) == (504, 8)
    nearly = ours([[5] * 510], Sampling(max_new_tokens=8, ignore_eos=True))[0][0]
    assert (len(nearly.tokens), nearly.finish_reason) == (2, "length")


def test_speed_counts_prompt_and_new_tokens_apart(tiny_llama: Path) -> None:
    ours = Reference.open(tiny_llama)
    ours([[5] * 30, [6] * 20], Sampling(max_new_tokens=10, n=2, ignore_eos=True))
    # The prompts are read once each; an answer's first token comes with the reading.
    assert (ours.speed.prompt_tokens, ours.speed.new_tokens) == (50, 4 * 9)
    assert ours.speed.prefill > 0 and ours.speed.decode > 0


def test_nothing_asked_and_things_it_cannot_do(open_tiny: Callable[[str], Reference], tiny_llama: Path) -> None:
    ours = open_tiny("llama")
    assert ours([], Sampling()) == []
    with pytest.raises(UserError, match="a stream carries one answer"):
        next(ours.stream("Hi", Sampling(n=2)))
    with pytest.raises(UserError, match="mode 'int3' is not one of"):
        Reference.open(tiny_llama, mode="int3")


def test_a_classifier_cannot_write(tiny_model: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match="cannot write answers"):
        Reference.open(tiny_model("bert-classifier"))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"n": 0}, "n is 0"),
    ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ({"temperature": -0.1}, "temperature is -0.1"),
    ({"temperature": float("nan")}, "temperature is nan"),
    ({"top_k": -1}, "top_k is -1"),
    ({"top_p": 0.0}, "top_p is 0.0"),
    ({"top_p": 1.01}, "top_p is 1.01"),
    ({"seed": -1}, "seed is -1"),
    ({"stop": ("",)}, "stop is"),
    ({"stop": "abc"}, "stop is 'abc'"),
    ({"schema": {}, "grammar": "start: /a/"}, "schema and grammar"),
]


@pytest.mark.parametrize(("settings", "said"), BAD, ids=[said for _, said in BAD])
def test_bad_sampling_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Sampling(**settings)
