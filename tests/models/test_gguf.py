"""GGUF: what is written is what the model is, and a file that is not whole is refused."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

import tiny
from plumbline.errors import BadModel, UserError
from plumbline.models.convert import convert_gguf
from plumbline.models.families import load_causal
from plumbline.models.gguf import KINDS, Header, read_header, supported, write_gguf
from plumbline.models.tokenizer import Tokenizer
from plumbline.models.weights import read_weights

TinyModel = Callable[[str], Path]
FAMILIES = ("llama", "llama-tied", "mistral", "qwen2", "qwen3")
IDS = torch.arange(3, 83).reshape(2, 40)


def logits(folder: Path) -> torch.Tensor:
    with torch.inference_mode():
        return load_causal(folder, device="cpu")(IDS).logits


def numbers(header: Header, name: str) -> np.ndarray:
    """A tensor of a GGUF file, dequantised."""
    tensor = next(tensor for tensor in header.tensors if tensor.name == name)
    raw = np.fromfile(header.path, np.uint8, count=tensor.size, offset=tensor.offset)
    kind = GGMLQuantizationType[tensor.kind]
    whole = {"F32": np.float32, "F16": np.float16}.get(tensor.kind)
    if whole:
        return raw.view(whole).astype(np.float32).reshape(tensor.shape)
    return dequantize(raw.reshape(*tensor.shape[:-1], -1), kind)


def copy_with(folder: Path, to: Path, **config: object) -> Path:
    """A copy of a model folder with other values in its config.json."""
    shutil.copytree(folder, to)
    values = json.loads((to / "config.json").read_text()) | config
    (to / "config.json").write_text(json.dumps(values))
    return to


# What is written


@pytest.mark.parametrize("family", FAMILIES)
def test_f32_reads_back_as_the_same_model(family: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    folder = tiny_model(family)
    back = convert_gguf(write_gguf(folder, tmp_path / "model.gguf", "F32"))
    assert torch.allclose(logits(back), logits(folder), atol=1e-5, rtol=0)
    ours, theirs = Tokenizer(folder), Tokenizer(back)
    for text in (*tiny.SENTENCES, "a <|im_end|> in the text", "x" * 300, "1234567890"):
        assert theirs.encode(text) == ours.encode(text)
    assert theirs.special_map.items() >= ours.special_map.items()
    assert (theirs.eos_ids, theirs.window, theirs.chat_template) == (ours.eos_ids, ours.window, ours.chat_template)


def test_every_kind_rounds_as_it_says(tiny_llama: Path, tmp_path: Path) -> None:
    source = read_weights(tiny_llama)["model.layers.1.mlp.down_proj.weight"].read()
    blocks = source.reshape(-1, 32)
    step = np.abs(blocks).max(axis=1, keepdims=True)
    relative = np.abs(source)
    bounds = {
        "F32": 0.0 * source,
        "F16": relative * 2**-11 + 2**-25,
        "BF16": relative * 2**-8,
        # Half a step, and 127 times what the step itself lost as a 16-bit number.
        "Q8_0": np.broadcast_to(step / 127 * (0.5 + 127 * 2**-11), blocks.shape).reshape(source.shape),
        # Sixteen levels from -8 to 7 times the step: half a step, but a whole one at the end that is cut off.
        "Q4_0": np.broadcast_to(step / 8 * 1.01, blocks.shape).reshape(source.shape),
    }
    assert set(bounds) == set(KINDS)
    for kind, bound in bounds.items():
        header = read_header(write_gguf(tiny_llama, tmp_path / f"{kind}.gguf", kind))
        error = np.abs(numbers(header, "blk.1.ffn_down.weight") - source)
        assert (error <= bound).all(), (kind, float((error - bound).max()))
        assert kind == "F32" or error.max() > 0, kind


def test_vectors_stay_whole_and_only_the_head_of_q4_0_is_finer(tiny_model: TinyModel, tmp_path: Path) -> None:
    for family, head in (("qwen2", "output.weight"), ("llama-tied", "token_embd.weight")):
        header = read_header(write_gguf(tiny_model(family), tmp_path / f"{family}.gguf", "Q4_0"))
        kinds = {tensor.name: tensor.kind for tensor in header.tensors}
        assert {kinds[tensor.name] for tensor in header.tensors if len(tensor.shape) == 1} == {"F32"}
        assert kinds.pop(head) == "Q8_0"
        assert {kind for name, kind in kinds.items() if name.endswith("weight") and "norm" not in name} == {"Q4_0"}


def test_a_tied_head_is_written_once(tiny_model: TinyModel, tmp_path: Path) -> None:
    names = [tensor.name for tensor in read_header(write_gguf(tiny_model("llama-tied"), tmp_path / "a.gguf")).tensors]
    assert "output.weight" not in names and len(names) == len(set(names)) == 2 * 9 + 2


def test_rows_that_blocks_do_not_divide_stay_f16(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    # A feed-forward width of 80 makes rows of 80 = 2.5 blocks in the matrix that comes down from it.
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=80, num_hidden_layers=1, num_attention_heads=4
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "odd")
    tiny.write_tokenizer(tmp_path / "odd")
    kinds = {t.name: t.kind for t in read_header(write_gguf(tmp_path / "odd", tmp_path / "odd.gguf", "Q8_0")).tensors}
    assert kinds["blk.0.ffn_down.weight"] == "F16"
    assert kinds["blk.0.ffn_up.weight"] == "Q8_0"


def test_bfloat16_in_shards_is_read_exactly(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(tiny_llama, folder)
    (folder / "model.safetensors").unlink()
    load_causal(tiny_llama, dtype=torch.bfloat16).save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    header = read_header(write_gguf(folder, tmp_path / "model.gguf", "F32"))
    rounded = load_causal(tiny_llama).model.embed_tokens.weight.detach().bfloat16().float()
    assert np.array_equal(numbers(header, "token_embd.weight"), rounded.numpy())


def test_metadata_says_what_the_config_says(tiny_model: TinyModel, tmp_path: Path) -> None:
    header = read_header(write_gguf(tiny_model("qwen3"), tmp_path / "model.gguf"))
    said = {name: header.about_model(name) for name in ("block_count", "context_length", "attention.head_count_kv")}
    assert said == {"block_count": 2, "context_length": tiny.WINDOW, "attention.head_count_kv": 2}
    assert header.about_model("attention.key_length") == 32
    assert header.architecture == "qwen3"
    ends = [header.metadata[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding")]
    assert ends == [1, 2, 2]
    assert header.metadata["tokenizer.ggml.pre"] == "smollm"
    assert header.metadata["tokenizer.chat_template"] == tiny.CHATML
    assert header.metadata["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]
    assert not header.metadata["tokenizer.ggml.add_bos_token"]


def sentencepiece_tokenizer() -> tokenizers.Tokenizer:
    """A tokenizer of SentencePiece's kind: spaces are spelled, and bytes stand for letters it does not know."""
    trained = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=250, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    trained.train_from_iterator(tiny.SENTENCES[:5], trainer)
    model = json.loads(trained.to_str())["model"]
    vocabulary = model["vocab"] | {f"<0x{byte:02X}>": len(model["vocab"]) + byte for byte in range(256)}
    merges = [tuple(merge) for merge in model["merges"]]
    rust = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    rust.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    rust.add_special_tokens(["<unk>", "<s>", "</s>"])
    rust.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return rust


