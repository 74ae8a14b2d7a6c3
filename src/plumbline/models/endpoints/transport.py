"""One HTTP API under one key: ask it, wait for it, ask it again, and say in one sentence what went wrong.

The key comes from the environment for each request and is kept nowhere. OPENAI_API_KEY goes to api.openai.com over
TLS, ANTHROPIC_API_KEY to api.anthropic.com, and neither to any other place; every URL that you give yourself gets
PLUMBLINE_API_KEY, or no key where that is unset. Redirects are not followed. Of what a server says, no sentence
carries a part of the key.
"""

from __future__ import annotations

import codecs
import json
import os
import random
import re
import socket
import ssl
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from itertools import count
from typing import Any, Literal, NamedTuple, TypeVar

import httpx

from plumbline import __version__
from plumbline.errors import EndpointError, UserError
from plumbline.models.endpoints.dialect import Draft

Kind = Literal["openai", "anthropic"]
_T = TypeVar("_T")

HOMES: dict[str, str] = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com/v1"}
"""Where an API lives unless a URL is given."""

_ANTHROPIC_VERSION = "2023-06-01"  # the last that takes a temperature; see anthropic.py

_AGAIN = frozenset({408, 409, 429})
"""Statuses below 500 after which the same request may succeed; from 500 on all may."""

_LAST = ("[DONE]", "message_stop")
"""The event that ends a stream, told by its data (OpenAI) or by its name (Anthropic)."""

_PART = 8
"""This many characters of a key in a row are as secret as the whole."""

_QUOTED = 300
"""Most characters of a server's own words in a message."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for an endpoint and how often to ask again. Seconds."""

    connect: float = 10.0
    """For the connection."""
    read: float = 300.0
    """For the next byte: an answer that is not streamed comes in one piece, after all of it is written."""
    total: float = 600.0
    """For one request with all its repetitions."""
    retries: int = 4
    """Repetitions after the first try."""
    first_wait: float = 0.5
    """Before the first repetition; it doubles from one to the next."""
    longest_wait: float = 30.0
    """Most between two tries, unless the server asks for more (Retry-After)."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random
    """From 0 to 1; spreads the waits over their upper half, so that many callers do not come back at once."""

    def wait(self, tries: int) -> float:
        """The wait after that many tries."""
        longest: float = min(self.longest_wait, self.first_wait * 2.0 ** (tries - 1))
        return longest * (1 + self.jitter()) / 2


class Event(NamedTuple):
    """One server-sent event."""

    name: str
    data: str


def read_events(chunks: Iterable[bytes]) -> Iterator[Event]:
    """The events in a stream of bytes, however it is cut; one that the stream's end cuts off is dropped."""
    name, data = "", list[str]()
    for line in _read_lines(chunks):
        field, _, value = line.partition(":")  # a line that begins with a colon only keeps the connection alive
        if field == "event":
            name = value.removeprefix(" ")
        elif field == "data":
            data.append(value.removeprefix(" "))
        elif not line:
            if data:
                yield Event(name, "\n".join(data))
            name, data = "", []


def _read_lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest, code = b"", "utf-8-sig"  # a mark of the byte order is no part of the first line
    for chunk in chunks:
        # Not str.splitlines: it also splits where JSON may not be split. A last CR waits for the LF that may follow.
        *lines, rest = re.split(rb"\r\n|\n|\r(?!\Z)", rest + chunk)
        for line in lines:
            yield line.decode(code)
            code = "utf-8"
    if rest.endswith(b"\r"):
        yield rest[:-1].decode(code)


class _Fault(Exception):
    """Why one try failed. Ends in this module: an `EndpointError` is raised apart from it, and carries no trace."""

    def __init__(self, sentence: str, *, status: int | None = None, again: bool = False, after: float | None = None):
        self.sentence = sentence
        self.status = status
        self.again = again
        self.after = after  # seconds that the server asked for


