"""The fast engine on CPUs: OpenVINO in a child process, behind `Generate`.

The child holds the model (`worker.py`, `paged.py`); this side renders prompts, submits requests from any thread and
hands out what comes back. A crash of the child fails the requests in flight with `EngineCrashed` and nothing else; the
next request starts a fresh one.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.errors import BadModel, EngineCrashed, PlumblineError, UserError
from plumbline.models import Chunk, Completion, Prompt, Sampling, Speed
from plumbline.models.decoding import fit_prompt, with_seed
from plumbline.models.engines.graph import graph
from plumbline.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Mode:
    """How a model is stored and computed."""

    weights: str
    """The GGUF type of the stored weights."""
    precision: str
    """The type of the arithmetic."""
    kv_precision: str
    """The type of the key-value cache."""
    bound: float
    """Largest mean KL per token from the reference at which the mode may be a default."""


MODES = {
    "f32": Mode("F16", "f32", "f32", 1e-4),
    "bf16": Mode("F16", "bf16", "bf16", 0.02),
    "int8": Mode("Q8_0", "f32", "f16", 0.02),
    "int4": Mode("Q4_0", "f32", "f16", 0.02),
}
EXACT = "f32"

CACHE_BYTES = 1 << 30
"""Size of the key-value cache; memory is taken as it is used."""


class OpenVINO:
    """A model of the Llama family as a `Generate`, in a process of its own."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "",
        mode: str | None = None,
        threads: int = 0,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.mode = mode or EXACT
        if self.mode not in MODES:
            raise UserError(f"mode {mode!r} is not one of the openvino engine's: {', '.join(MODES)}")
        self.name = name or folder.name
        self.speed = Speed()
        self.tokenizer = Tokenizer(folder)
        chosen = MODES[self.mode]
        self._options = {
            "folder": str(folder),
            "graph": str(graph(folder, chosen.weights)),
            "name": self.name,
            "precision": chosen.precision,
            "kv_precision": chosen.kv_precision,
            "threads": threads,
            "cache_bytes": cache_bytes,
        }
        self._worn: tuple[dict[str, Any], bytes] | None = None  # told to a fresh child after a crash
        self._wearing = threading.Lock()
        self._child: Child | None = None
        self._start = threading.Lock()
        self._running()  # a model that cannot be loaded is told now, not at the first request

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling | None = None) -> list[list[Completion]]:
        """For each prompt its samples; all prompts run together."""
        sampling = with_seed(sampling or Sampling())
        encoded = [fit_prompt(self.tokenizer, prompt, sampling, f"prompt {i}") for i, prompt in enumerate(prompts)]
        child = self._running()
        requests = [child.submit(generate_message(ids, sampling, stream=False)) for ids in encoded]
        try:
            return [self._finished(request.next()) for request in requests]
        except BaseException:
            for request in requests:
                request.cancel()
            raise

    def stream(self, prompt: Prompt, sampling: Sampling | None = None) -> Iterator[Chunk]:
        """The answer in pieces as it is written; leaving the loop early stops the engine's work on it."""
        sampling = with_seed(sampling or Sampling())
        if sampling.n != 1:
            raise UserError(f"n is {sampling.n}: a stream carries one answer")
        ids = fit_prompt(self.tokenizer, prompt, sampling)
        request = self._running().submit(generate_message(ids, sampling, stream=True))
        shown = 0
        try:
            while "done" not in (message := request.next()):
                shown += len(message["text"])
                yield Chunk(message["text"])
            whole = self._finished(message)[0]
            yield Chunk(whole.text[shown:], whole)
        finally:
            request.cancel()

    def logits(self, tokens: Sequence[int], wanted: int) -> NDArray[np.float32]:
        """The logits (wanted, vocabulary) after each of the last `wanted` tokens."""
        import numpy as np

        message = {"do": "logits", "tokens": list(tokens), "wanted": wanted}
        answer = self._running().submit(message).next()
        return np.frombuffer(answer["bytes"], np.float32).reshape(answer["shape"])

    def wear(self, adapter: Mapping[str, NDArray[Any]] | None, *, scale: float = 1.0, name: str = "") -> None:
        """Answer with a low-rank adapter from now on, under that name; None takes it off.

        `adapter` holds float arrays under PEFT's names, `scale` is alpha / rank. Requests in flight finish first, with
        what was worn when they came. Another adapter for the same layers is a copy of its numbers; the first for some
        layers, and None, compile the graph anew, which takes seconds.
        """
        import numpy as np
        from safetensors.numpy import save

        if adapter is not None and MODES[self.mode].weights != "F16":
            raise UserError(
                f"the openvino engine's mode is {self.mode!r}, which stores weights in blocks and wears no adapter: "
                "use mode f32 or bf16"
            )
        name = name or str(self._options["name"])
        message = {"do": "wear", "wear": adapter is not None, "scale": scale, "name": name}
        tensors = b""
        if adapter is not None:
            tensors = save({key: np.ascontiguousarray(value, np.float32) for key, value in adapter.items()})
        with self._wearing:
            child, before = self._running(), (self._worn, self.name)
            self._worn, self.name = (message, tensors), name
            try:
                child.submit(message, tensors).next()
            except PlumblineError:  # it does not fit, or the process died: what was worn is worn
                self._worn, self.name = before
                raise

    def close(self) -> None:
        """End the engine's process."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _running(self) -> Child:
        with self._start:
            if self._child is None or self._child.died:
                self._child = Child(self._options)
                weakref.finalize(self, self._child.end)
                if self._worn is not None:
                    self._child.submit(*self._worn).next()
            return self._child

    def _finished(self, message: dict[str, Any]) -> list[Completion]:
        self.speed = Speed(**message["speed"])
        tuples = ("tokens", "logprobs", "sampler_logprobs", "tool_calls")
        return [Completion(**{**row, **{key: tuple(row[key]) for key in tuples}}) for row in message["done"]]


def generate_message(ids: Sequence[int], sampling: Sampling, *, stream: bool) -> dict[str, Any]:
    """The message that asks the worker for an answer."""
    return {"do": "generate", "prompt": list(ids), "sampling": asdict(sampling), "stream": stream}


class Request:
    """One request's way back."""

    def __init__(self, child: Child, number: int) -> None:
        self._child = child
        self._number = number
        self._news: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._over = False

    def put(self, message: dict[str, Any]) -> None:
        """Called by the child's reader."""
        self._news.put(message)

    def next(self) -> dict[str, Any]:
        """The next message; errors are raised."""
        message = self._news.get()
        self._over = "text" not in message
        if self._over:
            self._child.forget(self._number)
        if "crashed" in message:
            raise EngineCrashed(message["crashed"])
        if "error" in message:
            raise UserError(message["error"])
        return message

    def cancel(self) -> None:
        """Stop the work, if it is not over."""
        if not self._over:
            self._over = True
            self._child.forget(self._number)
            self._child.tell({"do": "cancel", "number": self._number})


