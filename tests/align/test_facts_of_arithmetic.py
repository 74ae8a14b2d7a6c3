"""What must be true of PPO's arithmetic, fact by fact: each test is one line of the checklist in the documentation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline.align.advantages import (
    as_rows,
    gae,
    group_advantages,
    leave_one_out,
    real_places,
    token_rewards,
    whiten,
)
from plumbline.align.data import Pairs
from plumbline.align.kl import Beta, kl_estimate, kl_loss
from plumbline.align.ppo import policy_loss, value_loss
from plumbline.align.reward import reward_loss
from plumbline.models.heads import ScalarHead
from plumbline.training.optimise import Optimiser, rate

NAN = float("nan")


def policy(seed: int, words: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a policy and of a reference over a few words."""
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, words, generator=random, dtype=torch.double))  # type: ignore[return-value]


# ---- rewards per token


def test_fact_07_the_score_enters_at_the_last_real_token_which_is_learned() -> None:
    lengths, rows = [3, 1], torch.zeros(2, 3)
    mask = real_places(lengths, rows)
    given = token_rewards(torch.tensor([5.0, 7.0]), torch.ones(2, 3), mask, beta=0.5)
    assert given.tolist() == [[-0.5, -0.5, 4.5], [6.5, 0.0, 0.0]]
    advantages, _ = gae(given, torch.zeros(2, 3), mask, lam=0.0)
    logprobs = torch.full((4,), -1.0, requires_grad=True)
    policy_loss(logprobs, logprobs.detach(), advantages[mask], tokens=4)[0].backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.125, 0.125, -1.125, -1.625])  # the ends are the 3rd and the 4th


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_fact_08_the_mean_of_k1_and_of_k3_is_the_kl_and_k1_is_not_clamped(kind: str) -> None:
    logits, theirs = (each.log_softmax(-1) for each in policy(0))
    exact = float((logits.exp() * (logits - theirs)).sum())
    estimates = kl_estimate(logits, theirs, kind)
    assert float((logits.exp() * estimates).sum()) == pytest.approx(exact, rel=1e-12)
    drawn = torch.multinomial(logits.exp(), 200_000, replacement=True, generator=torch.Generator().manual_seed(1))
    sampled = estimates[drawn]
    assert float(sampled.mean()) == pytest.approx(exact, abs=4 * float(sampled.std()) / math.sqrt(len(drawn)))
    assert (kind == "k1") == bool((estimates < 0).any())


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_fact_09_as_a_loss_every_estimate_has_the_gradient_of_the_kl(kind: str) -> None:
    logits, theirs = policy(3)
    logits.requires_grad_(True)
    exact = (logits.softmax(-1) * (logits.log_softmax(-1) - theirs.log_softmax(-1))).sum()
    (wanted,) = torch.autograd.grad(exact, logits)
    logprobs = logits.log_softmax(-1)
    loss = kl_loss(logprobs, theirs.log_softmax(-1), kind)
    # Words are drawn, not differentiated: each one's loss weighs as it is likely.
    (found,) = torch.autograd.grad((logprobs.exp().detach() * loss).sum(), logits)
    assert torch.allclose(found, wanted, atol=1e-12)
    assert bool((kl_estimate(logprobs, theirs.log_softmax(-1), "k3") >= 0).all())
    shown = kl_estimate(logprobs.detach(), theirs.log_softmax(-1), kind)
    assert torch.allclose(loss.detach(), shown, atol=1e-12)


def test_fact_10_beta_follows_its_target_by_ziegler_s_rule() -> None:
    beta = Beta(0.15, target=6.0, horizon=10_000)
    for kl, answers, factor in [
        (12.0, 64, 1 + 0.2 * 0.0064),
        (6.3, 64, 1 + 0.05 * 0.0064),
        (0.0, 640, 1 - 0.2 * 0.064),
    ]:
        before = beta.value
        beta.follow(kl, answers)
        assert beta.value == pytest.approx(before * factor, rel=1e-12)
    fixed = Beta(0.15)
    fixed.follow(100.0, 64)
    assert fixed.value == 0.15


# ---- the reward model


def test_fact_11_rewards_of_reference_answers_get_mean_0_and_spread_1() -> None:
    torch.manual_seed(0)
    head, states = ScalarHead(16), torch.randn(200, 16) * 3 + 1
    head.standardise(head(states).detach())
    given = head(states).detach()
    assert float(given.mean()) == pytest.approx(0, abs=1e-5)
    assert float(given.std(correction=0)) == pytest.approx(1, abs=1e-5)


def test_fact_12_a_reward_head_begins_small_and_its_learning_rate_ends_at_0() -> None:
    torch.manual_seed(0)
    head = ScalarHead(4096)
    assert float(head.weight.detach().std()) == pytest.approx(1 / math.sqrt(4097), rel=0.05)
    assert float(head.bias.detach()) == 0
    assert rate(101, 101, warmup=0, schedule="cosine") == pytest.approx(0, abs=1e-3)


def test_fact_33_the_ranking_loss_is_finite_at_any_difference() -> None:
    for gap in (1e4, -1e4):
        rewards = torch.tensor([gap, 0.0], requires_grad=True)
        one, no = torch.ones(1), torch.tensor([False])
        pairs = Pairs(torch.tensor([0]), torch.tensor([1]), weight=one, vote=one, tied=no, margin=one)
        loss, _ = reward_loss(rewards, pairs)
        loss.backward()
        assert loss.item() == pytest.approx(max(-gap, 0.0)) and bool(torch.isfinite(rewards.grad).all())