def test_a_sentencepiece_tokenizer_reads_back(tiny_llama: Path, tmp_path: Path) -> None:
    folder = copy_with(tiny_llama, tmp_path / "copy")
    sentencepiece_tokenizer().save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    file = write_gguf(folder, tmp_path / "model.gguf")
    metadata = read_header(file).metadata
    assert metadata["tokenizer.ggml.model"] == "llama" and metadata["tokenizer.ggml.add_space_prefix"]
    assert metadata["tokenizer.ggml.add_bos_token"] and not metadata["tokenizer.ggml.add_eos_token"]
    # Unknown, two that only a template writes, the first letter; bytes; and rows that no token uses.
    types = metadata["tokenizer.ggml.token_type"]
    assert types[:4] == [2, 3, 3, 1] and types.count(6) == 256 and types[-1] == 5
    scores, tokens = metadata["tokenizer.ggml.scores"], metadata["tokenizer.ggml.tokens"]
    merges = [merge.replace(" ", "") for merge in metadata["tokenizer.ggml.merges"]]
    assert sorted(merges, key=lambda merge: -scores[tokens.index(merge)]) == merges
    ours, theirs = Tokenizer(folder), Tokenizer(convert_gguf(file))
    for text in (*tiny.SENTENCES, "two  spaces", "☃"):
        assert theirs.encode(text) == ours.encode(text)
    assert theirs.encode_raw("a")[0] == 1


