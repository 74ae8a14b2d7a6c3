"""The order of the data, its cuts, and that no cut changes a gradient."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise, product
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from plumbline.errors import UserError
from plumbline.models.families import load_causal
from plumbline.models.grouped import Group, forward
from plumbline.models.logprobs import Head, token_logprobs
from plumbline.training.batches import Batches, Step, cut, micro_batches, size

OVERHEAD = 48
SIZES = [Random(4).randint(3, 90) for _ in range(37)]


def steps(done: int = 0, **changed: Any) -> list[Step]:
    settings: dict[str, Any] = {"batch_size": 8, "budget": 128, "epochs": 3, "seed": 7, **changed}
    return list(Batches(SIZES, **settings).after(done))


def test_where_a_pass_is_dear_padding_is_cheaper() -> None:
    """Two long and two short rows: 2 · 200 + 2 · 20 tokens and two passes, or 4 · 200 tokens and one."""
    sizes = [200, 20, 200, 20]
    assert list(micro_batches(sizes, range(4), 1000, device="cpu")) == [(0, 2), (1, 3)]
    assert list(micro_batches(sizes, range(4), 1000, device="cuda")) == [(0, 2, 1, 3)]


def test_each_epoch_sees_every_example_once_in_an_order_of_its_own() -> None:
    taken = steps()
    assert [step.number for step in taken] == list(range(1, 16))  # 37 examples make 5 steps of 8, the last one of 5
    orders = [tuple(place for step in taken if step.epoch == epoch for place in step.examples) for epoch in (1, 2, 3)]
    assert all(sorted(order) == list(range(37)) for order in orders)
    assert len(set(orders)) == 3
    assert [step.number for step in taken if step.ends_epoch] == [5, 10, 15]


def test_the_order_is_a_matter_of_the_seed_alone() -> None:
    first = [step.examples for step in steps()]
    assert [step.examples for step in steps(budget=9, rank=1, world=2)] == first
    assert [step.examples for step in steps(seed=8)] != first


@pytest.mark.parametrize("done", [0, 1, 4, 5, 6, 14, 15])
def test_going_on_takes_the_steps_that_were_left(done: int) -> None:
    assert steps(done) == steps()[done:]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("budget", [1, 64, 200, 10_000])
def test_the_cuts_are_a_partition_within_the_budget(world: int, budget: int) -> None:
    shares = [steps(budget=budget, rank=rank, world=world) for rank in range(world)]
    for same in zip(*shares, strict=True):
        cuts = [micro_batch for step in same for micro_batch in step.micro_batches]
        assert sorted(place for places in cuts for place in places) == sorted(same[0].examples)
        for places in cuts:
            assert len(places) == 1 or len(places) * max(SIZES[place] for place in places) <= budget


def cost(sizes: list[int], runs: Iterable[slice]) -> int:
    return sum(len(sizes[run]) * sizes[run][0] + OVERHEAD for run in runs)


@pytest.mark.parametrize("seed", range(20))
def test_no_other_cut_costs_less(seed: int) -> None:
    """Against all 2⁹ ways to cut ten rows."""
    draw = Random(seed)
    sizes = sorted((draw.randint(1, 150) for _ in range(10)), reverse=True)
    budget = draw.choice([100, 300, 1000])
    ways = []
    for marks in product([False, True], repeat=9):
        places = [0, *[place for place, mark in enumerate(marks, 1) if mark], 10]
        runs = [slice(begin, end) for begin, end in pairwise(places)]
        if all(len(sizes[run]) == 1 or len(sizes[run]) * sizes[run][0] <= budget for run in runs):
            ways.append(cost(sizes, runs))
    chosen = cut(sizes, budget, OVERHEAD)
    assert [place for run in chosen for place in range(10)[run]] == list(range(10))
    assert cost(sizes, chosen) == min(ways)


def test_a_process_may_get_nothing() -> None:
    assert list(micro_batches([5, 5], [0, 1], 64, rank=2, world=3)) == []


def test_no_example_is_an_error() -> None:
    with pytest.raises(UserError, match="nothing to train on"):
        Batches([], batch_size=8, budget=128)


def test_the_size_of_a_group_is_that_of_its_grouped_pass() -> None:
    assert size(Group([1] * 10, [[2] * 3, [2] * 5])) == 10 + 2 * 5


def test_how_a_step_is_cut_changes_no_gradient(tiny_llama: Path) -> None:
    """8 = 2 × 4 = 8 × 1, for answers of different lengths, whose means per micro-batch would not add up."""
    model: Any = load_causal(tiny_llama, device="cpu", dtype="float32").double()
    draw = Random(1)
    groups = [
        Group([draw.randrange(3, 500) for _ in range(draw.randint(2, 20))], [[5] * draw.randint(1, 12)])
        for _ in range(8)
    ]
    tokens = sum(len(group.completions[0]) for group in groups)

    def gradient(cuts: Iterable[Iterable[int]]) -> torch.Tensor:
        model.zero_grad()
        for places in cuts:
            answers = forward(model, [groups[place] for place in places])
            logprobs, _ = token_logprobs(Head.of(model), answers.states, answers.targets)
            (-logprobs.sum() / tokens).backward()  # type: ignore[no-untyped-call]
        return torch.cat([each.grad.flatten() for each in model.parameters()])

    whole = gradient([range(8)])
    for cuts in ([range(4), range(4, 8)], [[place] for place in range(8)]):
        assert (gradient(cuts) - whole).norm() <= 1e-12 * whole.norm()
    sizes = [size(group) for group in groups]
    by_budget = list(micro_batches(sizes, range(8), 48))
    assert 1 < len(by_budget) < 8
    assert (gradient(by_budget) - whole).norm() <= 1e-12 * whole.norm()
    shares = [cut for rank in range(3) for cut in micro_batches(sizes, range(8), 48, rank, 3)]
    assert (gradient(shares) - whole).norm() <= 1e-12 * whole.norm()
