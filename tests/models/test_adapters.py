"""Adapters over one base: what they compute, what they share, what they train, and that others read their files."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from plumbline.errors import BadModel, UserError
from plumbline.models.adapters import Hats, LoRA
from plumbline.models.families import load_causal
from plumbline.models.grouped import Group, decoder_layers, forward
from plumbline.models.heads import ScalarHead
from plumbline.models.logprobs import Head, token_logprobs

FAMILIES = ("llama", "llama-tied", "mistral", "qwen2", "qwen3", "glm", "glm4", "gpt2")
GROUPS = [Group([9, 8, 7, 6, 5, 4, 3], [[80, 2], [81, 82, 83, 2]]), Group([30, 31], [[84, 2], [85, 2]])]
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


SMALL = LoRA(rank=4)


def dressed(folder: Path, *names: str, lora: LoRA = SMALL, dtype: str = "float32") -> Hats:
    """A model with adapters of those names, each with values of its own."""
    hats = Hats(load_causal(folder, device="cpu", dtype=dtype))
    for number, name in enumerate(names):
        hats.add(name, lora)
        shake(hats, name, number)
    return hats


def shake(hats: Hats, name: str, seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    for parameter in hats.parameters(name):
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=noise, dtype=parameter.dtype)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(IDS).logits


def loss_of(hats: Hats, groups: list[Group] = GROUPS, **how: Any) -> torch.Tensor:
    answers = forward(hats.model, groups, **how)
    logprobs, entropy = token_logprobs(Head.of(hats.model), answers.states, answers.targets)
    return (logprobs * torch.linspace(-1, 2, len(logprobs))).sum() + 0.3 * entropy.sum()


# ---- what is worn


def test_a_new_adapter_changes_nothing_and_a_trained_one_only_while_it_is_worn(tiny_llama: Path) -> None:
    base = logits(load_causal(tiny_llama, device="cpu", dtype="float32"))
    hats = Hats(load_causal(tiny_llama, device="cpu", dtype="float32"))
    hats.add("policy", LoRA(rank=4))
    with hats.wearing("policy"):
        assert torch.equal(logits(hats.model), base)
        shake(hats, "policy", 0)
        assert not torch.allclose(logits(hats.model), base, atol=1e-2)
        with hats.wearing(None):
            assert torch.equal(logits(hats.model), base)
    assert torch.equal(logits(hats.model), base)


def test_it_is_the_equation(tiny_llama: Path) -> None:
    """W x + alpha / rank · B A x, written out for one layer."""
    hats = dressed(tiny_llama, "policy", lora=LoRA(rank=4, alpha=6.0))
    layer = hats.model.model.layers[1].mlp.down_proj
    x = torch.linspace(-1, 1, 128)
    a, b = layer.lora_A["policy"].weight, layer.lora_B["policy"].weight
    with hats.wearing("policy"):
        assert torch.allclose(layer(x), layer.base_layer.weight @ x + 6.0 / 4 * (b @ (a @ x)), atol=1e-5)


def test_hats_come_off_after_errors_and_in_order(tiny_llama: Path) -> None:
    hats = dressed(tiny_llama, "policy", "value")
    with pytest.raises(ZeroDivisionError), hats.wearing("policy"), hats.wearing("value"):
        raise ZeroDivisionError
    assert hats.worn is None
    with hats.wearing("policy"):
        worn = logits(hats.model)
        with hats.wearing("value"):
            assert not torch.allclose(logits(hats.model), worn)
        assert hats.worn == "policy" and torch.equal(logits(hats.model), worn)


def test_wearing_never_turns_gradients_on_or_off(tiny_llama: Path) -> None:
    hats = dressed(tiny_llama, "policy", "value")
    hats.snapshot("policy", "reference")
    needs = {name: parameter.requires_grad for name, parameter in hats.model.named_parameters()}
    trained = {name for name, need in needs.items() if need}
    assert trained and all(".policy." in name or ".value." in name for name in trained)
    for name in ("policy", "value", "reference", None, "policy"):
        with hats.wearing(name):
            assert {n: p.requires_grad for n, p in hats.model.named_parameters()} == needs
    with hats.wearing("policy"):
        loss_of(hats).backward()
    assert all(parameter.grad is not None for parameter in hats.parameters("policy"))
    rest = {id(parameter) for parameter in hats.model.parameters()} - set(map(id, hats.parameters("policy")))
    assert all(parameter.grad is None for parameter in hats.model.parameters() if id(parameter) in rest)


def test_pefts_own_switch_would_stop_the_policy(tiny_llama: Path) -> None:
    """Negative control: why hats are worn our way."""
    hats = dressed(tiny_llama, "policy", "value")
    for module in hats.model.modules():
        if hasattr(module, "lora_A"):
            module.set_adapter("value")
    assert not any(parameter.requires_grad for parameter in hats.parameters("policy"))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_of_the_blocks_is_adapted_and_no_other(
    tiny_model: Callable[[str], Path], family: str
) -> None:
    hats = dressed(tiny_model(family), "all")
    hats.add("top", LoRA(rank=2, top_layers=1))
    blocks = decoder_layers(hats.model)
    for place, block in enumerate(blocks):
        for name, module in block.named_modules():
            if hasattr(module, "base_layer"):
                assert "all" in module.lora_A and ("top" in module.lora_A) == (place == 1), name
            plain = isinstance(module, (torch.nn.Linear, Conv1D)) and "lora_" not in name
            assert not plain or name.endswith(".base_layer"), name
    inside = {id(parameter) for block in blocks for parameter in block.parameters()}
    assert {id(p) for p in hats.parameters("all") + hats.parameters("top")} <= inside
    assert hats.lowest_layer("all") == 0 and hats.lowest_layer("top") == 1


# ---- what is shared


def test_all_hats_share_one_storage_of_the_base(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By data pointers: policy, value, reward and reference add their matrices, and no weight of the base moves."""
    model = load_causal(tiny_llama, device="cpu", dtype="float32")
    before = {tensor.data_ptr(): tensor.nbytes for tensor in model.state_dict().values()}
    hats = Hats(model)
    for name in ("policy", "value", "reward"):
        hats.add(name, LoRA(rank=4))
    hats.snapshot("policy", "reference")
    own = [p for name in ("policy", "value", "reward", "reference") for p in hats.parameters(name)]
    after = {tensor.data_ptr(): tensor.nbytes for tensor in model.state_dict().values()}
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == {parameter.data_ptr() for parameter in own}
    assert len({parameter.data_ptr() for parameter in own}) == len(own)

    seen = {}
    for name in ("policy", "value", "reward", "reference", None):
        read: set[int] = set()
        product = torch.nn.functional.linear

        def spied(x: Any, weight: Any, bias: Any = None, read: set[int] = read, product: Any = product) -> Any:
            read.add(weight.data_ptr())
            return product(x, weight, bias)

        with monkeypatch.context() as patched, hats.wearing(name):
            patched.setattr(torch.nn.functional, "linear", spied)
            logits(model)
        seen[name] = read
    assert all(read == seen[None] and read <= before.keys() for read in seen.values()) and len(seen[None]) == 15


