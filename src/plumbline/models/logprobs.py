"""Log-probabilities and entropies of tokens, without ever holding batch × length × vocabulary.

    logits = cap(scale · (W h + b)) / temperature        log p(t) = logits_t − log Σ_v exp logits_v
    H = log Σ_v exp logits_v − Σ_v p_v · logits_v

Rows of hidden states are taken in chunks. Where the head is frozen (adapters), the gradient with respect to h needs
only Σ_v p_v W_v, a vector as long as h, which the forward pass makes while the chunk is at hand: backward then costs
no pass over the vocabulary at all. Where the head is trained, backward computes each chunk again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

CHUNK = 256
"""Rows whose logits exist at one time: 50 MB at 49,152 tokens in float32."""


@dataclass(frozen=True)
class Head:
    """The vocabulary head as mathematics: a matrix, and what some families do around it."""

    weight: torch.Tensor  # (vocabulary, hidden)
    bias: torch.Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, model: Any) -> Head:
        """The head of a decoder-only model."""
        linear, config = model.get_output_embeddings(), model.config
        scale = float(getattr(config, "logit_scale", None) or 1.0)
        scale /= float(getattr(config, "logits_scaling", None) or 1.0)
        return cls(linear.weight, linear.bias, scale, getattr(config, "final_logit_softcapping", None))

    def logits(self, states: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """Logits (rows, vocabulary) in float32, in float64 where the states are."""
        import torch

        raw = torch.nn.functional.linear(states, self.weight.to(states.dtype)).to(wide(states))
        if self.bias is not None:
            raw = raw + self.bias.to(raw.dtype)
        raw = raw * self.scale
        if self.cap is not None:
            raw = self.cap * torch.tanh(raw / self.cap)
        return raw / temperature


def token_logprobs(
    head: Head, states: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0, *, chunk: int = CHUNK
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy, both (rows,), of each target under the state that predicts it.

    Gradients flow to `states`, to the head where it is trained, and through both results.
    """
    result: tuple[torch.Tensor, torch.Tensor] = _function().apply(
        states, head.weight, head.bias, targets, head.scale, head.cap, temperature, chunk
    )
    return result


@lru_cache(maxsize=1)
def _function() -> Any:
    """The autograd function, made at first use so that importing this file does not import torch."""
    import torch

    methods = {"forward": staticmethod(_forward), "backward": staticmethod(_backward)}
    return type("TokenLogprobs", (torch.autograd.Function,), methods)


def _forward(
    ctx: Any,
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    scale: float,
    cap: float | None,
    temperature: float,
    chunk: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    head = Head(weight, bias, scale, cap)
    rows = len(targets)
    logprobs = states.new_empty(rows, dtype=wide(states))
    entropy = states.new_empty(rows, dtype=wide(states))
    trained = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
    slopes = (torch.empty_like(states), torch.empty_like(states)) if ctx.needs_input_grad[0] and not trained else None
    for piece in _pieces(rows, chunk):
        logits = head.logits(states[piece], temperature)
        lse = logits.logsumexp(-1)
        shares = (logits - lse[:, None]).exp_()
        logprobs[piece] = logits.gather(1, targets[piece, None])[:, 0] - lse
        entropy[piece] = lse - (shares * logits).sum(-1)
        if slopes is None:
            continue
        to_logprob = -shares
        to_logprob.scatter_add_(1, targets[piece, None], torch.ones_like(to_logprob[:, :1]))
        to_entropy = -shares * (logits - lse[:, None] + entropy[piece, None])
        for slope, by_logit in zip(slopes, (to_logprob, to_entropy), strict=True):
            raw = _through_head(by_logit, logits, head, temperature)
            slope[piece] = raw.to(states.dtype) @ weight.to(states.dtype)
    ctx.settings = (scale, cap, temperature, chunk)
    ctx.save_for_backward(
        *(slopes or (None, None)), *((states, weight, bias, targets) if slopes is None else [None] * 4)
    )
    return logprobs, entropy


def _backward(ctx: Any, by_logprob: torch.Tensor, by_entropy: torch.Tensor) -> tuple[Any, ...]:
    import torch

    slope_logprob, slope_entropy, states, weight, bias, targets = ctx.saved_tensors
    if slope_logprob is not None:
        grad = by_logprob[:, None] * slope_logprob + by_entropy[:, None] * slope_entropy
        return grad.to(slope_logprob.dtype), *(None,) * 7
    scale, cap, temperature, chunk = ctx.settings
    head = Head(weight, bias, scale, cap)
    to_states = torch.zeros_like(states) if ctx.needs_input_grad[0] else None
    to_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
    to_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
    for piece in _pieces(len(targets), chunk):
        logits = head.logits(states[piece], temperature)
        lse = logits.logsumexp(-1)
        shares = (logits - lse[:, None]).exp()
        entropy = lse - (shares * logits).sum(-1)
        by_logit = -shares * by_logprob[piece, None]
        by_logit.scatter_add_(1, targets[piece, None], by_logprob[piece, None])
        by_logit -= shares * (logits - lse[:, None] + entropy[:, None]) * by_entropy[piece, None]
        raw = _through_head(by_logit, logits, head, temperature).to(states.dtype)
        if to_states is not None:
            to_states[piece] = raw @ weight.to(states.dtype)
        if to_weight is not None:
            to_weight += (raw.T @ states[piece]).to(weight.dtype)
        if to_bias is not None:
            to_bias += raw.sum(0).to(to_bias.dtype)
    return to_states, to_weight, to_bias, *(None,) * 5


def wide(states: torch.Tensor) -> torch.dtype:
    """The type in which sums over the vocabulary are taken."""
    import torch

    return torch.float64 if states.dtype == torch.float64 else torch.float32


def _pieces(rows: int, chunk: int) -> list[slice]:
    return [slice(begin, min(begin + chunk, rows)) for begin in range(0, rows, chunk)]


def _through_head(by_logit: torch.Tensor, logits: torch.Tensor, head: Head, temperature: float) -> torch.Tensor:
    """The derivative with respect to W h + b from the one with respect to the logits."""
    by_logit = by_logit * (head.scale / temperature)
    if head.cap is not None:
        by_logit = by_logit * (1 - (logits * temperature / head.cap) ** 2)
    return by_logit
