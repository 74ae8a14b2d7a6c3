"""The child process that holds a model: `python -m plumbline.serve.worker FD JSON`.

A message is a line of JSON on the inherited socket. It asks for an answer, embeddings or a look at the next token, each
under a number, or cancels a number; what comes back carries the number and is a piece of text, the finished answer, or
an error with its kind. The end of the socket ends the process.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

from plumbline.errors import PlumblineError, UserError
from plumbline.models import Completion, Conversation, Generate, Prompt, Raw, Sampling

if TYPE_CHECKING:
    from plumbline.models import Embed, Score
    from plumbline.models.continuous import Continuous, Group

THREADS = 64
"""Answers that a model which runs elsewhere is asked for at once."""
SHOWN = 24
"""Tokens in a look at what may come next."""

Tell = Callable[..., None]


@dataclass(frozen=True)
class Job:
    """A wish for an answer."""

    number: int
    prompt: Prompt
    sampling: Sampling
    stream: bool
    """Whether pieces are sent before the whole."""
    logprobs: int | None
    """How many alternatives are told beside each token's log-probability; None tells none of it."""


def as_prompt(given: dict[str, Any]) -> Prompt:
    """A prompt as it travels."""
    if "messages" in given:
        return Conversation(given["messages"], given.get("tools") or ())
    return Raw(given["text"]) if "text" in given else list(given["tokens"])


def as_job(message: dict[str, Any]) -> Job:
    wanted = message["sampling"]
    sampling = Sampling(**{**wanted, "stop": tuple(wanted.get("stop", ()))})
    return Job(message["number"], as_prompt(message["prompt"]), sampling, message["stream"], message["logprobs"])


class Desk(Protocol):
    """What answers jobs. `answer` returns at once."""

    def answer(self, job: Job) -> None: ...

    def cancel(self, number: int) -> None: ...

    def do(self, number: int, work: Callable[[], dict[str, Any]]) -> None:
        """Work on the model that is no answer, where it does not disturb one."""
        ...


class Threads:
    """A thread for each job: for engines that batch by themselves, and for models that run elsewhere."""

    def __init__(self, model: Generate, tell: Tell, threads: int = THREADS) -> None:
        self.model = model
        self.tell = tell
        self._pool = ThreadPoolExecutor(threads)
        self._live: set[int] = set()

    def answer(self, job: Job) -> None:
        self._live.add(job.number)
        self._pool.submit(told, self.tell, job.number, lambda: self._whole(job))

    def cancel(self, number: int) -> None:
        self._live.discard(number)

    def do(self, number: int, work: Callable[[], dict[str, Any]]) -> None:
        self._pool.submit(told, self.tell, number, work)

    def _whole(self, job: Job) -> dict[str, Any] | None:
        """The finished answers; None where nobody waits for them any more."""
        if job.number not in self._live:
            return None
        try:
            # A single answer is read as a stream even where it is not sent as one, since a stream can be left.
            found = self._read(job) if job.sampling.n == 1 else self.model([job.prompt], job.sampling)[0]
            return None if found is None else finished(self.model, job, found)
        finally:
            self._live.discard(job.number)

    def _read(self, job: Job) -> list[Completion] | None:
        with closing(cast("Any", self.model.stream(job.prompt, job.sampling))) as chunks:
            for chunk in chunks:
                if job.number not in self._live:
                    return None
                if job.stream and chunk.text:
                    self.tell(job.number, text=chunk.text)
                if chunk.completion is not None:
                    return [chunk.completion]
        raise AssertionError("a stream ends with a chunk that carries the whole completion")


