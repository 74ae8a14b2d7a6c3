"""Requests that join and leave a running batch of the reference engine.

    batch = Continuous(reference)
    batch.add(7, "Knock, knock", Sampling(max_new_tokens=20))
    while batch.busy:
        for group in batch.step():
            print(group.number, group.rows[0].text_so_far())

A step reads the prompts of what is new, lets them join, and writes one token of every answer. So a request waits for
the token that is being written and never for the end of somebody else's answer. Families whose caches cannot be joined
(sliding windows, encoder-decoders) wait for the end of the batch. A request draws the same tokens whatever else runs,
as far as arithmetic on a wider batch allows.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from plumbline.models import Prompt, Sampling
from plumbline.models.decoding import Row, with_seed
from plumbline.models.generate import ROWS_AT_ONCE, Batch, CausalBatch, Reference, push


@dataclass(frozen=True)
class Group:
    """One request: a prompt and its samples."""

    number: int
    rows: list[Row]

    @property
    def done(self) -> bool:
        return all(row.finish_reason for row in self.rows)


class Continuous:
    """The requests that wait for a reference engine and those that run on it. One thread calls it."""

    def __init__(self, reference: Reference, rows: int = ROWS_AT_ONCE) -> None:
        self.reference = reference
        self.most = rows
        self._waiting: deque[Group] = deque()
        self._batch: Batch | None = None
        self._rows: list[tuple[Group, Row]] = []
        self._tokens: list[int] = []

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting or self._rows)

    def add(self, number: int, prompt: Prompt, sampling: Sampling) -> None:
        """A request under a number of the caller's. What cannot be asked is a `UserError`, and changes nothing."""
        self._waiting.append(Group(number, self.reference.rows(prompt, with_seed(sampling), "the prompt")))

    def cancel(self, number: int) -> None:
        """Stops a request; its rows leave before the next token. An unknown number is no error."""
        self._waiting = deque(group for group in self._waiting if group.number != number)
        for group, row in self._rows:
            if group.number == number and row.finish_reason is None:
                row.finish_reason = "cancelled"

    def step(self) -> list[Group]:
        """One token for every answer, those of new requests included. The groups that have something new, in order."""
        import torch

        with torch.inference_mode():
            going = [place for place, (_, row) in enumerate(self._rows) if row.finish_reason is None]
            self._keep(going)
            if self._batch is not None:
                self._batch.step(self._tokens)
                self._tokens = push([row for _, row in self._rows], self._batch)
            self._admit()
        return list({id(group): group for group, _ in self._rows}.values())

    def _keep(self, going: list[int]) -> None:
        """Only these rows go on."""
        if not going:
            self._batch, self._rows, self._tokens = None, [], []
        elif len(going) < len(self._rows):
            assert self._batch is not None, "rows are running"
            self._batch.keep(going)
            if isinstance(self._batch, CausalBatch) and self._batch.joins:
                self._batch.trim()
            self._rows = [self._rows[place] for place in going]
            self._tokens = [self._tokens[place] for place in going]

    def _admit(self) -> None:
        """Reads the prompts of new requests, as many as there is room for, and lets them join."""
        while self._waiting and self._open():
            many = len(self._waiting[0].rows)
            groups: list[Group] = []
            room = max(self.most - len(self._rows), many)
            while self._waiting and len(self._waiting[0].rows) == many and many * (len(groups) + 1) <= room:
                groups.append(self._waiting.popleft())
            batch = self.reference.begin([group.rows[0].prompt for group in groups])
            batch.repeat(many)
            rows = [(group, row) for group in groups for row in group.rows]
            self._tokens += push([row for _, row in rows], batch)
            self._rows += rows
            if self._batch is None:
                self._batch = batch
            else:
                assert isinstance(self._batch, CausalBatch) and isinstance(batch, CausalBatch), batch
                self._batch.join(batch)

    def _open(self) -> bool:
        """Whether the next request may begin now. One that is larger than the batch begins alone."""
        if self._batch is None:
            return True
        fits = len(self._rows) + len(self._waiting[0].rows) <= self.most
        return fits and isinstance(self._batch, CausalBatch) and self._batch.joins