class Child:
    """The engine's process and the pipe to it."""

    def __init__(self, options: dict[str, Any]) -> None:
        ours, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "plumbline.models.engines.worker", str(theirs.fileno()), json.dumps(options)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "OPENVINO_TELEMETRY_ENABLE": "0"},
            start_new_session=True,  # Ctrl-C is for this side, which then cancels
        )
        theirs.close()
        self._pipe = Connection(ours.detach())
        self._numbers = itertools.count()
        self._requests: dict[int, Request] = {}
        self._sending = threading.Lock()
        self.died = False
        try:
            first = json.loads(self._pipe.recv_bytes())
        except EOFError:
            raise EngineCrashed(
                f"the openvino engine died while loading {options['folder']!r}: {self._last_words()}"
            ) from None
        if "failed" in first:
            raise BadModel(f"the openvino engine cannot load {options['folder']!r}: {first['failed']}")
        threading.Thread(target=self._read, daemon=True).start()

    def submit(self, message: dict[str, Any], tensors: bytes = b"") -> Request:
        """Send a request, with the bytes that belong to it."""
        number = next(self._numbers)
        request = Request(self, number)
        self._requests[number] = request
        self.tell({**message, "number": number}, tensors)
        if self.died:  # between the look and the send
            request.put({"crashed": "the openvino engine's process has died; ask again"})
        return request

    def tell(self, message: dict[str, Any], tensors: bytes = b"") -> None:
        """Send a message that expects nothing; a dead child is noticed by the reader."""
        with self._sending:
            try:
                self._pipe.send_bytes(json.dumps(message).encode())
                if tensors:
                    self._pipe.send_bytes(tensors)
            except OSError:
                pass

    def forget(self, number: int) -> None:
        """Nobody waits for this request any more."""
        self._requests.pop(number, None)

    def end(self) -> None:
        """Close the pipe, which ends the process."""
        self.died = True
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def _read(self) -> None:
        while True:
            try:
                message = json.loads(self._pipe.recv_bytes())
                if "shape" in message:
                    message["bytes"] = self._pipe.recv_bytes()
            except (EOFError, OSError):
                break
            if request := self._requests.get(message["number"]):
                request.put(message)
        asked_to_end, self.died = self.died, True
        if not asked_to_end:
            status = self._process.wait()
            crash = f"the openvino engine's process ended with status {status} ({self._last_words()}); ask again"
            for request in list(self._requests.values()):
                request.put({"crashed": crash})

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
