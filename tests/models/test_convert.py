"""The conversion of a GGUF file: done once, whole or not at all, and with the tokenizer that the file means."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import tokenizers
import torch
from filelock import FileLock
from tokenizers import pre_tokenizers

import tiny
from plumbline.errors import BadModel
from plumbline.models import convert
from plumbline.models.convert import convert_gguf
from plumbline.models.families import load_causal
from plumbline.models.gguf import write_gguf
from plumbline.models.tokenizer import Tokenizer

CONVERT = "import sys; from plumbline.models.convert import convert_gguf; print(convert_gguf(sys.argv[1]))"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own; returns where conversions go."""
    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "converted"


@pytest.fixture
def file(tiny_llama: Path, tmp_path: Path) -> Path:
    return write_gguf(tiny_llama, tmp_path / "model.gguf", "F32")


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.is_dir()) if cache.exists() else []


def start(file: Path, script: str = CONVERT, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, file], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def with_text(file: Path, old: bytes, new: bytes) -> None:
    """Replace a text of the same length in the file."""
    assert len(old) == len(new)
    file.write_bytes(file.read_bytes().replace(old, new))


# Once


def test_a_second_call_takes_the_copy(file: Path, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = convert_gguf(file)
    said = capfd.readouterr()
    assert said.out == "" and said.err.splitlines() == ["converting model.gguf, once"]
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} < set(before)
    assert convert_gguf(file) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert capfd.readouterr().err == ""


def test_a_changed_file_never_meets_the_old_copy(file: Path, cache: Path, tiny_model: Callable[[str], Path]) -> None:
    first = convert_gguf(file)
    stamps = file.stat()
    weights = bytearray(file.read_bytes())
    weights[-5] ^= 64  # one bit in the last tensor
    file.write_bytes(weights)
    os.utime(file, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))  # as a copy that keeps times would
    assert file.stat().st_mtime_ns == stamps.st_mtime_ns and file.stat().st_size == stamps.st_size
    assert convert_gguf(file) != first


def test_the_same_bytes_elsewhere_share_the_copy(file: Path, cache: Path, tmp_path: Path) -> None:
    shutil.copy(file, tmp_path / "other name.gguf")
    assert convert_gguf(file) == convert_gguf(tmp_path / "other name.gguf")


def test_a_settled_file_is_read_through_once(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "_SETTLED", -60.0)
    folder = convert_gguf(file)
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("the file was read through again"))
    assert convert_gguf(file) == folder


def test_a_file_that_changed_just_now_is_not_remembered(file: Path, cache: Path) -> None:
    convert_gguf(file)
    assert list(cache.glob("*.digest")) == []


# What comes out


def test_the_copy_is_a_plain_float32_model(file: Path, cache: Path) -> None:
    folder = convert_gguf(file)
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "float32" and "quantization_config" not in config
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == tiny.WINDOW
    assert (folder / "chat_template.jinja").read_text() == tiny.CHATML
    assert Tokenizer(folder).eos_ids == {2}


