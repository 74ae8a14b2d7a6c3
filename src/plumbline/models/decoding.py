"""One answer while it is being written: the part of decoding that is the same for every local engine.

An engine turns tokens into logits. A `Row` turns logits into the next token, watches for the end (end-of-text, a
stop string, the limit, the grammar) and keeps what a `Completion` tells.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from plumbline.errors import PromptTooLong
from plumbline.models import Completion, FinishReason, Prompt, Sampling
from plumbline.models.chat import encode_prompt
from plumbline.models.constrain import Automaton
from plumbline.models.sampling import draw, noise
from plumbline.models.tokenizer import Tokenizer


def with_seed(sampling: Sampling) -> Sampling:
    """The same sampling with a seed drawn where none was given, so that the answer can be had again."""
    return sampling if sampling.seed is not None else replace(sampling, seed=secrets.randbits(32))


def fit_prompt(tokenizer: Tokenizer, prompt: Prompt, sampling: Sampling, where: str = "the prompt") -> list[int]:
    """The prompt's token ids, within the window; cut from the left only where `truncate` says so."""
    ids = encode_prompt(tokenizer, prompt)
    if len(ids) < tokenizer.window:
        return ids
    if not sampling.truncate:
        raise PromptTooLong(len(ids), tokenizer.window - 1, where)
    room = max(1, tokenizer.window - sampling.max_new_tokens)
    return ids[-room:]


class Row:
    """One sample of one prompt."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        sampling: Sampling,
        sample: int = 0,
        automaton: Automaton | None = None,
        model: str = "",
    ) -> None:
        assert sampling.seed is not None, "an engine gives every request its seed first (with_seed)"
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.sampling = sampling
        self.automaton = automaton
        self.model = model
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.sampler_logprobs: list[float] = []
        self.finish_reason: FinishReason | None = None
        self.limit = answer_limit(tokenizer, prompt, sampling)
        self._noise = noise(sampling.seed, sample, prompt)
        self._stream: object | None = None
        self._text = ""
        self._sent = 0

    def push(self, logits: NDArray[np.float32]) -> int:
        """Draw the next token from its logits (vocabulary,) and see whether the answer ends with it."""
        allowed = self.automaton.allowed(self.limit - len(self.tokens)) if self.automaton else None
        uniform = self._noise.random() if self.sampling.temperature else 0.0
        drawn = draw(logits, self.sampling, uniform, allowed)
        self.tokens.append(drawn.token)
        self.logprobs.append(drawn.logprob)
        self.sampler_logprobs.append(drawn.sampler_logprob)
        if self.ended_by(drawn.token):
            self.finish_reason = "stop"
        else:
            if self.automaton:
                self.automaton.accept(drawn.token)
            if self.sampling.stop and self._stopped():
                self.finish_reason = "stop"
            elif len(self.tokens) >= self.limit:
                self.finish_reason = "length"
        return drawn.token

    def ended_by(self, token: int) -> bool:
        """Whether the token ends an answer by itself."""
        return token in self.tokenizer.eos_ids and not self.sampling.ignore_eos

    def text_so_far(self) -> str:
        """What can be shown already: whole characters, nothing that a stop string may still take back."""
        self._decode_new()
        if self.finish_reason:
            return self.completion().text
        held = max((_overlap(self._text, stop) for stop in self.sampling.stop), default=0)
        return self._text[: len(self._text) - held]

    def completion(self) -> Completion:
        """The finished answer."""
        assert self.finish_reason is not None, "the answer is still being written"
        ended = bool(self.tokens) and self.ended_by(self.tokens[-1])
        text = self.tokenizer.decode(self.tokens[:-1] if ended else self.tokens)
        cuts = [place for stop in self.sampling.stop if (place := text.find(stop)) >= 0]
        return Completion(
            text=text[: min(cuts)] if cuts else text,
            finish_reason=self.finish_reason,
            tokens=tuple(self.tokens),
            logprobs=tuple(self.logprobs),
            sampler_logprobs=tuple(self.sampler_logprobs),
            prompt_tokens=len(self.prompt),
            seed=self.sampling.seed,
            model=self.model,
        )

    def _stopped(self) -> bool:
        self._decode_new()
        return any(stop in self._text for stop in self.sampling.stop)

    def _decode_new(self) -> None:
        """Bring `_text` up to date; a character whose bytes are not all there yet waits."""
        from tokenizers.decoders import DecodeStream

        if self._stream is None:
            self._stream = DecodeStream(skip_special_tokens=True)
        for token in self.tokens[self._sent :]:
            self._sent += 1
            if not self.ended_by(token):
                self._text += self._stream.step(self.tokenizer.rust, token) or ""  # type: ignore[attr-defined]


def answer_limit(tokenizer: Tokenizer, prompt: Sequence[int], sampling: Sampling) -> int:
    """Most tokens of an answer: what was asked for, or what the window leaves."""
    return min(sampling.max_new_tokens, tokenizer.window - len(prompt))


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters of `text` could begin `stop`."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
