"""The reward loss against arithmetic written out; ties after Davidson; nothing depends on how a step is cut."""

from __future__ import annotations

from itertools import combinations
from math import exp, log, sqrt

import pytest
import torch

from plumbline.align.data import Order, Preference, compare, pairs_of
from plumbline.align.reward import preference_logprobs, reward_loss, tie_strength
from plumbline.models.grouped import Group


def ranked(*orders: tuple[int | None, ...], margin: float = 1.0, ties: bool = True) -> Preference:
    made = [Order(ranks, margin) for ranks in orders]
    return Preference("a set", Group([1], [[2]] * len(orders[0])), tuple(made), tuple(compare(made, ties=ties)))


def sigmoid(number: float) -> float:
    return 1 / (1 + exp(-number))


def test_two_sets_by_hand() -> None:
    """Rewards 1, 3, 2 of answers ranked 2, 1, 3, and 0, 1 of answers ranked 1, 2; each set weighs one half."""
    sets = [ranked((2, 1, 3)), ranked((1, 2))]
    loss, metrics = reward_loss(torch.tensor([1.0, 3, 2, 0, 1]), pairs_of(sets, sets))
    first = -(log(sigmoid(3 - 1)) + log(sigmoid(3 - 2)) + log(sigmoid(1 - 2))) / 3
    second = -log(sigmoid(0 - 1))
    assert loss.item() == pytest.approx((first + second) / 2)
    assert metrics["accuracy"].item() == pytest.approx((2 / 3 + 0) / 2)
    assert metrics["gap"].item() == pytest.approx(((2 + 1 - 1) / 3 + -1) / 2)


def test_nine_answers_are_36_pairs_and_each_gradient_is_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(9, generator=generator, dtype=torch.float64, requires_grad=True)
    sets = [ranked(tuple(range(1, 10)))]
    loss, _ = reward_loss(rewards, pairs_of(sets, sets))
    loss.backward()
    values = rewards.tolist()
    expected, slopes = 0.0, [0.0] * 9
    for better, worse in combinations(range(9), 2):
        gap = values[better] - values[worse]
        expected -= log(sigmoid(gap)) / 36
        slopes[better] -= sigmoid(-gap) / 36
        slopes[worse] += sigmoid(-gap) / 36
    assert loss.item() == pytest.approx(expected)
    assert rewards.grad is not None
    assert rewards.grad.tolist() == pytest.approx(slopes, abs=1e-7)


def test_at_equal_rewards_the_loss_is_ln_2_and_a_constant_changes_nothing() -> None:
    sets = [ranked((3, 1, 2)), ranked((1, 2))]
    pairs = pairs_of(sets, sets)
    assert reward_loss(torch.zeros(5), pairs)[0].item() == pytest.approx(log(2))
    rewards = torch.tensor([1.0, 3, 2, 0, 1])
    assert reward_loss(rewards + 100, pairs)[0].item() == pytest.approx(reward_loss(rewards, pairs)[0].item())


def test_it_is_finite_where_rewards_are_far_apart() -> None:
    for reward in (1e4, -1e4):
        for nu in (0.0, 0.5):
            sets = [ranked((1, 2, 2), ties=nu > 0)]
            rewards = torch.tensor([reward, 0.0, 0.0], requires_grad=True)
            loss, _ = reward_loss(rewards, pairs_of(sets, sets), nu=nu)
            loss.backward()
            assert torch.isfinite(loss) and rewards.grad is not None and torch.isfinite(rewards.grad).all()


def test_the_margin_is_taken_from_the_difference() -> None:
    sets = [ranked((1, 2), margin=0.5)]
    loss, _ = reward_loss(torch.tensor([1.0, 0.0]), pairs_of(sets, sets), margin=2.0)
    assert loss.item() == pytest.approx(-log(sigmoid(1 - 2.0 * 0.5)))


# ---- ties


