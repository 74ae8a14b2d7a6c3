"""A prompt with many answers is one thing: its prompt is computed once.

`CausalBatch` and `Seq2SeqBatch` hold a batch of rows in the middle of decoding. They start from distinct prompts,
`repeat` copies the finished prompt cache once per sample, and `step` appends one token to every row. Prompts are
padded on the left and masked by their lengths, never by an id: with the bundled model pad and end-of-text are one id.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class Batch(Protocol):
    """Rows in the middle of decoding; `logits` (rows, vocabulary) are those of the next token."""

    logits: torch.Tensor

    def repeat(self, n: int) -> None: ...

    def keep(self, rows: Sequence[int]) -> None: ...

    def step(self, tokens: Sequence[int]) -> None: ...


class CausalBatch:
    """Rows of a decoder-only model: one cache, one mask, one position per row."""

    logits: torch.Tensor

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        import torch
        from transformers import DynamicCache

        self.model = model
        self.takes = set(inspect.signature(model.forward).parameters)
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        ids, mask = pad_left(prompts)
        self.mask = mask.to(model.device)  # (rows, time so far)
        self.position = lengths.to(model.device)  # (rows,), that of the next token
        self.cache: Any = DynamicCache(config=model.config)
        positions = (mask.cumsum(-1) - 1).clamp(min=0).to(model.device)
        self._forward(ids.to(model.device), positions)

    def repeat(self, n: int) -> None:
        """Every row n times, in place: row r becomes rows r·n … r·n + n - 1."""
        if n == 1:
            return
        self.cache.batch_repeat_interleave(n)
        self.mask = self.mask.repeat_interleave(n, 0)
        self.position = self.position.repeat_interleave(n, 0)
        self.logits = self.logits.repeat_interleave(n, 0)

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows go on."""
        import torch

        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask, self.position, self.logits = self.mask[index], self.position[index], self.logits[index]

    def step(self, tokens: Sequence[int]) -> None:
        """One more token for every row."""
        import torch

        ids = torch.tensor(tokens, device=self.mask.device)[:, None]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
        self._forward(ids, self.position[:, None])
        self.position = self.position + 1

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> None:
        arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": self.mask, "use_cache": True}
        if "position_ids" in self.takes:
            arguments["position_ids"] = positions
        if "logits_to_keep" in self.takes:
            arguments["logits_to_keep"] = 1
        output = self.model(past_key_values=self.cache, **arguments)
        self.cache = output.past_key_values
        self.logits = output.logits[:, -1].float()


class Seq2SeqBatch:
    """Rows of an encoder-decoder: the prompt is the encoder's, its states are computed once and shared."""

    logits: torch.Tensor

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        import torch
        from transformers import DynamicCache, EncoderDecoderCache

        self.model = model
        ids, mask = pad_right(prompts)
        self.mask = mask.to(model.device)
        self.states = model.get_encoder()(input_ids=ids.to(model.device), attention_mask=self.mask).last_hidden_state
        self.cache: Any = EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config))
        start = model.generation_config.decoder_start_token_id
        start = model.config.decoder_start_token_id if start is None else start
        self._forward(torch.full((len(prompts), 1), start, device=model.device))

    def repeat(self, n: int) -> None:
        """Every row n times, in place: row r becomes rows r·n … r·n + n - 1."""
        if n == 1:
            return
        self.cache.batch_repeat_interleave(n)
        self.mask = self.mask.repeat_interleave(n, 0)
        self.states = self.states.repeat_interleave(n, 0)
        self.logits = self.logits.repeat_interleave(n, 0)

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows go on."""
        import torch

        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask, self.states, self.logits = self.mask[index], self.states[index], self.logits[index]

    def step(self, tokens: Sequence[int]) -> None:
        """One more token for every row."""
        import torch

        self._forward(torch.tensor(tokens, device=self.mask.device)[:, None])

    def _forward(self, ids: torch.Tensor) -> None:
        from transformers.modeling_outputs import BaseModelOutput

        output = self.model(
            decoder_input_ids=ids,
            encoder_outputs=BaseModelOutput(last_hidden_state=self.states),
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = output.past_key_values
        self.logits = output.logits[:, -1].float()


def pad_left(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (rows, longest), the rows' ends aligned; the padding's id is never looked at."""
    import torch

    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, longest - len(row) :] = torch.tensor(row)
        mask[number, longest - len(row) :] = 1
    return ids, mask


def pad_right(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (rows, longest), the rows' beginnings aligned."""
    import torch

    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    return ids, mask
