"""Devices, precision, random numbers, and several processes that together are one."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from plumbline.errors import UserError
from plumbline.training import devices
from plumbline.training.devices import Process, pick_precision, plant_seeds, random_state, set_random_state, started

CPU = torch.device("cpu")


def test_alone_there_is_one_process_and_nothing_to_exchange() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.full((2,), 3.0)
    with started("cpu", "float32", seed=1) as process:
        process.spread([weight])
        process.reduce_gradients([weight])
        assert (process.rank, process.world, process.first) == (0, 1, True)
        assert process.total({"loss": 0.5}) == {"loss": 0.5}
    assert weight.grad.tolist() == [3.0, 3.0]


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(1))]


def test_a_seed_decides_every_random_number() -> None:
    plant_seeds(5)
    first = draws()
    plant_seeds(6)
    other = draws()
    plant_seeds(5)
    assert draws() == first
    assert all(mine != theirs for mine, theirs in zip(first, other, strict=True))
    plant_seeds(2**40)  # numpy takes 32 bits


def test_processes_draw_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seed of rank 1 differs by a prime, so that runs with seeds 0, 1, 2 ... share no stream."""
    seeds = []
    monkeypatch.setattr(devices, "plant_seeds", seeds.append)
    monkeypatch.setattr(devices, "_joined", lambda process: contextlib.nullcontext())
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with started("cpu", "float32", seed=7) as process:
            assert process.first == (rank == "0")
    assert seeds == [7, 7 + devices.APART]


def test_random_numbers_go_on_where_they_were() -> None:
    draws()
    torch.randn(3)
    random.gauss(0, 1)
    state = random_state()
    first = draws()
    draws()
    set_random_state(state)
    assert draws() == first


@pytest.mark.parametrize(("flags", "expected"), [("fma amx_bf16 avx2", "bfloat16"), ("fma avx2", "float32")])
def test_the_processor_decides_the_precision(
    flags: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"flags : {flags}\n")
    monkeypatch.setattr(devices, "Path", lambda _: info)
    devices._cpu_multiplies_bf16.cache_clear()
    try:
        assert pick_precision("auto", CPU) == expected
        assert pick_precision("float32", CPU) == "float32" and pick_precision("bfloat16", CPU) == "bfloat16"
    finally:
        devices._cpu_multiplies_bf16.cache_clear()


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(UserError, match="precision is 'fp16': give one of auto, float32, bfloat16"):
        pick_precision("fp16", CPU)


def test_matrix_products_are_taken_in_the_precision_and_weights_stay() -> None:
    linear = torch.nn.Linear(4, 4)
    for precision, expected in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with Process(CPU, precision).autocast():
            assert linear(torch.ones(1, 4)).dtype == expected
    assert linear.weight.dtype == torch.float32


def test_where_memory_runs_out_it_says_what_to_lower() -> None:
    with pytest.raises(UserError, match="memory ran out .*lower --tokens .*--recompute"):
        with started("cpu", "float32"):
            torch.empty(2**55)


def test_another_error_stays_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="something else"):
        with started("cpu", "float32"):
            raise RuntimeError("something else")


TOGETHER = """
import os, sys, torch
from plumbline.training.devices import started

with started("cpu", "float32") as process:
    import torch.distributed.nn  # as the optimisers of torch do

    both = torch.nn.Parameter(torch.full((2, 3), float(process.rank)))
    half = torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    mine = torch.nn.Parameter(torch.zeros(4))
    process.spread([both])
    assert both.tolist() == [[0.0] * 3] * 2, both
    both.grad = torch.arange(6.0).reshape(2, 3) * (1 + process.rank)
    half.grad = torch.ones(2, dtype=torch.bfloat16)
    if process.rank == 1:
        mine.grad = torch.full((4,), 5.0)
    process.reduce_gradients([both, half, mine])
    assert torch.equal(both.grad, torch.arange(6.0).reshape(2, 3) * 3), both.grad
    assert half.grad.tolist() == [2.0, 2.0] and mine.grad.tolist() == [5.0] * 4
    total = process.total({"loss": 0.25} if process.first else {"loss": 0.5, "only": 1.0})
    assert total == {"loss": 0.75, "only": 1.0}, total
    assert process.gather(process.rank) == [0, 1]
    process.wait()

threads = [open(f"/proc/self/task/{each}/comm").read().strip() for each in os.listdir("/proc/self/task")]
assert not [each for each in threads if "gloo" in each], threads
"""


def launch(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a script in two processes, as a user of torchrun does. One that ends by a signal says where it stood."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    told = {**os.environ, "PYTHONFAULTHANDLER": "1"}
    return subprocess.run([*command, *arguments], env=told, capture_output=True, text=True, check=False)


def test_two_processes_add_up(tmp_path: Path) -> None:
    """And leave no thread of gloo behind: one that frees a tensor after Python has ended is a SIGABRT."""
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    done = launch(script)
    assert done.returncode == 0, done.stderr


ONE_FAILS = """
import torch
from plumbline.errors import UserError
from plumbline.training.devices import started

with started("cpu", "float32") as process:
    weight = torch.nn.Parameter(torch.zeros(100_000))
    process.reduce_gradients([weight])
    if process.rank == 1:
        raise UserError("rank 1 has enough")
    process.reduce_gradients([weight])
"""


def test_one_that_fails_takes_the_other_with_it_and_neither_hangs_nor_crashes(tmp_path: Path) -> None:
    """The other one is in the middle of adding up gradients, and ends by an error, not by a signal."""
    script = tmp_path / "fails.py"
    script.write_text(ONE_FAILS)
    done = launch(script)
    assert done.returncode == 1
    assert "rank 1 has enough" in done.stderr
    assert "SIGABRT" not in done.stderr and "Fatal Python error" not in done.stderr, done.stderr
