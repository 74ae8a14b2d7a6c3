"""How far a policy has moved from its reference: estimates from its own samples, a loss, and the control of β.

With d = log π(y) − log π_ref(y) of one token that π has sampled, and KL = E_π[d]:

    k1   d                  unbiased; of one token it may be negative, and it is never clamped, which would bias it
    k2   d² / 2             biased; its gradient is the KL's own, in expectation
    k3   e^{−d} − 1 + d     unbiased, never negative, and of less variance than k1 while d is small

(Schulman 2020, "Approximating KL divergence".) As part of a reward k1 is right: the policy gradient of Σ d is the
KL's. As a loss that is differentiated directly, k1 has no useful gradient (its mean is 0) and k3's is that of the KL
the other way round. So a loss shows the value of whichever was asked for and has the gradient of k2:

    loss = k2 + stop(k − k2)

β follows a target after Ziegler et al. 2019 (arXiv 1909.08593, section 2.2):

    e = clip(KL / target − 1, −0.2, 0.2)        β ← β · (1 + e · n / horizon)        n answers since the last time
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ESTIMATES = ("k1", "k2", "k3")
LARGEST_ERROR = 0.2


def kl_estimate(logprobs: torch.Tensor, reference: torch.Tensor, kind: str = "k1") -> torch.Tensor:
    """Per token, for log-probs and the reference's of one shape."""
    d = logprobs - reference
    if kind == "k1":
        return d
    if kind == "k2":
        return d.square() / 2
    assert kind == "k3", kind
    return (-d).exp() - 1 + d


def kl_loss(logprobs: torch.Tensor, reference: torch.Tensor, kind: str = "k3") -> torch.Tensor:
    """Per token: the estimate's value, with the gradient of the KL."""
    squared = kl_estimate(logprobs, reference, "k2")
    return squared + (kl_estimate(logprobs, reference, kind) - squared).detach()


@dataclass
class Beta:
    """What a unit of KL costs; where `target` is 0 it stays as it is."""

    value: float
    target: float = 0.0
    """Wanted KL of a whole answer."""
    horizon: float = 10_000.0

    def follow(self, kl: float, answers: int) -> None:
        """Moves after so many answers whose mean KL was that."""
        if self.target:
            error = min(max(kl / self.target - 1.0, -LARGEST_ERROR), LARGEST_ERROR)
            self.value *= 1.0 + error * answers / self.horizon

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]
