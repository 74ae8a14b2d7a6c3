"""A site with a guarded page, a guarded write and a bug, and clients that are signed in or not."""

from __future__ import annotations

from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from pydantic import BaseModel
from starlette.testclient import TestClient

from plumbline.web.auth import Visitor, needs
from plumbline.web.limits import Limit
from plumbline.web.site import create_site
from sites import LINK, Clock, Sessions


class Said(BaseModel):
    text: str


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def site(clock: Clock) -> FastAPI:
    app = create_site(
        Sessions(),
        roles=("labeler", "manager"),
        most_bytes=10_000,
        failures=Limit(3, 0.1, "Too many links.", clock),
        writes=Limit(5, 1, "Too many writes.", clock),
    )

    @app.get("/")
    def home(visitor: Annotated[Visitor, Depends(needs("labeler", "manager"))]) -> dict[str, str]:
        return {"name": visitor.name}

    @app.post("/say")
    def say(said: Said, visitor: Annotated[Visitor, Depends(needs("labeler"))]) -> dict[str, str]:
        return {"said": said.text}

    @app.get("/bug")
    def bug() -> None:
        raise ValueError("a secret detail")

    return app


@pytest.fixture
def client(site: FastAPI) -> TestClient:
    return TestClient(site, base_url="http://127.0.0.1:7586", raise_server_exceptions=False)


@pytest.fixture
def ann(client: TestClient) -> TestClient:
    """A client that is signed in as a labeler."""
    assert client.post(f"/sign-in/{LINK}").status_code == 200
    return client


@pytest.fixture
def page() -> dict[str, str]:
    """What a browser says that goes to a page."""
    return {"Accept": "text/html,application/xhtml+xml"}
