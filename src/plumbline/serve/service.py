"""The way of a request: key, rails, cache, place, engine, rails, row; and only then the end of the answer.

`Service.answer` gives what happens in order: that a version has begun, pieces of text, and last the whole, which is on
the disk by then. `Service.embed` gives vectors on the same way. However a request ends, it leaves one row, unless it
was turned away for coming too often.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from secrets import token_hex
from typing import Any

from plumbline.errors import EndpointError, EngineCrashed, UserError
from plumbline.feedback.database import DatabaseFailed
from plumbline.feedback.store import Exchange, Store
from plumbline.guard import Guard, Side, Verdict
from plumbline.guard.guarded import Blocked, Held, checked_prompt, checked_value
from plumbline.models import Conversation, Prompt, Raw
from plumbline.models.scripted import count_tokens
from plumbline.serve import tools
from plumbline.serve.alike import Alike, before_question, question_of
from plumbline.serve.draft import Draft, Happened, Text
from plumbline.serve.engine import Engine, TooLong
from plumbline.serve.journal import Journal
from plumbline.serve.keys import Caller, Keys
from plumbline.serve.line import Line
from plumbline.serve.metrics import Metrics
from plumbline.serve.replies import Answer, Answered
from plumbline.serve.requests import ApiError, Asked, characters
from plumbline.serve.routing import routed
from plumbline.serve.settings import Settings
from plumbline.serve.shared_cache import SharedCache
from plumbline.serve.traces import Traces
from plumbline.serve.versions import Versions
from plumbline.serve.worker import as_prompt
from plumbline.web.errors import Refusal

PREFIXES = {"chat": "chatcmpl", "completion": "cmpl", "embedding": "embd"}
FINISH = {"cancelled": "content_filter"}
"""Our finish reasons that OpenAI calls otherwise."""
BRIEF = 4000
"""Characters that rails read within a millisecond or two, which a thread would not make faster."""
TEXTS = 64
"""Texts that are embedded at a time: the vectors of all at once would be a message too long to send."""


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
    alike: Alike | None = None
    """Questions that may get each other's answer, where that was asked for."""
    traces: Traces | None = None
    """Who is told of requests as spans."""
    shared: SharedCache | None = None
    """Where several servers keep their answers, if they share them."""
    rail_seconds: float = 2.0
    """Longest that rails may take for one text; after that they are unavailable."""

    async def answer(self, asked: Asked, caller: Caller, size: int = 0) -> AsyncGenerator[Happened, None]:
        """What happens to a request; the last is an `Answered`, and its row is on the disk."""
        draft = self._draft(asked, caller)
        async with self._recorded(draft), aclosing(self._through(draft, size)) as steps:
            async for happened in steps:
                if isinstance(happened, Text):
                    draft.text += happened.text
                yield happened

    async def embed(self, asked: Asked, caller: Caller, size: int = 0) -> tuple[Draft, list[list[float]]]:
        """A vector for each prompt, and the request's row as it is on the disk."""
        draft = self._draft(asked, caller)
        async with self._recorded(draft):
            with draft.step("guard"):
                draft.asked = asked = await self._let_in(draft)
            engine = await self.versions.embedder(asked.model)
            draft.version = engine.name
            texts, vectors = [prompt["text"] for prompt in asked.prompts], list[list[float]]()
            async with self._place(draft, 1, size):
                deadline = asyncio.get_running_loop().time() + self.settings.limit
                for begin in range(0, len(texts), TEXTS):
                    piece = await engine.whole({"do": "embed", "texts": texts[begin : begin + TEXTS]}, deadline)
                    vectors += piece["done"]
            if asked.dimensions not in (None, len(vectors[0])):
                raise ApiError(400, f"`dimensions` must be {len(vectors[0])} or left out.", param="dimensions")
            draft.prompt_tokens = sum(map(count_tokens, texts))
            await self._store(draft)
        return draft, vectors

    async def look(self, asked: Asked, caller: Caller) -> dict[str, Any]:
        """What may come next after a prompt. No answer is given, so no row is left; the rest of the way is the same."""
        draft = self._draft(asked, caller)
        try:
            with self.keys.admitted(caller.key):
                asked = await self._let_in(draft)
                async with self.line.place(caller.tenant):
                    engine = self.versions.primary
                    with engine.in_use():
                        deadline = asyncio.get_running_loop().time() + self.settings.limit
                        message = fitted(asked, engine.known).message(0)
                        return await engine.whole({**message, "do": "look"}, deadline)
        except Exception as error:
            raise refusal_of(error, self.settings) from error

    def _draft(self, asked: Asked, caller: Caller) -> Draft:
        return Draft(asked, caller, self.store.clock(), f"{PREFIXES[asked.kind]}-{token_hex(12)}")

    @asynccontextmanager
    async def _recorded(self, draft: Draft) -> AsyncIterator[None]:
        """A request from its first step to its row, however it ends."""
        turned_away = False
        try:
            with self.keys.admitted(draft.caller.key):
                yield
        except Blocked as error:
            draft.status, draft.fault = "blocked", str(error)
            draft.verdicts.append(error.verdict)
            draft.stopped = error.verdict.side == "input"
            raise refusal_of(error, self.settings) from None
        except Exception as error:
            draft.status, draft.fault, draft.handed = "failed", f"{type(error).__name__}: {error}", False
            # Who comes too often is counted and leaves no row: a flood must not fill the disk.
            turned_away = isinstance(error, Refusal) and error.status == 429
            told = refusal_of(error, self.settings)
            if told is error:
                raise
            raise told from error
        finally:
            if draft.status != "answered":
                self._charge(draft)
                if not turned_away and not draft.handed:
                    self.journal.note(draft.row(draft.status))
            self._count(draft)
            if self.traces is not None:
                self.traces.tell(draft)

    async def _store(self, draft: Draft) -> None:
        """Puts the row of an answer on the disk; from then on it is one."""
        draft.handed = True
        draft.price(self.settings.prices)
        row = draft.row("answered")
        with draft.step("store"):
            await self.journal.write(row)
        draft.status = "answered"
        self._charge(draft)
        if self.shared is not None and row.cache_key is not None:
            await self.shared.put(row)

    def _charge(self, draft: Draft) -> None:
        draft.price(self.settings.prices)
        self.keys.charge(draft.caller.key, 0 if draft.cached else draft.prompt_tokens + draft.completion_tokens)

    async def _through(self, draft: Draft, size: int) -> AsyncGenerator[Happened, None]:
        with draft.step("guard"):
            draft.asked = asked = await self._let_in(draft)
        route = self.versions.route_of(asked.model)
        draft.alias = "" if route is None else route.name
        found = await self._cached(draft)
        if found is None:
            async with self._place(draft, asked.rows, size):
                engine = self.versions.pick(asked.model, draft.caller.user_id)
                with engine.in_use():
                    draft.version = engine.name
                    if draft.cache_key is not None:  # another version may have been promoted while this one waited
                        self._name_keys(draft, engine)
                    async with aclosing(routed(self, draft, engine, route)) as steps:
                        async for happened in steps:
                            yield happened
        else:
            draft.version, draft.cached = found.version, found.exchange_id
            yield draft.announced()
            draft.answers = answers_of(found)
            draft.prompt_tokens, draft.completion_tokens = found.prompt_tokens, found.completion_tokens
        await self._store(draft)
        yield Answered(
            draft.exchange_id,
            asked.kind,
            draft.shown,
            draft.created,
            draft.answers,
            draft.prompt_tokens,
            draft.completion_tokens,
            cached=draft.cached is not None,
            route=draft.route.get("to", ""),
        )

    @asynccontextmanager
    async def _place(self, draft: Draft, rows: int, size: int) -> AsyncIterator[None]:
        """A place in the engine, when it is this request's turn."""
        async with AsyncExitStack() as place:
            with draft.step("queue"):
                await place.enter_async_context(self.line.place(draft.caller.tenant, rows, size))
            with draft.step("engine"):
                yield

    # ---- rails

    async def _let_in(self, draft: Draft) -> Asked:
        """The request as rails let it in."""
        asked = draft.asked
        if characters(asked) > self.settings.longest_prompt:
            raise ApiError(413, f"The prompt is longer than {self.settings.longest_prompt:,} characters: shorten it.")
        if not self.guards:
            return asked
        prompts, tools = [], asked.tools
        for prompt in asked.prompts:
            whole = {**prompt, "tools": asked.tools} if asked.tools else prompt
            passed, verdicts = await self._rails(
                "input", len(str(whole)), checked_prompt, self.guards, as_prompt(whole)
            )
            draft.verdicts += verdicts
            prompts.append({**prompt, **wire(passed)})
            tools = tuple(passed.tools) if isinstance(passed, Conversation) else tools
        schema, verdicts = await self._let_value(asked.sampling.schema, "input")
        draft.verdicts += verdicts
        return replace(asked, prompts=tuple(prompts), tools=tools, sampling=replace(asked.sampling, schema=schema))

    async def _rails(self, side: Side, size: int, work: Any, *given: Any) -> Any:
        """The work of rails on a text of that size, a long one in a thread; what takes too long is unavailable."""
        if size <= BRIEF:
            return work(*given)
        try:
            async with asyncio.timeout(self.rail_seconds):
                return await asyncio.to_thread(work, *given)
        except TimeoutError:
            raise Blocked(Verdict("all", side, "unavailable", "they took too long")) from None

    async def _let_value(self, value: Any, side: Side) -> tuple[Any, tuple[Verdict, ...]]:
        """A value of JSON as rails let it pass."""
        passed: tuple[Any, tuple[Verdict, ...]]
        passed = await self._rails(side, len(str(value)), checked_value, self.guards, value, side)
        return passed

    async def _let_call(self, draft: Draft, held: Held, call: dict[str, Any]) -> dict[str, Any]:
        """A call of a tool as rails let it out; where they do not, the answer is stopped."""
        if not self.guards or held.stopped is not None:
            return call
        function = call["function"]
        try:
            given: Any = json.loads(function["arguments"])
        except ValueError:
            given = function["arguments"]
        try:
            given, verdicts = await self._let_value(given, "output")
        except Blocked as error:
            if error.verdict.outcome == "unavailable":
                raise
            held.stopped, verdicts = error.verdict, (error.verdict,)
        draft.verdicts += verdicts
        written = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        return {**call, "function": {**function, "arguments": written}}

    async def _let_out(self, draft: Draft, held: Held, text: str, *, ends: bool) -> str:
        """More of an answer, as far as rails let it out."""
        if not self.guards:
            return text
        size = len(draft.text) + len(text)
        with draft.step("guard output"):
            out: str = await self._rails("output", size, lambda: held.add(text) + (held.end() if ends else ""))
        if held.stopped is not None and held.stopped.outcome == "unavailable":
            raise Blocked(held.stopped)
        if ends or held.stopped is not None:
            draft.verdicts += held.verdicts
        return out

    # ---- the engine

    async def ask(self, engine: Engine, draft: Draft) -> AsyncGenerator[Text, None]:
        """Asks for all answers; the pieces of a single stream are given as they come, and what is whole is noted."""
        asked = draft.asked = fitted(draft.asked, engine.known)
        # What is left before its end is charged by what is known of it: words that were read, pieces that were written.
        draft.prompt_tokens = sum(words(prompt) for prompt in asked.prompts)
        deadline = asyncio.get_running_loop().time() + self.settings.limit
        if len(asked.prompts) > 1:
            await self.take(draft, await self.wholes(engine, draft.asked, deadline), Held(self.guards))
            return
        held = Held(self.guards)
        async with aclosing(engine.ask(asked.message(0), deadline)) as pieces:
            async for piece in pieces:
                if "done" in piece:
                    await self.take(draft, [piece], held, streamed=asked.stream and asked.sampling.n == 1)
                    return
                draft.taken += len(piece["text"])
                draft.completion_tokens += 1
                out = await self._let_out(draft, held, piece["text"], ends=False)
                if held.stopped is not None:
                    draft.answers = (Answer(draft.text, "content_filter"),)
                    return
                if out and asked.choice == "none":
                    draft.first = draft.first or time.perf_counter()
                    yield Text(out)

    async def wholes(self, engine: Engine, asked: Asked, deadline: float) -> list[dict[str, Any]]:
        """The whole answers to each prompt. The line has room for all of them, so they run together."""
        asked = replace(fitted(asked, engine.known), stream=False)
        try:
            async with asyncio.TaskGroup() as group:
                places = range(len(asked.prompts))
                tasks = [group.create_task(engine.whole(asked.message(place), deadline)) for place in places]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    async def take(self, draft: Draft, pieces: Sequence[dict[str, Any]], held: Held, *, streamed: bool = False) -> None:
        """Notes whole answers: their texts as rails let them out, calls of tools, counts."""
        asked = draft.asked
        draft.prompt_tokens = sum(piece["done"][0]["prompt_tokens"] for piece in pieces)
        draft.completion_tokens = sum(done["tokens"] for piece in pieces for done in piece["done"])
        answers = []
        for done in (done for piece in pieces for done in piece["done"]):
            if streamed and asked.choice == "none":
                text = draft.text + await self._let_out(draft, held, done["text"][draft.taken :], ends=True)
            else:
                held = Held(self.guards)
                text = await self._let_out(draft, held, done["text"], ends=True)
            # What rails changed or stopped must not be told token by token.
            told = done.get("logprobs") if text == done["text"] else None
            calls: Sequence[dict[str, Any]] = [await self._let_call(draft, held, call) for call in done["tool_calls"]]
            calls = () if held.stopped is not None else calls
            if asked.choice != "none" and not calls and held.stopped is None:
                text, calls = tools.calls_in(text, asked.tools, asked.choice)
            reason = "content_filter" if held.stopped else "tool_calls" if calls else done["finish_reason"]
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
        self._name_keys(draft, self.versions.pick(asked.model, draft.caller.user_id))
        with draft.step("cache"):
            found, hit = await self._kept(str(draft.cache_key)), "yes"
            if found is None and self.alike is not None and draft.alike_key is not None:
                found, hit = await self.alike.find(draft), "alike"
        said = [*draft.verdicts]
        if found is not None and not await self._passes_now(draft, found):
            found, draft.verdicts = None, said
        self.metrics.add("plumbline_cache_total", hit="no" if found is None else hit)
        return found

    async def _kept(self, cache_key: str) -> Exchange | None:
        """The latest answer to the same request."""
        found = None if self.shared is None else await self.shared.get(cache_key)
        return found or await asyncio.to_thread(self.store.cached, cache_key)

    def _name_keys(self, draft: Draft, engine: Engine) -> None:
        """Notes what the same request would have, and one that differs in its last question alone."""
        draft.cache_key = self._cache_key(draft, engine, draft.asked.prompts)
        if self.alike is not None and question_of(draft.asked) is not None:
            draft.alike_key = self._cache_key(draft, engine, before_question(draft.asked))

    def _cache_key(self, draft: Draft, engine: Engine, prompts: Sequence[dict[str, Any]]) -> str:
        """What requests of the same tenant to the same version have, with these prompts."""
        asked = draft.asked
        same = replace(asked.sampling, seed=None)
        rails = [each.name for each in self.guards]
        what = [
            draft.caller.tenant,
            engine.name,
            asked.kind,
            prompts,
            vars(same),
            asked.tools,
            asked.choice,
            rails,
            str(self.versions.route_of(asked.model)),
        ]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    async def _passes_now(self, draft: Draft, found: Exchange) -> bool:
        """Whether rails as they are set now let an earlier answer out as it is; they may be stricter than they were."""
        for answer in found.answers or []:
            if await self._let_out(draft, Held(self.guards), answer["text"], ends=True) != answer["text"]:
                return False
            for call in answer["tool_calls"]:
                if await self._let_call(draft, held := Held(self.guards), call) != call or held.stopped is not None:
                    return False
        return True

    def _count(self, draft: Draft) -> None:
        metrics, status = self.metrics, draft.status
        metrics.add("plumbline_requests_total", kind=draft.asked.kind, version=draft.version, status=status)
        metrics.add("plumbline_tokens_total", draft.prompt_tokens, kind="prompt")
        metrics.add("plumbline_tokens_total", draft.completion_tokens, kind="completion")
        for verdict in draft.verdicts:
            metrics.add("plumbline_rails_total", rail=verdict.guard, side=verdict.side, outcome=verdict.outcome)
        metrics.add("plumbline_cost_total", draft.cost)
        if draft.route:
            metrics.add("plumbline_routes_total", to=draft.route["to"])
        if status == "answered" and draft.asked.kind != "embedding":
            metrics.observe("plumbline_answer_seconds", time.perf_counter() - draft.begun)
            if draft.first is not None:
                metrics.observe("plumbline_first_piece_seconds", draft.first - draft.begun)


