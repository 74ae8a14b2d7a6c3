"""What people say of an answer: a thumb, a better answer, or ranks of several. It becomes what every such word becomes.

    thumb   a rating, for KTO
    edit    an answer to learn, and a pair with the answer it was made from
    ranks   a comparison set with a ranking

All three carry `source: serve`, so an export says where they came from. Sent again, they add nothing.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal, cast

from pydantic import ConfigDict, Field
from pydantic.config import JsonValue

from plumbline.errors import UserError
from plumbline.feedback.store import Exchange, Store
from plumbline.records import ComparisonSet, Message, Ranking, Rating, parse, prompt_id
from plumbline.serve.keys import Caller
from plumbline.serve.requests import WHOLE, ApiError, Body
from plumbline.serve.service import Service, refusal_of

SOURCE = "serve"


ONE: list[JsonValue] = [
    {"required": [name], "properties": {name: {"type": kind}}}
    for name, kind in (("thumb", "string"), ("edit", "string"), ("ranks", "array"))
]
"""What the API's document says of the three: one of them is given."""


class Said(Body):
    """The body of /v1/feedback: one of `thumb`, `edit` and `ranks`."""

    model_config = ConfigDict(json_schema_extra={"oneOf": ONE})

    id: Annotated[str, Field(min_length=1, max_length=100)]
    """The id of the answer, as it stands in the reply."""
    choice: Annotated[int, Field(ge=0), WHOLE] = 0
    """Which of several answers a thumb or an edit is about."""
    thumb: Literal["up", "down"] | None = None
    edit: Annotated[str, Field(min_length=1)] | None = None
    ranks: list[Annotated[int, Field(ge=1), WHOLE] | None] | None = None
    """One for each answer, 1 is the best; null for one that makes no sense."""
    comment: Annotated[str, Field(max_length=10_000)] | None = None
    user: Annotated[str, Field(max_length=200)] | None = None
    """Who says it; without it the user who asked."""

    @property
    def kind(self) -> Literal["thumb", "edit", "ranks"]:
        given = [name for name in ("thumb", "edit", "ranks") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ApiError(400, f"Give one of `thumb`, `edit` and `ranks`; {given or 'none'} came.", param="thumb")
        return cast("Literal['thumb', 'edit', 'ranks']", given[0])


async def take(service: Service, caller: Caller, said: Said, visitor: str | None = None) -> dict[str, Any]:
    """Stores feedback; when this returns it is on the disk.

    An application speaks for its users. A `visitor` of the playground, a labeler by id, speaks of their own answers
    and in their own name alone.
    """
    kind = said.kind
    with service.keys.admitted(caller.key):
        try:
            exchange = await asyncio.to_thread(service.store.exchange, said.id, caller.tenant)
            if exchange is None or (visitor is not None and exchange.user_id != caller.user_id):
                raise ApiError(404, f"There is no answer {said.id!r} of this key.", param="id", code="not_found")
            user_id = Caller(caller.key, said.user).user_id if said.user and visitor is None else exchange.user_id
            await asyncio.to_thread(keep, service.store, exchange, said, user_id, visitor or f"user:{user_id}")
        except UserError as error:
            raise refusal_of(error, service.settings) from error
    service.metrics.add("plumbline_feedback_total", kind=kind)
    return {"object": "feedback", "id": said.id, "kind": kind, "stored": True}


def keep(store: Store, exchange: Exchange, said: Said, user_id: str, labeler_id: str) -> None:
    """Puts feedback where the exports find it."""
    prompt, texts = content_of(exchange)
    if said.ranks is not None:
        keep_ranks(store, exchange, said, prompt, texts, labeler_id)
        return
    if said.choice >= len(texts):
        raise ApiError(400, f"`choice` is {said.choice} and there are {len(texts)} answers.", param="choice")
    answer = texts[said.choice]
    if said.thumb is not None:
        told = {"source": SOURCE, "version": exchange.version, "exchange_id": exchange.exchange_id}
        told |= {} if exchange.route is None else {"route": exchange.route}
        more = told if said.comment is None else {**told, "comment": said.comment}
        rating = {"prompt": prompt, "completion": answer, "label": said.thumb == "up", **more}
        store.add_rating(parse(Rating, rating), user_id, once=True)
    elif said.edit is not None:
        store.add_edit(prompt, answer or None, said.edit, user_id, source=SOURCE)


def keep_ranks(
    store: Store, exchange: Exchange, said: Said, prompt: str | list[Message], texts: list[str], labeler_id: str
) -> None:
    """A set of the answers, and its ranking by this user, who is a labeler of it."""
    assert said.ranks is not None
    settings = exchange.settings or {}
    made = {
        "model": exchange.version,
        "sampling": {name: settings[name] for name in ("temperature", "top_p", "top_k") if name in settings},
    }
    about = {
        "set_id": exchange.exchange_id,
        "prompt_id": prompt_id(prompt),
        "prompt": prompt,
        "user_id": exchange.user_id,
    }
    completions = [{"text": text, **made, "seed": settings.get("seed")} for text in texts]
    ranking = {
        **about,
        "completions": texts,
        "ranks": said.ranks,
        "flags": [rank is None for rank in said.ranks],
        "labeler_id": labeler_id,
        "instruction_version": "1",
    }
    checked = parse(Ranking, ranking)  # what is wrong with it is told before anything is stored
    store.add_sets([parse(ComparisonSet, {**about, "completions": completions})])
    store.add_rankings([checked], SOURCE)


def content_of(exchange: Exchange) -> tuple[str | list[Message], list[str]]:
    """The prompt as records have it, and the answers."""
    if exchange.status != "answered":
        raise ApiError(409, f"This request was {exchange.status}: there is no answer to speak of.", param="id")
    if exchange.prompt is None or exchange.answers is None:
        said = "What this key asks and is answered is not kept, so nothing can be learnt from what is said of it."
        raise ApiError(409, said, param="id", code="content_not_kept")
    prompt = exchange.prompt
    if isinstance(prompt, list) or not ("messages" in prompt or "text" in prompt):
        raise ApiError(409, "Feedback goes to answers of one prompt that is text.", param="id")
    return prompt.get("messages") or prompt["text"], [each["text"] for each in exchange.answers]