class Steps:
    """One thread that steps the running batch of the reference engine."""

    def __init__(self, batch: Continuous, tell: Tell) -> None:
        self.batch = batch
        self.tell = tell
        self._jobs: dict[int, Job] = {}
        self._shown: dict[int, int] = {}
        self._news: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def answer(self, job: Job) -> None:
        self._news.put(lambda: self._begin(job))

    def cancel(self, number: int) -> None:
        self._news.put(lambda: self._forget(number))

    def do(self, number: int, work: Callable[[], dict[str, Any]]) -> None:
        self._news.put(lambda: told(self.tell, number, work))

    def _run(self) -> None:
        while True:
            while not self.batch.busy or not self._news.empty():
                self._news.get()()
            try:
                groups = self.batch.step()
            except Exception as error:  # arithmetic that failed takes the batch with it, and no other
                for number in list(self._jobs):
                    tell_error(self.tell, number, error)
                    self._forget(number)
                continue
            for group in groups:
                self._show(group)

    def _begin(self, job: Job) -> None:
        try:
            self.batch.add(job.number, job.prompt, job.sampling)
            self._jobs[job.number], self._shown[job.number] = job, 0
        except Exception as error:
            tell_error(self.tell, job.number, error)

    def _forget(self, number: int) -> None:
        self.batch.cancel(number)
        self._jobs.pop(number, None)
        self._shown.pop(number, None)

    def _show(self, group: Group) -> None:
        number = group.number
        job = self._jobs.get(number)
        if job is None:
            return
        if job.stream and len(group.rows) == 1:
            text = group.rows[0].text_so_far()
            if len(text) > self._shown[number]:
                self.tell(number, text=text[self._shown[number] :])
                self._shown[number] = len(text)
        if group.done:
            completions = [row.completion() for row in group.rows]
            told(self.tell, number, lambda: finished(self.batch.reference, job, completions))
            self._forget(number)


def told(tell: Tell, number: int, work: Callable[[], dict[str, Any] | None]) -> None:
    """Does the work and tells what came of it, whatever that is."""
    try:
        found = work()
        if found is not None:
            tell(number, **found)
    except Exception as error:
        tell_error(tell, number, error)


def tell_error(tell: Tell, number: int, error: Exception) -> None:
    if not isinstance(error, PlumblineError):
        traceback.print_exception(error)
    tell(number, error=str(error), kind=type(error).__name__ if isinstance(error, PlumblineError) else "Exception")


# ---- what an answer tells


def finished(model: Any, job: Job, completions: list[Completion]) -> dict[str, Any]:
    """The last message of a job."""
    done = [
        {
            "text": each.text,
            "finish_reason": each.finish_reason,
            "tool_calls": list(each.tool_calls),
            "prompt_tokens": each.prompt_tokens,
            "tokens": count(each),
            "seed": each.seed,
        }
        for each in completions
    ]
    if job.logprobs is not None:
        for told_of, each in zip(done, completions, strict=True):
            told_of["logprobs"] = logprobs(model, job, each)
    return {"done": done}


def count(completion: Completion) -> int:
    """Tokens of the answer; of a model elsewhere as many as it says, and where it says none, words."""
    from plumbline.models.scripted import count_tokens

    return len(completion.tokens) or completion.written or count_tokens(completion.text)


def logprobs(model: Any, job: Job, completion: Completion) -> list[dict[str, Any]]:
    """Each token with its log-probability, and the likeliest that could have stood in its place."""
    if not completion.logprobs or not hasattr(model, "tokenizer"):
        raise UserError(f"{model.name!r} tells no log-probabilities: leave `logprobs` out")
    tokenizer = model.tokenizer
    told_of: list[dict[str, Any]] = [
        {"token": tokenizer.token_text(token), "logprob": logprob, "top": []}
        for token, logprob in zip(completion.tokens, completion.logprobs, strict=True)
    ]
    if job.logprobs:
        import numpy as np

        from plumbline.models.decoding import fit_prompt

        prompt = fit_prompt(tokenizer, job.prompt, job.sampling)
        rows = model.logits([*prompt, *completion.tokens[:-1]], len(completion.tokens)).astype(np.float64)
        rows = rows / (job.sampling.temperature or 1.0)
        rows = rows - rows.max(-1, keepdims=True)
        rows = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
        for each, row in zip(told_of, rows, strict=True):
            best = np.argsort(-row, kind="stable")[: job.logprobs]
            each["top"] = [[tokenizer.token_text(int(token)), float(row[token])] for token in best]
    return told_of


