"""Trunk and top give what the whole gives: states, losses and gradients, in families of every kind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from plumbline.models.adapters import Hats, LoRA
from plumbline.models.families import load_causal
from plumbline.models.grouped import Group, difference, forward, works
from plumbline.models.logprobs import Head, token_logprobs
from plumbline.models.trunk import Trunk

ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZE = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    **ENDS,
}
SQUARE = {key: value for key, value in SIZE.items() if key != "num_key_value_heads"}
# What each layer attends to differs by its number: the trap for halves that count their layers anew.
MIXED = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
GPT2 = {
    "n_embd": 64,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 256,
    "vocab_size": 300,
    "initializer_range": 0.2,
    **ENDS,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", SIZE),
    "mistral, sliding": ("Mistral", {**SIZE, "sliding_window": 6}),
    "qwen2": ("Qwen2", SIZE),
    "qwen2, mixed": ("Qwen2", {**SIZE, "use_sliding_window": True, "sliding_window": 6, "layer_types": MIXED}),
    "qwen3": ("Qwen3", {**SIZE, "head_dim": 32}),
    "gemma": ("Gemma", {**SIZE, "head_dim": 16}),
    "gemma3, mixed": ("Gemma3", {**SIZE, "head_dim": 16, "sliding_window": 6, "layer_types": MIXED}),
    "glm": ("Glm", {**SIZE, "head_dim": 16}),
    "glm4": ("Glm4", {**SIZE, "head_dim": 16}),
    "phi3": ("Phi3", SIZE),
    "gpt_neox": ("GPTNeoX", SQUARE),
    "opt": ("OPT", {**SQUARE, "ffn_dim": 96, "word_embed_proj_dim": 64, "init_std": 0.2}),
    "gpt2": ("GPT2", GPT2),
    "bloom": ("Bloom", SQUARE),
    "falcon": ("Falcon", SQUARE),
}
RAGGED = [
    Group(list(range(5, 45)), [[50, 51, 52], [60, 61], [70, 71, 72, 73, 74]]),
    Group([9, 8, 7], [[80], [81, 82, 83, 84]]),
]


def make(family: str, dtype: torch.dtype = torch.float64) -> Any:
    name, size = FAMILIES[family]
    config = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")(**size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return (
            getattr(transformers, "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")(config)
            .to(dtype)
            .eval()
        )


def dressed(model: Any, *names: str, top_layers: int = 2, size: float = 0.2) -> Hats:
    hats = Hats(model)
    for number, name in enumerate(names):
        hats.add(name, LoRA(rank=4, top_layers=top_layers))
        noise = torch.Generator().manual_seed(number)
        for parameter in hats.parameters(name):
            parameter.data = size * torch.randn(parameter.shape, generator=noise, dtype=parameter.dtype)
    return hats


def gradients(hats: Hats, name: str, groups: list[Group] = RAGGED, **how: Any) -> tuple[float, torch.Tensor]:
    hats.model.zero_grad()
    with hats.wearing(name):
        answers = forward(hats.model, groups, **how)
        logprobs, entropy = token_logprobs(Head.of(hats.model), answers.states, answers.targets)
        weight = torch.linspace(-1, 2, len(logprobs), dtype=logprobs.dtype)
        loss = (logprobs * weight).sum() + 0.3 * entropy.sum() + answers.last.square().mean()
        loss.backward()
    return loss.item(), torch.cat([parameter.grad.flatten() for parameter in hats.parameters(name)])


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_those_of_the_whole(family: str) -> None:
    hats = dressed(make(family), "policy")
    trunk = Trunk(hats.model, 2)
    assert trunk.works()
    loss, expected = gradients(hats, "policy", path="plain")
    paths = ("plain", "grouped") if works(hats.model) else ("plain",)
    for path in paths:
        for recompute in (False, True):
            halved, ours = gradients(hats, "policy", path=path, recompute=recompute, trunk=trunk)
            assert halved == pytest.approx(loss, rel=1e-9)
            assert (ours - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("path", ["plain", "grouped"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "glm4"])
def test_in_float32_within_rounding(family: str, path: Any) -> None:
    """Against the whole on the same path, so that only the halving is measured."""
    hats = dressed(make(family, torch.float32), "policy")
    loss, expected = gradients(hats, "policy", path=path)
    halved, ours = gradients(hats, "policy", path=path, trunk=Trunk(hats.model, 2))
    assert halved == pytest.approx(loss, rel=1e-5)
    assert (ours - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("top_layers", [1, 3, 4])
def test_at_every_height(top_layers: int) -> None:
    """With all layers on top there is no trunk, and the pass is the plain one."""
    hats = dressed(make("llama"), "policy", top_layers=top_layers)
    loss, expected = gradients(hats, "policy", path="plain")
    trunk = Trunk(hats.model, top_layers)
    assert top_layers == 4 or trunk.works()
    halved, ours = gradients(hats, "policy", path="grouped", trunk=trunk)
    assert halved == pytest.approx(loss, rel=1e-9) and (ours - expected).norm() <= 1e-6 * expected.norm()


def count_passes(model: Any) -> list[int]:
    """Passes through each layer's attention, counted from now on."""
    passes = [0] * len(model.model.layers)
    for place, layer in enumerate(model.model.layers):

        def count(*_: Any, place: int = place) -> None:
            passes[place] += 1

        layer.self_attn.register_forward_hook(count)
    return passes


