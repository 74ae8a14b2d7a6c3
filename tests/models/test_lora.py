"""The fused adapter is its equation, in both directions and in every precision."""

from __future__ import annotations

import pytest
import torch

from plumbline.models.lora import adapted_linear

SCALE = 1.5


def given(dtype: torch.dtype, bias: bool) -> list[torch.Tensor | None]:
    """Inputs (2, 3, 5), weight (4, 5), bias (4,), down (2, 5), up (4, 2)."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 5), (4, 5), (4,), (2, 5), (4, 2))
    made: list[torch.Tensor | None] = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    if not bias:
        made[2] = None
    for place in (0, 3, 4):
        made[place].requires_grad_(True)  # type: ignore[union-attr]
    return made


@pytest.mark.parametrize("bias", (True, False))
def test_it_is_the_equation(bias: bool) -> None:
    x, weight, b, down, up = given(torch.float64, bias)
    by_hand = x @ weight.T + SCALE * (x @ down.T) @ up.T + (b if bias else 0.0)
    assert torch.allclose(adapted_linear(x, weight, b, down, up, SCALE), by_hand, atol=1e-12)


@pytest.mark.parametrize("bias", (True, False))
def test_its_gradients_are_those_of_finite_differences(bias: bool) -> None:
    x, weight, b, down, up = given(torch.float64, bias)
    assert torch.autograd.gradcheck(lambda x, down, up: adapted_linear(x, weight, b, down, up, SCALE), (x, down, up))


def test_inputs_that_need_no_gradient_get_none() -> None:
    x, weight, b, down, up = given(torch.float64, True)
    adapted_linear(x.detach(), weight, b, down, up, SCALE).sum().backward()
    assert x.grad is None and down.grad is not None and up.grad is not None


def test_under_autocast_it_is_as_near_to_the_truth_as_the_plain_chain() -> None:
    """And its result and the weights' gradients have the types that autocast and an optimiser want."""

    def chain(x: torch.Tensor, weight: torch.Tensor, b: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> object:
        linear = torch.nn.functional.linear
        return linear(x, weight, b) + SCALE * linear(linear(x, down), up)

    errors = {}
    truth = None
    for name in ("truth", "ours", "chain"):
        x, weight, b, down, up = given(torch.float32, True)
        x = x.detach().repeat(64, 1, 1).requires_grad_(True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=name != "truth"):
            if name == "ours":
                y = adapted_linear(x, weight, b, down, up, SCALE)
                assert y.dtype == torch.bfloat16
            else:
                y = chain(x, weight, b, down, up)
        y.float().square().mean().backward()
        assert x.grad.dtype == down.grad.dtype == up.grad.dtype == torch.float32
        found = torch.cat([each.flatten().float() for each in (y, x.grad, down.grad, up.grad)]).detach()
        truth = found if truth is None else truth
        errors[name] = float((found - truth).norm() / truth.norm())
    assert 0 < errors["ours"] < 1.2 * errors["chain"] < 0.02
