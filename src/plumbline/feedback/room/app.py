"""The ranking room, put together."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI
from starlette.responses import RedirectResponse

from plumbline.feedback.room import desk, labeler
from plumbline.web.auth import LASTS, Visitor, needs
from plumbline.web.site import create_site

if TYPE_CHECKING:
    from plumbline.feedback.queue import Queue
    from plumbline.feedback.store import Store

FOLDER = Path(__file__).parent
"""Where the room's templates and scripts are."""
ROLES = ("labeler", "manager")
FIRST_PAGES = {"labeler": "/label", "manager": "/manager"}


class StoredSessions:
    """Links and sessions as the feedback store keeps them."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def open(self, link: str) -> str | None:
        labeler = self.store.redeem(link)
        return self.store.open_session(labeler.labeler_id, timedelta(seconds=LASTS)) if labeler else None

    def find(self, session: str) -> Visitor | None:
        labeler = self.store.session(session)
        return Visitor(labeler.labeler_id, labeler.name, labeler.role, session) if labeler else None

    def end(self, session: str) -> None:
        self.store.end_session(session)


def add_room(app: FastAPI, store: Store, queue: Queue, beside: tuple[tuple[str, str], ...] = ()) -> None:
    """The room's pages in a site; `beside` are addresses and names of other places there, for its header."""
    app.state.store = store
    app.state.queue = queue
    app.state.beside = beside
    app.include_router(labeler.router)
    app.include_router(desk.router)


def create_app(store: Store, queue: Queue, **limits: Any) -> FastAPI:
    """The application over an open store and its queue; `limits` are those of `create_site`."""
    app = create_site(StoredSessions(store), roles=ROLES, folders=[FOLDER], **limits)
    add_room(app, store, queue)

    @app.get("/")
    def first_page(visitor: Annotated[Visitor, Depends(needs(*ROLES))]) -> RedirectResponse:
        return RedirectResponse(FIRST_PAGES[visitor.role], status_code=303)

    return app
