"""A web application with everything that all of ours have; an area adds its own routes, templates and files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from plumbline.web.assets import PREFIX, Assets
from plumbline.web.auth import Sessions, add_sign_in
from plumbline.web.errors import Unexpected, add_refusals
from plumbline.web.limits import MOST_BYTES, BodyLimit, Limit
from plumbline.web.pages import Pages
from plumbline.web.policy import Policy
from plumbline.web.telemetry import Measured, Telemetry

HERE = Path(__file__).parent


def create_site(
    sessions: Sessions,
    *,
    roles: tuple[str, ...],
    folders: Sequence[Path] = (),
    most_bytes: int = MOST_BYTES,
    failures: Limit | None = None,
    writes: Limit | None = None,
    refusals: Callable[[Request, int, str], dict[str, Any] | None] = lambda request, status, sentence: None,
    health: Callable[[], dict[str, Any]] = dict,
) -> FastAPI:
    """An application that signs people in and serves assets and `/health`; `folders` hold more templates and assets.

    Routes guard themselves by `needs(...)` from `auth`, and give pages by `app.state.pages.render(request, NAME, ...)`.
    `refusals` says a refusal in another shape of JSON where it gives one, `health` adds to what `/health` says.
    """
    app = FastAPI(title="Plumbline", docs_url=None, redoc_url=None, openapi_url=None)
    assets = Assets([HERE / "static", *folders])
    telemetry = Telemetry()
    app.state.sessions = sessions
    app.state.telemetry = telemetry
    app.state.refusals = refusals
    app.state.pages = Pages([HERE / "templates", *folders], assets)
    app.state.failures = failures or Limit(10, 1 / 6, "Too many sign-in links that do not exist came from here.")
    app.state.writes = writes or Limit(200, 20, "That is more than anybody can type.")

    # The last one added is met first.
    app.add_middleware(BodyLimit, most=most_bytes)
    app.add_middleware(Unexpected)
    app.add_middleware(Policy)
    app.add_middleware(Measured, telemetry=telemetry)

    add_refusals(app)
    add_sign_in(app, roles)

    @app.get(PREFIX + "/{version}/{name}")
    def asset(version: str, name: str) -> Response:
        return assets.get(version, name)

    @app.get("/health")
    def how_it_is() -> dict[str, Any]:
        return {**telemetry.report(), **health()}

    return app