def test_the_end_of_a_turn_ends_answers_too(file: Path, cache: Path, tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two ends"
    shutil.copytree(tiny_llama, folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
    assert Tokenizer(convert_gguf(write_gguf(folder, tmp_path / "two.gguf"))).eos_ids == {0, 2}


def rule(folder: Path, to: Path, *steps: object) -> Path:
    """A copy of the model whose tokenizer splits text by these steps."""
    shutil.copytree(folder, to)
    rust = tokenizers.Tokenizer.from_file(str(to / "tokenizer.json"))
    rust.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    rust.save(str(to / "tokenizer.json"))
    return to


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = (*tiny.SENTENCES, "In 1999 12345 people", "x²³ ١٢٣ ٤", "a\n\n\n  b   c", "DON'T don't")


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("gpt-2", [pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        ("smollm", [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        (
            "llama-bpe",
            [
                pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ],
        ),
    ],
)
def test_text_is_split_by_the_files_rule(
    name: str, steps: list[object], tiny_llama: Path, cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = rule(tiny_llama, tmp_path / "copy", *steps)
    file = write_gguf(folder, tmp_path / "model.gguf")
    assert f"tokenizer.ggml.pre\x08\0\0\0{chr(len(name))}\0\0\0\0\0\0\0{name}".encode() in file.read_bytes()
    converted = convert_gguf(file)
    ours, theirs = Tokenizer(folder), Tokenizer(converted)
    assert [theirs.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]
    # Llama 3 takes a word that is a token as it is; the file says so only by the rule's name.
    assert json.loads((converted / "tokenizer.json").read_text())["model"]["ignore_merges"] == (name == "llama-bpe")
    assert capfd.readouterr().err.splitlines() == ["converting model.gguf, once"]


def test_digits_are_one_token_each(file: Path, cache: Path) -> None:
    tokenizer = Tokenizer(convert_gguf(file))
    assert [tokenizer.token_text(token) for token in tokenizer.encode("4071")] == ["4", "0", "7", "1"]


def test_an_unknown_rule_is_said_once(
    tiny_llama: Path, cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = rule(tiny_llama, tmp_path / "copy", pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(False))
    file = write_gguf(folder, tmp_path / "model.gguf")
    assert "no name that is known here" in capfd.readouterr().err
    convert_gguf(file)
    assert capfd.readouterr().err.count("a rule named 'default', which is not known here") == 1
    convert_gguf(file)
    assert capfd.readouterr().err == ""


def with_divisors(file: Path, out: Path, divisors: list[float]) -> Path:
    """The file with a tensor of rope divisors beside its own tensors."""
    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(out, "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.add_tensor("rope_freqs.weight", np.array(divisors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def test_positions_stretched_as_llama_3_does_are_kept(
    file: Path, cache: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    folder = tmp_path / "long"
    shutil.copytree(tiny_llama, folder)
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] |= {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    (folder / "config.json").write_text(json.dumps(config))
    model = load_causal(folder, device="cpu")
    # What a converter stores: how much slower than plain rotation each frequency turns.
    slowed, _ = ROPE_INIT_FUNCTIONS["llama3"](model.config, device="cpu")
    plain = 1.0 / 10000.0 ** (torch.arange(8) / 8)
    assert 1 < (plain / slowed).max() == 8
    converted = convert_gguf(with_divisors(file, tmp_path / "long.gguf", (plain / slowed).tolist()))
    assert json.loads((converted / "config.json").read_text())["rope_parameters"] == config["rope_parameters"]
    ids = torch.arange(3, 203)[None]
    with torch.inference_mode():
        assert torch.allclose(load_causal(converted, device="cpu")(ids).logits, model(ids).logits, atol=1e-5)
        assert not torch.allclose(load_causal(tiny_llama, device="cpu")(ids).logits, model(ids).logits, atol=1e-3)


def test_positions_stretched_otherwise_are_refused(file: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"stretches its positions \(divisors other than Llama 3's\)"):
        convert_gguf(with_divisors(file, tmp_path / "long.gguf", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]))
    assert folders(cache) == []


@pytest.mark.model
def test_the_bundled_model_is_whole(smollm2: Path) -> None:
    tokenizer = Tokenizer(smollm2)
    assert (tokenizer.window, tokenizer.eos_ids, len(tokenizer.encode("In 1999"))) == (8192, {2}, 6)
    # Each digit its own token, a word with its space one: what transformers alone reads otherwise.
    assert [tokenizer.token_text(token) for token in tokenizer.encode("42 apples")] == ["4", "2", " apples"]
    assert tokenizer.chat_template is not None and "<|im_start|>" in tokenizer.chat_template


# What cannot be converted


def test_a_truncated_file_is_refused_and_leaves_nothing(file: Path, cache: Path) -> None:
    whole = file.stat().st_size
    with file.open("r+b") as handle:
        handle.truncate(whole - 5000)
    with pytest.raises(BadModel, match=rf"model\.gguf' ends early: its tensors need {whole} bytes and it has"):
        convert_gguf(file)
    assert folders(cache) == []


def test_an_architecture_that_transformers_does_not_read_is_named(file: Path, cache: Path) -> None:
    with_text(file, b"llama", b"lllll")
    with pytest.raises(BadModel, match="architecture 'lllll'"):
        convert_gguf(file)
    assert folders(cache) == []


def test_weights_that_lack_are_not_made_up(file: Path, cache: Path) -> None:
    with_text(file, b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight")
    with pytest.raises(BadModel, match=r"lacks weights .*model\.layers\.1\.mlp\.up_proj\.weight"):
        convert_gguf(file)
    assert folders(cache) == []


def test_a_folder_or_nothing_is_no_file(tmp_path: Path, cache: Path) -> None:
    for path in (tmp_path, tmp_path / "none.gguf"):
        with pytest.raises(BadModel, match="is not a file"):
            convert_gguf(path)


# Faults in the middle


def test_a_full_disk_is_one_sentence_and_leaves_nothing(file: Path, cache: Path) -> None:
    limit = 300_000  # the weights alone are larger
    child = start(file, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, said = child.communicate()
    last = said.strip().splitlines()[-1]
    assert "UserError: no room to write the converted copy of model.gguf (33 MB) in" in last and str(cache) in last
    assert folders(cache) == []
    assert convert_gguf(file).is_dir()


def test_too_little_space_is_told_before_the_work(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(file)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(convert, "_write_folder", lambda *_: pytest.fail("the work was begun"))
    with pytest.raises(Exception, match=r"no room .*\(33 MB\) in .* \(1 MB free\)"):
        convert_gguf(file)


def test_a_killed_conversion_is_begun_anew(file: Path, cache: Path) -> None:
    half = (
        "import sys, time; from plumbline.models import convert\n"
        "def save(model, tokenizer, header, folder):\n"
        "    (folder / 'config.json').write_text('{}'); print('half', flush=True); time.sleep(600)\n"
        "convert._save = save; convert.convert_gguf(sys.argv[1])"
    )
    child = start(file, half)
    assert child.stdout is not None and child.stdout.readline() == "half\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    [left] = folders(cache)
    folder = convert_gguf(file)
    assert folders(cache) == [folder.name] and folder.name != left
    assert (folder / "model.safetensors").is_file()


def test_of_two_processes_one_converts_and_the_other_waits(file: Path, cache: Path) -> None:
    stamps = convert._stamps(file)
    cache.mkdir(parents=True)
    target = cache / convert._digest(file, stamps, cache)
    # Both find the lock taken, so that both wait; then it is let go.
    with FileLock(f"{target}.lock"):
        children = [start(file), start(file)]
        waiting = [child.stderr.readline() for child in children if child.stderr]
    outcomes = [child.communicate() for child in children]
    assert all("another process is making the converted copy of model.gguf" in line for line in waiting)
    assert [child.returncode for child in children] == [0, 0]
    assert {out.strip() for out, _ in outcomes} == {str(target)}
    assert "".join(said for _, said in outcomes).count("converting model.gguf, once") == 1
    assert folders(cache) == [target.name]


def test_a_file_that_changes_meanwhile_is_refused(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = convert._write_folder

    def touch_and_write(header: object, folder: Path) -> None:
        file.write_bytes(file.read_bytes())
        write(header, folder)  # type: ignore[arg-type]

    monkeypatch.setattr(convert, "_write_folder", touch_and_write)
    with pytest.raises(BadModel, match="changed while it was being converted"):
        convert_gguf(file)
    assert folders(cache) == []


def test_conversion_leaves_transformers_as_it_was(file: Path, cache: Path) -> None:
    from transformers.utils import logging

    logging.set_verbosity_info()
    try:
        convert_gguf(file)
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled() and torch.is_grad_enabled()
    finally:
        logging.set_verbosity_warning()