def words(prompt: dict[str, Any]) -> int:
    """About as many tokens as a prompt has, before an engine has said how many."""
    if "messages" in prompt:
        return sum(count_tokens(message["content"] or "") for message in prompt["messages"])
    return count_tokens(prompt["text"]) if "text" in prompt else len(prompt["tokens"])


def answers_of(found: Exchange) -> tuple[Answer, ...]:
    """The answers of an exchange that is given again."""
    reasons = (found.settings or {}).get("finish_reasons", [])
    return tuple(
        Answer(each["text"], reason, tuple(each["tool_calls"]))
        for each, reason in zip(found.answers or [], reasons, strict=True)
    )


def wire(prompt: Prompt) -> dict[str, Any]:
    """A prompt as it travels."""
    if isinstance(prompt, Conversation):
        return {"messages": [dict(message) for message in prompt.messages]}
    assert isinstance(prompt, Raw), prompt
    return {"text": str(prompt)}


def fitted(asked: Asked, known: dict[str, Any]) -> Asked:
    """The request as this engine can be asked it: with tools the way that its model knows them."""
    if asked.logprobs is not None and not known["logprobs"]:
        if asked.logprobs_needed:
            raise ApiError(400, f"`logprobs` are not told by {known['name']!r}: leave them out.", param="logprobs")
        asked = replace(asked, logprobs=None)
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
    if isinstance(error, Refusal):
        return error
    if isinstance(error, Blocked):
        unavailable = error.verdict.outcome == "unavailable"
        code = "rail_unavailable" if unavailable else "content_filter"
        return ApiError(503 if unavailable else 400, f"{error}.", code=code)
    if isinstance(error, TooLong):
        return ApiError(400, f"{error}.", param="messages", code="context_length_exceeded")
    if isinstance(error, DatabaseFailed):
        return ApiError(503, "The disk or the database fails: try again in a moment.", code="unavailable", wait=30)
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
