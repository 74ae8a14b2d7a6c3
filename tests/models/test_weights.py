"""Weights read with numpy alone are what safetensors and torch read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from plumbline.errors import BadModel
from plumbline.models.weights import read_weights, weight_files


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_float_is_read_as_torch_reads_it(dtype: torch.dtype, tmp_path: Path) -> None:
    special = [0.0, -0.0, 1.0, -1.5, 3.0e-5, 65504.0, float("inf"), float("nan")]
    saved = {"a": torch.tensor(special).to(dtype), "b": torch.randn(3, 5).to(dtype)}
    save_file(saved, tmp_path / "model.safetensors")
    read = {name: stored.read() for name, stored in read_weights(tmp_path).items()}
    assert set(read) == set(saved)
    for name, value in saved.items():
        assert read[name].dtype == np.float32
        np.testing.assert_array_equal(read[name], value.to(torch.float32).numpy())


def test_whole_numbers_are_refused_only_when_read(tmp_path: Path) -> None:
    save_file({"steps": torch.arange(3)}, tmp_path / "model.safetensors")
    stored = read_weights(tmp_path)["steps"]
    assert stored.elements == 3
    with pytest.raises(BadModel, match="numbers of type I64"):
        stored.read()


def test_shards_are_those_of_the_index(tiny_llama: Path, tmp_path: Path) -> None:
    whole = load_file(tiny_llama / "model.safetensors")
    names = sorted(whole)
    halves = {"model-1.safetensors": names[:5], "model-2.safetensors": names[5:]}
    for file, held in halves.items():
        save_file({name: whole[name] for name in held}, tmp_path / file)
    save_file({"foreign": torch.zeros(1)}, tmp_path / "consolidated.safetensors")
    index = {"weight_map": {name: file for file, held in halves.items() for name in held}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [file.name for file in weight_files(tmp_path)] == list(halves)
    read = read_weights(tmp_path)
    assert sorted(read) == names
    np.testing.assert_array_equal(read[names[7]].read(), whole[names[7]].numpy())


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_a_damaged_index_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(BadModel, match="is not an index of safetensors files"):
        weight_files(tmp_path)


def test_a_file_cut_anywhere_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    shutil.copy(tiny_llama / file.name, file)
    whole = file.read_bytes()
    for length in (0, 7, 8, 100, 3000, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(BadModel, match="is not a safetensors file|ends early"):
            read_weights(tmp_path)
