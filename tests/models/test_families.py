"""Families: each loads through its own door, and what is not whole or not safe is refused."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tiny
from plumbline.errors import BadModel, UserError
from plumbline.models import families
from plumbline.models.families import family, missing_files

TinyModel = Callable[[str], Path]
KINDS = {
    "llama": "causal",
    "llama-tied": "causal",
    "mistral": "causal",
    "qwen2": "causal",
    "qwen3": "causal",
    "glm": "causal",
    "glm4": "causal",
    "gpt2": "causal",
    "t5": "seq2seq",
    "bart": "seq2seq",
    "bert-classifier": "classifier",
    "bert": "encoder",
}
LOADERS = {
    "causal": families.load_causal,
    "seq2seq": families.load_seq2seq,
    "classifier": families.load_classifier,
    "encoder": families.load_encoder,
}
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def rewrite_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def test_every_tiny_family_is_covered() -> None:
    assert set(KINDS) == set(tiny.FAMILIES)


@pytest.mark.parametrize("name", KINDS)
def test_each_family_loads_whole(name: str, tiny_model: TinyModel) -> None:
    folder = tiny_model(name)
    assert family(folder) == KINDS[name]
    model = LOADERS[KINDS[name]](folder, device="cpu")
    assert not model.training
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    extra = {"decoder_input_ids": IDS} if KINDS[name] == "seq2seq" else {}
    with torch.inference_mode():
        answer = model(input_ids=IDS, **extra)
    shape = {"causal": (1, 5, 512), "seq2seq": (1, 5, 512), "classifier": (1, 2)}
    found = answer.last_hidden_state.shape if KINDS[name] == "encoder" else answer.logits.shape
    assert tuple(found) == shape.get(KINDS[name], (1, 5, 64))


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    """Weights come from the file, not from a fresh draw: another seed gives another answer."""
    first, second = (tiny.write_model("llama", tmp_path / str(seed), seed) for seed in (1, 2))
    with torch.inference_mode():
        answers = [families.load_causal(folder, device="cpu")(IDS).logits for folder in (first, first, second)]
    assert torch.equal(answers[0], answers[1]) and not torch.allclose(answers[0], answers[2])


def test_dtype_and_device_are_as_asked(tiny_llama: Path) -> None:
    assert families.load_causal(tiny_llama, device="cpu", dtype="bfloat16").dtype == torch.bfloat16
    assert families.load_causal(tiny_llama, device="cpu", dtype=torch.float16).dtype == torch.float16
    with pytest.raises(UserError, match="dtype is 'float8': give one of auto, float32"):
        families.load_causal(tiny_llama, dtype="float8")
    with pytest.raises(UserError, match="device is 'graphics': give 'auto', 'cpu'"):
        families.load_causal(tiny_llama, device="graphics")


@pytest.mark.gpu
def test_auto_takes_the_gpu_in_bfloat16(tiny_llama: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    model = families.load_causal(tiny_llama)
    assert model.device.type == "cuda" and model.dtype == torch.bfloat16


def test_the_wrong_door_names_both_kinds(tiny_model: TinyModel) -> None:
    with pytest.raises(BadModel, match=r"holds a seq2seq model \(T5ForConditionalGeneration\), and a causal model"):
        families.load_causal(tiny_model("t5"))
    with pytest.raises(BadModel, match=r"holds a causal model \(LlamaForCausalLM\), and a classifier model"):
        families.load_classifier(tiny_model("llama"))


@pytest.mark.parametrize("architecture", ["LlavaForConditionalGeneration", "BertForTokenClassification", ""])
def test_other_architectures_are_named(architecture: str, tiny_llama: Path, tmp_path: Path) -> None:
    folder = copy(tiny_llama, tmp_path / "copy")
    rewrite_config(folder, architectures=[architecture])
    with pytest.raises(BadModel, match=f"holds the architecture '{architecture}'"):
        family(folder)


def test_a_missing_head_is_not_made_up(tiny_model: TinyModel, tmp_path: Path) -> None:
    folder = copy(tiny_model("bert"), tmp_path / "copy")
    rewrite_config(folder, architectures=["BertForSequenceClassification"])
    with pytest.raises(BadModel, match=r"lacks weights that its config.json promises: classifier\.bias"):
        families.load_classifier(folder)


def test_missing_files_are_listed(tiny_llama: Path, tmp_path: Path) -> None:
    assert missing_files(tiny_llama) == []
    assert missing_files(tmp_path) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert missing_files(tmp_path, tokenizer=False) == ["config.json", "model.safetensors"]
    with pytest.raises(BadModel, match=r"lacks config\.json, model\.safetensors"):
        families.load_causal(tmp_path / "nowhere")


def test_a_missing_shard_is_named(tiny_llama: Path, tmp_path: Path) -> None:
    folder = copy(tiny_llama, tmp_path / "copy")
    (folder / "model.safetensors").unlink()
    families.load_causal(tiny_llama).save_pretrained(folder, max_shard_size="200KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1 and families.load_causal(folder)
    shards[1].unlink()
    assert missing_files(folder) == [shards[1].name]
    with pytest.raises(BadModel, match=f"lacks {shards[1].name}"):
        families.load_causal(folder)


def test_a_pickle_is_never_opened(tiny_llama: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "sprung",)  # type: ignore[return-value]

    folder = copy(tiny_llama, tmp_path / "copy")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(BadModel, match=r"pytorch_model\.bin, which is never loaded since unpickling runs code"):
        families.load_causal(folder)
    assert not (tmp_path / "sprung").exists()


def test_code_that_comes_with_a_model_is_never_run(tiny_llama: Path, tmp_path: Path) -> None:
    folder = copy(tiny_llama, tmp_path / "copy")
    rewrite_config(
        folder,
        model_type="own",
        auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},
    )
    (folder / "own.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'sprung')!r}).touch()")
    with pytest.raises(BadModel, match="trust_remote_code"):
        families.load_causal(folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("cut", [4, 100, 50_000])
def test_truncated_weights_are_refused(cut: int, tiny_llama: Path, tmp_path: Path) -> None:
    folder = copy(tiny_llama, tmp_path / "copy")
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(cut)
    with pytest.raises(BadModel, match="cannot be loaded"):
        families.load_causal(folder)


@pytest.mark.parametrize(("text", "reason"), [("{", "does not hold JSON"), ("[]", "holds a list, not a JSON object")])
def test_a_damaged_config_is_named(text: str, reason: str, tiny_llama: Path, tmp_path: Path) -> None:
    folder = copy(tiny_llama, tmp_path / "copy")
    (folder / "config.json").write_text(text)
    with pytest.raises(BadModel, match=reason):
        families.load_causal(folder)


def test_loading_says_nothing(tiny_llama: Path, capfd: pytest.CaptureFixture[str]) -> None:
    families.load_causal(tiny_llama)
    assert capfd.readouterr() == ("", "")
