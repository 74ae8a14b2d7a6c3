"""The reference engine: `transformers` in this process. Slow and plain, and what every other engine is held against."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.errors import UserError
from plumbline.models import Chunk, Completion, Prompt, Sampling, Speed
from plumbline.models.constrain import Automata
from plumbline.models.decoding import Row, fit_prompt, with_seed
from plumbline.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from plumbline.models.grouped import Batch

MODES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
"""The precision in which a model is loaded, by the name of its mode."""

ROWS_AT_ONCE = 64
"""Most rows of one forward pass; more are done in turn."""


class Reference:
    """A `transformers` model of any decoder-only or encoder-decoder family as a `Generate`."""

    def __init__(self, model: Any, tokenizer: Tokenizer, *, name: str = "", mode: str = "f32") -> None:
        self.model = model
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
        return cls(model, Tokenizer(folder), name=name or folder.name, mode=loaded)

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling | None = None) -> list[list[Completion]]:
        """For each prompt its samples; the batch is sorted by length inside, which changes no answer."""
        sampling = with_seed(sampling or Sampling())
        groups = [self._rows(prompt, sampling, f"prompt {place}") for place, prompt in enumerate(prompts)]
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
        group = self._rows(prompt, sampling, "the prompt")
        shown = ""
        for _ in self._decode([group]):
            text = group[0].text_so_far()
            if group[0].finish_reason is None and len(text) > len(shown):
                yield Chunk(text[len(shown) :])
                shown = text
        whole = group[0].completion()
        yield Chunk(whole.text[len(shown) :], whole)

    def _rows(self, prompt: Prompt, sampling: Sampling, where: str) -> list[Row]:
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

        from plumbline.models.grouped import CausalBatch, Seq2SeqBatch

        if not groups:
            return
        kind = Seq2SeqBatch if self.model.config.is_encoder_decoder else CausalBatch
        with self._turn, torch.inference_mode():
            begin = time.perf_counter()
            batch = kind(self.model, [group[0].prompt for group in groups])
            batch.repeat(len(groups[0]))
            self.speed.prompt_tokens += sum(len(group[0].prompt) for group in groups)
            rows = [row for group in groups for row in group]
            tokens = self._push(rows, batch)
            self.speed.prompt_seconds += time.perf_counter() - begin
            yield
            while going := [place for place, row in enumerate(rows) if row.finish_reason is None]:
                begin = time.perf_counter()
                if len(going) < len(rows):
                    batch.keep(going)
                    rows, tokens = [rows[place] for place in going], [tokens[place] for place in going]
                batch.step(tokens)
                tokens = self._push(rows, batch)
                self.speed.new_tokens += len(rows)
                self.speed.new_seconds += time.perf_counter() - begin
                yield

    @staticmethod
    def _push(rows: Sequence[Row], batch: Batch) -> list[int]:
        logits = batch.logits.cpu().numpy()
        return [row.push(logits[place]) for place, row in enumerate(rows)]
