"""The schedule and AdamW against arithmetic written out, and what happens to a gradient that is no number."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from plumbline.errors import UserError
from plumbline.training.optimise import Optimiser, rate
from plumbline.training.run import Settings


def weight(*values: float) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor([list(values)], dtype=torch.float64))


def give(parameter: torch.nn.Parameter, *gradient: float) -> None:
    parameter.grad = torch.tensor([list(gradient)], dtype=torch.float64)


@pytest.mark.parametrize(
    ("schedule", "floor", "expected"),
    [
        ("constant", 0.0, [0.5, 1, 1, 1, 1, 1]),
        ("linear", 0.0, [0.5, 1, 1, 3 / 4, 2 / 4, 1 / 4]),
        ("linear", 0.2, [0.5, 1, 1, 0.8, 0.6, 0.4]),
        ("cosine", 0.0, [0.5, 1, 1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        ("cosine", 0.1, [0.5, 1, 1, 0.1 + 0.45 * (1 + math.sqrt(0.5)), 0.55, 0.1 + 0.45 * (1 - math.sqrt(0.5))]),
    ],
)
def test_the_rate_rises_and_falls_as_written(schedule: str, floor: float, expected: list[float]) -> None:
    rates = [rate(number, 6, warmup=2, schedule=schedule, floor=floor) for number in range(1, 7)]
    assert rates == pytest.approx(expected, abs=1e-12)


def test_without_warm_up_the_first_step_has_the_whole_rate() -> None:
    assert rate(1, 10, warmup=0, schedule="cosine") == 1.0
    assert rate(1, 1, warmup=0, schedule="linear") == 1.0


def test_an_unknown_schedule_is_refused_before_the_first_step() -> None:
    with pytest.raises(UserError, match="schedule is 'cosin': give one of cosine, linear, constant"):
        Optimiser([weight(1.0)], steps=10, lr=0.1, schedule="cosin")


def test_two_steps_of_adam_by_hand() -> None:
    """m = β1 m + (1 − β1) g, v = β2 v + (1 − β2) g², w −= lr · (m / (1 − β1ⁿ)) / (√(v / (1 − β2ⁿ)) + ε)"""
    parameter = weight(1.0)
    optimiser = Optimiser([parameter], steps=2, lr=0.1, schedule="linear", betas=(0.9, 0.95), eps=1e-8, clip=0)
    expected, m, v = 1.0, 0.0, 0.0
    for number, (gradient, lr) in enumerate([(0.5, 0.1), (-2.0, 0.05)], 1):
        give(parameter, gradient)
        told = optimiser.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.95 * v + 0.05 * gradient**2
        expected -= lr * (m / (1 - 0.9**number)) / (math.sqrt(v / (1 - 0.95**number)) + 1e-8)
        assert parameter.item() == pytest.approx(expected, rel=1e-12)
        assert told == {"lr": pytest.approx(lr), "gradient_norm": pytest.approx(abs(gradient))}
        assert parameter.grad is None


def test_gradients_are_clipped_over_all_parameters_together() -> None:
    """Adam's first moment shows what came in: 3 and 4 have the norm 5, and become 0.6 and 0.8."""
    first, second = weight(0.0), weight(0.0)
    optimiser = Optimiser([first, second], steps=1, lr=0.1, clip=1.0)
    give(first, 3.0)
    give(second, 4.0)
    assert optimiser.step()["gradient_norm"] == pytest.approx(5.0)
    moments = [optimiser.adam.state[each]["exp_avg"].item() / 0.1 for each in (first, second)]
    assert moments == pytest.approx([0.6, 0.8], rel=1e-5)


def test_vectors_do_not_decay() -> None:
    matrix = weight(1.0)
    vector = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimiser = Optimiser([matrix, vector], steps=1, lr=0.1, schedule="constant", weight_decay=0.5)
    give(matrix, 0.0)
    vector.grad = torch.zeros(1, dtype=torch.float64)
    optimiser.step()
    assert matrix.item() == pytest.approx(1.0 - 0.1 * 0.5)
    assert vector.item() == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_stops_the_run_and_moves_nothing(bad: float) -> None:
    parameter, other = weight(1.0, 2.0), weight(3.0)
    optimiser = Optimiser([parameter, other], steps=5, lr=0.1)
    give(parameter, bad, 1.0)
    give(other, 1.0)
    with pytest.raises(UserError, match="step 3 .examples 4, 9. are not finite .* learning rate .now 0.1."):
        optimiser.step(of="step 3 (examples 4, 9)")
    assert parameter.tolist() == [[1.0, 2.0]] and other.item() == 3.0
    assert optimiser.done == 0


def test_a_kept_state_goes_on_to_the_bit() -> None:
    def run(optimiser: Optimiser, parameter: torch.nn.Parameter, numbers: range) -> None:
        for number in numbers:
            give(parameter, math.sin(number), math.cos(3 * number))
            optimiser.step()

    settings: dict[str, Any] = {"steps": 9, "lr": 0.1, "warmup": 0.3, "weight_decay": 0.1}
    whole = weight(1.0, -1.0)
    run(Optimiser([whole], **settings), whole, range(9))
    begun = weight(1.0, -1.0)
    before = Optimiser([begun], **settings)
    run(before, begun, range(4))
    resumed = torch.nn.Parameter(begun.detach().clone())
    after = Optimiser([resumed], **settings)
    after.load_state_dict(before.state_dict())
    run(after, resumed, range(4, 9))
    assert torch.equal(resumed, whole)


def test_the_settings_say_how() -> None:
    config = Settings(lr=0.5, warmup=0.25, schedule="linear", lr_floor=0.5, weight_decay=0.125, clip=2.0)
    optimiser = Optimiser.of(config, [weight(1.0)], steps=8)
    assert optimiser.shape == {"warmup": 2, "schedule": "linear", "floor": 0.5}
    assert optimiser.lr == 0.5 and optimiser.clip == 2.0
    assert optimiser.adam.param_groups[0]["weight_decay"] == 0.125
