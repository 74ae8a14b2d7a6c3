"""Ask a model: the seams `Generate`, `Embed` and `Score`, and `load`.

This file holds only nouns, so that importing it costs nothing; torch, transformers and the engines are imported by
the functions that need them. A prompt with many answers is one thing: every `Generate` takes prompts and returns,
for each prompt, the list of its samples, and computes the prompt once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from plumbline.errors import UserError
from plumbline.records import Message

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Chunk",
    "Completion",
    "Conversation",
    "Embed",
    "FinishReason",
    "Generate",
    "Prompt",
    "Raw",
    "Sampling",
    "Score",
    "Speed",
    "load",
]

FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]


class Raw(str):
    """Text that is sent as it is, without the chat template."""


@dataclass(frozen=True)
class Conversation:
    """Messages with the tools that the model may call (OpenAI's function schema)."""

    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]] = ()


Prompt: TypeAlias = str | Raw | Sequence[Message] | Conversation | Sequence[int]
"""A plain string is one user turn and gets the chat template; `Raw` does not; integers are token ids, used as given."""


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn."""

    n: int = 1
    """Samples per prompt; the prompt is computed once."""
    max_new_tokens: int = 256
    """Most tokens in an answer."""
    temperature: float = 0.7
    """0 is greedy; higher is more varied."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of likeliest tokens whose probabilities, at the temperature and after top-k, reach p."""
    seed: int | None = None
    """Same seed, same text, whatever else is in the batch; None draws a fresh one and reports it."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these strings."""
    schema: dict[str, Any] | None = None
    """A JSON schema that the answer must follow."""
    grammar: str | None = None
    """A grammar in Lark's syntax that the answer must follow."""
    truncate: bool = False
    """Cut a prompt that is too long from the left instead of refusing it."""
    ignore_eos: bool = False
    """Go on past the end-of-text token (for measuring)."""

    def __post_init__(self) -> None:
        def need(ok: bool, message: str) -> None:
            if not ok:
                raise UserError(message)

        need(self.n >= 1, f"n is {self.n!r}: ask for at least 1 sample")
        need(self.max_new_tokens >= 1, f"max_new_tokens is {self.max_new_tokens!r}: it must be at least 1")
        need(
            0.0 <= self.temperature <= 100.0,
            f"temperature is {self.temperature!r}: it must lie between 0 (greedy) and 100",
        )
        need(self.top_k >= 0, f"top_k is {self.top_k!r}: it must be 0 (keep all) or more")
        need(0.0 < self.top_p <= 1.0, f"top_p is {self.top_p!r}: it must be above 0 and at most 1")
        need(
            self.seed is None or 0 <= self.seed < 2**63,
            f"seed is {self.seed!r}: it must be a whole number from 0 to 2^63 - 1",
        )
        need(isinstance(self.stop, tuple) and all(self.stop), f"stop is {self.stop!r}: give a tuple of non-empty texts")
        need(
            self.schema is None or self.grammar is None, "schema and grammar were both given: an answer can follow one"
        )


@dataclass(frozen=True)
class Completion:
    """One answer. `tokens` holds what was sampled, the end-of-text token included; `text` is without it."""

    text: str
    finish_reason: FinishReason
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    """Per token, at the sampling temperature (at 1 when greedy), before top-k, top-p, schema and grammar."""
    sampler_logprobs: tuple[float, ...] = ()
    """Per token, under the distribution that was really drawn from."""
    prompt_tokens: int = 0
    seed: int | None = None
    model: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    written: int = 0
    """How many tokens were written, of a model elsewhere, which does not tell them one by one."""


@dataclass(frozen=True)
class Chunk:
    """A piece of a streamed answer; the last piece carries the whole `Completion`."""

    text: str
    completion: Completion | None = None


@dataclass
class Speed:
    """Tokens and seconds that a generator has spent so far, reading prompts and writing answers apart."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    new_tokens: int = 0
    new_seconds: float = 0.0

    @property
    def prefill(self) -> float:
        """Prompt tokens per second."""
        return self.prompt_tokens / self.prompt_seconds if self.prompt_seconds else 0.0

    @property
    def decode(self) -> float:
        """New tokens per second."""
        return self.new_tokens / self.new_seconds if self.new_seconds else 0.0


@runtime_checkable
class Generate(Protocol):
    """Prompts in, for each prompt its samples out. Fake: `plumbline.models.scripted.Scripted`."""

    name: str

    @property
    def speed(self) -> Speed: ...

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling = ...) -> list[list[Completion]]: ...

    def stream(self, prompt: Prompt, sampling: Sampling = ...) -> Iterator[Chunk]: ...


@runtime_checkable
class Embed(Protocol):
    """Texts in, one row of unit length per text out. Fake: `plumbline.models.scripted.ScriptedEmbed`."""

    name: str

    @property
    def dimensions(self) -> int: ...

    def __call__(self, texts: Sequence[str]) -> NDArray[Any]: ...


@runtime_checkable
class Score(Protocol):
    """Prompts and completions in, one number for each pair out. Fake: `plumbline.models.scripted.ScriptedScore`."""

    name: str

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]: ...


EngineName = Literal["auto", "transformers", "openvino"]


def load(name: str, *, engine: EngineName = "auto", mode: str | None = None, device: str = "auto") -> Generate:
    """The model of that name, ready to answer.

    `name` is a bundled model, a version in the project (`name@n`), a local folder, a GGUF file, a hub id,
    `openai:MODEL@URL`, `anthropic:MODEL` or `scripted:FILE`. `engine` and `mode` choose how a local model runs
    (see `plumb models parity`); "auto" takes the fastest one that is installed and exact.
    """
    from plumbline.models.resolve import resolve

    source = resolve(name)
    if source.kind == "scripted":
        from plumbline.models.scripted import Scripted

        return Scripted.from_file(source.name, source.folder)
    if source.kind in ("openai", "anthropic"):
        from plumbline.models.remote import RemoteChat

        return RemoteChat(source.model, source.url, kind=source.kind)
    from plumbline.models.engines import open_local

    return open_local(source.folder, name=source.name, engine=engine, mode=mode, device=device)
