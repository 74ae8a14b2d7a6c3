"""What is trained, what is saved, and that keeping the trunk changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline.errors import UserError
from plumbline.models.families import load_causal
from plumbline.models.grouped import Group, forward
from plumbline.models.logprobs import Head, token_logprobs
from plumbline.training.devices import Process
from plumbline.training.learner import Learner
from plumbline.training.run import Settings

ALONE = Process(torch.device("cpu"), "float32")
GROUPS = [Group(list(range(5, 5 + n)), [[60, 61, 62 + n], [70 + n]]) for n in range(3, 9)]


def learner_of(model: Path, **changed: Any) -> Learner:
    torch.manual_seed(0)
    given: dict[str, Any] = {"model": str(model), "epochs": 2, "lora_rank": 4, **changed}
    return Learner.load(Settings(**given), ALONE)


def gradient(learner: Learner, groups: list[Group]) -> torch.Tensor:
    for weight in learner.weights:
        weight.grad = None
    with learner.working():
        _, logprobs, _ = learner.logprobs(groups)
        (logprobs * torch.linspace(-1, 2, len(logprobs))).sum().backward()  # type: ignore[no-untyped-call]
    return torch.cat([weight.grad.flatten() for weight in learner.weights if weight.grad is not None])


def moved(learner: Learner) -> Learner:
    """With weights that are no longer those it began with."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in learner.weights:
            weight.add_(torch.randn_like(weight) * 0.05)
    return learner


def test_all_weights_or_the_adapters_are_trained(tiny_llama: Path) -> None:
    full, adapters = learner_of(tiny_llama, lora_rank=0), learner_of(tiny_llama)
    assert {id(each) for each in full.weights} == {id(each) for each in full.model.parameters()}
    gradient(adapters, GROUPS)
    with_gradient = [name for name, each in adapters.model.named_parameters() if each.grad is not None]
    assert len(with_gradient) == len(adapters.weights) and all(".lora_" in name for name in with_gradient)


@pytest.mark.parametrize("family", ["llama", "llama-tied"])
def test_the_end_token_learns_like_any_other_where_it_is_the_padding_too(
    tiny_model: Callable[[str], Path], family: str
) -> None:
    """Held against the same weights in a model that knows no padding, over the whole embedding; 2 ends a turn."""
    from transformers import LlamaForCausalLM

    learner = moved(learner_of(tiny_model(family), lora_rank=0))
    assert learner.model.config.pad_token_id == learner.tokenizer.eos_id == 2
    groups = [Group([1, 60, 2, 1, 61], [[62, 2], [63, 64, 65, 2]]), Group([1, 60, 66, 67, 2, 1, 61, 68], [[69, 2]])]
    config = copy.deepcopy(learner.model.config)
    config.pad_token_id = None
    unpadded = LlamaForCausalLM(config)
    unpadded.load_state_dict(learner.model.state_dict())
    for group in groups:
        for completion in group.completions:
            ids = torch.tensor([[*group.prompt, *completion]])
            logprobs = unpadded(ids).logits[0, :-1].log_softmax(-1)
            answer = torch.arange(len(group.prompt) - 1, ids.shape[1] - 1)
            logprobs[answer, torch.tensor(completion)].sum().backward()
    for path in ("plain", "grouped"):
        learner.model.zero_grad()
        answers = forward(learner.model, groups, path=path)
        token_logprobs(Head.of(learner.model), answers.states, answers.targets)[0].sum().backward()
        mine, theirs = learner.model.model.embed_tokens.weight.grad, unpadded.model.embed_tokens.weight.grad
        assert theirs is not None and theirs[2].norm() > 0.01 * theirs.norm()
        assert (mine - theirs).norm() <= 1e-4 * theirs.norm()
        assert (mine[2] - theirs[2]).norm() <= 1e-4 * theirs[2].norm()


@pytest.mark.parametrize("rank", [0, 4])
def test_what_is_saved_is_what_was_trained(tiny_llama: Path, tmp_path: Path, rank: int) -> None:
    learner = moved(learner_of(tiny_llama, lora_rank=rank))
    base = load_causal(tiny_llama, device="cpu", dtype="float32")
    learner.save(tmp_path / "saved")
    loaded = load_causal(tmp_path / "saved", device="cpu", dtype="float32")
    with torch.no_grad(), learner.working():
        trained = learner.answers(GROUPS).states
        assert torch.allclose(forward(loaded, GROUPS).states, trained, atol=1e-4)
        assert not torch.allclose(forward(base, GROUPS).states, trained, atol=1e-2)
    assert (tmp_path / "saved" / "tokenizer.json").read_bytes() == (tiny_llama / "tokenizer.json").read_bytes()
    assert (tmp_path / "saved" / "adapter" / "adapter_model.safetensors").is_file() == bool(rank)


def test_the_adapters_begin_as_nothing_and_the_base_stays(tiny_llama: Path) -> None:
    learner = learner_of(tiny_llama)
    with torch.no_grad():
        plain = learner.answers(GROUPS).states
        with learner.working():
            assert torch.equal(learner.answers(GROUPS).states, plain)
            moved(learner)
            assert not torch.allclose(learner.answers(GROUPS).states, plain, atol=1e-2)
        assert torch.equal(learner.answers(GROUPS).states, plain)


@pytest.mark.parametrize("room", [0.0, 1.0])
def test_a_kept_trunk_changes_no_gradient(tiny_llama: Path, room: float) -> None:
    """Adapters on the top layer of two: with the trunk kept, computed each time, and without a trunk."""
    learner = moved(learner_of(tiny_llama, top_layers=1))
    learner.prepare(GROUPS, Settings(epochs=2, trunk_memory=room, tokens=64))
    with_trunk = gradient(learner, GROUPS[1:4])
    assert learner.trunk is not None
    kept = len(learner.trunk._kept)
    assert kept == (len(GROUPS) if room else 0)
    object.__setattr__(learner, "trunk", None)
    plain = gradient(learner, GROUPS[1:4])
    assert (with_trunk - plain).norm() <= 1e-5 * plain.norm()


def test_adapters_on_top_layers_need_a_rank(tiny_llama: Path) -> None:
    with pytest.raises(UserError, match="top_layers is 1: it places adapters, and lora_rank is 0"):
        learner_of(tiny_llama, lora_rank=0, top_layers=1)
    with pytest.raises(UserError, match="top_layers is 3: the model has 2 layers"):
        learner_of(tiny_llama, top_layers=3)
