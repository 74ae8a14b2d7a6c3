"""What is restored is what was saved, to the bit, and what is found is whole, whenever the process was killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plumbline.training.checkpoint import Checkpoints, best, find, latest
from plumbline.training.devices import Process, plant_seeds
from plumbline.training.optimise import Optimiser

ALONE = Process(torch.device("cpu"), "float32")


class Beta:
    """A number that a method keeps, PPO's penalty for one."""

    def __init__(self, value: float) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def test_everything_comes_back_to_the_bit(tmp_path: Path) -> None:
    plant_seeds(3)
    weights = [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(5).to(torch.bfloat16))]
    optimiser, beta = Optimiser(weights, steps=9, lr=0.1), Beta(0.1 + 0.2)
    for each in weights:
        each.grad = torch.randn_like(each)
    optimiser.step()
    draws()
    Checkpoints(tmp_path, ALONE, weights, optimiser=optimiser, beta=beta).save(1)
    expected = draws()

    fresh = [torch.nn.Parameter(torch.zeros_like(each)) for each in weights]
    other, number = Optimiser(fresh, steps=9, lr=0.1), Beta(0.0)
    assert Checkpoints(tmp_path, ALONE, fresh, optimiser=other, beta=number).restore() == 1
    assert draws() == expected
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(fresh, weights, strict=True))
    assert number.value == beta.value and other.done == 1
    for mine, theirs in zip(fresh, weights, strict=True):
        for name, value in optimiser.adam.state[theirs].items():
            assert torch.equal(other.adam.state[mine][name], value), name


def test_without_a_checkpoint_nothing_is_touched(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    assert Checkpoints(tmp_path / "none", ALONE, [weight]).restore() == 0
    assert weight.tolist() == [1.0, 1.0]


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    checkpoints = Checkpoints(tmp_path, ALONE, [weight])
    for step, score in enumerate([3.0, 1.0, 1.0, 2.0], 1):
        weight.data.fill_(step)
        checkpoints.save(step, score)
    assert [(each.step, each.score) for each in find(tmp_path)] == [(2, 1.0), (4, 2.0)]
    assert latest(tmp_path).step == 4 and best(tmp_path).step == 2  # type: ignore[union-attr]
    assert checkpoints.take_best() is not None and weight.item() == 2
    assert checkpoints.restore() == 4 and weight.item() == 4


def test_without_scores_only_the_last_is_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, ALONE, [torch.nn.Parameter(torch.zeros(1))])
    for step in (1, 2, 3):
        checkpoints.save(step)
    assert [each.step for each in find(tmp_path)] == [3]
    assert best(tmp_path) is None and checkpoints.take_best() is None


def test_a_step_that_is_saved_again_stays_as_it_was(tmp_path: Path) -> None:
    """A run that goes on from its last step has nothing new to keep there."""
    weight = torch.nn.Parameter(torch.zeros(1))
    checkpoints = Checkpoints(tmp_path, ALONE, [weight])
    checkpoints.save(1)
    before = (tmp_path / "step-00000001" / "state.pt").stat().st_mtime_ns
    checkpoints.save(1)
    assert (tmp_path / "step-00000001" / "state.pt").stat().st_mtime_ns == before


def test_a_state_that_holds_code_is_not_loaded(tmp_path: Path) -> None:
    """A pickle can run anything; the loader takes tensors, numbers and texts only."""

    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "sprung"),)

    checkpoints = Checkpoints(tmp_path, ALONE, [torch.nn.Parameter(torch.zeros(1))])
    checkpoints.save(1)
    torch.save({"weights": Trap()}, tmp_path / "step-00000001" / "state.pt")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        checkpoints.restore()
    assert not (tmp_path / "sprung").exists()


# In one process that imports torch once: a fork for each moment, which saves step 2 and kills itself there.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from plumbline.training.checkpoint import Checkpoints, find
from plumbline.training.devices import Process

folder = Path(sys.argv[1])
alone = Process(torch.device("cpu"), "float32")

def saver(value):
    return Checkpoints(folder, alone, [torch.full((1000,), float(value))])

def dies_at(moment):
    events = 0
    def count(event, arguments):
        nonlocal events
        if event.split(".")[0] in ("open", "os", "shutil") and str(folder) in str(arguments):
            if events == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            events += 1
    sys.addaudithook(count)

saver(1).save(1)
moment, outcomes = 0, []
while True:
    child = os.fork()
    if not child:
        dies_at(moment)
        saver(2).save(2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    weight = torch.zeros(1000)
    step = Checkpoints(folder, alone, [weight]).restore()
    assert torch.equal(weight, torch.full((1000,), float(step))), (moment, step)
    outcomes.append(step)
    if os.WIFEXITED(status):
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    if step == 2:  # back to where it began, with what the kill left behind
        for each in find(folder):
            each.folder.rename(folder / f".gone-{moment}-{each.step}")
        saver(1).save(1)
    moment += 1
assert [each.step for each in find(folder)] == [2], find(folder)
print(*outcomes)
"""


def test_a_save_killed_at_any_moment_leaves_whole_checkpoints(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outcomes = done.stdout.split()
    assert len(outcomes) > 10 and set(outcomes) == {"1", "2"}  # killed before and after the rename, many times


FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from plumbline.training.checkpoint import Checkpoints, find
from plumbline.training.devices import Process

folder, what = Path(sys.argv[1]), sys.argv[2]
weight = torch.ones(100_000)
checkpoints = Checkpoints(folder, Process(torch.device("cpu"), "float32"), [weight])
checkpoints.save(1)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL if what == "killed" else signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
weight.fill_(2.0)
checkpoints.save(2)
"""


@pytest.mark.parametrize("what", ["killed", "no room"])
def test_a_write_that_ends_in_the_middle_leaves_the_checkpoint_before(tmp_path: Path, what: str) -> None:
    """The system stops the write at half the file: with a signal that kills, and with an error as on a full disk."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), what], capture_output=True, text=True, check=False
    )
    assert done.returncode == (-25 if what == "killed" else 1), done.stderr
    if what == "no room":
        assert "UserError: the checkpoint of step 2 cannot be written to" in done.stderr
        assert not (tmp_path / ".new").exists()
    weight = torch.zeros(100_000)
    checkpoints = Checkpoints(tmp_path, ALONE, [weight])
    assert checkpoints.restore() == 1 and bool((weight == 1).all())
    checkpoints.save(2)
    assert [each.step for each in find(tmp_path)] == [2]
    assert not (tmp_path / ".new").exists()


def test_a_card_says_step_and_score(tmp_path: Path) -> None:
    Checkpoints(tmp_path, ALONE, [torch.nn.Parameter(torch.zeros(1))]).save(12, 0.25)
    card = tmp_path / "step-00000012" / "checkpoint.json"
    assert json.loads(card.read_text()) == {"step": 12, "score": 0.25}
