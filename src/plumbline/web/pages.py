"""Pages made on the server, all in one frame: `page.html`, `plumbline.css`, `plumbline.js`.

A template may use `asset(name)`, the address of a file; `visitor`, who is signed in, or None; `csrf`, the token for a
form's hidden field; `theme`, "light", "dark" or "" for what the system prefers; `path`, the page's own address.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

from plumbline.web.assets import Assets
from plumbline.web.csrf import token_of

if TYPE_CHECKING:
    from starlette.requests import Request

THEMES = ("light", "dark")


class Pages:
    """The templates of some folders."""

    def __init__(self, folders: Sequence[Path], assets: Assets) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(folders),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals["asset"] = assets.address

    def render(self, request: Request, name: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        visitor = getattr(request.state, "visitor", None)
        theme = request.cookies.get("theme", "")
        page = self._templates.get_template(name).render(
            visitor=visitor,
            csrf=token_of(visitor.session) if visitor else "",
            theme=theme if theme in THEMES else "",
            path=request.url.path,
            **values,
        )
        return HTMLResponse(page, status_code=status)
