"""ILQL's losses by hand, and their fixed point where value iteration can be written out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import pytest
import torch

from plumbline.align.ilql import Config, Critics, Look, expectile, ilql_loss, last_of, next_values
from plumbline.errors import UserError
from plumbline.models.grouped import Answers
from plumbline.training.devices import Process

ALONE = Process(torch.device("cpu"), "float32")


def a_look() -> Look:
    """Two answers, of two tokens and of one."""
    return Look(
        logprobs=torch.tensor([-1.0, -2.0, -0.5]),
        qs=torch.tensor([[0.5, 1.0, 0.0], [0.25, 2.0, 1.0]], requires_grad=True),
        q_logprobs=torch.tensor([[-1.0, -1.0, -3.0], [-2.0, -0.5, -0.5]]),
        slow=torch.tensor([0.6, 0.4, 2.0]),
        values=torch.tensor([0.2, 0.8, 1.0], requires_grad=True),
        rewards=torch.tensor([0.0, 1.5, -1.0]),
        row=torch.tensor([0, 0, 1]),
    )


def test_the_loss_by_hand() -> None:
    """Of a step with six tokens, three of them here. u is 0.4, −0.4 and 1."""
    config = Config(gamma=0.9, tau=0.8, conservative=0.1, cloning=2.0, sharpness=1.5)
    loss, told = ilql_loss(config, a_look(), 6)
    goals = [0.9 * 0.8, 1.5, -1.0]
    q_loss = sum(
        (goal - q) ** 2 for goal, *qs in zip(goals, [0.5, 1.0, 0.0], [0.25, 2.0, 1.0], strict=True) for q in qs
    )
    v_loss = 0.8 * 0.4**2 + 0.2 * 0.4**2 + 0.8 * 1.0**2
    cloning = 1.0 * math.exp(0.6) + 2.0 * math.exp(-0.6) + 0.5 * math.exp(1.5)
    assert told["q_loss"].item() == pytest.approx(q_loss / 6)
    assert told["v_loss"].item() == pytest.approx(v_loss / 6)
    assert told["conservative"].item() == pytest.approx(8.0 / 6)
    assert told["cloning"].item() == pytest.approx(cloning / 6)
    assert told["value"].item() == pytest.approx(2.0 / 6)
    assert loss.item() == pytest.approx((q_loss + v_loss + 0.1 * 8.0 + 2.0 * cloning) / 6)


def test_gradients_flow_into_q_from_its_goal_and_into_v_from_the_expectile_alone() -> None:
    look = a_look()
    ilql_loss(Config(gamma=0.9, tau=0.8, cloning=3.0, sharpness=2.0), look, 1)[0].backward()  # type: ignore[no-untyped-call]
    assert look.values.grad.tolist() == pytest.approx([-2 * 0.8 * 0.4, 2 * 0.2 * 0.4, -2 * 0.8 * 1.0])
    assert look.qs.grad[0].tolist() == pytest.approx([2 * (0.5 - 0.72), 2 * (1.0 - 1.5), 2 * (0.0 + 1.0)])


def test_an_advantage_weighs_at_most_a_hundred_times() -> None:
    told = ilql_loss(Config(sharpness=50.0), a_look(), 1)[1]
    assert told["cloning"].item() == pytest.approx(100 * 1.0 + 2.0 * math.exp(-20) + 100 * 0.5)


def test_an_expectile_of_one_half_is_the_mean_and_one_near_1_the_largest() -> None:
    given = torch.tensor([0.0, 1.0, 1.0, 6.0], dtype=torch.float64)

    def least(tau: float) -> float:
        places = torch.linspace(0, 6, 60_001, dtype=torch.float64)
        return places[expectile(given[:, None] - places, tau).sum(0).argmin()].item()

    assert least(0.5) == pytest.approx(2.0, abs=1e-4)
    # Where τ (6 − v) = (1 − τ) · (v + 2 (v − 1)), which for τ = 0.9 is v = 56 / 12.
    assert least(0.9) == pytest.approx(56 / 12, abs=1e-4)
    assert least(0.9999) == pytest.approx(6.0, abs=0.01)


def test_nothing_follows_an_answers_last_token() -> None:
    row = torch.tensor([0, 0, 0, 1, 2, 2])
    assert last_of(row).tolist() == [False, False, True, True, False, True]
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], requires_grad=True)
    assert next_values(values, row).tolist() == [2.0, 3.0, 0.0, 0.0, 6.0, 0.0]
    assert not next_values(values, row).requires_grad
    assert last_of(torch.tensor([0])).tolist() == [True]


def test_the_slow_heads_follow_as_polyak_says() -> None:
    """After n steps with the heads held at q, what is left of the way is (1 − ρ)ⁿ of it, to the bit of each step."""
    torch.manual_seed(0)
    critics = Critics(ALONE, 4, 7, rank=3, level=0.5)
    pairs = list(zip(critics.slow, critics.qs, strict=True))
    assert all(torch.equal(slow.down, head.down) and slow.down is not head.down for slow, head in pairs)
    begin = [head.up.detach().clone() for head in critics.slow]
    for head in critics.qs:
        head.up.data.normal_()
        head.level.data.fill_(2.5)
    for step in range(1, 4):
        critics.follow(0.25)
        for (slow, head), first in zip(pairs, begin, strict=True):
            torch.testing.assert_close(slow.up.data, head.up.data + 0.75**step * (first - head.up.data))
            assert slow.level.item() == pytest.approx(2.5 - 2.0 * 0.75**step)
    critics.follow(1.0)
    assert all(torch.equal(slow.up, head.up) for slow, head in pairs)
    assert [each.requires_grad for each in critics.parameters()] == [True] * 8


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"gamma": 0.0}, "gamma is 0.0: it must be above 0 and at most 1"),
        ({"tau": 1.0}, "tau is 1.0: it must lie between 0 and 1"),
        ({"polyak": 0.0}, "polyak is 0.0: it must be above 0 and at most 1"),
        ({"q_rank": 0}, "q_rank is 0: it must be at least 1"),
        ({"beta": -1.0}, "beta is -1.0: it must not be below 0"),
    ],
)
def test_settings_out_of_range_are_named(changed: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Config(**changed)  # type: ignore[arg-type]


# ---- a process whose values can be worked out


class Move(NamedTuple):
    state: int
    action: int
    then: int | None
    """The state that follows; None where the answer ends."""
    reward: float = 0.0


WAIT, LEFT, END = Move(0, 0, 0), Move(0, 1, 1), Move(0, 2, None, 0.4)
GOOD, BAD = Move(1, 0, None, 1.0), Move(1, 1, None, 0.0)
ANSWERS = [[END], [END], [LEFT, BAD], [LEFT, BAD], [LEFT, BAD], [LEFT, GOOD], [WAIT, END], [WAIT, LEFT, BAD]]
"""What the data does: it mostly ruins what LEFT makes possible, so by its mean END is the better move."""
GAMMA = 0.9


def value_iteration(tau: float | None) -> dict[Move, float]:
    """Q of each move: of the best play for None, else with V the τ-expectile of Q over the data's moves."""
    data = [move for answer in ANSWERS for move in answer]
    q = dict.fromkeys(data, 0.0)
    for _ in range(300):
        held = {state: [q[move] for move in data if move.state == state] for state in (0, 1)}
        v = {state: max(its) if tau is None else expectile_of(its, tau) for state, its in held.items()}
        q = {move: move.reward + GAMMA * (0.0 if move.then is None else v[move.then]) for move in q}
    return q


