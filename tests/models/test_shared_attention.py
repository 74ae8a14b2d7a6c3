"""Attention in place is attention to copies: outputs, gradients, ragged blocks, shared key heads, precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline.models.families import load_causal
from plumbline.models.grouped import Group, _grouped, way
from plumbline.models.shared_attention import NAME, Block, Prompts, _attention, _register, blocks, share

LENGTHS, COUNTS = [5, 5, 3, 4], [2, 2, 3, 1]
TOKENS, WIDTH, LONGEST, SCALE = 4, 8, 5, 0.3


class Module:
    is_causal = True


def made(heads: int, key_heads: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Queries, keys, values, the prompts' keys and values."""
    generator = torch.Generator().manual_seed(0)
    rows, prompts = sum(COUNTS), len(COUNTS)
    shapes = [(rows, heads, TOKENS, WIDTH), *[(rows, key_heads, TOKENS, WIDTH)] * 2]
    shapes += [(prompts, key_heads, LONGEST, WIDTH)] * 2
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [each.requires_grad_(True) for each in tensors]


def in_place(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kp: torch.Tensor, vp: torch.Tensor) -> torch.Tensor:
    key = share(k.view_as(k), Prompts(kp, vp, blocks(LENGTHS, COUNTS)))
    return _attention(Module(), q, key, v, None, scaling=SCALE)[0]