def test_openvino_runs_the_file_as_transformers_runs_the_folder(tiny_model: TinyModel, tmp_path: Path) -> None:
    genai = pytest.importorskip("openvino_genai")
    from openvino import Tensor

    for family in ("llama-tied", "qwen2", "qwen3"):
        file = write_gguf(tiny_model(family), tmp_path / f"{family}.gguf", "F16")
        schedule = genai.SchedulerConfig()
        schedule.cache_size = 1
        engine = genai.ContinuousBatchingPipeline(str(file), schedule, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        greedy = genai.GenerationConfig(max_new_tokens=12, ignore_eos=True)
        found = engine.generate([Tensor(IDS[:1].numpy())], [greedy])[0].m_generation_ids[0]
        with torch.inference_mode():
            model = load_causal(tiny_model(family), device="cpu")
            model.generation_config.eos_token_id = None
            wanted = model.generate(IDS[:1], max_new_tokens=12, do_sample=False)[0, 40:].tolist()
        assert found == wanted, family


@pytest.mark.model
def test_the_bundled_model_answers_the_same_from_f16(smollm2: Path, tmp_path: Path) -> None:
    genai = pytest.importorskip("openvino_genai")
    from openvino import Tensor

    from plumbline.models.chat import encode_prompt

    file = write_gguf(smollm2, tmp_path / "model.gguf", "F16")
    schedule = genai.SchedulerConfig()
    schedule.cache_size = 1
    engine = genai.ContinuousBatchingPipeline(str(file), schedule, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    tokenizer, model = Tokenizer(smollm2), load_causal(smollm2, device="cpu")
    for prompt in ("My house is too hot. What can I do?", "Knock, knock.", "Name three rivers in Europe."):
        ids = encode_prompt(tokenizer, prompt)
        greedy = genai.GenerationConfig(max_new_tokens=24, eos_token_id=2)
        found = engine.generate([Tensor(np.array([ids]))], [greedy])[0].m_generation_ids[0]
        with torch.inference_mode():
            wanted = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :].tolist()
        assert found == wanted, prompt


def test_writing_needs_no_torch(tiny_llama: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from plumbline.models.gguf import write_gguf; "
        "write_gguf(*sys.argv[1:]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, tiny_llama, tmp_path / "model.gguf"], check=True)
    assert read_header(tmp_path / "model.gguf").parameters > 0


# What is not written


@pytest.mark.parametrize(
    ("family", "config", "reason"),
    [
        ("gpt2", {}, "its type is 'gpt2'"),
        ("llama", {"attention_bias": True}, "biases"),
        ("qwen3", {"attention_bias": True}, "biases"),
        ("llama", {"hidden_act": "gelu"}, "activation"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}}, "stretched"),
        ("llama", {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "stretched"),
        ("mistral", {"sliding_window": 128}, "slides over 128"),
        ("qwen2", {"sliding_window": 128, "use_sliding_window": True}, "slides over 128"),
        ("qwen2", {"quantization_config": {"bits": 4}}, "quantised already"),
    ],
)
def test_a_model_that_readers_would_compute_otherwise_is_refused(
    family: str, config: dict[str, object], reason: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    folder = copy_with(tiny_model(family), tmp_path / "copy", **config)
    assert not supported(folder)
    with pytest.raises(BadModel, match=reason):
        write_gguf(folder, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_what_is_written_is_supported(tiny_model: TinyModel, tmp_path: Path) -> None:
    assert all(supported(tiny_model(family)) for family in FAMILIES)
    # A window that no prompt of the model exceeds does not slide; and an unused one does not count.
    assert supported(copy_with(tiny_model("mistral"), tmp_path / "wide", sliding_window=tiny.WINDOW))
    assert supported(copy_with(tiny_model("qwen2"), tmp_path / "off", sliding_window=8, use_sliding_window=False))


def test_lacking_and_foreign_weights_are_named(tiny_llama: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = copy_with(tiny_llama, tmp_path / "copy")
    whole = load_file(folder / "model.safetensors")
    lacking = {name: value for name, value in whole.items() if name != "model.layers.1.mlp.up_proj.weight"}
    save_file(lacking, folder / "model.safetensors")
    with pytest.raises(BadModel, match=r"lacks weights.*blk\.1\.ffn_up\.weight"):
        write_gguf(folder, tmp_path / "model.gguf")
    save_file({**whole, "model.extra.weight": np.zeros(2, np.float32)}, folder / "model.safetensors")
    with pytest.raises(BadModel, match=r"'model\.extra\.weight', for which the format has no place"):
        write_gguf(folder, tmp_path / "model.gguf")


def test_a_config_that_lacks_a_size_says_which(tiny_llama: Path, tmp_path: Path) -> None:
    folder = copy_with(tiny_llama, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    del config["rms_norm_eps"], config["intermediate_size"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadModel, match=r"config\.json in .* lacks intermediate_size, rms_norm_eps"):
        write_gguf(folder, tmp_path / "model.gguf")


@pytest.mark.parametrize("value", [1e6, float("nan")])
def test_numbers_that_f16_cannot_hold_are_refused(value: float, tiny_llama: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = copy_with(tiny_llama, tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = np.where(np.arange(64) == 7, np.float32(value), weights["lm_head.weight"])
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BadModel, match=r"output\.weight holds .*which F16 cannot hold"):
        write_gguf(folder, tmp_path / "model.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_full_disk_leaves_the_older_file(tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.gguf"
    out.write_bytes(b"the older file")
    script = "import sys; from plumbline.models.gguf import write_gguf; write_gguf(*sys.argv[1:], 'F32')"
    child = subprocess.run(
        [sys.executable, "-c", script, tiny_llama, out],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    last = child.stderr.strip().splitlines()[-1]
    assert "UserError" in last and "could not be written" in last and "it needs 0.6 MB" in last
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
    assert out.read_bytes() == b"the older file"


def test_an_unknown_kind_is_named(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="kind is 'Q5_K': give one of F32, F16"):
        write_gguf(tiny_llama, tmp_path / "model.gguf", "Q5_K")


# What is read


@pytest.fixture(scope="module")
def file(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tiny_llama, tmp_path_factory.mktemp("gguf") / "whole.gguf")


def test_a_header_is_what_the_gguf_package_reads(file: Path) -> None:
    from gguf import GGUFReader

    ours, theirs = read_header(file), GGUFReader(file)
    assert [(t.name, t.kind, t.offset, t.size, t.elements) for t in ours.tensors] == [
        (t.name, t.tensor_type.name, t.data_offset, t.n_bytes, t.n_elements) for t in theirs.tensors
    ]
    assert ours.metadata == {
        name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")
    }


def test_a_file_cut_anywhere_is_refused(file: Path, tmp_path: Path) -> None:
    whole, cut = file.read_bytes(), tmp_path / "cut.gguf"
    for length in [*range(0, 4000, 61), *range(4000, len(whole), 20011), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(BadModel, match="ends early|too short"):
            read_header(cut)
    promised = max(tensor.offset + tensor.size for tensor in read_header(file).tensors)
    cut.write_bytes(whole[:-1000])
    with pytest.raises(BadModel, match=rf"'{cut}' ends early: its tensors need {promised} .* has {len(whole) - 1000};"):
        read_header(cut)


@pytest.mark.parametrize(
    ("begin", "new", "reason"),
    [
        (0, b"<htm", r"is not a GGUF file: it begins with b'<htm'"),
        (4, b"\x01\0\0\0", "version 1"),
        (16, b"\xff" * 8, "corrupt|ends early"),
        (24, b"\xff" * 8, "ends early"),
    ],
)
def test_corruption_is_named(begin: int, new: bytes, reason: str, file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    whole = bytearray(file.read_bytes())
    whole[begin : begin + len(new)] = new
    bad.write_bytes(whole)
    with pytest.raises(BadModel, match=reason):
        read_header(bad)


def test_an_unknown_tensor_type_is_named(file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    name = b"output_norm.weight"
    # Behind the name: the number of dimensions (4 bytes), one length (8), then the type.
    place = (whole := bytearray(file.read_bytes())).index(name) + len(name) + 12
    whole[place : place + 4] = (77).to_bytes(4, "little")
    bad.write_bytes(whole)
    with pytest.raises(BadModel, match="tensor 'output_norm.weight' has the unknown type 77"):
        read_header(bad)
