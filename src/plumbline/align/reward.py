"""Reward model: one number for an answer, such that people's better answers get the higher one.

    L = − 1 / C(K, 2) · Σ_{(w, l)} log σ(r(x, y_w) − r(x, y_l))        over all pairs of K ranked answers

(Ouyang et al. 2022, arXiv 2203.02155, section 3.5. Each answer takes part in one gradient, not in K − 1.)

Ties, after Davidson (1970, doi 10.1080/01621459.1970.10481082), with d = r_i − r_j:

    P(i better) = e^{d/2} / Z     P(tie) = ν / Z     Z = e^{d/2} + e^{−d/2} + ν

Given that there is no tie this is σ(d), the equation above; with ν = 0 it is that equation. A tie pulls the two rewards
together. ν = 2p / (1 − p) for a share p of ties: its likeliest value where all rewards are equal, as they begin.

Llama 2's margin (Touvron et al. 2023, arXiv 2307.09288, section 3.2.2) takes m · margin from d where one is better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plumbline.align.data import Comparison, Pairs

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch


def reward_loss(
    rewards: torch.Tensor, pairs: Pairs, *, nu: float = 0.0, margin: float = 0.0
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A micro-batch's part of the step's loss, and of its metrics, from the rewards (answers,) of its sets."""
    import torch

    difference = rewards[pairs.better] - rewards[pairs.worse]  # (pairs,)
    shifted = difference - torch.where(pairs.tied, 0.0, margin * pairs.margin)
    better, tie = preference_logprobs(shifted, nu)
    loss = -(pairs.weight * torch.where(pairs.tied, tie, better)).sum() if nu else -(pairs.weight * better).sum()
    with torch.no_grad():
        metrics = {
            "loss": loss.detach(),
            "accuracy": (pairs.vote * (difference > 0)).sum(),
            "gap": (pairs.vote * difference).sum(),
        }
    return loss, metrics


def preference_logprobs(difference: torch.Tensor, nu: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """log P(better) and log P(tie) under Davidson's model, for rewards that differ by so much."""
    import torch

    if not nu:
        return torch.nn.functional.logsigmoid(difference), torch.full_like(difference, -torch.inf)
    tie = torch.full_like(difference, nu).log() - difference / 2  # log of ν / e^{d/2}
    better = -torch.stack([torch.zeros_like(difference), -difference, tie]).logsumexp(0)
    return better, tie + better


def tie_strength(comparisons: Iterable[Comparison]) -> float:
    """ν for these comparisons: 0 where none is tied."""
    tied = total = 0.0
    for each in comparisons:
        total += each.weight
        tied += each.weight * each.tied
    return 2 * tied / (total - tied) if tied else 0.0
