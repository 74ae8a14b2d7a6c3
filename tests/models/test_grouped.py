"""Grouped equals plain: states, log-probs and the gradients of whole losses, over eight families."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline.models.families import load_causal
from plumbline.models.grouped import Group, forward, pays, works
from plumbline.models.logprobs import Head, token_logprobs

FAMILIES = ("llama", "llama-tied", "mistral", "qwen2", "qwen3", "glm", "glm4", "gpt2")
RAGGED = [
    Group(list(range(5, 45)), [[50, 51, 52], [60, 61], [70, 71, 72, 73, 74]]),
    Group([9, 8, 7], [[80], [81, 82, 83, 84]]),
]
EVEN = [Group(list(range(5, 45)), [[50, 51, 52], [60, 61], [70, 71, 72, 73, 74]])]


def loss_of(model: Any, groups: list[Group], **how: Any) -> Any:
    """A loss that uses everything: log-probs, entropies, last states; each token with a weight of its own."""
    answers = forward(model, groups, **how)
    logprobs, entropy = token_logprobs(Head.of(model), answers.states, answers.targets)
    weight = torch.linspace(-1, 2, len(logprobs), dtype=logprobs.dtype)
    total = (logprobs * weight).sum() + 0.3 * entropy.sum() + answers.last.square().mean()
    return total + answers.sums(logprobs).square().sum() * 0.01


def gradients(model: Any, groups: list[Group], **how: Any) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss = loss_of(model, groups, **how)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("groups", [RAGGED, EVEN], ids=["ragged", "one prompt"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_equal_the_plain_way(
    tiny_model: Callable[[str], Path], family: str, groups: list[Group]
) -> None:
    model = load_causal(tiny_model(family), device="cpu", dtype="float32").double()
    plain, theirs = gradients(model, groups, path="plain")
    for how in ({}, {"recompute": True}):
        grouped, ours = gradients(model, groups, path="grouped", **how)
        assert grouped == pytest.approx(plain, rel=1e-9)
        assert (ours - theirs).norm() <= 1e-6 * theirs.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_in_float32_within_rounding(tiny_model: Callable[[str], Path], family: str) -> None:
    model = load_causal(tiny_model(family), device="cpu", dtype="float32")
    plain, theirs = gradients(model, RAGGED, path="plain")
    grouped, ours = gradients(model, RAGGED, path="grouped")
    assert grouped == pytest.approx(plain, rel=1e-5)
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_states_are_those_that_predict_the_targets(tiny_llama: Path) -> None:
    """Against the model's own logits, token by token."""
    model = load_causal(tiny_llama, device="cpu", dtype="float32")
    with torch.no_grad():
        answers = forward(model, RAGGED, path="grouped")
        logits = Head.of(model).logits(answers.states)
        place = 0
        for number, (group, completion) in enumerate((g, c) for g in RAGGED for c in g.completions):
            ids = [*group.prompt, *completion]
            whole = model(torch.tensor([ids]), output_hidden_states=True)
            for offset, token in enumerate(completion):
                assert answers.targets[place] == token and answers.row[place] == number
                expected = whole.logits[0, len(group.prompt) - 1 + offset]
                assert torch.allclose(logits[place], expected, atol=1e-4)
                place += 1
            assert torch.allclose(answers.last[number], whole.hidden_states[-1][0, -1], atol=1e-4)
        assert place == len(answers.targets)


def test_the_stock_gradient_checkpointing_would_be_wrong(tiny_llama: Path) -> None:
    """Negative control: why recomputation is ours. The stock one drops the cache."""
    model = load_causal(tiny_llama, device="cpu", dtype="float32").train()
    model.activation_checkpointing_enable()
    with pytest.raises(AttributeError):  # the prompt's keys were never kept
        forward(model, EVEN, path="grouped")


def test_small_groups_are_computed_plainly() -> None:
    def cell(k: int, prompt: int, completion: int = 48) -> bool:
        return pays([Group([1] * prompt, [[1] * completion] * k)])

    assert not cell(2, 64) and not cell(1, 512)
    assert cell(2, 256) and cell(4, 64) and cell(9, 64) and cell(9, 512)


def test_a_model_that_ignores_the_cache_is_found(tiny_llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_causal(tiny_llama, device="cpu", dtype="float32")
    assert works(model)
    deaf = load_causal(tiny_llama, device="cpu", dtype="float32")
    heard = deaf.model.forward
    deaf.model.forward = lambda **given: heard(**{**given, "past_key_values": None, "attention_mask": None})
    assert not works(deaf) and not works(deaf)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("plumb: LlamaForCausalLM does not pass the grouped self-test (AttributeError: ")
    assert said.endswith("); prompts are computed per answer")
    with torch.no_grad():
        auto, plain = loss_of(deaf, RAGGED), loss_of(deaf, RAGGED, path="plain")
    assert auto.item() == plain.item()


def test_a_model_that_shifts_what_it_reads_is_told_with_the_difference(
    tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that counts positions from 0 in every pass, as if there were nothing before."""
    model = load_causal(tiny_llama, device="cpu", dtype="float32")
    heard = model.model.forward
    model.model.forward = lambda **given: heard(**{**given, "position_ids": None, "attention_mask": None})
    shift = model.model.rotary_emb.forward
    model.model.rotary_emb.forward = lambda states, position_ids: shift(states, position_ids - position_ids.min())
    assert not works(model)
    assert re.search(r"self-test \(states differ by \d\.\de[-+]\d+ of the largest\); prompts", capsys.readouterr().err)


def test_running_out_of_memory_is_no_answer_of_the_self_test(
    tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is raised, as the device and as the CPU tell it, and the next look is a first one."""
    model = load_causal(tiny_llama, device="cpu", dtype="float32")
    heard = model.model.forward

    def full(**given: Any) -> Any:
        if given["use_cache"]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return heard(**given)

    def huge(**given: Any) -> Any:
        return torch.empty(2**55) if given["use_cache"] else heard(**given)

    for instead, words in ((full, "CUDA out of memory"), (huge, "can't allocate memory")):
        model.model.forward = instead
        with pytest.raises(RuntimeError, match=words):
            forward(model, EVEN)
    model.model.forward = heard
    assert works(model)
    assert capsys.readouterr().err == ""