def expectile_of(values: Sequence[float], tau: float) -> float:
    """Where τ Σ (q − v)₊ = (1 − τ) Σ (v − q)₊, by halving."""
    low, high = min(values), max(values)
    for _ in range(60):
        middle = (low + high) / 2
        pull = sum((tau if each > middle else 1 - tau) * (each - middle) for each in values)
        low, high = (middle, high) if pull > 0 else (low, middle)
    return (low + high) / 2


@cache
def learn(tau: float, steps: int = 400) -> dict[Move, float]:
    """Q of each move under heads that learned the data with ILQL's loss; a state is a one-hot vector."""
    torch.manual_seed(0)
    critics = Critics(ALONE, 2, 3, rank=2, level=0.3)
    moves = [move for answer in ANSWERS for move in answer]
    row = torch.tensor([number for number, answer in enumerate(ANSWERS) for _ in answer])
    states = torch.eye(2)[[move.state for move in moves]]
    answers = Answers(states, torch.tensor([move.action for move in moves]), row, states[: len(ANSWERS)])
    config = Config(gamma=GAMMA, tau=tau, conservative=0.0, cloning=0.0)
    adam = torch.optim.Adam(critics.parameters(), lr=0.05)
    decay = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.01, steps)
    for _ in range(steps):
        look = critics.look(answers, torch.zeros(len(moves)), [answer[-1].reward for answer in ANSWERS])
        loss, _ = ilql_loss(config, look, len(moves))
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        decay.step()
        critics.follow(0.2)
    table = torch.stack([head(torch.eye(2)) for head in critics.slow]).amin(0)
    return {move: table[move.state, move.action].item() for move in moves}


@pytest.mark.parametrize("tau", [0.5, 0.8, 0.99])
def test_its_fixed_point_is_that_of_value_iteration(tau: float) -> None:
    assert learn(tau) == pytest.approx(value_iteration(tau), abs=0.01)


def test_it_finds_the_best_play_which_the_datas_mean_calls_worse() -> None:
    """By the data's mean END (0.4) beats LEFT (0.9 · 1/5); the best play goes LEFT, then GOOD (0.9)."""
    best, mean = value_iteration(None), value_iteration(0.5)
    assert best == pytest.approx({WAIT: 0.81, LEFT: 0.9, END: 0.4, GOOD: 1.0, BAD: 0.0})
    assert mean[LEFT] == pytest.approx(0.18) and mean[LEFT] < mean[END]
    found = learn(0.99)
    assert found == pytest.approx(best, abs=0.05)
    assert max(WAIT, LEFT, END, key=found.__getitem__) == LEFT and max(GOOD, BAD, key=found.__getitem__) == GOOD