@pytest.mark.parametrize("nu", [0.2, 1.0, 5.0])
def test_better_worse_and_tied_add_up_to_one(nu: float) -> None:
    difference = torch.linspace(-8, 8, 33, dtype=torch.float64)
    better, tie = preference_logprobs(difference, nu)
    worse, tie_again = preference_logprobs(-difference, nu)
    assert (better.exp() + worse.exp() + tie.exp()).sub(1).abs().max() < 1e-12
    assert (tie - tie_again).abs().max() < 1e-12
    # Given that there is no tie, it is the model of Bradley and Terry.
    assert (better - torch.logaddexp(better, worse) - torch.nn.functional.logsigmoid(difference)).abs().max() < 1e-12


def test_a_tie_by_hand() -> None:
    """Davidson: P(tie) = ν √(a b) / (a + b + ν √(a b)) with a = e^{r_i}, b = e^{r_j}."""
    sets = [ranked((1, 1)), ranked((1, 2))]
    loss, _ = reward_loss(torch.tensor([1.0, -1.0, 0.5, 0.0]), pairs_of(sets, sets), nu=0.8)

    def chance(first: float, second: float, tied: bool) -> float:
        a, b = exp(first), exp(second)
        return (0.8 * sqrt(a * b) if tied else a) / (a + b + 0.8 * sqrt(a * b))

    assert loss.item() == pytest.approx(-(log(chance(1, -1, True)) + log(chance(0.5, 0, False))) / 2)


def test_a_tie_pulls_rewards_together_and_is_no_vote() -> None:
    sets = [ranked((1, 1)), ranked((1, 2))]
    rewards = torch.tensor([1.0, 0.0, 1.0, 0.0], requires_grad=True)
    loss, metrics = reward_loss(rewards, pairs_of(sets, sets), nu=0.5)
    loss.backward()
    assert rewards.grad is not None
    assert rewards.grad[0] > 0 > rewards.grad[1], "a step of descent lowers the higher one and raises the lower one"
    assert rewards.grad[2] < 0 < rewards.grad[3]
    assert metrics["accuracy"].item() == 1


def test_the_strength_of_ties_is_the_likeliest_at_equal_rewards() -> None:
    comparisons = [*ranked((1, 1, 2)).comparisons, *ranked((1, 2)).comparisons, *ranked((1, 2, 3)).comparisons]
    nu = tie_strength(comparisons)

    def loss(strength: float) -> float:
        better, tie = preference_logprobs(torch.zeros(1, dtype=torch.float64), strength)
        return -sum(each.weight * float(tie if each.tied else better) for each in comparisons)

    assert nu == pytest.approx(2 * (1 / 9) / (8 / 9))
    assert loss(nu) < loss(nu * 0.99) and loss(nu) < loss(nu * 1.01)
    assert tie_strength(ranked((1, 2, 3)).comparisons) == 0


# ---- a step in parts


def test_micro_batches_add_up_to_the_step_in_loss_gradient_and_metrics() -> None:
    sets = [ranked((2, 1, 3)), ranked((1, 1, 2), (1, 2, None)), ranked((2, 1)), ranked((1, 2, 2, 4))]
    counts = [len(each.group.completions) for each in sets]
    values = torch.randn(sum(counts), generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def run(*parts: tuple[int, ...]) -> tuple[float, float, list[float]]:
        rewards = values.clone().requires_grad_()
        pieces = rewards.split(counts)
        losses, right = 0.0, 0.0
        for part in parts:
            pairs = pairs_of([sets[place] for place in part], sets)
            loss, metrics = reward_loss(torch.cat([pieces[place] for place in part]), pairs, nu=0.3)
            loss.backward(retain_graph=True)
            losses, right = losses + loss.item(), right + metrics["accuracy"].item()
        assert rewards.grad is not None
        return losses, right, rewards.grad.tolist()

    whole = run((0, 1, 2, 3))
    for parts in [((0, 2), (3, 1)), ((3,), (2,), (1,), (0,))]:
        cut = run(*parts)
        assert cut[0] == pytest.approx(whole[0]) and cut[1] == pytest.approx(whole[1])
        assert cut[2] == pytest.approx(whole[2])