class Endpoint:
    """JSON in, JSON or a stream of events out."""

    def __init__(self, kind: Kind, model: str, url: str | None = None, patience: Patience | None = None) -> None:
        self.kind = kind
        self.model = model
        self.url = _check_url(url or HOMES[kind])
        self.patience = patience or Patience()
        host, home = httpx.URL(self.url), httpx.URL(HOMES[kind])
        self.at_home = host.scheme == "https" and f".{host.host}".endswith(f".{home.host}")
        """Whether this is the API's own maker, regional hosts included."""
        self.variable = f"{kind.upper()}_API_KEY" if self.at_home else "PLUMBLINE_API_KEY"
        self.name = f"{kind}:{model}" + ("" if self.url == HOMES[kind] else f"@{self.url}")

    def post(self, path: str, body: dict[str, Any], read: Callable[[dict[str, Any]], _T]) -> _T:
        """What `read` makes of the JSON that comes back; `read` raises ValueError at a wrong shape."""
        payload = _encode(body)

        def attempt(deadline: float) -> _T:
            response = self._open(path, payload, deadline)
            return self._understand(self._read_whole(response, deadline).decode(errors="replace"), read)

        return self._try_again(attempt, self.patience.clock() + self.patience.total)

    def stream(self, path: str, body: dict[str, Any], draft: Draft) -> Iterator[str]:
        """The text that each event adds to the draft. Only what comes before the first event is tried again."""
        payload = _encode(body)
        deadline = self.patience.clock() + self.patience.total
        response = self._try_again(lambda deadline: self._open(path, payload, deadline), deadline)
        fault = None
        try:
            yield from self._read_stream(response, deadline, draft)
        except _Fault as error:
            fault = error
        finally:
            response.close()
        if fault:
            raise EndpointError(fault.sentence, fault.status)

    def _read_stream(self, response: httpx.Response, deadline: float, draft: Draft) -> Iterator[str]:
        # Some servers cut a character in two, each half in an event of its own.
        letters = codecs.getincrementaldecoder("utf-16-le")("replace")
        try:
            for event in read_events(self._read_bytes(response, deadline)):
                if event.data in _LAST or event.name in _LAST:
                    break
                added = self._understand(event.data, draft.add)
                if text := letters.decode(added.encode("utf-16-le", "surrogatepass")):
                    yield text
            else:
                if not draft.finished:
                    raise self._fault("closed the stream before the answer ended", "ask again")
        except UnicodeDecodeError as error:
            raise self._fault("streamed bytes that are not UTF-8", "look into the server's log") from error
        if text := letters.decode(b"", final=True):
            yield text

    def _try_again(self, attempt: Callable[[float], _T], deadline: float) -> _T:
        patience = self.patience
        for tries in count(1):
            try:
                return attempt(deadline)
            except _Fault as error:
                fault = error
            wait = patience.wait(tries) if fault.after is None else fault.after
            if not fault.again or tries > patience.retries or patience.clock() + wait > deadline:
                break
            patience.sleep(wait)
        times = f" (asked {tries} times)" if tries > 1 else ""
        raise EndpointError(fault.sentence + times, fault.status)

    def _open(self, path: str, payload: bytes, deadline: float) -> httpx.Response:
        """A response whose status is a success and whose body is still to come."""
        self._check_key()
        left = max(0.001, deadline - self.patience.clock())
        timeout = httpx.Timeout(min(self.patience.read, left), connect=min(self.patience.connect, left))
        try:
            request = self._client.build_request(
                "POST", self.url + path, content=payload, headers=self._headers(), timeout=timeout
            )
            response = self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise self._silence(error) from error
        if response.is_success:
            return response
        raise self._refusal(response, self._read_whole(response, deadline))

    def _read_whole(self, response: httpx.Response, deadline: float) -> bytes:
        try:
            return b"".join(self._read_bytes(response, deadline))
        finally:
            response.close()

    def _read_bytes(self, response: httpx.Response, deadline: float) -> Iterator[bytes]:
        try:
            for chunk in response.iter_bytes():
                yield chunk
                if self.patience.clock() > deadline:
                    raise self._fault(f"was not done within {self.patience.total:g} s", "ask for less, or wait longer")
        except httpx.HTTPError as error:
            raise self._silence(error) from error

    def _understand(self, text: str, read: Callable[[dict[str, Any]], _T]) -> _T:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise self._fault(
                f"answered with something that is not JSON ({_quote(text)})",
                f"check that {self.url!r} is the API's URL",
            ) from None
        if not isinstance(value, dict):
            raise self._fault("answered with JSON that is not an object", f"check that {self.url!r} is the API's URL")
        if value.get("error"):
            raise self._fault(f"broke off with an error ({_quote(_complaint(value))})", "ask again")
        try:
            return read(value)
        except ValueError as error:
            raise self._fault(
                f"answered in a shape that is not the {self.kind} API's ({_reason(error)})",
                f"check that {self.url!r} speaks it",
            ) from error

    def _silence(self, error: httpx.HTTPError) -> _Fault:
        """The fault where no whole answer came."""
        if isinstance(error, httpx.TimeoutException):
            limit = self.patience.connect if isinstance(error, httpx.ConnectTimeout) else self.patience.read
            limit = min(limit, self.patience.total)
            return self._fault(f"gave no answer within {limit:g} s", "try later, or wait longer", again=True)
        for cause in _causes(error) if isinstance(error, httpx.ConnectError) else ():
            if isinstance(cause, ssl.SSLError):
                remedy = "check http against https; for a server of your own, name its certificate in SSL_CERT_FILE"
                return self._fault(f"cannot be reached over TLS ({cause.reason or cause})", remedy)
            if isinstance(cause, socket.gaierror):
                host, passing = httpx.URL(self.url).host, cause.errno == socket.EAI_AGAIN
                return self._fault(
                    f"is on an unknown host {host!r}", "check its spelling and the network", again=passing
                )
            if isinstance(cause, ConnectionRefusedError):
                return self._fault("has no server listening", "start it, or check host and port", again=True)
        return self._fault(
            f"lost the connection ({_quote(str(error))})", "check the server, then try again", again=True
        )

    def _refusal(self, response: httpx.Response, body: bytes) -> _Fault:
        """The fault where the server said no."""
        status = response.status_code
        try:
            said = _complaint(json.loads(body))
        except (ValueError, RecursionError):
            said = body.decode(errors="replace")
        given = f"the key in {self.variable}" if _key(self.variable) else "a request without a key"
        what, remedy, again = "refused the request", "change what it names", status in _AGAIN or status >= 500
        if status == 401:
            what, remedy = f"refused {given}", f"set {self.variable} to a valid key"
        elif status == 403:
            what, remedy = f"does not allow this to {given}", "ask for access, or set another key"
        elif status == 404:
            what = f"knows no model {self.model!r} at {self.url!r}"
            remedy = "check the model's name, and the URL, which usually ends in /v1"
        elif status == 429:
            what, remedy = "asks to slow down", "wait, or ask less at once"
            # Also how OpenAI says that the account is empty, which no waiting mends.
            again = b"insufficient_quota" not in body
        elif again:
            what, remedy = "failed", "try later, or look into the server's log"
        elif 300 <= status < 400:
            what, said = "redirects", response.headers.get("location", "")
            remedy = "if you trust that place, give it as the URL: keys do not follow redirects"
        elif self.at_home:
            remedy += " (a temperature or top_p of 1 is not sent)"
        quoted = f"HTTP {status}, {_quote(said)}" if said.strip() else f"HTTP {status}"
        return self._fault(f"{what} ({quoted})", remedy, status=status, again=again, after=_retry_after(response))

    def _fault(
        self, wrong: str, remedy: str, *, status: int | None = None, again: bool = False, after: float | None = None
    ) -> _Fault:
        asked = f", and asks to wait {after:g} s" if after else ""
        sentence = f"{self.name!r} {wrong}{asked}: {remedy}"
        return _Fault(_hide(sentence, self.variable), status=status, again=again, after=after)

    def _check_key(self) -> None:
        # No name holds the key in a frame that raises: a traceback may show what names hold.
        if not re.fullmatch(r"[!#-&(-\[\]-~]*", _key(self.variable)):
            raise UserError(f"{self.variable} holds blanks, quotes or other characters that no key has: set it again")
        if self.at_home and not _key(self.variable):
            raise UserError(f"{self.name!r} needs a key and {self.variable} is not set: set it in the environment")

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": f"plumbline/{__version__}"}
        if self.kind == "anthropic":
            headers["anthropic-version"] = _ANTHROPIC_VERSION
        if key := _key(self.variable):
            name, value = ("x-api-key", key) if self.kind == "anthropic" else ("Authorization", f"Bearer {key}")
            headers[name] = value
        return headers

    @cached_property
    def _client(self) -> httpx.Client:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=8)
        # A transport of its own asks no proxy: none stands between this machine and itself.
        local = httpx.URL(self.url).host in ("localhost", "127.0.0.1", "::1")
        transport = httpx.HTTPTransport(limits=limits) if local else None
        client = httpx.Client(transport=transport, limits=limits, follow_redirects=False)
        weakref.finalize(self, client.close)
        return client


