"""A frozen linear layer with a low-rank adapter, as one step of arithmetic in both directions.

    y = W x + b + s · B A x          s = alpha / rank

    dx = Wᵀ dy + s · Aᵀ Bᵀ dy        dA = s · Bᵀ dy xᵀ        dB = s · dy (A x)ᵀ

Hu et al. 2021 (LoRA, arXiv 2106.09685). PEFT computes the same as a chain of operations, which under autocast casts
the input to float32 and back and passes three more times over outputs as large as the layer's. Here the adapter's part
is added by the matrix products themselves, in the type in which the layer computes; the adapter's weights and their
gradients stay in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plumbline.models.autograd import function

if TYPE_CHECKING:
    import torch


def adapted_linear(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    down: torch.Tensor,
    up: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """(..., in) to (..., out) through a frozen weight (out, in) with the adapter down (rank, in) and up (out, rank).

    Under autocast it computes in autocast's type, else in that of the inputs.
    """
    import torch

    kind = inputs.device.type
    type_ = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype
    rows = inputs.reshape(-1, inputs.shape[-1])
    apply = function("AdaptedLinear", _forward, _backward).apply
    outputs: torch.Tensor = apply(rows, weight, bias, down, up, scale, type_)
    return outputs.view(*inputs.shape[:-1], -1)


def _forward(
    ctx: Any,
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    down: torch.Tensor,
    up: torch.Tensor,
    scale: float,
    type_: torch.dtype,
) -> torch.Tensor:
    import torch

    x, weight, small_down, small_up = (each.to(type_) for each in (inputs, weight, down, up))
    with torch.autocast(inputs.device.type, enabled=False):
        inner = x @ small_down.T
        y = torch.nn.functional.linear(x, weight, None if bias is None else bias.to(type_))
        y.addmm_(inner, small_up.T, alpha=scale)
    ctx.save_for_backward(x, weight, small_down, small_up, inner)
    ctx.scale, ctx.like, ctx.types = scale, inputs.dtype, (down.dtype, up.dtype)
    return y


def _backward(ctx: Any, by_outputs: torch.Tensor) -> tuple[Any, ...]:
    import torch

    x, weight, down, up, inner = ctx.saved_tensors
    with torch.autocast(x.device.type, enabled=False):
        dy = by_outputs.to(x.dtype)
        by_inner = (dy @ up).mul_(ctx.scale)
        by_inputs = None
        if ctx.needs_input_grad[0]:
            by_inputs = (dy @ weight).addmm_(by_inner, down).to(ctx.like)
        by_down = (by_inner.T @ x).to(ctx.types[0]) if ctx.needs_input_grad[3] else None
        by_up = (dy.T @ inner).mul_(ctx.scale).to(ctx.types[1]) if ctx.needs_input_grad[4] else None
    return by_inputs, None, None, by_down, by_up, None, None
