"""The harness's three questions, answered by a model of ours; within the harness itself where it is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tiny
from plumbline.errors import MissingExtra
from plumbline.evaluate.harness import Asked, as_harness_model
from plumbline.models import Raw, Sampling, load
from plumbline.models.scripted import Scripted


def request(*args: Any) -> SimpleNamespace:
    return SimpleNamespace(args=args)


def test_answers_are_asked_without_a_template_and_end_at_the_stops() -> None:
    model = Scripted(lambda prompt: f"{prompt} 4. Next question")
    asked = Asked("scripted", model)
    found = asked.generate_until([request("2 + 2 =", {"until": ["Next"], "max_gen_toks": 20}), request("x", {})])
    assert found == ["2 + 2 = 4. ", "x 4. Next question"]
    assert isinstance(model.calls[0].prompts[0], Raw)
    assert model.calls[0].sampling.temperature == 0 and model.calls[0].sampling.stop == ("Next",)


def whole(tokenizer: Any, tokens: tuple[int, ...]) -> bool:
    return bool(tokenizer.encode(tokenizer.decode(tokens)) == list(tokens))


def test_a_greedy_continuation_is_known_and_weighs_what_it_weighs(tiny_llama: Path) -> None:
    asked = Asked(str(tiny_llama))
    model, tokenizer = load(str(tiny_llama), engine="transformers"), asked.likelihood.tokenizer
    sampling = Sampling(temperature=0, max_new_tokens=1)
    likeliest = {context: model([Raw(context)], sampling)[0][0].tokens for context in tiny.SENTENCES}
    # A token may be no text by itself, such as half of a letter: one that is must be among so many.
    context, likely = next((c, tokenizer.decode(t)) for c, t in likeliest.items() if whole(tokenizer, t))
    (weight, greedy), (other_weight, other) = asked.loglikelihood([request(context, likely), request(context, " zq")])
    assert (greedy, other) == (True, False) and other_weight < weight < 0


def test_a_whole_text_is_the_sum_of_its_tokens(tiny_llama: Path) -> None:
    asked = Asked(str(tiny_llama))
    (found,) = asked.loglikelihood_rolling([request("Two birds sat on a wire.")])
    ids = [asked.likelihood._start(), *asked.likelihood.tokenizer.encode("Two birds sat on a wire.")]
    with torch.inference_mode():
        plain = asked.likelihood.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)[:-1]
    assert found == pytest.approx(float(plain[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].sum()), abs=1e-3)


def test_without_the_harness_the_line_that_brings_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(MissingExtra, match=r"pip install 'plumbline\[harness\]'"):
        as_harness_model("smollm2-135m")


@pytest.mark.filterwarnings("ignore")  # the harness's own
def test_the_harness_takes_it_as_one_of_its_models() -> None:
    api = pytest.importorskip("lm_eval.api.model", reason="the extra `harness` is not installed")
    instance = pytest.importorskip("lm_eval.api.instance")
    model = as_harness_model("scripted", Scripted(lambda prompt: "4"))
    assert isinstance(model, api.LM)
    asked = instance.Instance("generate_until", {}, ("2 + 2 =", {"until": ["\n"]}), 0)
    assert model.generate_until([asked]) == ["4"]