# ---- whitening and advantages


def test_fact_16_whitening_is_masked_and_divides_by_the_number() -> None:
    values, mask = torch.tensor([[1.0, 2.0, 99.0], [3.0, 99.0, 99.0]]), torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    spread = math.sqrt(2 / 3)
    assert whiten(values, mask).tolist() == [
        pytest.approx([-1 / spread, 0, 0], abs=1e-6),
        pytest.approx([1 / spread, 0, 0], abs=1e-6),
    ]
    kept = whiten(values, mask, shift=False)
    assert float(kept[mask].mean()) == pytest.approx(2.0) and float(kept[~mask].abs().sum()) == 0


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    gamma=st.floats(0, 1),
    lam=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_fact_17_gae_is_the_sum_that_its_paper_writes(lengths: list[int], gamma: float, lam: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    rows = torch.zeros(len(lengths), max(lengths), dtype=torch.double)
    mask = real_places(lengths, rows)
    rewards, values = torch.randn(2, *rows.shape, generator=random, dtype=torch.double)
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam)
    for row, length in enumerate(lengths):
        after = [*values[row, :length].tolist(), 0.0]  # nothing is expected after the last token
        deltas = [float(rewards[row, t]) + gamma * after[t + 1] - after[t] for t in range(length)]
        for t in range(length):
            wanted = sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[t:]))
            assert float(advantages[row, t]) == pytest.approx(wanted, abs=1e-9)
            assert float(returns[row, t]) == pytest.approx(wanted + after[t], abs=1e-9)
    assert float(advantages[~mask].abs().sum()) == 0


def test_group_baselines_are_what_their_papers_write() -> None:
    scores = torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])
    assert leave_one_out(scores).tolist() == [[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]]
    spread = math.sqrt(14 / 3)
    assert group_advantages(scores)[0].tolist() == pytest.approx([each / (spread + 1e-4) for each in (-2, -1, 3)])
    assert group_advantages(scores, scale=False).tolist() == [[-2.0, -1.0, 3.0], [0.0, 0.0, 0.0]]


def test_fact_18_the_value_loss_takes_the_worse_of_two() -> None:
    values, old, returns = torch.tensor([1.0, 0.5, 3.0]), torch.tensor([0.0, 0.4, 0.0]), torch.tensor([1.0, 1.0, 0.0])
    loss, _ = value_loss(values, old, returns, clip=0.2, tokens=3)
    # 1.0 may go to 0.2: off by 0.8. 0.5 is within 0.2 of 0.4: off by 0.5. 3.0 is itself the worse one: off by 3.
    assert float(loss) == pytest.approx(0.5 * (0.64 + 0.25 + 9.0) / 3)


def test_fact_19_the_policy_s_ratio_stops_paying_at_the_clip_on_one_side() -> None:
    ratios, gains = torch.tensor([1.5, 0.5, 1.5, 0.5]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    logprobs = ratios.log().requires_grad_(True)
    loss, told = policy_loss(logprobs, torch.zeros(4), gains, clip=0.2, tokens=4)
    loss.backward()
    assert loss.item() == pytest.approx((-1.2 - 0.5 + 1.5 + 0.8) / 4)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0, -0.125, 0.375, 0]) and float(told["clipped"]) == 0.5


def test_fact_20_adam_divides_by_its_epsilon_where_gradients_are_small() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimiser = Optimiser([weight], steps=1, lr=1.0, schedule="constant", eps=1e-5, clip=0.0)
    weight.grad = torch.tensor([1e-5, 1.0])
    optimiser.step()
    # The first step of Adam is g / (|g| + eps): half a step where the gradient is as small as eps.
    assert weight.tolist() == pytest.approx([-0.5, -1.0], rel=1e-4)


def test_fact_21_a_loss_s_parts_add_up_however_a_step_is_cut() -> None:
    random = torch.Generator().manual_seed(0)
    logprobs, old, gains = torch.randn(3, 8, generator=random, dtype=torch.double) / 4
    whole, parts = policy_loss(logprobs, old, gains, tokens=8)[0], []
    for cut in (2, 1):
        pieces = range(0, 8, cut)
        parts.append(
            sum(policy_loss(logprobs[p : p + cut], old[p : p + cut], gains[p : p + cut], tokens=8)[0] for p in pieces)
        )
    assert [float(part) for part in parts] == pytest.approx([float(whole)] * 2, rel=1e-12)


def test_fact_22_what_stands_in_places_that_are_not_real_changes_nothing() -> None:
    lengths = [2, 3]
    clean = torch.tensor([[1.0, 2.0, 0.0], [3.0, 4.0, 5.0]])
    mask = real_places(lengths, clean)
    dirty = torch.where(mask, clean, NAN)
    for each, same in [
        (token_rewards(torch.ones(2), clean, mask, beta=0.1), token_rewards(torch.ones(2), dirty, mask, beta=0.1)),
        (gae(clean, clean, mask)[0], gae(dirty, dirty, mask)[0]),
        (whiten(clean, mask), whiten(dirty, mask)),
    ]:
        assert each.tolist() == same.tolist()
    assert as_rows(clean[mask], lengths).tolist() == clean.tolist()
