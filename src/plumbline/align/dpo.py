"""DPO: learn from ranked answers without a reward model, by what the policy itself thinks of them.

    h(y) = log π(y | x) − log π_ref(y | x)                          the implicit reward is β · h

    sigmoid          − 1 / C(K, 2) · Σ_{(w, l)} log σ(β (h_w − h_l))       Rafailov et al. 2023, arXiv 2305.18290
      smoothed         (1 − ε) · that + ε · the same with w and l exchanged       for labels wrong with probability ε
    ipo              1 / C(K, 2) · Σ_{(w, l)} (h_w − h_l − 1 / (2β))²      Azar et al. 2023, arXiv 2310.12036
    plackett-luce    − Σ_k log ( e^{β h_k} / Σ_{j ranked below k, and k} e^{β h_j} )      the DPO paper's appendix A.3

For IPO h is a mean over the answer's tokens: of a sum, the target 1 / (2β) would ask less of each token the longer the
answer is. Tied answers form no pair; in Plackett–Luce they do not compete with each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from plumbline.align.data import Order, Pairs

if TYPE_CHECKING:
    import torch

LOSSES = ("sigmoid", "ipo", "plackett-luce")


def dpo_loss(
    ratios: torch.Tensor, pairs: Pairs, *, beta: float = 0.1, smoothing: float = 0.0
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A micro-batch's part of the step's loss and metrics, from h (answers,) of its sets."""
    import torch

    gap = beta * (ratios[pairs.better] - ratios[pairs.worse])  # (pairs,)
    right, wrong = torch.nn.functional.logsigmoid(gap), torch.nn.functional.logsigmoid(-gap)
    loss = -(pairs.weight * ((1 - smoothing) * right + smoothing * wrong)).sum()
    return loss, {"loss": loss.detach(), **pair_metrics(ratios, pairs, beta)}


def ipo_loss(ratios: torch.Tensor, pairs: Pairs, *, beta: float = 0.1) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The same for IPO, whose ratios are means over each answer's tokens."""
    gap = ratios[pairs.better] - ratios[pairs.worse]
    loss = (pairs.weight * (gap - 1 / (2 * beta)).square()).sum()
    return loss, {"loss": loss.detach(), **pair_metrics(ratios, pairs, beta)}


def plackett_luce_loss(
    ratios: torch.Tensor, sets: Sequence[Sequence[Order]], pairs: Pairs, *, beta: float = 0.1, step: int = 1
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The same for whole orders; `sets` has each set's, and `step` is the number of sets in the step."""
    loss, begin = ratios.new_zeros(()), 0
    for orders in sets:
        end = begin + len(orders[0].ranks)
        for order in orders:
            loss = loss - order_logprob(beta * ratios[begin:end], order.ranks) / (len(orders) * step)
        begin = end
    assert begin == len(ratios), (begin, len(ratios))
    return loss, {"loss": loss.detach(), **pair_metrics(ratios, pairs, beta)}


def order_logprob(scores: torch.Tensor, ranks: Sequence[int | None]) -> torch.Tensor:
    """log P of one order under Plackett and Luce: each answer is drawn first among itself and those below it."""
    total = scores.new_zeros(())
    for place, rank in enumerate(ranks):
        below = [other for other, its in enumerate(ranks) if rank is not None and its is not None and its > rank]
        if below:
            total = total + scores[place] - scores[[place, *below]].logsumexp(0)
    return total


def pair_metrics(ratios: torch.Tensor, pairs: Pairs, beta: float) -> dict[str, torch.Tensor]:
    """Implicit rewards of the better and the worse answers apart, since both may fall, and how often they agree."""
    better, worse = beta * ratios.detach()[pairs.better], beta * ratios.detach()[pairs.worse]
    return {
        "accuracy": (pairs.vote * (better > worse)).sum(),
        "chosen_reward": (pairs.vote * better).sum(),
        "rejected_reward": (pairs.vote * worse).sum(),
    }
