"""Attention of many completions to the one prompt that they share, without a copy of it for each of them.

    s_p = c · q K_pᵀ     s_o = c · q K_oᵀ (causal)        lse = log(Σ exp s_p + Σ exp s_o)
    o = exp(s_p − lse) V_p + exp(s_o − lse) V_o

The queries of all completions of a prompt, and of all heads that share its keys, meet the prompt's keys in one matrix
product; only the completion's own tokens need a mask. Backward computes the probabilities again from lse, as flash
attention does (Dao et al. 2022, arXiv 2205.14135), so nothing is kept that grows with both lengths:

    δ = Σ o · do        ds = p · (do Vᵀ − δ)        dq = c · ds K        dK = c · dsᵀ q        dV = pᵀ do

Scores are taken in float32 whatever the model computes in: the products are small, and a score in bfloat16 would be
wrong by a percent. This is for processors without a fast kernel for such masks; the library's own does it elsewhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from plumbline.models.autograd import function

if TYPE_CHECKING:
    import torch

NAME = "plumbline_shared_prompt"
"""As which transformers knows this attention."""


@dataclass(frozen=True)
class Block:
    """Neighbouring prompts of one length with equally many completions each: one matrix product."""

    first: int
    """Number of the first prompt."""
    prompts: int
    row: int
    """Number of the first completion."""
    each: int
    """Completions of each prompt."""
    length: int
    """Tokens of each prompt."""


def blocks(lengths: Sequence[int], counts: Sequence[int]) -> list[Block]:
    """The blocks of prompts with these lengths and so many completions."""
    found, first, row = [], 0, 0
    for (length, each), same in groupby(zip(lengths, counts, strict=True)):
        prompts = len(list(same))
        found.append(Block(first, prompts, row, each, length))
        first, row = first + prompts, row + prompts * each
    return found


@dataclass(frozen=True)
class Prompts:
    """The prompts' keys and values in one layer, padded on the left."""

    keys: torch.Tensor  # (prompts, key heads, longest prompt, width)
    values: torch.Tensor
    blocks: Sequence[Block]


def share(keys: torch.Tensor, prompts: Prompts) -> torch.Tensor:
    """The completions' keys, with the prompts that they follow: what this attention takes as keys."""
    keys.prompts = prompts  # type: ignore[attr-defined]
    return keys


@contextlib.contextmanager
def attending(model: Any, name: str = NAME) -> Iterator[None]:
    """Inside, the model computes with this attention, or with another that transformers knows."""
    _register()
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


@lru_cache(maxsize=1)
def _register() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _mask)


def _mask(
    *_: Any,
    mask_function: Any = None,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    **__: Any,
) -> None:
    """The mask that transformers wants for this attention: none, if the model asks for no more than causal order.

    Some models say their windows and chunks here only, and a test on short texts would not notice them.
    """
    from transformers.masking_utils import causal_mask_function

    refuse(
        {
            "a window or chunks": local_size is not None,
            "padding": attention_mask is not None,
            "a mask of its own": mask_function not in (None, causal_mask_function),
        }
    )