@pytest.mark.parametrize("family", ("llama", "llama-tied"))
def test_a_rounded_base_changes_no_bit_under_autocast(
    tiny_model: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    """Not of the outputs, not of the adapter's gradients; and what is exported was merged into the exact weights."""
    seen = []
    for rounded in (False, True):
        hats = dressed(tiny_model(family), "policy")
        shake(hats, "policy", seed=1)
        if rounded:
            hats.round_base(torch.bfloat16)
        with hats.wearing("policy"), torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = forward(hats.model, GROUPS, path="grouped").states
        outputs.float().square().mean().backward()
        hats.export("policy", tmp_path / f"{rounded}")
        exported = load_causal(tmp_path / f"{rounded}", device="cpu", dtype="float32").state_dict()
        seen.append([outputs, *(each.grad for each in hats.parameters("policy")), *exported.values()])
    assert all(torch.equal(plain, rounded) for plain, rounded in zip(*seen, strict=True))


def test_a_snapshot_stays_while_its_source_moves(tiny_llama: Path) -> None:
    hats = dressed(tiny_llama, "policy")
    hats.snapshot("policy", "reference")
    with hats.wearing("policy"):
        then = logits(hats.model)
    shake(hats, "policy", 7)
    with hats.wearing("reference"):
        assert torch.equal(logits(hats.model), then)
    with hats.wearing("policy"):
        assert not torch.equal(logits(hats.model), then)
    assert not any(parameter.requires_grad for parameter in hats.parameters("reference"))


def test_the_model_goes_when_its_hats_go(tiny_llama: Path) -> None:
    hats = dressed(tiny_llama, "policy")
    model = weakref.ref(hats.model)
    del hats
    gc.collect()
    assert model() is None


# ---- what is trained


@pytest.mark.parametrize("path", ["plain", "grouped"])
def test_recomputation_wears_what_the_forward_pass_wore(tiny_llama: Path, path: str) -> None:
    """Backward comes when another adapter is worn, as after a value's pass."""
    expected, ours = [], []
    for recompute, found in ((False, expected), (True, ours)):
        hats = dressed(tiny_llama, "policy", "value")
        with hats.wearing("policy"):
            loss = loss_of(hats, path=path, recompute=recompute)
        with hats.wearing("value"):
            loss.backward()
        found += [parameter.grad for parameter in hats.parameters("policy")]
        assert all(parameter.grad is None for parameter in hats.parameters("value"))
    assert all(torch.allclose(mine, theirs, atol=1e-5) for mine, theirs in zip(ours, expected, strict=True))


def test_the_mode_of_the_model_holds_for_new_adapters(tiny_llama: Path) -> None:
    hats = dressed(tiny_llama, "policy", lora=LoRA(rank=4, dropout=0.5))
    with hats.wearing("policy"):
        assert torch.equal(logits(hats.model), logits(hats.model))
        hats.model.train()
        assert not torch.equal(logits(hats.model), logits(hats.model))


def test_over_a_half_precision_base_adapters_are_kept_in_float32(tiny_llama: Path) -> None:
    hats = dressed(tiny_llama, "policy", dtype="bfloat16")
    assert {parameter.dtype for parameter in hats.parameters("policy")} == {torch.float32}
    assert hats.model.model.layers[0].mlp.up_proj.base_layer.weight.dtype == torch.bfloat16
    with hats.wearing("policy"):
        assert logits(hats.model).dtype == torch.bfloat16


# ---- what is saved


by_peft = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@by_peft
@pytest.mark.parametrize("lora", [LoRA(rank=4, alpha=8.0), LoRA(rank=2, top_layers=1)], ids=["all", "top"])
@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "glm4"])
def test_peft_loads_what_is_saved_and_computes_the_same(
    tiny_model: Callable[[str], Path], tmp_path: Path, family: str, lora: LoRA
) -> None:
    from peft import PeftModel

    hats = dressed(tiny_model(family), "other", "policy", lora=lora)
    hats.save("policy", tmp_path / "adapter")
    with hats.wearing("policy"):
        ours = logits(hats.model)
    base = load_causal(tiny_model(family), device="cpu", dtype="float32")
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert torch.allclose(logits(theirs), ours, atol=1e-6)

    again = Hats(load_causal(tiny_model(family), device="cpu", dtype="float32"))
    again.load("back", tmp_path / "adapter")
    with again.wearing("back"):
        assert torch.equal(logits(again.model), ours)
    assert all(parameter.requires_grad for parameter in again.parameters("back"))


