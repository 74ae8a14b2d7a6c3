"""What a visitor reads when something goes wrong: JSON for a script, a page for a person, never a traceback.

Both carry the id of the request, which stands in the server's log beside the traceback.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from plumbline.errors import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("plumbline.web")

TITLES = {
    400: "This does not work",
    401: "Please sign in",
    403: "Not for you",
    404: "Nothing here",
    405: "Not possible here",
    409: "Something else came first",
    410: "This is over",
    413: "Too large",
    422: "This does not work",
    429: "Too many at once",
    500: "Our mistake",
}
SENTENCES = {
    404: "There is nothing at this address: go back to the first page.",
    405: "This address takes no such request.",
}


class Refusal(Exception):
    """A request that is answered with `status` and one sentence: what is wrong and what to do."""

    def __init__(self, status: int, sentence: str, *, wait: int | None = None) -> None:
        self.status = status
        self.sentence = sentence
        self.wait = wait
        """Seconds after which trying again makes sense."""
        super().__init__(sentence)


def request_id(request: Request) -> str:
    return str(request.scope.get("plumbline.request_id", ""))


def refuse(
    request: Request, status: int, sentence: str, *, wait: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer to a request that is not granted: for a browser a page, except where only programs ask."""
    headers = {**(headers or {}), **({} if wait is None else {"Retry-After": str(wait)})}
    told = request.app.state.refusals(request, status, sentence)
    if told is None and "text/html" in request.headers.get("accept", ""):
        title = TITLES.get(status, TITLES[400])
        response: Response = request.app.state.pages.render(
            request,
            "refusal.html",
            status=status,
            code=status,
            heading=title,
            sentence=sentence,
            request_id=request_id(request),
        )
        response.headers.update(headers)
        return response
    plain = {"error": sentence, "request_id": request_id(request)}
    return JSONResponse(plain if told is None else told, status_code=status, headers=headers)


def told(fault: object) -> str:
    """One fault of a request's body, as FastAPI describes it, in a sentence."""
    assert isinstance(fault, dict), fault
    if fault["type"] == "json_invalid":  # its place is a number of characters, not a field
        return f"It is not JSON from character {fault['loc'][-1]} on"
    where = ".".join(str(part) for part in fault["loc"][1:])
    return f"`{where}`: {fault['msg']}" if where else str(fault["msg"])


def add_refusals(app: FastAPI) -> None:
    """Answers for everything that a route may raise on purpose."""

    @app.exception_handler(Refusal)
    def refusal(request: Request, error: Refusal) -> Response:
        return refuse(request, error.status, error.sentence, wait=error.wait)

    @app.exception_handler(UserError)
    def user_error(request: Request, error: UserError) -> Response:
        return refuse(request, 400, str(error))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        return refuse(request, 422, "The request is not understood. " + "; ".join(map(told, error.errors())))

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        return refuse(
            request, error.status_code, SENTENCES.get(error.status_code, str(error.detail)), headers=error.headers
        )


class Unexpected:
    """Turns a bug into a short answer and a line in the log that finds it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception:
            request = Request(scope)
            log.exception("request %s, %s %s", request_id(request), request.method, request.url.path)
            if begun:  # half an answer is out: only the connection's end can say that it is not whole
                raise
            sentence = "Something broke on our side. Try again; if it stays, give the person who runs this the number."
            await refuse(request, 500, sentence)(scope, receive, send)
