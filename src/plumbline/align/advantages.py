"""From what answers are worth to what each of their tokens is worth. Pure functions.

Answers are rows, and time is a row's tokens from its first to its own last one; `mask` (answers, time) says which
places are real. A place that is not real is set to 0 before any arithmetic, so nothing that stands there matters.

    reward per token    r_t = − β · kl_t, and the answer's score is added at its last token
    GAE                 δ_t = r_t + γ V_{t+1} − V_t        A_t = δ_t + γλ A_{t+1}        V after the last token is 0
                        (Schulman et al. 2016, arXiv 1506.02438, equation 16)
    returns             A_t + V_t
    whitened            (A − mean) / √(variance + 1e-8) over the real places, the variance divided by their number
    group               (r − mean of its prompt's answers) / (their spread + 1e-4)
                        (Shao et al. 2024, arXiv 2402.03300)
    leave one out       r − mean of its prompt's other answers         (Ahmadian et al. 2024, arXiv 2402.14740)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def as_rows(flat: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """(answers, time) from (tokens,), answer after answer; 0 behind an answer's end."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    return pad_sequence(list(torch.split(flat, list(lengths))), batch_first=True)


def as_flat(rows: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """(tokens,) from (answers, time)."""
    return rows[real_places(lengths, rows)]


def real_places(lengths: Sequence[int], rows: torch.Tensor) -> torch.Tensor:
    """The mask (answers, time) of rows with these lengths."""
    import torch

    ends = torch.tensor(list(lengths), device=rows.device)
    return torch.arange(rows.shape[1], device=rows.device) < ends[:, None]


def token_rewards(scores: torch.Tensor, kl: torch.Tensor, mask: torch.Tensor, *, beta: float) -> torch.Tensor:
    """(answers, time) from the answers' scores (answers,) and the KL of each token (answers, time)."""
    import torch

    rewards = torch.where(mask, -beta * kl, 0.0)
    last = mask.sum(1) - 1
    rows = torch.arange(len(scores), device=scores.device)
    rewards[rows, last] = rewards[rows, last] + scores
    return rewards


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and returns, both (answers, time), and 0 where nothing is real."""
    import torch

    rewards, values = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    after = torch.zeros_like(rewards[:, 0])
    for time in reversed(range(rewards.shape[1])):
        # Behind an answer's end all three are 0, so its last token finds nothing after it.
        delta = rewards[:, time] + gamma * after - values[:, time]
        running = delta + gamma * lam * running
        advantages[:, time] = running
        after = values[:, time]
    return advantages, advantages + values


def whiten(values: torch.Tensor, mask: torch.Tensor, *, shift: bool = True) -> torch.Tensor:
    """Spread 1 over the real places, and mean 0 unless `shift` is off; 0 elsewhere."""
    import torch

    real = values[mask]
    mean = real.mean()
    scaled = (values - mean) * (real.var(correction=0) + 1e-8).rsqrt()
    return torch.where(mask, scaled if shift else scaled + mean, 0.0)


def group_advantages(scores: torch.Tensor, *, scale: bool = True) -> torch.Tensor:
    """(prompts, K) from the scores (prompts, K) of K answers to each prompt."""
    centred = scores - scores.mean(1, keepdim=True)
    return centred / (scores.std(1, keepdim=True, correction=0) + 1e-4) if scale else centred


def leave_one_out(scores: torch.Tensor) -> torch.Tensor:
    """(prompts, K): each score less the mean of the other answers to its prompt."""
    count = scores.shape[1]
    assert count > 1, "one answer has no others to be compared with"
    return (scores - scores.mean(1, keepdim=True)) * (count / (count - 1))
