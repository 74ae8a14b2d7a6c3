"""A request while it is answered, and the row that it becomes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from plumbline.feedback.store import Exchange
from plumbline.feedback.traffic import Status
from plumbline.guard import Verdict
from plumbline.serve.keys import Caller
from plumbline.serve.replies import Answer, Answered
from plumbline.serve.requests import Asked
from plumbline.serve.route import Prices, cost_of


@dataclass(frozen=True)
class Begun:
    """It is known who answers."""

    exchange_id: str
    version: str
    """As the client is told it."""
    created: int
    route: str = ""
    """Where a request was routed to: small, large, or fallback."""


@dataclass(frozen=True)
class Text:
    """More of the one answer of a stream."""

    text: str


Happened = Begun | Text | Answered


@dataclass
class Draft:
    """The row of a request while it is answered."""

    asked: Asked
    caller: Caller
    at: datetime
    exchange_id: str
    begun: float = field(default_factory=time.perf_counter)
    version: str = ""
    first: float | None = None
    text: str = ""
    """What went out of a stream."""
    taken: int = 0
    """Characters of a stream that came from the engine."""
    answers: tuple[Answer, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    verdicts: list[Verdict] = field(default_factory=list)
    cache_key: str | None = None
    cached: str | None = None
    alike_key: str | None = None
    vector: bytes | None = None
    """Of the question, where it has one."""
    alias: str = ""
    """The model's name of a request that is to be routed."""
    route: dict[str, Any] = field(default_factory=dict)
    """Who answers a request that is routed, `to`, and `why`."""
    spent: float = 0.0
    """What was paid for answers that were not given."""
    cost: float = 0.0
    began: int = field(default_factory=time.time_ns)
    steps: dict[str, tuple[int, int]] = field(default_factory=dict)
    """When each step began and ended, in nanoseconds since 1970."""
    status: Status = "cancelled"
    """Unless something else becomes of it."""
    fault: str | None = None
    stopped: bool = False
    """Whether a rail stopped the prompt: what it found there is not kept either."""
    handed: bool = False
    """Whether the journal has the row: it is written then, also for who is gone."""

    @property
    def created(self) -> int:
        return int(self.at.timestamp())

    @property
    def shown(self) -> str:
        """The model's name in the reply: the version, or the name under which a routed request was asked."""
        return self.alias or self.version

    def announced(self) -> Begun:
        return Begun(self.exchange_id, self.shown, self.created, self.route.get("to", ""))

    def begin_again(self, asked: Asked) -> None:
        """Forgets what an engine gave that failed. An answer that took its place is not given again to others."""
        self.asked, self.answers, self.cache_key, self.alike_key = asked, (), None, None
        self.taken = self.prompt_tokens = self.completion_tokens = 0

    def price(self, prices: Prices) -> None:
        """Reckons what it costs."""
        now = 0.0 if self.cached else cost_of(prices, self.version, self.prompt_tokens, self.completion_tokens)
        self.cost = self.spent + now

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Notes when a step begins and ends; of one that is taken several times, the first beginning and last end."""
        begin = time.time_ns()
        try:
            yield
        finally:
            self.steps[name] = (self.steps.get(name, (begin, 0))[0], time.time_ns())

    def row(self, status: Status) -> Exchange:
        """The exchange as it is stored. Without content, numbers and names of ours are all that stays of it."""
        asked, keeps = self.asked, self.caller.key.keeps_content and not self.stopped
        sampling = {} if asked.kind == "embedding" else {name: value for name, value in vars(asked.sampling).items()}
        more = {
            "finish_reasons": [each.finish_reason for each in self.answers],
            "seed": self.answers[0].seed if self.answers else None,
            "verdicts": [[each.guard, each.side, each.outcome, each.reason] for each in self.verdicts],
            "tools": [tool["function"]["name"] for tool in asked.tools] if keeps else None,
            "cached": self.cached,
            "routed": self.route.get("why") or None,
            "fault": self.fault if keeps else (self.fault or "").partition(":")[0],
            "consent": asked.consent or None,
        }
        answers = [{"text": each.text, "tool_calls": list(each.tool_calls)} for each in self.answers]
        prompts = list(asked.prompts)
        again = keeps and status == "answered" and not self.cached
        return Exchange(
            exchange_id=self.exchange_id,
            kind=asked.kind,
            tenant=self.caller.tenant,
            user_id=self.caller.user_id,
            version=self.version,
            status=status,
            at=self.at,
            first_ms=None if self.first is None else round(1000 * (self.first - self.begun), 3),
            latency_ms=round(1000 * (time.perf_counter() - self.begun), 3),
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            settings={
                **{name: value for name, value in sampling.items() if said(value) and (keeps or is_number(value))},
                **{name: value for name, value in more.items() if said(value)},
            },
            prompt=(prompts[0] if len(prompts) == 1 else prompts) if keeps else None,
            answers=(answers or ([{"text": self.text}] if self.text else [])) if keeps else None,
            route=self.route.get("to"),
            cost=self.cost or None,
            cache_key=self.cache_key if again else None,
            alike_key=self.alike_key if again and self.vector else None,
            vector=self.vector if again else None,
        )


def said(value: object) -> bool:
    """Whether a setting says anything; a temperature or a seed of 0 does."""
    return value is not None and value is not False and value != () and value != []


def is_number(value: object) -> bool:
    return isinstance(value, int | float)
