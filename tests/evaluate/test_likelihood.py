"""Weights and divergences equal those of the plain model, written out; long texts are cut and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tiny
from plumbline.errors import UserError
from plumbline.evaluate.likelihood import Case, Likelihood, same_tokens
from plumbline.models import Raw
from plumbline.models.chat import encode_prompt
from plumbline.models.tokenizer import Tokenizer
from recoded import recode


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Likelihood:
    return Likelihood(tiny_llama)


def logprobs(model: Likelihood, ids: list[int]) -> torch.Tensor:
    """(tokens − 1, vocabulary): of each next token, by one plain pass in double precision."""
    with torch.inference_mode():
        return model.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)[:-1]


def test_a_text_weighs_what_the_plain_model_says(model: Likelihood) -> None:
    cases = [
        Case("My house is too hot.", ("Open a window.", "Buy a fan, or wait.")),
        Case("Hi", ("A", "B", "C"), ends=False),
    ]
    found = dict(model(cases))
    for place, case in enumerate(cases):
        prompt = encode_prompt(model.tokenizer, case.prompt)
        for text, weight in zip(case.completions, found[place], strict=True):
            ids = model.tokenizer.encode(text) + ([model.tokenizer.eos_id] if case.ends else [])
            plain = logprobs(model, [*prompt, *ids])[len(prompt) - 1 :]
            expected = plain[torch.arange(len(ids)), torch.tensor(ids)].sum()
            assert weight.tokens == len(ids)
            assert weight.logprob == pytest.approx(float(expected), abs=1e-3)


def test_a_text_longer_than_the_window_is_weighed_in_pieces(model: Likelihood) -> None:
    window = model.tokenizer.window
    text = " ".join(tiny.SENTENCES * 40)
    ids = model.tokenizer.encode(text)
    assert len(ids) > 2 * window
    (_, (weight,)) = next(iter(model([Case(Raw(""), (text,), ends=False)])))
    (start,) = model._groups(Case(Raw(""), ("x",)))[0].group.prompt
    pieces = [ids[begin : begin + window - 1] for begin in range(0, len(ids), window - 1)]
    expected = sum(
        float(logprobs(model, [start, *piece])[torch.arange(len(piece)), torch.tensor(piece)].sum()) for piece in pieces
    )
    assert weight.tokens == len(ids)
    assert weight.logprob == pytest.approx(expected, rel=1e-4)


def test_a_long_prompt_keeps_its_end(model: Likelihood) -> None:
    (_, (weight,)) = next(iter(model([Case(" ".join(tiny.SENTENCES * 40), ("Yes.",))])))
    assert weight.tokens == len(model.tokenizer.encode("Yes.")) + 1 and weight.logprob < 0


def test_the_divergence_is_the_sum_over_the_whole_vocabulary(model: Likelihood, tmp_path: Path) -> None:
    other = Likelihood(tiny.write_model("llama", tmp_path / "other", seed=1))
    prompt, answer = "My house is too hot.", "Open a window, and wait for the night."
    found = model.divergence(other, prompt, answer)
    ids = encode_prompt(model.tokenizer, prompt)
    begin = len(ids) - 1
    ids += [*model.tokenizer.encode(answer), model.tokenizer.eos_id]
    mine, theirs = (logprobs(each, ids)[begin:] for each in (model, other))
    assert found.tokens == len(mine)
    assert found.logprob == pytest.approx(float((mine.exp() * (mine - theirs)).sum()), rel=1e-3)
    assert found.logprob > 0.01
    assert model.divergence(model, prompt, answer).logprob == pytest.approx(0, abs=1e-6)


def test_tokenizers_that_cut_alike_are_known(model: Likelihood, tiny_llama: Path, tmp_path: Path) -> None:
    assert same_tokens(model.tokenizer, Tokenizer(tiny.write_model("llama", tmp_path / "b", seed=5)))
    assert not same_tokens(model.tokenizer, Tokenizer(recode(tiny_llama, tmp_path / "c")))


def test_only_a_decoder_is_asked(tiny_model: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match="is a classifier: probabilities of texts take a decoder"):
        Likelihood(tiny_model("bert-classifier"))
