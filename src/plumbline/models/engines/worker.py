"""The engine's process: a loop that admits requests, runs the model one step for all of them, and sends what is new.

Started by `openvino.py` as `python -m plumbline.models.engines.worker`, it holds no torch. It speaks over one inherited
pipe: a message is a JSON object, a `logits` answer is followed by the array's bytes and the wish to wear an adapter by
its tensors, as a safetensors file has them. New prompts join the running batch at the next step (continuous batching);
a prompt is admitted only when the cache has room for its longest possible answers, so nothing is ever thrown out
half-way. End of file on the pipe ends the process.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from plumbline.errors import UserError
from plumbline.models import Sampling, Speed
from plumbline.models.constrain import Automata
from plumbline.models.decoding import Row
from plumbline.models.engines.adapter import Adapter
from plumbline.models.engines.paged import Cached, Feed, PagedModel
from plumbline.models.tokenizer import Tokenizer

TOKENS_PER_STEP = 2048
"""Most prompt tokens read in one step, so that running answers are not kept waiting by a long prompt."""

ROWS_PER_STEP = 64
"""Most answers written at once."""


@dataclass
class Group:
    """One request: a prompt and its samples."""

    number: int
    rows: list[Row]
    stream: bool
    cached: Cached = field(default_factory=Cached)
    shown: int = 0

    @property
    def unread(self) -> list[int]:
        """The part of the prompt that the cache does not hold yet."""
        return list(self.rows[0].prompt[self.cached.length :])


@dataclass(frozen=True)
class Change:
    """The wish for another adapter. It waits in the line of the requests: those before it are finished first."""

    number: int
    adapter: Adapter | None
    name: str


class Worker:
    """Requests in, tokens out, one step at a time."""

    def __init__(self, model: PagedModel, tokenizer: Tokenizer, pipe: Connection, name: str) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.pipe = pipe
        self.name = name
        self.speed = Speed()
        self.waiting: deque[Group | Change] = deque()
        self.reading: deque[Group] = deque()
        self.writing: list[tuple[Group, Row, Cached]] = []
        self._automata: Automata | None = None

    def run(self) -> None:
        """Until the pipe closes."""
        while True:
            busy = self.waiting or self.reading or self.writing
            while not busy or self.pipe.poll(0):
                self.take(json.loads(self.pipe.recv_bytes()))
                busy = self.waiting or self.reading or self.writing
            self.admit()
            self.step()

    def take(self, message: dict[str, Any]) -> None:
        """One message from the other side."""
        number = message["number"]
        try:
            if message["do"] == "generate":
                self.waiting.append(self._group(number, message))
            elif message["do"] == "cancel":
                self.cancel(number)
            elif message["do"] == "wear":
                self.waiting.append(self._change(number, message))
            elif message["do"] == "logits":
                self.logits(number, message["tokens"], message["wanted"])
            else:
                raise AssertionError(message)
        except UserError as error:
            self.send(number, error=str(error))

    def admit(self) -> None:
        """Let requests in, oldest first, while the cache can hold their longest answers."""
        while self.waiting:
            group = self.waiting[0]
            if isinstance(group, Change):
                if self.reading or self.writing:
                    return
                self.waiting.popleft()
                self.wear(group)
                continue
            need = self._blocks(group)
            if need > self.model.blocks:
                self.waiting.popleft()
                self.send(group.number, error=self._too_large(group, need))
                continue
            rows = len(self.writing) + sum(len(other.rows) for other in self.reading)
            promised = sum(self._promised())
            if (rows and rows + len(group.rows) > ROWS_PER_STEP) or need > self.model.free - promised:
                return
            self.waiting.popleft()
            self.reading.append(group)

    def step(self) -> None:
        """One forward pass for all that run: a piece of each new prompt and one token of every answer."""
        feeds = [Feed(cached, [row.tokens[-1]]) for _, row, cached in self.writing]
        room, pieces = TOKENS_PER_STEP, []
        for group in self.reading:
            if room:
                pieces.append((group, group.unread[:room]))
                room -= len(pieces[-1][1])
        if not feeds and not pieces:
            return
        begin = time.perf_counter()
        logits = self.model.forward([*feeds, *(Feed(group.cached, piece) for group, piece in pieces)])
        written, self.writing = self.writing, []
        for place, (group, row, cached) in enumerate(written):
            row.push(logits[place])
            self._go_on(group, row, cached)
        for place, (group, piece) in enumerate(pieces, len(written)):
            self.speed.prompt_tokens += len(piece)
            if not group.unread:
                self.reading.remove(group)
                self._fork(group, logits[place])
        self._count(time.perf_counter() - begin, len(written), sum(len(piece) for _, piece in pieces))
        for group in {group.number: group for group, _, _ in written}.values():
            self._show(group)

    def wear(self, change: Change) -> None:
        """What comes from now on is answered with that adapter; one that does not fit changes nothing."""
        try:
            self.model.wear(change.adapter)
        except UserError as error:
            self.send(change.number, error=str(error))
            return
        self.name = change.name
        self.send(change.number, worn=change.name)

    def cancel(self, number: int) -> None:
        """Stop a request; what it held is free at once."""
        self.waiting = deque(entry for entry in self.waiting if entry.number != number)
        for group in [group for group in self.reading if group.number == number]:
            self.reading.remove(group)
            self.model.drop(group.cached)
        for group, row, cached in self.writing:
            if group.number == number:
                self.model.drop(cached)
                row.finish_reason = "cancelled"
        self.writing = [entry for entry in self.writing if entry[0].number != number]

    def logits(self, number: int, tokens: list[int], wanted: int) -> None:
        """The logits after each of the last `wanted` tokens of a text."""
        if self.model.blocks_for(len(tokens)) > self.model.free:
            raise UserError(f"a text of {len(tokens)} tokens does not fit the engine's cache beside what is running")
        cached = Cached()
        rows: list[Any] = []
        for begin in range(0, len(tokens), TOKENS_PER_STEP):
            piece = tokens[begin : begin + TOKENS_PER_STEP]
            want = min(len(piece), max(0, wanted - (len(tokens) - begin - len(piece))))
            out = self.model.forward([Feed(cached, piece, max(1, want))])
            rows.append(np.array(out[len(out) - want :]))
        self.model.drop(cached)
        array = np.concatenate(rows).astype(np.float32)
        self.send(number, shape=list(array.shape))
        self.pipe.send_bytes(array.tobytes())

    def send(self, number: int, **what: Any) -> None:
        """One message to the other side."""
        self.pipe.send_bytes(json.dumps({"number": number, **what}).encode())

    def _change(self, number: int, message: dict[str, Any]) -> Change:
        from safetensors.numpy import load

        adapter = Adapter.read(load(self.pipe.recv_bytes()), message["scale"]) if message["wear"] else None
        return Change(number, adapter, message["name"])

    def _group(self, number: int, message: dict[str, Any]) -> Group:
        given = message["sampling"]
        sampling = Sampling(**{**given, "stop": tuple(given["stop"])})
        rows = [
            Row(self.tokenizer, message["prompt"], sampling, sample, model=self.name) for sample in range(sampling.n)
        ]
        if sampling.schema is not None or sampling.grammar is not None:
            self._automata = self._automata or Automata(self.tokenizer)
            for row in rows:
                row.automaton = self._automata.begin(sampling, row.limit)
        return Group(number, rows, bool(message["stream"]))

    def _fork(self, group: Group, logits: Any) -> None:
        """The prompt is read: every sample draws its first token from the same logits."""
        copies = [group.cached, *(self.model.fork(group.cached) for _ in group.rows[1:])]
        for row, cached in zip(group.rows, copies, strict=True):
            row.push(logits)
            self._go_on(group, row, cached)
        self._show(group)

    def _go_on(self, group: Group, row: Row, cached: Cached) -> None:
        if row.finish_reason is None:
            self.writing.append((group, row, cached))
        else:
            self.model.drop(cached)

    def _show(self, group: Group) -> None:
        """Send new text of a stream, or the whole when all samples are done."""
        if group.stream and group.rows[0].finish_reason is None:
            text = group.rows[0].text_so_far()
            if len(text) > group.shown:
                self.send(group.number, text=text[group.shown :])
                group.shown = len(text)
        if all(row.finish_reason for row in group.rows):
            done = [asdict(row.completion()) for row in group.rows]
            self.send(group.number, done=done, speed=asdict(self.speed))

    def _count(self, seconds: float, written: int, read: int) -> None:
        """A step's time goes to reading or writing; a mixed step is divided by its tokens. An answer's first token
        comes with the reading of its prompt, so it is not counted as written."""
        self.speed.new_tokens += written
        share = read / (read + written)
        self.speed.prompt_seconds += seconds * share
        self.speed.new_seconds += seconds * (1 - share)

    def _blocks(self, group: Group) -> int:
        """Blocks that a request can come to need."""
        prompt, limit = len(group.rows[0].prompt), group.rows[0].limit
        shared = prompt // self.model.block
        return shared + len(group.rows) * (self.model.blocks_for(prompt + limit) - shared)

    def _promised(self) -> Iterator[int]:
        """Blocks that admitted requests do not hold yet and may come to need."""
        for group in self.reading:
            yield self._blocks(group) - len(group.cached.blocks)
        for _, row, cached in self.writing:
            yield self.model.blocks_for(len(row.prompt) + row.limit) - len(cached.blocks)

    def _too_large(self, group: Group, need: int) -> str:
        return (
            f"a prompt of {len(group.rows[0].prompt)} tokens with {len(group.rows)} answers of up to "
            f"{group.rows[0].limit} tokens needs {need} blocks of cache and the engine has {self.model.blocks}: lower "
            "--max-new-tokens or the number of samples"
        )


def main() -> None:
    """`python -m plumbline.models.engines.worker FD JSON`."""
    pipe = Connection(int(sys.argv[1]))
    options = json.loads(sys.argv[2])
    try:
        model = PagedModel(
            Path(options["graph"]),
            precision=options["precision"],
            kv_precision=options["kv_precision"],
            threads=options["threads"],
            cache_bytes=options["cache_bytes"],
        )
        tokenizer = Tokenizer(Path(options["folder"]))
    except Exception as error:  # told to the other side, which raises it
        pipe.send_bytes(json.dumps({"failed": f"{type(error).__name__}: {error}"}).encode())
        return
    pipe.send_bytes(json.dumps({"ready": model.blocks}).encode())
    try:
        Worker(model, tokenizer, pipe, options["name"]).run()
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return


if __name__ == "__main__":
    main()