def refuse(asked: dict[str, bool]) -> None:
    """NotImplementedError where a model asks for what this attention does not do."""
    if found := [what for what, is_asked in asked.items() if is_asked]:
        raise NotImplementedError(f"attention in place does not do {', '.join(found)}")


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls an attention: from (rows, heads, tokens, width) to (rows, tokens, heads, width)."""
    prompts: Prompts | None = getattr(key, "prompts", None)
    refuse(
        {
            "a sliding window": others.get("sliding_window") is not None,
            "capped scores": others.get("softcap") is not None,
            "sinks": others.get("s_aux") is not None,
            "a position bias": others.get("position_bias") is not None,
            "a mask": attention_mask is not None,
            "dropout": dropout > 0,
            "sight of later tokens": not getattr(module, "is_causal", True),
            "keys that were altered after they were handed over": prompts is None,
        }
    )
    assert prompts is not None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    attended: torch.Tensor = function("SharedAttention", _forward, _backward).apply(
        query, key, value, prompts.keys, prompts.values, prompts.blocks, scale
    )
    return attended, None


@dataclass(frozen=True)
class Layout:
    """How a block's numbers lie while it is computed: row by row, by prompt, key head, completion, query head, token.

    So neighbouring rows are what meets one prompt's keys (`by_prompt`), or one completion's (`by_completion`).
    """

    block: Block
    key_heads: int
    heads: int
    """Query heads of each key head."""
    tokens: int
    dtype: torch.dtype

    def by_prompt(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.view(self.block.prompts * self.key_heads, -1, rows.shape[-1])

    def by_completion(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.view(self.block.prompts * self.key_heads * self.block.each, -1, rows.shape[-1])

    def rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """From (completions, query heads, tokens, width) the block's rows (rows, width)."""
        return self._copied(self._queries(tensor)).view(-1, tensor.shape[-1])

    def put(self, rows: torch.Tensor, tensor: torch.Tensor) -> None:
        """Writes the block's rows to where `rows` finds them."""
        target = self._queries(tensor)
        target.copy_(rows.view(target.shape))

    def keys(self, tensor: torch.Tensor) -> torch.Tensor:
        """From (completions, key heads, tokens, width) one (tokens, width) for each part of `by_completion`."""
        return self._copied(self._keys(tensor)).view(-1, *tensor.shape[2:])

    def put_keys(self, keys: torch.Tensor, tensor: torch.Tensor) -> None:
        target = self._keys(tensor)
        target.copy_(keys.view(target.shape))

    def prompt(self, tensor: torch.Tensor) -> torch.Tensor:
        """From (prompts, key heads, longest, width) one (length, width) for each part of `by_prompt`."""
        return self._copied(self._prompt(tensor)).view(-1, self.block.length, tensor.shape[-1])

    def put_prompt(self, keys: torch.Tensor, tensor: torch.Tensor) -> None:
        target = self._prompt(tensor)
        target.copy_(keys.view(target.shape))

    def _own(self, tensor: torch.Tensor) -> torch.Tensor:
        block = self.block
        rows = tensor[block.row : block.row + block.prompts * block.each]
        return rows.view(block.prompts, block.each, *rows.shape[1:])

    def _queries(self, tensor: torch.Tensor) -> torch.Tensor:
        own = self._own(tensor)
        return own.view(*own.shape[:2], self.key_heads, self.heads, *own.shape[3:]).transpose(1, 2)

    def _keys(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._own(tensor).transpose(1, 2)

    def _prompt(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor[self.block.first : self.block.first + self.block.prompts, :, -self.block.length :]

    def _copied(self, tensor: torch.Tensor) -> torch.Tensor:
        """In the order of its shape, and in the type of the sums."""
        return tensor.new_empty(tensor.shape, dtype=self.dtype).copy_(tensor)

    def scores(self, q: torch.Tensor, k: torch.Tensor, kp: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the rows with their prompts (rows, length), and with their own completions (rows, tokens)."""
        import torch

        of_prompt = (self.by_prompt(q) @ kp.mT).view(len(q), -1)
        future = torch.ones(self.tokens, self.tokens, dtype=torch.bool, device=q.device).triu(1)
        own = (self.by_completion(q) @ k.mT).view(-1, self.tokens, self.tokens).masked_fill_(future, -torch.inf)
        return of_prompt, own.view(len(q), -1)

    def times(self, of_prompt: torch.Tensor, own: torch.Tensor, kp: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """The rows' sums over their prompt's and their own keys or values."""
        width = k.shape[-1]
        rows = (self.by_prompt(of_prompt) @ kp).view(-1, width)
        return rows.add_((self.by_completion(own) @ k).view(-1, width))


def _layouts(parts: Sequence[Block], query: torch.Tensor, key: torch.Tensor) -> Iterator[Layout]:
    from plumbline.models.logprobs import wide

    for block in parts:
        yield Layout(block, key.shape[1], query.shape[1] // key.shape[1], key.shape[2], wide(query))


def _forward(
    ctx: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prompt_keys: torch.Tensor,
    prompt_values: torch.Tensor,
    parts: Sequence[Block],
    scale: float,
) -> torch.Tensor:
    import torch

    completions, heads, tokens, width = query.shape
    attended = query.new_empty(completions, tokens, heads, width)
    sums: list[torch.Tensor] = []
    for layout in _layouts(parts, query, key):
        q, k, v = layout.rows(query).mul_(scale), layout.keys(key), layout.keys(value)
        kp, vp = layout.prompt(prompt_keys), layout.prompt(prompt_values)
        of_prompt, own = layout.scores(q, k, kp)
        highest = torch.maximum(of_prompt.amax(-1, keepdim=True), own.amax(-1, keepdim=True))
        of_prompt.sub_(highest).exp_()
        own.sub_(highest).exp_()
        total = of_prompt.sum(-1, keepdim=True).add_(own.sum(-1, keepdim=True))
        layout.put(layout.times(of_prompt, own, vp, v).div_(total), attended.transpose(1, 2))
        sums.append(total.log_().add_(highest))
    ctx.save_for_backward(query, key, value, prompt_keys, prompt_values, attended, *sums)
    ctx.parts, ctx.scale = parts, scale
    return attended


def _backward(ctx: Any, by_attended: torch.Tensor) -> tuple[Any, ...]:
    import torch

    query, key, value, prompt_keys, prompt_values, attended, *sums = ctx.saved_tensors
    by_query, by_key, by_value = (torch.empty_like(each) for each in (query, key, value))
    by_prompt_keys, by_prompt_values = (torch.zeros_like(each) for each in (prompt_keys, prompt_values))
    for layout, lse in zip(_layouts(ctx.parts, query, key), sums, strict=True):
        q, k, v = layout.rows(query).mul_(ctx.scale), layout.keys(key), layout.keys(value)
        kp, vp = layout.prompt(prompt_keys), layout.prompt(prompt_values)
        do, o = layout.rows(by_attended.transpose(1, 2)), layout.rows(attended.transpose(1, 2))
        delta = torch.linalg.vecdot(do, o)[:, None]
        of_prompt, own = (each.sub_(lse).exp_() for each in layout.scores(q, k, kp))
        layout.put_prompt(layout.by_prompt(of_prompt).mT @ layout.by_prompt(do), by_prompt_values)
        layout.put_keys(_folded(layout, own, do), by_value)
        of_prompt.mul_((layout.by_prompt(do) @ vp.mT).view(of_prompt.shape).sub_(delta))
        own.mul_((layout.by_completion(do) @ v.mT).view(own.shape).sub_(delta))
        layout.put(layout.times(of_prompt, own, kp, k).mul_(ctx.scale), by_query)
        layout.put_prompt(layout.by_prompt(of_prompt).mT @ layout.by_prompt(q), by_prompt_keys)
        layout.put_keys(_folded(layout, own, q), by_key)
    return by_query, by_key, by_value, by_prompt_keys, by_prompt_values, None, None


def _folded(layout: Layout, own: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Summed over the rows that meet a completion's keys."""
    return layout.by_completion(own).mT @ layout.by_completion(rows)