def test_kept_states_serve_every_hat_and_epoch() -> None:
    hats = dressed(make("llama"), "policy", "value")
    trunk = Trunk(hats.model, 2, keep=10**9)
    expected = {name: gradients(hats, name, path="plain") for name in ("policy", "value")}
    assert trunk.works()
    passes = count_passes(hats.model)
    for epoch in (1, 2):
        for name in ("policy", "value"):
            # The second epoch has the groups in batches of their own.
            batches = [RAGGED] if epoch == 1 else [RAGGED[1:], RAGGED[:1]]
            total = torch.zeros_like(expected[name][1])
            for batch in batches:
                total += gradients_of_sum(hats, name, batch, trunk)
            whole = gradients_of_sum(hats, name, RAGGED, None)
            passes[0] -= 2
            passes[1] -= 2
            assert (total - whole).norm() <= 1e-6 * whole.norm()
    assert passes[0] == passes[1] == 2  # the prompts' pass and the completions', once
    assert passes[2] == passes[3] == 2 * (2 + 2) + 2 * (4 + 2)

    trunk.forget()
    gradients_of_sum(hats, "policy", RAGGED, trunk)
    assert passes[0] == 4


def gradients_of_sum(hats: Hats, name: str, groups: list[Group], trunk: Trunk | None) -> torch.Tensor:
    """Of the sum of all log-probs, which adds up over batches."""
    hats.model.zero_grad()
    with hats.wearing(name):
        answers = forward(hats.model, groups, path="grouped", trunk=trunk)
        token_logprobs(Head.of(hats.model), answers.states, answers.targets)[0].sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in hats.parameters(name)])


def test_no_more_is_kept_than_there_is_room_for() -> None:
    model = make("llama")
    tokens = [len(group.prompt) + sum(map(len, group.completions)) for group in RAGGED]
    for groups, room in ((0, tokens[1] * 64 * 8 - 1), (1, tokens[1] * 64 * 8), (2, sum(tokens) * 64 * 8)):
        trunk = Trunk(model.requires_grad_(False), 2, keep=room)
        assert trunk.works()
        trunk.states(list(reversed(RAGGED)), "plain")
        passes = count_passes(model)
        trunk.states(RAGGED[1:], "plain")
        assert passes[0] == (0 if groups else 1)
        trunk.states(RAGGED, "plain")
        assert passes[0] == {0: 2, 1: 1, 2: 0}[groups]


@pytest.mark.parametrize("path", ["plain", "grouped"])
def test_the_states_are_those_between_the_layers(path: Any) -> None:
    model = make("llama").requires_grad_(False)
    (below,) = Trunk(model, 1).states(RAGGED[:1], path)
    for completion, states in zip(RAGGED[0].completions, below.completions, strict=True):
        whole = model(torch.tensor([[*RAGGED[0].prompt, *completion]]), output_hidden_states=True).hidden_states[3][0]
        assert torch.allclose(torch.cat([below.prompt, states]), whole)
        assert not states.requires_grad