@by_peft
def test_what_peft_saves_is_loaded(tiny_llama: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    theirs = get_peft_model(
        load_causal(tiny_llama, device="cpu", dtype="float32"),
        LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj"], use_rslora=True, init_lora_weights=False),
    ).eval()
    theirs.save_pretrained(tmp_path)
    hats = Hats(load_causal(tiny_llama, device="cpu", dtype="float32"))
    hats.load("policy", tmp_path)
    with hats.wearing("policy"):
        assert torch.allclose(logits(hats.model), logits(theirs), atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "llama-tied", "qwen2", "gpt2", "glm4"])
def test_an_export_is_a_model_of_its_own(tiny_model: Callable[[str], Path], tmp_path: Path, family: str) -> None:
    hats = dressed(tiny_model(family), "policy", "other")
    before = {name: tensor.clone() for name, tensor in hats.model.state_dict().items()}
    hats.export("policy", tmp_path / "merged")
    with hats.wearing("policy"):
        ours = logits(hats.model)
    alone = load_causal(tmp_path / "merged", device="cpu", dtype="float32")
    assert torch.allclose(logits(alone), ours, atol=2e-5)
    assert not any("lora" in name for name in alone.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in hats.model.state_dict().items())
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "merged" / file).read_bytes() == (tiny_model(family) / file).read_bytes()
    assert (tmp_path / "merged/config.json").read_text() == (tiny_model(family) / "config.json").read_text()


