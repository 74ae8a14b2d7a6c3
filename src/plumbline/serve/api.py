"""The routes of the API: read, ask the service, write. Plain functions of a request, since each reads its own body."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from plumbline.serve import feedback, label, openapi, replies
from plumbline.serve.draft import Begun, Happened, Text
from plumbline.serve.keys import Caller
from plumbline.serve.metrics import KIND
from plumbline.serve.replies import Answered, Pieces
from plumbline.serve.requests import ApiError, Asked, B, Chat, Completions, Embeddings, read
from plumbline.serve.service import Service
from plumbline.web.errors import Refusal, request_id

log = logging.getLogger("plumbline.serve")
T = TypeVar("T")

SLOWEST_BODY = 20.0
"""Seconds in which a whole body must come."""
GONE = 499
"""The status, which nobody reads, of a request whose client went away."""


def add_api(app: FastAPI) -> None:
    """The routes below /v1, what describes them, and /metrics."""
    for path, route, method in (
        ("/metrics", metrics, "GET"),
        ("/openapi.json", document, "GET"),
        ("/v1/models/{name:path}", model, "GET"),
        ("/v1/models", models, "GET"),
        ("/v1/embeddings", embeddings, "POST"),
        ("/v1/feedback", said, "POST"),
        ("/v1/label/claim", claim, "POST"),
        ("/v1/label/rank", rank, "POST"),
        ("/v1/label/skip", skip, "POST"),
        ("/v1/completions", completions, "POST"),
        ("/v1/chat/completions", chat, "POST"),
    ):
        # Before the site's own, since a request looks at one route after the other.
        app.router.routes.insert(0, Route(path, route, methods=[method]))


async def chat(request: Request) -> Response:
    """An answer to a conversation."""
    return await respond(request, Chat)


async def completions(request: Request) -> Response:
    """A text that goes on."""
    return await respond(request, Completions)


async def respond(request: Request, kind: type[Chat] | type[Completions]) -> Response:
    service = service_of(request)
    caller = await service.keys.caller(request, "chat")
    body = await body_of(request)
    asked = read(kind, body).asked(service.settings.max_tokens)
    return await answer(request, asked, replace(caller, user=asked.user), len(body))


async def answer(request: Request, asked: Asked, caller: Caller, size: int) -> Response:
    """The reply to a request, whole or as a stream."""
    events = service_of(request).answer(asked, caller, size)
    try:
        if not asked.stream:
            answered: Answered = await while_there(request, last_of(events))
            return as_json(
                replies.whole(answered), exchange=answered.exchange_id, cached=answered.cached, route=answered.route
            )
        # Nothing is sent before there is something to send, so that a request that fails has the status of its fault.
        begun: Happened = await while_there(request, anext(events))
        assert isinstance(begun, Begun), begun
        first: Happened = await while_there(request, anext(events))
    except ClientDisconnect:
        return Response(status_code=GONE)
    return StreamingResponse(
        stream(request, asked, begun, first, events),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no", **headers_of(begun.exchange_id, begun.route)},
    )


async def stream(
    request: Request, asked: Asked, begun: Begun, first: Happened, events: AsyncGenerator[Happened, None]
) -> AsyncIterator[bytes]:
    """The events of a stream. The last ones, with the finish reasons, come when the row is on the disk."""
    pieces = Pieces(begun.exchange_id, asked.kind, begun.version, begun.created)
    shown = ""
    head = pieces.first()
    try:
        happened: Happened = first
        while True:
            if isinstance(happened, Answered):
                yield head + pieces.last(happened, [shown], usage=asked.usage)
                return
            assert isinstance(happened, Text), happened
            shown += happened.text
            yield head + pieces.text(0, happened.text)
            head = b""
            happened = await anext(events)
    except Refusal as error:
        yield replies.event(error_body(error))
    except Exception:
        log.exception("request %s, in the middle of a stream", request_id(request))
        yield replies.event(replies.error(500, "Something broke on our side in the middle of the answer."))
    finally:
        await events.aclose()


def error_body(error: Refusal) -> dict[str, Any]:
    return replies.error(
        error.status, error.sentence, param=getattr(error, "param", None), code=getattr(error, "code", None)
    )


async def last_of(events: AsyncGenerator[Happened, None]) -> Answered:
    steps = [happened async for happened in events]
    assert isinstance(steps[-1], Answered), steps
    return steps[-1]


async def while_there(request: Request, work: Awaitable[T]) -> T:
    """The work's result; where the client goes away before, the work is cancelled and it is `ClientDisconnect`."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(until_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def body_of(request: Request) -> bytes:
    """The whole body, if it comes in time."""
    try:
        async with asyncio.timeout(SLOWEST_BODY):
            return await request.body()
    except TimeoutError:
        said = f"The body did not come within {SLOWEST_BODY:g} s: send it at once."
        raise ApiError(408, said, code="timeout") from None


