"""Models behind an API: `RemoteChat`, a `Generate`, and `RemoteEmbed`, an `Embed`.

    openai:MODEL            api.openai.com, with the key in OPENAI_API_KEY
    openai:MODEL@URL        any OpenAI-compatible server, with PLUMBLINE_API_KEY if set
    anthropic:MODEL[@URL]   Anthropic's Messages API, with ANTHROPIC_API_KEY, or PLUMBLINE_API_KEY at another URL

What an API cannot do raises `UserError` before anything is sent. What it leaves unsaid stays empty: token ids always,
logprobs unless asked for, `seed` unless given (and then it holds as far as the server keeps its word).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, FiniteFloat

from plumbline.errors import EndpointError, UserError
from plumbline.models import Chunk, Completion, Prompt, Sampling, Speed
from plumbline.models.endpoints.anthropic import Anthropic
from plumbline.models.endpoints.dialect import Dialect, Reply
from plumbline.models.endpoints.openai import OpenAI
from plumbline.models.endpoints.transport import Endpoint, Kind, Patience

if TYPE_CHECKING:
    from numpy.typing import NDArray

AT_ONCE = 8
"""Requests under way at the same time."""

BATCH = 32
"""Texts in one request: at the longest that embedders read, 8192 tokens, they stay below OpenAI's limit of 300,000."""

_A = TypeVar("_A")
_B = TypeVar("_B")


