"""DPO's losses against arithmetic written out, and against each other where they must agree."""

from __future__ import annotations

from itertools import permutations
from math import exp, log

import pytest
import torch

from plumbline.align.data import Order, Preference, compare, pairs_of
from plumbline.align.dpo import dpo_loss, ipo_loss, order_logprob, plackett_luce_loss
from plumbline.models.grouped import Group


def ranked(*orders: tuple[int | None, ...]) -> Preference:
    made = [Order(ranks) for ranks in orders]
    return Preference("a set", Group([1], [[2]] * len(orders[0])), tuple(made), tuple(compare(made, ties=False)))


def sigmoid(number: float) -> float:
    return 1 / (1 + exp(-number))


def test_a_pair_by_hand_with_and_without_smoothing() -> None:
    """h = 2 and −1, β = 0.1."""
    sets = [ranked((1, 2))]
    ratios = torch.tensor([2.0, -1.0])
    loss, metrics = dpo_loss(ratios, pairs_of(sets, sets), beta=0.1)
    assert loss.item() == pytest.approx(-log(sigmoid(0.3)))
    assert metrics["chosen_reward"].item() == pytest.approx(0.2)
    assert metrics["rejected_reward"].item() == pytest.approx(-0.1)
    assert metrics["accuracy"].item() == 1
    loss, _ = dpo_loss(ratios, pairs_of(sets, sets), beta=0.1, smoothing=0.2)
    assert loss.item() == pytest.approx(-0.8 * log(sigmoid(0.3)) - 0.2 * log(sigmoid(-0.3)))


def test_three_ranked_answers_by_hand() -> None:
    sets = [ranked((2, 1, 3))]
    loss, _ = dpo_loss(torch.tensor([1.0, 3.0, 2.0]), pairs_of(sets, sets), beta=0.5)
    assert loss.item() == pytest.approx(-(log(sigmoid(1.0)) + log(sigmoid(0.5)) + log(sigmoid(-0.5))) / 3)


def test_ipo_by_hand() -> None:
    sets = [ranked((1, 2))]
    loss, _ = ipo_loss(torch.tensor([2.0, -1.0]), pairs_of(sets, sets), beta=0.25)
    assert loss.item() == pytest.approx((3 - 1 / 0.5) ** 2)


def test_plackett_luce_by_hand() -> None:
    """Scores β h = 0.5, 1.5, 1 of answers ranked 2, 1, 3: the second first, then the first before the third."""
    sets = [ranked((2, 1, 3))]
    loss, _ = plackett_luce_loss(
        torch.tensor([1.0, 3.0, 2.0]), [each.orders for each in sets], pairs_of(sets, sets), beta=0.5
    )
    first = exp(1.5) / (exp(0.5) + exp(1.5) + exp(1.0))
    second = exp(0.5) / (exp(0.5) + exp(1.0))
    assert loss.item() == pytest.approx(-log(first * second))


def test_the_chances_of_all_orders_add_up_to_one() -> None:
    scores = torch.tensor([0.3, -1.0, 2.0, 0.7], dtype=torch.float64)
    total = sum(order_logprob(scores, order).exp() for order in permutations((1, 2, 3, 4)))
    assert float(total) == pytest.approx(1)


def test_tied_answers_do_not_compete_and_flagged_ones_do_not_count() -> None:
    scores = torch.tensor([0.3, -1.0, 2.0, 9.0])
    expected = log(exp(0.3) / (exp(0.3) + exp(2.0))) + log(exp(-1.0) / (exp(-1.0) + exp(2.0)))
    assert order_logprob(scores, (1, 1, 2, None)).item() == pytest.approx(expected)
    assert order_logprob(scores, (1, 1, 1, None)).item() == 0


def test_with_two_answers_plackett_luce_is_dpo() -> None:
    sets = [ranked((1, 2)), ranked((2, 1)), ranked((1, 2), (2, 1), (1, 2))]
    ratios = torch.randn(6, generator=torch.Generator().manual_seed(0))
    pairs = pairs_of(sets, sets)
    whole, _ = plackett_luce_loss(ratios, [each.orders for each in sets], pairs, step=3)
    assert whole.item() == pytest.approx(dpo_loss(ratios, pairs)[0].item())


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_where_policy_and_reference_agree_every_loss_starts_where_it_must(beta: float) -> None:
    sets = [ranked((1, 2)), ranked((3, 1, 2))]
    ratios, pairs = torch.zeros(5), pairs_of(sets, sets)
    assert dpo_loss(ratios, pairs, beta=beta)[0].item() == pytest.approx(log(2))
    assert dpo_loss(ratios, pairs, beta=beta, smoothing=0.3)[0].item() == pytest.approx(log(2))
    assert ipo_loss(ratios, pairs, beta=beta)[0].item() == pytest.approx(1 / (2 * beta) ** 2)
    listwise, _ = plackett_luce_loss(ratios, [each.orders for each in sets], pairs, beta=beta, step=2)
    assert listwise.item() == pytest.approx((log(2) + log(6)) / 2)


def test_it_is_finite_where_the_policy_has_moved_far() -> None:
    sets = [ranked((1, 2))]
    for far in (1e5, -1e5):
        ratios = torch.tensor([far, -far], requires_grad=True)
        loss, _ = dpo_loss(ratios, pairs_of(sets, sets))
        loss.backward()
        assert torch.isfinite(loss) and ratios.grad is not None and torch.isfinite(ratios.grad).all()


def test_micro_batches_add_up_to_the_step() -> None:
    sets = [ranked((1, 2)), ranked((3, 1, 2)), ranked((2, 1), (1, 2))]
    ratios = torch.randn(7, generator=torch.Generator().manual_seed(0))
    first, rest = ratios[:2], ratios[2:]
    whole = pairs_of(sets, sets)
    parts = pairs_of(sets[:1], sets), pairs_of(sets[1:], sets)
    for loss in (dpo_loss, ipo_loss):
        cut = loss(first, parts[0])[0] + loss(rest, parts[1])[0]
        assert cut.item() == pytest.approx(loss(ratios, whole)[0].item())
    orders = [each.orders for each in sets]
    together = plackett_luce_loss(ratios, orders, whole, step=3)[0]
    cut = plackett_luce_loss(first, orders[:1], parts[0], step=3)[0]
    cut = cut + plackett_luce_loss(rest, orders[1:], parts[1], step=3)[0]
    assert cut.item() == pytest.approx(together.item())
