"""Chunked log-probabilities against the plain ones: values and every gradient, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from plumbline.models.logprobs import Head, token_logprobs

ROWS, WIDTH, WORDS = 23, 8, 40
HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"bias": True},
    "scaled": {"scale": 0.25},
    "capped": {"cap": 2.0, "scale": 3.0, "bias": True},
}


def plain(head: Head, states: torch.Tensor, targets: torch.Tensor, temperature: float) -> tuple[Any, Any]:
    """All logits at once."""
    raw = states @ head.weight.T + (0 if head.bias is None else head.bias)
    raw = raw * head.scale
    logits = (raw if head.cap is None else head.cap * torch.tanh(raw / head.cap)) / temperature
    shares = logits.log_softmax(-1)
    return shares.gather(1, targets[:, None])[:, 0], -(shares.exp() * shares).sum(-1)


@pytest.mark.parametrize("trained", [False, True], ids=["frozen head", "trained head"])
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("chunk", [4, 100])
def test_values_and_gradients_equal_the_plain_way(kind: str, trained: bool, chunk: int) -> None:
    torch.manual_seed(0)
    exact: Any = {"dtype": torch.float64}
    settings = dict(HEADS[kind])
    weight = torch.randn(WORDS, WIDTH, **exact).requires_grad_(trained)
    bias = torch.randn(WORDS, **exact).requires_grad_(trained) if settings.pop("bias", False) else None
    head = Head(weight, bias, **settings)
    states = torch.randn(ROWS, WIDTH, **exact).requires_grad_()
    targets = torch.randint(WORDS, (ROWS,))
    upstream = torch.randn(2, ROWS, **exact)
    leaves = [states, *([weight] if trained else []), *([bias] if trained and bias is not None else [])]
    results = []
    for function in (
        lambda: token_logprobs(head, states, targets, 0.7, chunk=chunk),
        lambda: plain(head, states, targets, 0.7),
    ):
        logprobs, entropy = function()
        gradients = torch.autograd.grad((logprobs * upstream[0] + entropy * upstream[1]).sum(), leaves)
        results.append((logprobs, entropy, *gradients))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10, rtol=1e-10)


def test_arithmetic_written_out() -> None:
    """Two words with logits 0 and ln 3: p = 1/4, 3/4."""
    head = Head(torch.tensor([[0.0], [math.log(3.0)]]))
    logprobs, entropy = token_logprobs(head, torch.ones(2, 1), torch.tensor([0, 1]))
    assert logprobs.tolist() == pytest.approx([math.log(0.25), math.log(0.75)])
    assert entropy.tolist() == pytest.approx([-(0.25 * math.log(0.25) + 0.75 * math.log(0.75))] * 2)
    # At temperature 2 the odds are √3.
    cooler, _ = token_logprobs(head, torch.ones(1, 1), torch.tensor([1]), 2.0)
    assert cooler.item() == pytest.approx(math.log(math.sqrt(3) / (1 + math.sqrt(3))))


def test_no_tensor_of_rows_by_vocabulary_exists() -> None:
    """The largest tensor made on the way, forward and backward, has `chunk` rows of the vocabulary."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            for value in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(value, torch.Tensor):
                    largest = max(largest, value.numel())
            return result

    weight = torch.randn(5000, WIDTH, requires_grad=True)
    states = torch.randn(1000, WIDTH, requires_grad=True)
    with Watch():
        logprobs, _ = token_logprobs(Head(weight), states, torch.randint(5000, (1000,)), chunk=10)
        logprobs.sum().backward()
    assert largest == max(10 * 5000, weight.numel())


def test_heads_are_read_off_models() -> None:
    """Where a family does something around its head, `Head.of` does it too."""
    from transformers import (
        CohereConfig,
        CohereForCausalLM,
        Gemma2Config,
        Gemma2ForCausalLM,
        GraniteConfig,
        GraniteForCausalLM,
    )

    size = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    size |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}
    kinds: list[Any] = [
        (CohereForCausalLM, CohereConfig(**size, logit_scale=0.3)),
        (Gemma2ForCausalLM, Gemma2Config(**size, final_logit_softcapping=1.5, initializer_range=0.5)),
        (GraniteForCausalLM, GraniteConfig(**size, logits_scaling=4.0)),
    ]
    for kind, config in kinds:
        model = kind(config).eval()
        ids = torch.randint(1, 50, (1, 7))
        with torch.inference_mode():
            states = model.base_model(ids).last_hidden_state[0]
            assert torch.allclose(Head.of(model).logits(states), model(ids).logits[0], atol=1e-5), kind