def over_copies(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kp: torch.Tensor, vp: torch.Tensor) -> torch.Tensor:
    """torch's attention with every row's prompt before its own keys, and the padding masked."""
    prompt_of = torch.tensor([number for number, count in enumerate(COUNTS) for _ in range(count)])
    keys, values = (
        torch.cat([prompt[prompt_of], own], 2).repeat_interleave(q.shape[1] // k.shape[1], 1)
        for prompt, own in ((kp, k), (vp, v))
    )
    mask = torch.ones(len(q), 1, TOKENS, LONGEST + TOKENS, dtype=torch.bool)
    for row, number in enumerate(prompt_of):
        mask[row, :, :, : LONGEST - LENGTHS[number]] = False
    mask[..., LONGEST:] = torch.ones(TOKENS, TOKENS).tril().bool()
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(q, keys, values, attn_mask=mask, scale=SCALE).transpose(1, 2)


def test_neighbours_of_one_shape_are_one_block() -> None:
    assert blocks(LENGTHS, COUNTS) == [
        Block(first=0, prompts=2, row=0, each=2, length=5),
        Block(first=2, prompts=1, row=4, each=3, length=3),
        Block(first=3, prompts=1, row=7, each=1, length=4),
    ]


@pytest.mark.parametrize(("heads", "key_heads"), ((6, 2), (4, 4), (3, 1)))
def test_it_is_attention_to_copies_in_both_directions(heads: int, key_heads: int) -> None:
    found = []
    for attend in (in_place, over_copies):
        given = made(heads, key_heads)
        attended = attend(*given)
        slope = torch.linspace(-1, 1, attended.numel(), dtype=attended.dtype).view_as(attended)
        found.append([attended, *torch.autograd.grad((attended * slope).sum(), given)])
    for mine, theirs in zip(*found, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)


def test_large_scores_do_not_overflow() -> None:
    q, k, v, kp, vp = made(2, 2, torch.float32)
    attended = in_place(q.detach() * 400, k, v, kp, vp)
    assert attended.isfinite().all()
    assert torch.allclose(attended, over_copies(q.detach() * 400, k, v, kp, vp), atol=1e-4)


def test_in_bfloat16_only_what_goes_in_and_out_is_rounded() -> None:
    given = made(6, 2, torch.bfloat16)
    exact = in_place(*[each.detach().double() for each in given])
    attended = in_place(*given)
    assert attended.dtype == torch.bfloat16
    assert torch.equal(attended, exact.float().bfloat16()) or (attended.double() - exact).abs().max() < 2**-8


@pytest.mark.parametrize(
    ("altered", "said"),
    (
        ({"sliding_window": 4}, "a sliding window"),
        ({"softcap": 30.0}, "capped scores"),
        ({"s_aux": torch.ones(2)}, "sinks"),
        ({"position_bias": torch.ones(2)}, "a position bias"),
        ({"dropout": 0.1}, "dropout"),
        ({"attention_mask": torch.ones(8, 1, 4, 9)}, "a mask"),
    ),
)
def test_what_it_cannot_do_is_refused_by_name(altered: dict[str, Any], said: str) -> None:
    q, k, v, kp, vp = made(2, 2)
    key = share(k.view_as(k), Prompts(kp, vp, blocks(LENGTHS, COUNTS)))
    given: dict[str, Any] = {"attention_mask": None, "scaling": SCALE}
    _attention(Module(), q, key, v, **given)
    with pytest.raises(NotImplementedError, match=f"^attention in place does not do {said}$"):
        _attention(Module(), q, key, v, **(given | altered))


def test_keys_that_a_model_altered_are_refused() -> None:
    """What they follow is known by the tensor itself, so a new tensor has lost it."""
    q, k, v, kp, vp = made(2, 2)
    key = share(k.view_as(k), Prompts(kp, vp, blocks(LENGTHS, COUNTS)))
    with pytest.raises(NotImplementedError, match="^attention in place does not do keys that were altered"):
        _attention(Module(), q, key * 1.0, v, None, scaling=SCALE)


def test_sight_of_later_tokens_is_refused() -> None:
    class Encoder(Module):
        is_causal = False

    q, k, v, kp, vp = made(2, 2)
    key = share(k.view_as(k), Prompts(kp, vp, blocks(LENGTHS, COUNTS)))
    with pytest.raises(NotImplementedError, match="^attention in place does not do sight of later tokens$"):
        _attention(Encoder(), q, key, v, None, scaling=SCALE)


@pytest.mark.parametrize("chunk", (None, 1000))
def test_chunks_far_longer_than_the_self_test_are_refused_by_the_mask(
    tiny_model: Callable[[str], Path], chunk: int | None
) -> None:
    """Chunked attention reaches a model through its mask alone, and on twenty tokens a thousand change nothing."""
    from transformers.masking_utils import create_causal_mask, create_chunked_causal_mask

    config = load_causal(tiny_model("llama"), device="cpu", dtype="float32").config
    config.attention_chunk_size = chunk
    _register()
    config._attn_implementation = NAME
    given = {"config": config, "inputs_embeds": torch.zeros(1, 4, 64), "attention_mask": None, "past_key_values": None}
    if chunk is None:
        assert create_causal_mask(**given) is None
    else:
        with pytest.raises(NotImplementedError, match="^attention in place does not do a window or chunks"):
            create_chunked_causal_mask(**given)


@pytest.mark.parametrize("family", ("llama", "qwen2", "qwen3", "glm", "gpt2"))
def test_models_take_it_and_give_the_gradients_of_copies(tiny_model: Callable[[str], Path], family: str) -> None:
    model = load_causal(tiny_model(family), device="cpu", dtype="float32").double().requires_grad_(True)
    assert way(model) == "in place"
    groups = [Group([9, 8, 7, 6, 5], [[80, 2], [81, 82, 2]]), Group([30, 31], [[84, 2], [85, 2], [86, 3, 2]])]
    gradients = []
    for shared in (True, False):
        model.zero_grad()
        states = _grouped(model, groups, shared=shared).states
        (states * torch.linspace(-1, 1, states.numel(), dtype=states.dtype).view_as(states)).sum().backward()
        gradients.append(torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None]))
    assert (gradients[0] - gradients[1]).norm() <= 1e-10 * gradients[1].norm()


def test_a_model_with_windows_takes_copies_and_says_why(
    tiny_model: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """What was set on the model for the test is put back."""
    model = load_causal(tiny_model("mistral"), device="cpu", dtype="float32")
    model.config.sliding_window = 1000
    before = model.config._attn_implementation
    assert way(model) == "copied" and model.config._attn_implementation == before
    assert capsys.readouterr().err == (
        "plumb: MistralForCausalLM gets a copy of the prompt's keys for each answer "
        "(NotImplementedError: attention in place does not do a window or chunks, a mask of its own)\n"
    )
