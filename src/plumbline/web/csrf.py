"""A write must come from a page of ours.

A page carries a token that follows from its visitor's session, and gives it back in a header or a form's field. The
session itself is in a cookie that no script can read, so a page from elsewhere knows neither. Nothing is stored: a page
that was open while the server started anew goes on working. Beside that, a browser says where a request comes from.
"""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import urlsplit

from starlette.requests import Request

from plumbline.web.errors import Refusal

HEADER = "x-csrf-token"
FIELD = "csrf"
SAFE = {"GET", "HEAD", "OPTIONS"}


def token_of(session: str) -> str:
    """The token of the pages of a session."""
    return hashlib.sha256(b"plumbline csrf: " + session.encode()).hexdigest()


def check_origin(request: Request) -> None:
    """Refuses a write that the browser says was caused by another site."""
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "same-origin")
    try:
        elsewhere = origin is not None and urlsplit(origin).netloc != request.headers.get("host", "")
    except ValueError:  # no browser writes what is no address
        elsewhere = True
    if elsewhere or site not in ("same-origin", "none"):
        raise Refusal(403, "This request was caused by another site: open the page here and do it again.")


async def check_token(request: Request, session: str) -> None:
    """Refuses a write without the token of its visitor's session."""
    given: object = request.headers.get(HEADER)
    if given is None and "form" in request.headers.get("content-type", ""):
        given = (await request.form()).get(FIELD)
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(), token_of(session).encode()):
        raise Refusal(403, "This page is from an earlier session: load it again.")
