"""What a run will take, reckoned by hand with a clock that a test moves."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
import torch

from plumbline.models.grouped import Group
from plumbline.training.devices import Process
from plumbline.training.forecast import forecast
from plumbline.training.learner import Learner
from plumbline.training.run import Settings


@pytest.mark.parametrize("rank", [0, 4])
def test_the_rest_is_reckoned_from_what_was_tried(tiny_llama: Path, rank: int) -> None:
    """20 groups of 12 tokens in steps of 8 and micro-batches of 4: 3 steps an epoch. The clock ticks once a look, so
    each of the three passes that count takes 1 s for 48 tokens, and each update 1 s."""
    config = Settings(model=str(tiny_llama), epochs=2, batch_size=8, tokens=50, lora_rank=rank, precision="float32")
    learner = Learner.load(config, Process(torch.device("cpu"), "float32"))
    groups = [Group([5] * 10, [[6, 2]]) for _ in range(20)]
    seconds = count()
    told = forecast(learner, groups, config, clock=lambda: float(next(seconds)))
    assert (told.steps, told.tokens) == (6, 2 * 20 * 12)
    assert told.seconds == pytest.approx(2 * 20 * 12 * 3 / (3 * 48) + 6 * 1)
    weights = sum(each.numel() * each.element_size() for each in learner.model.parameters())
    assert told.memory > weights


@pytest.mark.parametrize("room", [0.0, 1.0])
def test_a_trunk_that_is_kept_is_reckoned_once(tiny_llama: Path, room: float) -> None:
    """The same 20 groups, all different, and three epochs: the trunk of the three micro-batches tried takes 1 s."""
    config = Settings(
        model=str(tiny_llama), epochs=3, batch_size=8, tokens=50, top_layers=1, trunk_memory=room, precision="float32"
    )
    learner = Learner.load(config, Process(torch.device("cpu"), "float32"))
    groups = [Group([5 + number] * 10, [[6, 2]]) for number in range(20)]
    seconds = count()
    told = forecast(learner, groups, config, clock=lambda: float(next(seconds)))
    learned = 3 * 20 * 12 * 3 / (3 * 48) + 9 * 1
    assert told.seconds == pytest.approx(learned + (20 * 12 / (3 * 48) if room else 0))
    assert learner.trunk is not None and len(learner.trunk._kept) == (3 * 4 if room else 0)
    assert learner.kept_bytes(groups, config, passes=config.epochs) == (20 * 12 * 64 * 4 if room else 0)
