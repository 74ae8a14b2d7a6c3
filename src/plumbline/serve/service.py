"""The way of a request: key, rails, cache, place, engine, rails, row; and only then the end of the answer.

`Service.answer` gives what happens in order: that a version has begun, pieces of text, and last the whole, which is on
the disk by then. However a request ends, it leaves one row, unless it was turned away for coming too often.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime
from secrets import token_hex
from typing import Any

from plumbline.errors import EndpointError, EngineCrashed, UserError
from plumbline.feedback.store import Exchange, Store
from plumbline.feedback.traffic import Status
from plumbline.guard import Guard, Side, Verdict
from plumbline.guard.guarded import Blocked, Held, checked_prompt
from plumbline.models import Conversation, Prompt, Raw
from plumbline.serve import tools
from plumbline.serve.engine import Engine, TooLong
from plumbline.serve.journal import Journal
from plumbline.serve.keys import Caller, Keys
from plumbline.serve.line import Line
from plumbline.serve.metrics import Metrics
from plumbline.serve.replies import Answer, Answered
from plumbline.serve.requests import ApiError, Asked, characters
from plumbline.serve.settings import Settings
from plumbline.serve.versions import Versions
from plumbline.serve.worker import as_prompt
from plumbline.web.errors import Refusal

PREFIXES = {"chat": "chatcmpl", "completion": "cmpl", "embedding": "embd"}
FINISH = {"cancelled": "content_filter"}
"""Our finish reasons that OpenAI calls otherwise."""
BRIEF = 4000
"""Characters that rails read within a millisecond or two, which a thread would not make faster."""


@dataclass(frozen=True)
class Begun:
    """A version has begun to answer."""

    exchange_id: str
    version: str
    created: int


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
    fault: str | None = None

    def row(self, status: Status) -> Exchange:
        """The exchange as it is stored."""
        asked, keeps = self.asked, self.caller.key.keeps_content
        sampling = {name: value for name, value in vars(asked.sampling).items() if said(value)}
        more = {
            "finish_reasons": [each.finish_reason for each in self.answers],
            "seed": self.answers[0].seed if self.answers else None,
            "verdicts": [[each.guard, each.side, each.outcome, each.reason] for each in self.verdicts],
            "tools": [tool["function"]["name"] for tool in asked.tools],
            "cached": self.cached,
            "fault": self.fault if keeps else (self.fault or "").partition(":")[0],
            "consent": asked.consent or None,
        }
        answers = [{"text": each.text, "tool_calls": list(each.tool_calls)} for each in self.answers]
        prompts = list(asked.prompts)
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
            settings={**sampling, **{name: value for name, value in more.items() if said(value)}},
            prompt=(prompts[0] if len(prompts) == 1 else prompts) if keeps else None,
            answers=(answers or ([{"text": self.text}] if self.text else [])) if keeps else None,
            cache_key=self.cache_key if keeps and status == "answered" and not self.cached else None,
        )


@dataclass
class Service:
    """The parts of a server, and how a request goes through them."""

    settings: Settings
    store: Store
    versions: Versions
    line: Line
    journal: Journal
    keys: Keys
    metrics: Metrics
    guards: tuple[Guard, ...] = ()
    rail_seconds: float = 2.0
    """Longest that rails may take for one text; after that they are unavailable."""

    async def answer(self, asked: Asked, caller: Caller, size: int = 0) -> AsyncGenerator[Happened, None]:
        """What happens to a request; the last is an `Answered`, and its row is on the disk."""
        exchange_id = f"{PREFIXES[asked.kind]}-{token_hex(12)}"
        draft = Draft(asked, caller, self.store.clock(), exchange_id)
        status: Status = "cancelled"  # unless something else becomes of it
        turned_away = False
        try:
            with self.keys.admitted(caller.key):
                async with aclosing(self._through(draft, size)) as steps:
                    async for happened in steps:
                        if isinstance(happened, Text):
                            draft.text += happened.text
                        elif isinstance(happened, Answered):
                            status = "answered"
                        yield happened
        except Blocked as error:
            status, draft.fault = "blocked", str(error)
            draft.verdicts.append(error.verdict)
            unavailable = error.verdict.outcome == "unavailable"
            code = "rail_unavailable" if unavailable else "content_filter"
            raise ApiError(503 if unavailable else 400, f"{error}.", code=code) from None
        except Exception as error:
            status, draft.fault = "failed", f"{type(error).__name__}: {error}"
            # Who comes too often is counted and leaves no row: a flood must not fill the disk.
            turned_away = isinstance(error, Refusal) and error.status == 429
            raise refusal_of(error, self.settings) from error
        finally:
            self._count(draft, status)
            if status != "answered" and not turned_away:
                self.journal.note(draft.row(status))

    async def _through(self, draft: Draft, size: int) -> AsyncGenerator[Happened, None]:
        draft.asked = asked = await self._let_in(draft)
        created = int(draft.at.timestamp())
        found = await self._cached(draft)
        if found is None:
            async with self.line.place(draft.caller.tenant, asked.rows, size):
                engine = self.versions.pick(asked.model, draft.caller.user_id)
                draft.version = engine.name
                yield Begun(draft.exchange_id, engine.name, created)
                async for text in self._ask(engine, draft):
                    yield text
        else:
            draft.version, draft.cached = found.version, found.exchange_id
            yield Begun(draft.exchange_id, found.version, created)
            told = (found.settings or {}).get("finish_reasons", [])
            draft.answers = tuple(
                Answer(each["text"], reason, tuple(each["tool_calls"]))
                for each, reason in zip(found.answers or [], told, strict=True)
            )
            draft.prompt_tokens, draft.completion_tokens = found.prompt_tokens, found.completion_tokens
        await self.journal.write(draft.row("answered"))
        self.keys.charge(draft.caller.key, 0 if draft.cached else draft.prompt_tokens + draft.completion_tokens)
        yield Answered(
            draft.exchange_id,
            asked.kind,
            draft.version,
            created,
            draft.answers,
            draft.prompt_tokens,
            draft.completion_tokens,
            cached=draft.cached is not None,
        )

    # ---- rails

    async def _let_in(self, draft: Draft) -> Asked:
        """The request as rails let it in."""
        asked = draft.asked
        if characters(asked) > self.settings.longest_prompt:
            raise ApiError(413, f"The prompt is longer than {self.settings.longest_prompt:,} characters: shorten it.")
        if not self.guards:
            return asked
        prompts = []
        for prompt in asked.prompts:
            size = len(str(prompt))
            passed, verdicts = await self._rails("input", size, checked_prompt, self.guards, as_prompt(prompt))
            draft.verdicts += verdicts
            prompts.append({**prompt, **wire(passed)})
        return replace(asked, prompts=tuple(prompts))

    async def _rails(self, side: Side, size: int, work: Any, *given: Any) -> Any:
        """The work of rails on a text of that size, a long one in a thread; what takes too long is unavailable."""
        if size <= BRIEF:
            return work(*given)
        try:
            async with asyncio.timeout(self.rail_seconds):
                return await asyncio.to_thread(work, *given)
        except TimeoutError:
            raise Blocked(Verdict("all", side, "unavailable", "they took too long")) from None

    async def _let_out(self, draft: Draft, held: Held, text: str, *, ends: bool) -> str:
        """More of an answer, as far as rails let it out."""
        if not self.guards:
            return text
        size = len(draft.text) + len(text)
        out: str = await self._rails("output", size, lambda: held.add(text) + (held.end() if ends else ""))
        if held.stopped is not None and held.stopped.outcome == "unavailable":
            raise Blocked(held.stopped)
        if ends or held.stopped is not None:
            draft.verdicts += held.verdicts
        return out

    # ---- the engine

    async def _ask(self, engine: Engine, draft: Draft) -> AsyncGenerator[Text, None]:
        """Asks for all answers; the pieces of a single stream are given as they come, and what is whole is noted."""
        asked = draft.asked = fitted(draft.asked, engine.known)
        deadline = asyncio.get_running_loop().time() + self.settings.limit
        if len(asked.prompts) > 1:
            # The line has room for all of them, so they run together.
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(engine.whole(asked.message(place), deadline))
                    for place in range(len(asked.prompts))
                ]
            await self._take(draft, [task.result() for task in tasks], Held(self.guards))
            return
        held = Held(self.guards)
        async with aclosing(engine.ask(asked.message(0), deadline)) as pieces:
            async for piece in pieces:
                if "done" in piece:
                    await self._take(draft, [piece], held, streamed=asked.stream and asked.sampling.n == 1)
                    return
                draft.taken += len(piece["text"])
                out = await self._let_out(draft, held, piece["text"], ends=False)
                if held.stopped is not None:
                    draft.answers = (Answer(draft.text, "content_filter"),)
                    return
                if out and asked.choice == "none":
                    draft.first = draft.first or time.perf_counter()
                    yield Text(out)

    async def _take(
        self, draft: Draft, pieces: Sequence[dict[str, Any]], held: Held, *, streamed: bool = False
    ) -> None:
        """Notes whole answers: their texts as rails let them out, calls of tools, counts."""
        asked = draft.asked
        draft.prompt_tokens = sum(piece["done"][0]["prompt_tokens"] for piece in pieces)
        answers = []
        for done in (done for piece in pieces for done in piece["done"]):
            draft.completion_tokens += done["tokens"]
            if streamed and asked.choice == "none":
                text = draft.text + await self._let_out(draft, held, done["text"][draft.taken :], ends=True)
            else:
                held = Held(self.guards)
                text = await self._let_out(draft, held, done["text"], ends=True)
            calls: Sequence[dict[str, Any]] = done["tool_calls"]
            if asked.choice != "none" and not calls and held.stopped is None:
                text, calls = tools.calls_in(text, asked.tools, asked.choice)
            reason = "content_filter" if held.stopped else "tool_calls" if calls else done["finish_reason"]
            told = done.get("logprobs")
            answers.append(
                Answer(
                    text,
                    FINISH.get(reason, reason),
                    tuple(calls),
                    None if told is None else tuple(told),
                    done["seed"],
                )
            )
        draft.answers = tuple(answers)

    # ---- the cache

    async def _cached(self, draft: Draft) -> Exchange | None:
        """An earlier answer to the same request, where one may be given again: of the same tenant and version."""
        asked, key = draft.asked, draft.caller.key
        if (
            not self.settings.cache
            or asked.sampling.temperature != 0.0
            or not key.keeps_content
            or asked.logprobs is not None
        ):
            return None
        engine = self.versions.pick(asked.model, draft.caller.user_id)
        same = replace(asked.sampling, seed=None)
        what = [
            key.name,
            engine.name,
            asked.kind,
            asked.prompts,
            vars(same),
            asked.tools,
            asked.choice,
            [each.name for each in self.guards],
        ]
        draft.cache_key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        found = await asyncio.to_thread(self.store.cached, draft.cache_key)
        self.metrics.add("plumbline_cache_total", hit="no" if found is None else "yes")
        return found

    def _count(self, draft: Draft, status: Status) -> None:
        metrics = self.metrics
        metrics.add("plumbline_requests_total", kind=draft.asked.kind, version=draft.version, status=status)
        metrics.add("plumbline_tokens_total", draft.prompt_tokens, kind="prompt")
        metrics.add("plumbline_tokens_total", draft.completion_tokens, kind="completion")
        for verdict in draft.verdicts:
            metrics.add("plumbline_rails_total", rail=verdict.guard, side=verdict.side, outcome=verdict.outcome)
        if status == "answered":
            metrics.observe("plumbline_answer_seconds", time.perf_counter() - draft.begun)
            if draft.first is not None:
                metrics.observe("plumbline_first_piece_seconds", draft.first - draft.begun)


def said(value: object) -> bool:
    """Whether a setting says anything; a temperature or a seed of 0 does."""
    return value is not None and value is not False and value != () and value != []


def wire(prompt: Prompt) -> dict[str, Any]:
    """A prompt as it travels."""
    if isinstance(prompt, Conversation):
        return {"messages": [dict(message) for message in prompt.messages]}
    assert isinstance(prompt, Raw), prompt
    return {"text": str(prompt)}


def fitted(asked: Asked, known: dict[str, Any]) -> Asked:
    """The request as this engine can be asked it: with tools the way that its model knows them."""
    if asked.logprobs is not None and not known["logprobs"]:
        raise ApiError(400, f"`logprobs` are not told by {known['name']!r}: leave them out.", param="logprobs")
    if asked.choice == "none":
        return asked
    if not known["local"]:
        if asked.choice != "auto":
            raise ApiError(400, f"`tool_choice` must be auto or none with {known['name']!r}.", param="tool_choice")
        return replace(asked, prompts=tuple({**prompt, "tools": asked.tools} for prompt in asked.prompts))
    schema = tools.schema_of(asked.tools, asked.choice)
    (prompt,) = asked.prompts
    if known["tools"]:
        prompt = {**prompt, "tools": asked.tools}
    else:
        prompt = {**prompt, "messages": tools.told_of(prompt["messages"], asked.tools)}
    sampling = asked.sampling if schema is None else replace(asked.sampling, schema=schema)
    return replace(asked, prompts=(prompt,), sampling=sampling)


def refusal_of(error: Exception, settings: Settings) -> Exception:
    """What the client is told of an error; one that is our mistake stays what it is."""
    if isinstance(error, ExceptionGroup):
        return refusal_of(error.exceptions[0], settings)
    if isinstance(error, Refusal):
        return error
    if isinstance(error, TooLong):
        return ApiError(400, f"{error}.", param="messages", code="context_length_exceeded")
    if isinstance(error, EndpointError):
        return ApiError(429 if error.status == 429 else 502, f"{error}.", code="upstream_error")
    if isinstance(error, UserError):
        return ApiError(400, f"{error}.")
    if isinstance(error, TimeoutError):
        said = f"The answer took longer than {settings.limit:g} s: ask for fewer tokens."
        return ApiError(504, said, code="timeout")
    if isinstance(error, EngineCrashed):
        return ApiError(
            503, "The model's process died in the middle of the answer. Try again.", code="engine_crashed", wait=1
        )
    return error
