"""KTO: learn from thumbs, one answer at a time, by what an answer gains over the usual one.

    h(x, y) = log π(y | x) − log π_ref(y | x)
    z       = max(0, mean of h(x, y') over a step)      y' an answer to another prompt; no gradient
    v       = λ_D · σ(β (h − z))   for a thumb up,     λ_U · σ(β (z − h))   for a thumb down
    L       = mean of λ − v

(Ethayarajh et al. 2024, arXiv 2402.01306.) z stands for KL(π ‖ π_ref), β times of which is the reference point of
Kahneman and Tversky's value function. The paper asks for λ_D n_D / (λ_U n_U) between 1 and 4/3, n the thumbs' numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def kto_loss(
    ratios: torch.Tensor,
    good: torch.Tensor,
    usual: torch.Tensor,
    *,
    beta: float = 0.1,
    weights: tuple[float, float] = (1.0, 1.0),
    step: int = 1,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A micro-batch's part of the step's loss and metrics.

    `ratios` (answers,) are h, `good` (answers,) the thumbs, `usual` () is z, `weights` are λ_D and λ_U, and `step` is
    the number of answers in the step.
    """
    import torch

    over = beta * (ratios - usual)
    value = torch.where(good, weights[0] * over.sigmoid(), weights[1] * (-over).sigmoid())
    ceiling = torch.where(good, weights[0], weights[1]).to(ratios.dtype)
    loss = (ceiling - value).sum() / step
    with torch.no_grad():
        metrics = {"loss": loss.detach(), "usual": usual * len(ratios) / step, "reward": beta * ratios.sum() / step}
        metrics["accuracy"] = ((ratios > usual) == good).sum() / step
    return loss, metrics


def usual_ratio(ratios: torch.Tensor) -> torch.Tensor:
    """z () from the ratios (answers,) of answers to other prompts."""
    return ratios.detach().mean().clamp(min=0)


def balanced_weights(good: int, bad: int) -> tuple[float, float]:
    """λ_D and λ_U with which both kinds weigh the same, the larger kind's being 1."""
    if not good or not bad:
        return 1.0, 1.0
    return max(1.0, bad / good), max(1.0, good / bad)