# ---- the rest


async def embeddings(request: Request) -> Response:
    """A vector for each text."""
    service = service_of(request)
    caller = await service.keys.caller(request, "chat")
    body = await body_of(request)
    given = read(Embeddings, body)
    asked = given.asked()
    try:
        draft, vectors = await while_there(request, service.embed(asked, replace(caller, user=asked.user), len(body)))
    except ClientDisconnect:
        return Response(status_code=GONE)
    found = replies.embedding_list(vectors, draft.version, given.encoding_format, draft.prompt_tokens)
    return as_json(found, exchange=draft.exchange_id)


async def said(request: Request) -> Response:
    """What somebody says of an answer."""
    service = service_of(request)
    caller = await service.keys.caller(request, "feedback")
    given = read(feedback.Said, await body_of(request))
    return as_json(await feedback.take(service, caller, given))


async def claim(request: Request) -> Response:
    """A set to rank."""
    return await labelled(request, label.Claiming, label.claim)


async def rank(request: Request) -> Response:
    """What somebody says of it."""
    return await labelled(request, label.Ranked, label.rank)


async def skip(request: Request) -> Response:
    """That somebody does not rank it."""
    return await labelled(request, label.Skipped, label.skip)


async def labelled(
    request: Request, kind: type[B], act: Callable[[Service, Caller, B], Awaitable[dict[str, Any]]]
) -> Response:
    service = service_of(request)
    caller = await service.keys.caller(request, "label")
    return as_json(await act(service, caller, read(kind, await body_of(request))))


async def models(request: Request) -> Response:
    """What is served."""
    service = service_of(request)
    await service.keys.caller(request, "chat")
    return as_json({"object": "list", "data": served(service)})


async def model(request: Request) -> Response:
    """One of them."""
    service = service_of(request)
    await service.keys.caller(request, "chat")
    name = request.path_params["name"]
    for each in served(service):
        if each["id"] == name:
            return as_json(each)
    raise ApiError(404, f"The model {name!r} is not served here.", param="model", code="model_not_found")


def served(service: Service) -> list[dict[str, Any]]:
    names = service.versions.names()
    return [{"id": name, "object": "model", "created": 0, "owned_by": "plumbline"} for name in names]


async def document(request: Request) -> Response:
    """What can be asked here, and what comes back."""
    return as_json(openapi.document(keys=service_of(request).keys.needed))


async def metrics(request: Request) -> Response:
    """Counts for Prometheus."""
    service = service_of(request)
    await service.keys.caller(request, "manage")
    return Response(service.metrics.text(), media_type=KIND)


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def as_json(value: dict[str, Any], *, exchange: str = "", cached: bool = False, route: str = "") -> Response:
    headers = headers_of(exchange, route) | ({"X-Cache": "hit"} if cached else {})
    content = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Response(content, media_type="application/json", headers=headers)


def headers_of(exchange: str, route: str) -> dict[str, str]:
    """Which exchange it is, and where it was routed to."""
    return {name: value for name, value in (("X-Exchange-Id", exchange), ("X-Route", route)) if value}
