"""KTO's loss against arithmetic written out."""

from __future__ import annotations

from math import exp

import pytest
import torch

from plumbline.align.kto import balanced_weights, kto_loss, usual_ratio


def sigmoid(number: float) -> float:
    return 1 / (1 + exp(-number))


def test_two_thumbs_by_hand() -> None:
    """h = 3 with a thumb up, h = 1 with a thumb down, z = 0.5, β = 0.2, λ_D = 1, λ_U = 1.5."""
    loss, metrics = kto_loss(
        torch.tensor([3.0, 1.0]),
        torch.tensor([True, False]),
        torch.tensor(0.5),
        beta=0.2,
        weights=(1.0, 1.5),
        step=2,
    )
    up = 1.0 - 1.0 * sigmoid(0.2 * (3.0 - 0.5))
    down = 1.5 - 1.5 * sigmoid(0.2 * (0.5 - 1.0))
    assert loss.item() == pytest.approx((up + down) / 2)
    assert metrics["accuracy"].item() == pytest.approx(0.5)
    assert metrics["reward"].item() == pytest.approx(0.2 * (3 + 1) / 2)
    assert metrics["usual"].item() == pytest.approx(0.5)


def test_a_thumb_up_raises_its_answer_and_a_thumb_down_lowers_it() -> None:
    ratios = torch.zeros(2, requires_grad=True)
    loss, _ = kto_loss(ratios, torch.tensor([True, False]), torch.tensor(0.0), step=2)
    loss.backward()
    assert loss.item() == pytest.approx(0.5)
    assert ratios.grad is not None
    assert ratios.grad.tolist() == pytest.approx([-0.1 * 0.25 / 2, 0.1 * 0.25 / 2])


def test_the_usual_ratio_is_the_mean_never_negative_and_without_gradient() -> None:
    ratios = torch.tensor([1.0, 0.5, -0.3], requires_grad=True)
    assert usual_ratio(ratios).item() == pytest.approx(0.4)
    assert not usual_ratio(ratios).requires_grad
    assert usual_ratio(-ratios).item() == 0


@pytest.mark.parametrize(("good", "bad"), [(90, 10), (10, 90), (50, 50)])
def test_balanced_weights_make_both_kinds_weigh_the_same(good: int, bad: int) -> None:
    up, down = balanced_weights(good, bad)
    assert up * good == pytest.approx(down * bad)
    assert min(up, down) == 1


def test_with_one_kind_alone_there_is_nothing_to_balance() -> None:
    assert balanced_weights(5, 0) == balanced_weights(0, 5) == (1.0, 1.0)


def test_micro_batches_add_up_to_the_step() -> None:
    ratios, good = torch.tensor([0.3, -1.0, 2.0, 0.1]), torch.tensor([True, False, False, True])
    usual = torch.tensor(0.2)
    whole, metrics = kto_loss(ratios, good, usual, step=4)
    parts = [kto_loss(ratios[part], good[part], usual, step=4) for part in (slice(0, 1), slice(1, 4))]
    assert sum(loss.item() for loss, _ in parts) == pytest.approx(whole.item())
    for name, value in metrics.items():
        assert sum(float(each[name]) for _, each in parts) == pytest.approx(float(value))
