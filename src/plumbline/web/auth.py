"""Who is there: a one-time link opens a session, a cookie carries it, `needs` guards a route.

A link is redeemed by a click on its page, not by opening it, since mail programs and chats open links to preview them.
A guarded route is guarded in full: session, role, and for a write its origin, its token and how often it comes.

    Ranker = Annotated[Visitor, Depends(needs("labeler", "manager"))]

    @router.get("/label")
    def room(request: Request, visitor: Ranker) -> Response: ...
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from plumbline.web.csrf import SAFE, check_origin, check_token
from plumbline.web.errors import Refusal
from plumbline.web.limits import Limit, address

LASTS = 30 * 24 * 3600
"""Seconds that a browser keeps a session's cookie; the sessions themselves may end earlier."""


class Visitor(NamedTuple):
    """Who is signed in."""

    id: str
    name: str
    role: str
    session: str
    """The secret in the cookie."""


class Sessions(Protocol):
    """Where links and sessions are kept. Each call takes and gives secrets; what is stored is theirs to hash."""

    def open(self, link: str) -> str | None:
        """The session that a one-time link opens; None where the link is unknown, used or too old."""
        ...

    def find(self, session: str) -> Visitor | None:
        """Who has that session; None where there is none, or no longer."""
        ...

    def end(self, session: str) -> None:
        """Ends the session, should there be one."""
        ...


def cookie_name(request: Request) -> str:
    """With the port, since cookies do not know ports and a laptop may serve two projects."""
    return f"plumbline-{request.url.port or request.url.scheme}"


async def visit(request: Request) -> Visitor | None:
    """Who is there; pages then know too."""
    session = request.cookies.get(cookie_name(request))
    sessions: Sessions = request.app.state.sessions
    visitor = await run_in_threadpool(sessions.find, session) if session else None
    request.state.visitor = visitor
    return visitor


def needs(*roles: str) -> Callable[[Request], Awaitable[Visitor]]:
    """A dependency that lets in who has one of the roles, and refuses a write that is forged or comes too often."""

    async def guard(request: Request) -> Visitor:
        visitor = await visit(request)
        if visitor is None:
            raise Refusal(401, "You are not signed in here: open your sign-in link, or ask for a new one.")
        if visitor.role not in roles:
            raise Refusal(403, f"This page is for a {' or a '.join(roles)}, and you are signed in as a {visitor.role}.")
        if request.method not in SAFE:
            check_origin(request)
            await check_token(request, visitor.session)
            writes: Limit = request.app.state.writes
            writes.take(visitor.id)
        return visitor

    return guard


def add_sign_in(app: FastAPI, roles: tuple[str, ...]) -> None:
    """The pages that begin and end a session. `roles` are all there are."""
    router = APIRouter()
    failures: Limit = app.state.failures
    sessions: Sessions = app.state.sessions
    anybody = Depends(needs(*roles))

    @router.get("/sign-in/{link}")
    async def door(request: Request, link: str) -> Response:
        return app.state.pages.render(request, "sign-in.html", visitor_now=await visit(request))  # type: ignore[no-any-return]

    @router.post("/sign-in/{link}")
    def enter(request: Request, link: str) -> Response:
        check_origin(request)
        failures.check(address(request))
        session = sessions.open(link)
        if session is None:
            failures.take(address(request))
            raise Refusal(403, "This link is unknown, used already or too old: ask for a new one.")
        response = RedirectResponse("/", status_code=303)
        secure = request.url.scheme == "https"
        response.set_cookie(
            cookie_name(request), session, max_age=LASTS, httponly=True, samesite="lax", secure=secure, path="/"
        )
        return response

    @router.post("/sign-out")
    def leave(request: Request, visitor: Visitor = anybody) -> Response:
        sessions.end(visitor.session)
        request.state.visitor = None
        response: Response = app.state.pages.render(request, "signed-out.html")
        response.delete_cookie(cookie_name(request), path="/")
        return response

    app.include_router(router)