def test_an_export_over_a_half_precision_base_stays_in_it(tiny_llama: Path, tmp_path: Path) -> None:
    hats = dressed(tiny_llama, "policy", dtype="bfloat16")
    hats.export("policy", tmp_path)
    alone = load_causal(tmp_path, device="cpu", dtype="bfloat16")
    weight = hats.model.model.layers[0].mlp.up_proj
    merged = weight.base_layer.weight.float() + weight.get_delta_weight("policy")
    assert torch.equal(alone.model.layers[0].mlp.up_proj.weight, merged.bfloat16())


# ---- what is refused


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"rank": 0}, "rank is 0: it must be at least 1"),
        ({"alpha": -1.0}, "alpha is -1.0: it must be above 0"),
        ({"dropout": 1.0}, "dropout is 1.0: it must be at least 0 and below 1"),
        ({"top_layers": -2}, "top_layers is -2: it must be 0 (every layer) or more"),
    ],
)
def test_settings_that_make_no_adapter(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        LoRA(**given)
    assert str(error.value) == told


def test_more_layers_than_there_are(tiny_llama: Path) -> None:
    hats = Hats(load_causal(tiny_llama, device="cpu", dtype="float32"))
    with pytest.raises(UserError, match="top_layers is 3: the model has 2 layers"):
        hats.add("policy", LoRA(top_layers=3))


def test_a_folder_that_is_no_adapter_of_this_model(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    def load(folder: Path, family: str = "llama") -> str:
        hats = Hats(load_causal(tiny_model(family), device="cpu", dtype="float32"))
        with pytest.raises(BadModel) as error:
            hats.load("policy", folder)
        return str(error.value)

    assert "lacks adapter_config.json" in load(tmp_path)
    good = tmp_path / "good"
    dressed(tiny_model("llama"), "policy").save("policy", good)

    torn = shutil.copytree(good, tmp_path / "torn")
    whole = (good / "adapter_model.safetensors").read_bytes()
    (torn / "adapter_model.safetensors").write_bytes(whole[:-100])
    assert "does not fit LlamaForCausalLM" in load(torn)

    other = shutil.copytree(good, tmp_path / "other")
    config = json.loads((good / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps({**config, "r": 8}))
    assert "expected; load the base that it was trained on" in load(other)
    (other / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    assert "more than low-rank matrices" in load(other)
    (other / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "IA3"}))
    assert "more than low-rank matrices (IA3" in load(other)
    (other / "adapter_config.json").write_text("{}")
    assert "is not the configuration of an adapter" in load(other)

    assert "does not fit GPT2LMHeadModel" in load(good, "gpt2")
    assert "load the base that it was trained on" in load(good, "qwen3")


def test_a_policy_with_a_value_head_in_one_pass(tiny_llama: Path) -> None:
    """Log-probs and values of the same states; both the adapter and the head get gradients."""
    hats = dressed(tiny_llama, "policy")
    head = ScalarHead(64)
    with hats.wearing("policy"):
        answers = forward(hats.model, GROUPS)
        logprobs, _ = token_logprobs(Head.of(hats.model), answers.states, answers.targets)
        values = head(answers.states)
        assert values.shape == logprobs.shape
        (logprobs.sum() + values.square().sum()).backward()
    assert all(parameter.grad is not None for parameter in (*hats.parameters("policy"), *head.parameters()))
