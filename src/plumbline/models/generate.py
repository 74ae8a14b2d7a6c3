"""The reference engine: `transformers` in this process. Slow and plain, and what every other engine is held against.

A prompt with many answers is one thing: its prompt is read once, and the finished cache is copied once per sample.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from plumbline.errors import UserError
from plumbline.models import Chunk, Completion, Prompt, Sampling, Speed
from plumbline.models.batches import pad_left, pad_right
from plumbline.models.constrain import Automata
from plumbline.models.decoding import Row, fit_prompt, with_seed
from plumbline.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from plumbline.models.q_heads import Guide

MODES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
"""The precision in which a model is loaded, by the name of its mode."""

ROWS_AT_ONCE = 64
"""Most rows of one forward pass; more are done in turn."""


class Reference:
    """A `transformers` model of any decoder-only or encoder-decoder family as a `Generate`.

    With a `guide`, what is drawn from are the guided logits.
    """

    def __init__(
        self, model: Any, tokenizer: Tokenizer, *, name: str = "", mode: str = "f32", guide: Guide | None = None
    ) -> None:
        self.model = model
        self.guide = guide
        self.tokenizer = tokenizer
        self.name = name
        self.mode = mode
        self.speed = Speed()
        self._automata: Automata | None = None
        self._turn = threading.Lock()  # one model, one cache at a time

    @classmethod
    def open(cls, folder: Path, *, name: str = "", mode: str | None = None, device: str = "auto") -> Reference:
        """The model in a folder."""
        from plumbline.models.families import family, load_causal, load_seq2seq
        from plumbline.models.q_heads import load_guide

        if mode is not None and mode not in MODES:
            raise UserError(f"mode {mode!r} is not one of the transformers engine's: {', '.join(MODES)}")
        kind = family(folder)
        if kind not in ("causal", "seq2seq"):
            raise UserError(
                f"the model in {str(folder)!r} is a {kind}, which cannot write answers: give a language model"
            )
        load = load_causal if kind == "causal" else load_seq2seq
        model = load(folder, device=device, dtype="auto" if mode is None else MODES[mode])
        loaded = next(short for short, long in MODES.items() if str(model.dtype) == f"torch.{long}")
        guide = load_guide(folder, model) if kind == "causal" else None
        return cls(model, Tokenizer(folder), name=name or folder.name, mode=loaded, guide=guide)

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling | None = None) -> list[list[Completion]]:
        """For each prompt its samples; the batch is sorted by length inside, which changes no answer."""
        sampling = with_seed(sampling or Sampling())
        groups = [self.rows(prompt, sampling, f"prompt {place}") for place, prompt in enumerate(prompts)]
        order = sorted(range(len(groups)), key=lambda place: len(groups[place][0].prompt))
        at_once = max(1, ROWS_AT_ONCE // sampling.n)
        for begin in range(0, len(order), at_once):
            for _ in self._decode([groups[place] for place in order[begin : begin + at_once]]):
                pass
        return [[row.completion() for row in group] for group in groups]

    def stream(self, prompt: Prompt, sampling: Sampling | None = None) -> Iterator[Chunk]:
        """The answer in pieces as it is written; the last piece carries the whole."""
        sampling = with_seed(sampling or Sampling())
        if sampling.n != 1:
            raise UserError(f"n is {sampling.n}: a stream carries one answer")
        group = self.rows(prompt, sampling, "the prompt")
        shown = ""
        for _ in self._decode([group]):
            text = group[0].text_so_far()
            if group[0].finish_reason is None and len(text) > len(shown):
                yield Chunk(text[len(shown) :])
                shown = text
        whole = group[0].completion()
        yield Chunk(whole.text[len(shown) :], whole)

    def rows(self, prompt: Prompt, sampling: Sampling, where: str) -> list[Row]:
        """The answers to a prompt, still to be written, one for each sample."""
        ids = fit_prompt(self.tokenizer, prompt, sampling, where)
        rows = [Row(self.tokenizer, ids, sampling, number, model=self.name) for number in range(sampling.n)]
        if sampling.schema is not None or sampling.grammar is not None:
            self._automata = self._automata or Automata(self.tokenizer)
            for row in rows:
                row.automaton = self._automata.begin(sampling, row.limit)
        return rows

    def _decode(self, groups: Sequence[Sequence[Row]]) -> Iterator[None]:
        """Write all rows of the groups; yields after every token."""
        import torch

        if not groups:
            return
        with self._turn, torch.inference_mode():
            begin = time.perf_counter()
            batch = self.begin([group[0].prompt for group in groups])
            batch.repeat(len(groups[0]))
            self.speed.prompt_tokens += sum(len(group[0].prompt) for group in groups)
            rows = [row for group in groups for row in group]
            tokens = push(rows, batch)
            self.speed.prompt_seconds += time.perf_counter() - begin
            yield
            while going := [place for place, row in enumerate(rows) if row.finish_reason is None]:
                begin = time.perf_counter()
                if len(going) < len(rows):
                    batch.keep(going)
                    rows, tokens = [rows[place] for place in going], [tokens[place] for place in going]
                batch.step(tokens)
                tokens = push(rows, batch)
                self.speed.new_tokens += len(rows)
                self.speed.new_seconds += time.perf_counter() - begin
                yield

    def begin(self, prompts: Sequence[Sequence[int]]) -> Batch:
        """The prompts, read."""
        if self.model.config.is_encoder_decoder:
            return Seq2SeqBatch(self.model, prompts)
        return CausalBatch(self.model, prompts, self.guide)

    def logits(self, tokens: Sequence[int], wanted: int) -> NDArray[np.float32]:
        """The logits (wanted, vocabulary) after each of the last `wanted` tokens; of an encoder-decoder, refused."""
        import torch

        if self.model.config.is_encoder_decoder:
            raise UserError(f"{self.name!r} reads prompts apart from answers: its logits cannot be read over both")
        with self._turn, torch.inference_mode():
            logits = self.model(torch.tensor([list(tokens)], device=self.model.device)).logits[0, -wanted:]
            return logits.float().cpu().numpy()  # type: ignore[no-any-return]


def push(rows: Sequence[Row], batch: Batch) -> list[int]:
    """The next token of every row, drawn from the logits of the batch."""
    logits = batch.logits.cpu().numpy()
    return [row.push(logits[place]) for place, row in enumerate(rows)]


class Batch(Protocol):
    """Rows in the middle of decoding; `logits` (rows, vocabulary) are those of the next token."""

    logits: torch.Tensor

    def repeat(self, n: int) -> None: ...

    def keep(self, rows: Sequence[int]) -> None: ...

    def step(self, tokens: Sequence[int]) -> None: ...


class CausalBatch:
    """Rows of a decoder-only model: one cache, one mask, one position per row."""

    logits: torch.Tensor

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], guide: Guide | None = None) -> None:
        import torch
        from transformers import DynamicCache

        self.model = model
        self.guide = guide
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

    @property
    def joins(self) -> bool:
        """Whether other rows can join: only where every layer keeps its whole past, padded on the left."""
        from transformers.cache_utils import DynamicLayer

        return all(type(layer) is DynamicLayer for layer in self.cache.layers)

    def join(self, other: CausalBatch) -> None:
        """Takes the rows of another batch after its own; the shorter pasts are padded on the left, and masked."""
        import torch

        width = max(self.mask.shape[1], other.mask.shape[1])
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            mine.keys = torch.cat([_widened(mine.keys, width), _widened(theirs.keys, width)])
            mine.values = torch.cat([_widened(mine.values, width), _widened(theirs.values, width)])
        masks = [torch.nn.functional.pad(each.mask, (width - each.mask.shape[1], 0)) for each in (self, other)]
        self.mask = torch.cat(masks)
        self.position = torch.cat([self.position, other.position])
        self.logits = torch.cat([self.logits, other.logits])

    def trim(self) -> None:
        """Drops the columns that are padding in every row, so that a batch that never ends stays narrow."""
        padding = int(self.mask.any(0).int().argmax())
        if padding:
            self.mask = self.mask[:, padding:]
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys[:, :, padding:], layer.values[:, :, padding:]

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
        if self.guide is not None:
            output = self.model.base_model(past_key_values=self.cache, **arguments)
            self.logits = self.guide(output.last_hidden_state[:, -1])
        else:
            if "logits_to_keep" in self.takes:
                arguments["logits_to_keep"] = 1
            output = self.model(past_key_values=self.cache, **arguments)
            self.logits = output.logits[:, -1].float()
        self.cache = output.past_key_values


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


def _widened(past: torch.Tensor, width: int) -> torch.Tensor:
    """Keys or values (rows, heads, time, size) with zeros before them, up to that much time."""
    import torch

    return torch.nn.functional.pad(past, (0, 0, width - past.shape[2], 0))