def test_what_is_trained_or_worn_below_is_caught() -> None:
    hats = dressed(make("llama"), "deep", top_layers=3)
    hats.add("policy", LoRA(rank=4, top_layers=2))
    for parameter in hats.parameters("deep"):
        parameter.requires_grad_(False)
    trunk = Trunk(hats.model, 2)
    with hats.wearing("policy"):
        assert trunk.works()
    with (
        hats.wearing("deep"),
        pytest.raises(AssertionError, match="'deep' changes layer 1, and the trunk has 2 layers"),
    ):
        forward(hats.model, RAGGED, trunk=trunk)
    hats.model.model.layers[0].input_layernorm.weight.requires_grad_(True)
    with pytest.raises(AssertionError, match="a weight below layer 2 is trained"):
        forward(hats.model, RAGGED, trunk=trunk)


def test_the_layers_are_themselves_again_after_an_error() -> None:
    model = make("llama").requires_grad_(False)
    trunk = Trunk(model, 2)
    assert trunk.works()
    with pytest.raises(ZeroDivisionError), trunk.skipped(RAGGED, "plain"):
        raise ZeroDivisionError
    assert not any("forward" in vars(layer) for layer in model.model.layers)


def test_a_model_whose_halves_are_not_the_whole_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    """A top that looks at the embeddings again, which a trunk's states do not hold."""
    model = make("llama").requires_grad_(False)
    seen: list[torch.Tensor] = []
    model.model.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model.model.layers[1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model.model.layers[3].register_forward_pre_hook(lambda _, given: (given[0] + seen[-1], *given[1:]))
    trunk = Trunk(model, 2)
    whole = forward(model, RAGGED, path="plain").states
    assert torch.equal(forward(model, RAGGED, path="plain", trunk=trunk).states, whole)
    assert not trunk.works()
    said = (
        r"LlamaForCausalLM does not pass the trunk's self-test \(states differ by \S+ of the largest\); all layers are"
    )
    assert re.match(f"plumb: {said} computed\n$", capsys.readouterr().err)


def test_self_tests_look_at_the_model_and_not_at_what_is_worn() -> None:
    """A large adapter can make rounding large enough to be taken for a fault; here it is as large as can be."""
    hats = dressed(make("llama"), "policy", size=float("nan"))
    with hats.wearing("policy"):
        assert works(hats.model) and Trunk(hats.model, 2).works()
        assert hats.worn == "policy"


def test_self_tests_do_not_take_the_rounding_of_autocast_for_a_fault(tiny_model: Callable[[str], Path]) -> None:
    model: Any = load_causal(tiny_model("llama"), device="cpu", dtype="float32").requires_grad_(False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = difference(
            model,
            lambda groups: forward(model, groups, path="plain"),
            lambda groups: forward(model.double(), groups, path="plain"),
        )
        model.float()
        assert works(model) and Trunk(model, 1).works()
    assert not rounded  # inside `difference` nothing is autocast


def test_under_autocast_the_halves_are_as_near_as_the_paths_are() -> None:
    hats = dressed(make("llama", torch.float32), "policy")
    trunk = Trunk(hats.model, 2)
    _, exact = gradients(hats, "policy", path="plain")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, whole = gradients(hats, "policy", path="plain")
        _, halved = gradients(hats, "policy", path="plain", trunk=trunk)
    assert (halved - whole).norm() <= (whole - exact).norm()


@pytest.mark.model
def test_on_the_bundled_model(smollm2: Path) -> None:
    hats = dressed(load_causal(smollm2, device="cpu", dtype="float32"), "policy", top_layers=10, size=0.02)
    trunk = Trunk(hats.model, 10, keep=10**8)
    loss, expected = gradients(hats, "policy", path="plain")
    for path in ("plain", "grouped"):
        halved, ours = gradients(hats, "policy", path=path, trunk=trunk)
        assert trunk.works() and halved == pytest.approx(loss, rel=1e-5)
        assert (ours - expected).norm() <= 1e-5 * expected.norm()