def look(model: Any, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
    """What may come next after a prompt: the likeliest tokens, and what the sampling makes of their probabilities."""
    import numpy as np

    from plumbline.models.decoding import fit_prompt
    from plumbline.models.sampling import distribution

    if not hasattr(model, "logits"):
        raise UserError(f"{model.name!r} runs elsewhere and does not show its probabilities")
    logits = model.logits(fit_prompt(model.tokenizer, prompt, sampling), 1)[0]
    plain = distribution(logits, Sampling(temperature=1.0))
    warm = distribution(logits, Sampling(temperature=sampling.temperature))
    kept = distribution(logits, sampling)
    best = np.argsort(-plain, kind="stable")[:SHOWN]
    rows = [
        {
            "token": model.tokenizer.token_text(int(token)),
            "plain": float(plain[token]),
            "warm": float(warm[token]),
            "kept": float(kept[token]),
        }
        for token in best
    ]
    return {"done": rows, "kept": int(np.count_nonzero(kept))}


def embed(model: Embed, texts: list[str]) -> dict[str, Any]:
    """A vector for each text."""
    return {"done": [[float(value) for value in row] for row in model(texts)]}


def score(model: Score, prompt: Prompt, texts: list[str]) -> dict[str, Any]:
    """A number for each answer to a prompt."""
    return {"done": model([prompt] * len(texts), texts)}


# ---- the process


class Wire:
    """Lines of JSON over a socket; threads may tell at once."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._lines = self._socket.makefile("rb")
        self._sending = threading.Lock()

    def __iter__(self) -> Any:
        return map(json.loads, self._lines)

    def tell(self, number: int, **what: Any) -> None:
        line = json.dumps({"number": number, **what}).encode() + b"\n"
        with self._sending:
            self._socket.sendall(line)


def open_model(options: dict[str, Any], tell: Tell) -> tuple[Any, Desk, dict[str, Any]]:
    """The model, what answers its jobs, and what the server has to know of it."""
    if options["embeds"]:
        from plumbline.models.embed import load_embedder

        embedder = load_embedder(options["name"])
        # Its forward passes go one after the other: two at once would share the cores and gain nothing.
        return embedder, Threads(cast("Generate", embedder), tell, threads=1), {"name": embedder.name}
    if options["scores"]:
        from plumbline.models.score import load_scorer

        scorer = load_scorer(options["name"])
        return scorer, Threads(cast("Generate", scorer), tell, threads=1), {"name": scorer.name}
    from plumbline.models import load
    from plumbline.models.continuous import Continuous
    from plumbline.models.generate import Reference

    model: Any = load(options["name"], engine=options["engine"], mode=options["mode"])
    tokenizer = getattr(model, "tokenizer", None)
    known = {
        "name": model.name,
        "logprobs": tokenizer is not None,
        "local": tokenizer is not None,
        "window": tokenizer.window if tokenizer else None,
        "tools": "tools" in (tokenizer.chat_template or "") if tokenizer else True,
        "mode": f"{type(model).__module__.rpartition('.')[2]}:{getattr(model, 'mode', '')}".rstrip(":"),
    }
    return model, Steps(Continuous(model), tell) if isinstance(model, Reference) else Threads(model, tell), known


def serve(wire: Wire, model: Any, desk: Desk) -> None:
    """Until the other side is gone."""
    for message in wire:
        number = message["number"]
        try:
            if message["do"] == "answer":
                desk.answer(as_job(message))
            elif message["do"] == "cancel":
                desk.cancel(number)
            elif message["do"] == "look":
                job = as_job(message)
                desk.do(number, partial(look, model, job.prompt, job.sampling))
            elif message["do"] == "embed":
                desk.do(number, partial(embed, model, message["texts"]))
            elif message["do"] == "score":
                desk.do(number, partial(score, model, as_prompt(message["prompt"]), message["texts"]))
            else:
                raise AssertionError(message)
        except Exception as error:  # a message that cannot be followed is no reason to die with all the others
            tell_error(wire.tell, number, error)


def main() -> None:
    wire = Wire(int(sys.argv[1]))
    try:
        try:
            model, desk, known = open_model(json.loads(sys.argv[2]), wire.tell)
        except Exception as error:  # told to the other side, which raises it
            tell_error(wire.tell, -1, error)
            return
        wire.tell(-1, ready=known)
        serve(wire, model, desk)
    except (OSError, KeyboardInterrupt):
        pass
    finally:
        sys.stderr.flush()
        os._exit(0)  # threads may be in the middle of a step that nobody waits for


if __name__ == "__main__":
    main()
