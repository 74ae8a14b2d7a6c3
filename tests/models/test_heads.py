"""The scalar head: its equation, its start, its scale and its file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from plumbline.errors import BadModel
from plumbline.models.heads import ScalarHead


def test_it_is_the_equation() -> None:
    head = ScalarHead(3)
    head.weight.data = torch.tensor([1.0, -2.0, 0.5])
    head.bias.data = torch.tensor(0.25)
    states = torch.tensor([[1.0, 1.0, 1.0], [0.0, 3.0, 2.0]])
    assert head(states).tolist() == [1.0 - 2.0 + 0.5 + 0.25, -6.0 + 1.0 + 0.25]
    assert head(states[None]).shape == (1, 2)


def test_its_start() -> None:
    torch.manual_seed(0)
    head = ScalarHead(10_000)
    assert head.bias.item() == 0.0
    # The spread of 10,000 draws lies within 3 % of the true one (four standard errors).
    assert head.weight.std().item() == pytest.approx(1 / math.sqrt(10_001), rel=0.03)


def test_gradients_reach_states_and_head() -> None:
    head, states = ScalarHead(4), torch.ones(2, 4, requires_grad=True)
    head(states).sum().backward()
    assert torch.equal(states.grad, head.weight.detach().expand(2, 4))
    assert head.weight.grad.tolist() == [2.0] * 4 and head.bias.grad.item() == 2.0


def test_autocast_does_not_round_rewards() -> None:
    head, states = ScalarHead(64), torch.randn(8, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(states), head(states.clone()))
        inside = head(states)
    assert inside.dtype == torch.float32 and torch.equal(inside, head(states))


def test_standardised_rewards_have_mean_0_and_spread_1_and_the_same_order() -> None:
    torch.manual_seed(1)
    head, states = ScalarHead(16), 3 + torch.randn(50, 16)
    given = head(states).detach()
    head.standardise(given)
    after = head(states).detach()
    assert after.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert after.std(correction=0).item() == pytest.approx(1.0, rel=1e-5)
    assert torch.allclose(after, (given - given.mean()) / given.std(correction=0), atol=1e-5)
    with pytest.raises(AssertionError, match="a spread of 0.0"):
        head.standardise(torch.ones(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_comes_back_from_its_file_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    head = ScalarHead(16, dtype=dtype)
    head.bias.data.fill_(0.3)
    head.save(tmp_path / "adapter")
    again = ScalarHead.load(tmp_path / "adapter")
    assert again.weight.dtype == dtype and again.weight.requires_grad
    assert torch.equal(again.weight, head.weight) and torch.equal(again.bias, head.bias)


def test_a_folder_without_a_good_one(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="has no scalar_head.safetensors"):
        ScalarHead.load(tmp_path)
    (tmp_path / "scalar_head.safetensors").write_bytes(b"not this")
    with pytest.raises(BadModel, match="is not a scalar head"):
        ScalarHead.load(tmp_path)
