"""Log-probabilities and entropies of tokens, without ever holding batch × length × vocabulary.

    logits = cap(scale · (W h + b)) / temperature        log p(t) = logits_t − log Σ_v exp logits_v
    H = log Σ_v exp logits_v − Σ_v p_v · logits_v

Rows of hidden states are taken in chunks. Where the head is frozen (adapters), the gradient with respect to h needs
only Σ_v p_v W_v, a vector as long as h, which the forward pass makes while the chunk is at hand: backward then costs
no pass over the vocabulary at all. Where the head is trained, backward computes each chunk again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plumbline.models.autograd import function

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
        if self.scale != 1.0:
            raw = raw * self.scale
        if self.cap is not None:
            raw = self.cap * torch.tanh(raw / self.cap)
        return raw if temperature == 1.0 else raw / temperature


def token_logprobs(
    head: Head,
    states: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
    *,
    entropy_gradient: bool = True,
    chunk: int = CHUNK,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy, both (rows,), of each target under the state that predicts it.

    Gradients flow to `states`, to the head where it is trained, and through both results; where the entropy is only
    looked at, `entropy_gradient=False` saves a product with the whole vocabulary. Under autocast the products are
    taken in autocast's type, and sums over the vocabulary in float32.
    """
    import torch

    kind = states.device.type
    type_ = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
    with torch.autocast(kind, enabled=False):
        result: tuple[torch.Tensor, torch.Tensor] = function("TokenLogprobs", _forward, _backward).apply(
            states.to(type_),
            head.weight,
            head.bias,
            targets,
            head.scale,
            head.cap,
            temperature,
            entropy_gradient,
            wide(states),
            chunk,
        )
    return result


def _forward(
    ctx: Any,
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    scale: float,
    cap: float | None,
    temperature: float,
    entropy_gradient: bool,
    sums: torch.dtype,
    chunk: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    head = Head(weight.to(states.dtype), bias, scale, cap)  # converted once, not in every chunk
    rows = len(targets)
    logprobs = states.new_empty(rows, dtype=sums)
    entropy = states.new_empty(rows, dtype=sums)
    trained = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
    made = ctx.needs_input_grad[0] and not trained
    to_logprobs = torch.empty_like(states) if made else None
    to_entropies = torch.empty_like(states) if made and entropy_gradient else None
    for piece in _pieces(rows, chunk):
        logits = head.logits(states[piece], temperature).to(sums)
        lse = logits.logsumexp(-1)
        shares = (logits - lse[:, None]).exp_()
        logprobs[piece] = logits.gather(1, targets[piece, None])[:, 0] - lse
        entropy[piece] = lse - torch.linalg.vecdot(shares, logits)
        if to_entropies is not None:
            by_logit = -shares * (logits - lse[:, None] + entropy[piece, None])
            to_entropies[piece] = _to_states(by_logit, logits, head, temperature)
        if to_logprobs is not None:
            by_logit = shares.neg_()
            by_logit.scatter_add_(1, targets[piece, None], torch.ones_like(by_logit[:, :1]))
            to_logprobs[piece] = _to_states(by_logit, logits, head, temperature)
    ctx.settings = (scale, cap, temperature, entropy_gradient, sums, chunk)
    ctx.save_for_backward(
        to_logprobs, to_entropies, *((None,) * 4 if to_logprobs is not None else (states, weight, bias, targets))
    )
    if not entropy_gradient:
        ctx.mark_non_differentiable(entropy)
    return logprobs, entropy


def _backward(ctx: Any, by_logprob: torch.Tensor, by_entropy: torch.Tensor) -> tuple[Any, ...]:
    import torch

    to_logprobs, to_entropies, states, weight, bias, targets = ctx.saved_tensors
    if to_logprobs is not None:
        grad = by_logprob[:, None] * to_logprobs
        if to_entropies is not None:
            grad += by_entropy[:, None] * to_entropies
        return grad.to(to_logprobs.dtype), *(None,) * 9
    scale, cap, temperature, entropy_gradient, sums, chunk = ctx.settings
    head = Head(weight.to(states.dtype), bias, scale, cap)
    to_states = torch.zeros_like(states) if ctx.needs_input_grad[0] else None
    to_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
    to_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
    for piece in _pieces(len(targets), chunk):
        logits = head.logits(states[piece], temperature).to(sums)
        lse = logits.logsumexp(-1)
        shares = (logits - lse[:, None]).exp_()
        by_logit = shares * -by_logprob[piece, None]
        by_logit.scatter_add_(1, targets[piece, None], by_logprob[piece, None])
        if entropy_gradient:
            entropy = lse - torch.linalg.vecdot(shares, logits)
            by_logit -= shares * (logits - lse[:, None] + entropy[:, None]) * by_entropy[piece, None]
        raw = _through_head(by_logit, logits, head, temperature).to(states.dtype)
        if to_states is not None:
            to_states[piece] = raw @ head.weight
        if to_weight is not None:
            to_weight += raw.T @ states[piece]
        if to_bias is not None:
            to_bias += raw.sum(0)
    return to_states, to_weight, to_bias, *(None,) * 7


def _to_states(by_logit: torch.Tensor, logits: torch.Tensor, head: Head, temperature: float) -> torch.Tensor:
    return _through_head(by_logit, logits, head, temperature).to(head.weight.dtype) @ head.weight


def wide(states: torch.Tensor) -> torch.dtype:
    """The type in which sums over the vocabulary are taken."""
    import torch

    return torch.float64 if states.dtype == torch.float64 else torch.float32


def _pieces(rows: int, chunk: int) -> list[slice]:
    return [slice(begin, min(begin + chunk, rows)) for begin in range(0, rows, chunk)]


def _through_head(by_logit: torch.Tensor, logits: torch.Tensor, head: Head, temperature: float) -> torch.Tensor:
    """The derivative with respect to W h + b from the one with respect to the logits."""
    if head.scale != temperature:
        by_logit = by_logit * (head.scale / temperature)
    if head.cap is not None:
        by_logit = by_logit * (1 - (logits * temperature / head.cap) ** 2)
    return by_logit