class RemoteChat:
    """A model behind a chat API."""

    def __init__(
        self,
        model: str,
        url: str | None = None,
        kind: Kind = "openai",
        *,
        logprobs: bool = False,
        at_once: int = AT_ONCE,
        patience: Patience | None = None,
    ) -> None:
        if logprobs and kind == "anthropic":
            raise UserError("logprobs were asked for, which Anthropic's API does not give: leave them out")
        self._endpoint = Endpoint(kind, model, url, patience)
        at_home = self._endpoint.at_home
        self._dialect: Dialect = (
            OpenAI(model, at_home=at_home, logprobs=logprobs) if kind == "openai" else Anthropic(model, at_home=at_home)
        )
        self._at_once = at_once
        self.name = self._endpoint.name
        self.speed = Speed()
        """Reading is told from writing in a stream only; an answer in one piece counts as written all the time."""

    def __repr__(self) -> str:
        return f"RemoteChat({self.name!r})"

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling | None = None) -> list[list[Completion]]:
        """For each prompt its samples, in order; a few requests are under way at once."""
        sampling = sampling or Sampling()
        share, jobs = self._jobs(prompts, sampling)
        begin = time.perf_counter()
        replies = _ask_all(lambda prompt: self._ask(prompt, share), jobs, self._at_once)
        self.speed.new_seconds += time.perf_counter() - begin
        self.speed.new_tokens += sum(reply.new_tokens for reply in replies)
        answers = [completion for reply in replies for completion in reply.completions]
        return [answers[begin : begin + sampling.n] for begin in range(0, len(answers), sampling.n)]

    def each(self, prompts: Sequence[Prompt], sampling: Sampling | None = None) -> Iterator[list[Completion]]:
        """For each prompt its samples, in order, as soon as they are there.

        A failure is raised in its turn: all before it have been given, so a caller who keeps them loses nothing.
        """
        sampling = sampling or Sampling()
        share, jobs = self._jobs(prompts, sampling)
        futures, left = _begin_all(lambda prompt: self._ask(prompt, share), jobs, self._at_once)
        copies = sampling.n // share.n
        try:
            for place in range(0, len(futures), copies):
                replies = [future.result() for future in futures[place : place + copies]]
                self.speed.new_tokens += sum(reply.new_tokens for reply in replies)
                yield [completion for reply in replies for completion in reply.completions]
        finally:
            left.clear()

    def _jobs(self, prompts: Sequence[Prompt], sampling: Sampling) -> tuple[Sampling, list[Prompt]]:
        """What each request draws, and the requests' prompts; what cannot be asked is refused before any is sent."""
        share = sampling if self._dialect.many else replace(sampling, n=1)
        for prompt in prompts:
            self._dialect.request(prompt, share)
        return share, [prompt for prompt in prompts for _ in range(sampling.n // share.n)]

    def stream(self, prompt: Prompt, sampling: Sampling | None = None) -> Iterator[Chunk]:
        """The answer in pieces as it arrives; the last piece carries the whole."""
        sampling = sampling or Sampling()
        if sampling.n != 1:
            raise UserError(f"n is {sampling.n}: a stream carries one answer")
        path, body = self._dialect.request(prompt, sampling, stream=True)
        draft = self._dialect.draft()
        begin = first = time.perf_counter()
        for number, text in enumerate(self._endpoint.stream(path, body, draft)):
            if number == 0:
                first = time.perf_counter()
            yield Chunk(text)
        reply = draft.reply()
        (completion,) = self._signed(reply, sampling)
        self.speed.prompt_seconds += first - begin
        self.speed.prompt_tokens += completion.prompt_tokens
        self.speed.new_seconds += time.perf_counter() - first
        self.speed.new_tokens += reply.new_tokens
        yield Chunk("", completion)

    def _ask(self, prompt: Prompt, sampling: Sampling) -> Reply:
        """All samples of one prompt. A server that gives fewer than asked, or refuses several, is asked again."""
        answers: list[Completion] = []
        new_tokens = 0
        at_once = sampling.n
        while len(answers) < sampling.n:
            part = replace(
                sampling,
                n=min(at_once, sampling.n - len(answers)),
                seed=None if sampling.seed is None else (sampling.seed + len(answers)) % 2**63,
            )
            path, body = self._dialect.request(prompt, part)
            try:
                reply = self._endpoint.post(path, body, self._dialect.read)
            except EndpointError as error:
                if part.n == 1 or error.status not in (400, 422):
                    raise
                at_once = 1
                continue
            answers += self._signed(reply, sampling)
            new_tokens += reply.new_tokens
        return Reply(answers[: sampling.n], new_tokens)

    def _signed(self, reply: Reply, sampling: Sampling) -> list[Completion]:
        # An API counts the tokens of all answers together; each gets its share.
        many = len(reply.completions)
        shares = [(reply.new_tokens + place) // many for place in range(many)]
        return [
            replace(completion, model=self.name, seed=sampling.seed, written=share)
            for completion, share in zip(reply.completions, shares, strict=True)
        ]


class _Vector(BaseModel):
    embedding: list[FiniteFloat]
    index: int


class _Vectors(BaseModel):
    data: list[_Vector]


class RemoteEmbed:
    """An embedding model behind an OpenAI-compatible API."""

    def __init__(
        self,
        model: str,
        url: str | None = None,
        *,
        batch: int = BATCH,
        at_once: int = AT_ONCE,
        patience: Patience | None = None,
    ) -> None:
        self._endpoint = Endpoint("openai", model, url, patience)
        self._batch = batch
        self._at_once = at_once
        self._dimensions: int | None = None
        self.name = self._endpoint.name

    def __repr__(self) -> str:
        return f"RemoteEmbed({self.name!r})"

    @property
    def dimensions(self) -> int:
        """The length of a vector, which only a first one tells."""
        if self._dimensions is None:
            self._ask(["dimensions"])
        assert self._dimensions is not None, "an answered request leaves the dimensions known"
        return self._dimensions

    def __call__(self, texts: Sequence[str]) -> NDArray[Any]:
        """One row of unit length per text, float32, in batches of which a few are under way at once."""
        import numpy as np

        if not texts:
            return np.empty((0, self.dimensions), dtype=np.float32)
        batches = [list(texts[begin : begin + self._batch]) for begin in range(0, len(texts), self._batch)]
        rows = [row for rows in _ask_all(self._ask, batches, self._at_once) for row in rows]
        vectors = np.asarray(rows, dtype=np.float64)  # (texts, dimensions)
        unit: NDArray[Any] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit.astype(np.float32)

    def _ask(self, texts: list[str]) -> list[list[float]]:
        def read(reply: dict[str, Any]) -> list[list[float]]:
            found = sorted(_Vectors.model_validate(reply).data, key=lambda vector: vector.index)
            if [vector.index for vector in found] != list(range(len(texts))):
                raise ValueError(f"it holds {len(found)} vectors for {len(texts)} texts")
            rows = [vector.embedding for vector in found]
            expected = self._dimensions or len(rows[0])
            if any(len(row) != expected for row in rows):
                raise ValueError("its vectors differ in length")
            if not all(any(row) for row in rows):
                raise ValueError("it holds a vector of zeros, which has no direction")
            self._dimensions = expected
            return rows

        body = {"model": self._endpoint.model, "input": texts, "encoding_format": "float"}
        return self._endpoint.post("/embeddings", body, read)


def _ask_all(ask: Callable[[_A], _B], jobs: Sequence[_A], at_once: int) -> list[_B]:
    """What came of each job, in order. The first failure is raised at once, and jobs not yet begun are dropped."""
    futures, left = _begin_all(ask, jobs, at_once)
    try:
        for done in wait(futures, return_when=FIRST_EXCEPTION).done:
            done.result()
        return [future.result() for future in futures]
    finally:
        left.clear()


def _begin_all(
    ask: Callable[[_A], _B], jobs: Sequence[_A], at_once: int
) -> tuple[list[Future[_B]], deque[tuple[_A, Future[_B]]]]:
    """What will come of each job, in order, and the jobs that are not begun yet, which can be dropped.

    The threads are daemons: neither a failure nor an interrupt waits for answers that are still being written.
    """
    futures: list[Future[_B]] = [Future() for _ in jobs]
    left = deque(zip(jobs, futures, strict=True))

    def work() -> None:
        while True:
            try:
                job, future = left.popleft()
            except IndexError:
                return
            try:
                future.set_result(ask(job))
            except Exception as error:  # raised again where the result is taken
                future.set_exception(error)

    for _ in range(min(at_once, len(jobs))):
        threading.Thread(target=work, daemon=True).start()
    return futures, left