def _key(variable: str) -> str:
    return os.environ.get(variable, "").strip()


def _hide(text: str, variable: str) -> str:
    """The text without the key and without any longer part of it."""
    key = _key(variable)
    size = min(_PART, len(key))
    parts = {key[begin : begin + size] for begin in range(len(key) - size + 1)} if key else set()
    begins = [place for place in range(len(text)) if text[place : place + size] in parts]
    secret = {place + offset for place in begins for offset in range(size)}
    shown = "".join("\0" if place in secret else letter for place, letter in enumerate(text))
    return re.sub("\0+", "[key]", shown)


def _check_url(url: str) -> str:
    """The URL without a slash at its end; a bare host gets /v1."""
    like = "give one like http://host:8000/v1"
    if re.search("[@?#]", url):
        # Not shown: it may hold a key.
        raise UserError(
            "the endpoint's URL carries a user, a query or a fragment: give the address alone, and a key in "
            "PLUMBLINE_API_KEY"
        )
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UserError(f"the endpoint's URL {url!r} cannot be read ({error}): {like}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UserError(f"the endpoint's URL {url!r} has no http:// or no host: {like}")
    return url.rstrip("/") + ("/v1" if parsed.path == "/" else "")


def _encode(body: dict[str, Any]) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise UserError(f"the request is not JSON ({error}): mend the messages, tools or schema") from None


def _retry_after(response: httpx.Response) -> float | None:
    """The seconds that the server asked for, as a number or as a date by its own clock."""
    asked = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", asked):
        return float(asked)
    try:
        until, now = parsedate_to_datetime(asked), parsedate_to_datetime(response.headers.get("date", ""))
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError):
        return None


def _complaint(body: Any) -> str:
    """What a server says in an error body, in any of the shapes in use."""
    error = body.get("error") or body if isinstance(body, dict) else body
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return error if isinstance(error, str) else json.dumps(error)


def _reason(error: ValueError) -> str:
    """Why a reply was not understood, in a few words."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)


def _quote(text: str) -> str:
    """A server's own words on one line, without control characters, cut."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return f"'{line if len(line) <= _QUOTED else line[:_QUOTED] + '…'}'"


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
