"""What a chat API's dialect has to say: how a request is written and how a reply is read. Spoken over an `Endpoint`.

`openai.py` and `anthropic.py` are the dialects. They send nothing, so that each is tested as data in, data out; they
raise `UserError` for what the caller asked and the API cannot do, `ValueError` for a reply they do not understand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from pydantic import Field

from plumbline.errors import UserError
from plumbline.models import Completion, Prompt, Sampling

Count = Annotated[int, Field(ge=0, lt=2**31)]
"""Tokens, as a server counts them; a number that no database column holds is no count."""


@dataclass(frozen=True)
class Reply:
    """What one request brought: its answers, model and seed still unset, and the tokens that all of them took."""

    completions: list[Completion]
    new_tokens: int


class Draft(Protocol):
    """A streamed answer while its events arrive."""

    @property
    def finished(self) -> bool:
        """Whether the API has said why the answer ended; a stream that closes before was cut."""

    def add(self, event: dict[str, Any]) -> str:
        """Take in one event; the text it adds, often none."""

    def reply(self) -> Reply:
        """The whole, once finished."""


class Dialect(Protocol):
    """How one API is spoken."""

    many: bool
    """Whether one request may ask for several samples."""

    def request(self, prompt: Prompt, sampling: Sampling, *, stream: bool = False) -> tuple[str, dict[str, Any]]:
        """The path below the API's URL, and the body."""

    def read(self, reply: dict[str, Any]) -> Reply:
        """The answers in a reply that was not streamed."""

    def draft(self) -> Draft:
        """An empty draft for a streamed one."""


def refuse(api: str, sampling: Sampling, names: Sequence[str]) -> None:
    """A `UserError` if one of these fields was set: what an API cannot do is never dropped in silence."""
    for name in names:
        value = getattr(sampling, name)
        if value != getattr(Sampling, name):  # the defaults
            raise UserError(f"{name} is {value!r}, which {api} cannot do: leave it out, or use a local model")


def sampling_values(sampling: Sampling, at_home: bool) -> dict[str, float]:
    """Temperature and top-p as both dialects send them.

    The APIs' own makers take 1 for both when left out, and their newest models refuse the fields altogether, so there
    a 1 is not sent. Other servers fill in what a model's files or their own settings say, so there it is.
    """
    values = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    return {name: value for name, value in values.items() if not (at_home and value == 1.0)}


def joined(text: str) -> str:
    """The text with the halves of characters joined that a server cut in two; a half that stays alone is replaced."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def function_call(name: str, arguments: str, number: str | None) -> dict[str, Any]:
    """A tool call in the shape that `Message.tool_calls` takes back (OpenAI's), whatever the API."""
    function = {"name": joined(name), "arguments": joined(arguments)}
    return {"id": joined(number or ""), "type": "function", "function": function}
