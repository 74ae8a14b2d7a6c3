"""The playground: people talk with the served model, look at its probabilities, and say what they think of it.

Whoever has a sign-in link of the project may enter. What is asked here goes the same way as what applications ask,
under the tenant "playground" and the visitor as its user, so it is stored, bounded and erased alike. Two versions are
compared blind: the page learns which answer was whose when it has said which is better.
"""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import RedirectResponse, Response

from plumbline.feedback.api_keys import ApiKey
from plumbline.feedback.room.app import ROLES
from plumbline.feedback.store import Exchange, Store
from plumbline.models import Sampling
from plumbline.records import ComparisonSet, Message, Ranking, parse, prompt_id
from plumbline.serve import feedback
from plumbline.serve.api import answer, last_of, service_of
from plumbline.serve.keys import Caller
from plumbline.serve.requests import ApiError, Asked, Body
from plumbline.web.auth import Visitor, needs

router = APIRouter()
Player = Annotated[Visitor, Depends(needs(*ROLES))]

TENANT = ApiKey("playground", "playground", "", frozenset({"admin"}), datetime.fromtimestamp(0, UTC), at_once=64)
MOST_DRAFTS = 4
ALTERNATIVES = 5
"""Tokens that are shown beside each one of an answer."""


class Turn(Body):
    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(max_length=200_000)]


class Drawn(Body):
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Annotated[int, Field(ge=1, le=8192)] = 256
    seed: Annotated[int, Field(ge=0)] | None = None


class Said(Body):
    """What the page asks."""

    messages: Annotated[list[Turn], Field(min_length=1, max_length=512)]
    sampling: Drawn = Drawn()
    drafts: Annotated[int, Field(ge=1, le=MOST_DRAFTS)] = 1
    consent: bool = False

    def asked(self, model: str = "") -> Asked:
        drawn = self.sampling
        sampling = Sampling(
            n=self.drafts,
            max_new_tokens=drawn.max_tokens,
            temperature=drawn.temperature,
            top_k=drawn.top_k,
            top_p=drawn.top_p,
            seed=drawn.seed,
        )
        return Asked(
            "chat",
            model,
            ({"messages": [turn.model_dump() for turn in self.messages]},),
            sampling,
            stream=self.drafts == 1 and not model,
            usage=True,
            logprobs=ALTERNATIVES if self.drafts == 1 and not model else None,
            logprobs_needed=False,
            consent=self.consent,
        )


def caller_of(visitor: Visitor) -> Caller:
    return Caller(TENANT, visitor.id)


@router.get("/")
def first_page(visitor: Player) -> RedirectResponse:
    return RedirectResponse("/playground", status_code=303)


@router.get("/playground")
def page(request: Request, visitor: Player) -> Response:
    service = service_of(request)
    primary = service.versions.primary
    shown: Response = request.app.state.pages.render(
        request,
        "playground.html",
        version=primary.name,
        shows=bool(primary.known.get("logprobs")),
        compares=service.versions.canary is not None,
        most_drafts=MOST_DRAFTS,
    )
    return shown


# ---- asking


@router.post("/playground/api/chat")
async def chat(request: Request, visitor: Player, said: Said) -> Response:
    """One answer as a stream, in the API's shape, or several drafts at once."""
    return await answer(request, said.asked(), caller_of(visitor), 0)


@router.post("/playground/api/compare")
async def compare(request: Request, visitor: Player, said: Said) -> dict[str, Any]:
    """The answers of two versions, in an order that is drawn, and without their names."""
    service = service_of(request)
    canary = service.versions.canary
    if canary is None:
        raise ApiError(409, "There is one version only: `plumb serve --canary NAME@N` serves a second one.")
    names = [service.versions.primary.name, canary.name]
    random.shuffle(names)
    asked = [said.model_copy(update={"drafts": 1}).asked(name) for name in names]
    done = await asyncio.gather(*(last_of(service.answer(each, caller_of(visitor))) for each in asked))
    return {"answers": [{"id": each.exchange_id, "text": each.answers[0].text} for each in done]}


@router.post("/playground/api/look")
async def look(request: Request, visitor: Player, said: Said) -> dict[str, Any]:
    """What may come next, and what temperature, top-k and top-p make of it."""
    asked = said.model_copy(update={"drafts": 1}).asked()
    piece = await service_of(request).look(asked, caller_of(visitor))
    return {"tokens": piece["done"], "kept": piece["kept"]}


# ---- saying what one thinks


@router.post("/playground/api/feedback")
async def say(request: Request, visitor: Player, said: feedback.Said) -> dict[str, Any]:
    """A thumb, a better answer, or ranks of drafts."""
    return await feedback.take(service_of(request), caller_of(visitor), said, visitor=visitor.id)


class Preferred(Body):
    """Which of two answers is better, by the ids under which they came."""

    ids: Annotated[list[str], Field(min_length=2, max_length=2)]
    ranks: Annotated[list[int | None], Field(min_length=2, max_length=2)]


@router.post("/playground/api/prefer")
async def prefer(request: Request, visitor: Player, said: Preferred) -> dict[str, Any]:
    """Stores which answer is better, and tells whose they were."""
    service = service_of(request)
    tenant = caller_of(visitor).tenant
    found = [await asyncio.to_thread(service.store.exchange, name, tenant) for name in said.ids]
    exchanges = [each for each in found if each is not None and each.user_id == caller_of(visitor).user_id]
    if len({each.exchange_id for each in exchanges}) < 2 or exchanges[0].prompt != exchanges[1].prompt:
        raise ApiError(404, "These are not two answers of yours to one question.", code="not_found")
    await asyncio.to_thread(keep_preference, service.store, exchanges, said.ranks, visitor.id)
    service.metrics.add("plumbline_feedback_total", kind="comparison")
    return {"versions": [each.version for each in exchanges]}


def keep_preference(store: Store, exchanges: list[Exchange], ranks: list[int | None], labeler_id: str) -> None:
    """A set of two answers of two versions, and its ranking."""
    prompt: str | list[Message]
    prompt, _ = feedback.content_of(exchanges[0])
    texts = [feedback.content_of(each)[1][0] for each in exchanges]
    about = {
        "set_id": "+".join(sorted(each.exchange_id for each in exchanges)),
        "prompt_id": prompt_id(prompt),
        "prompt": prompt,
        "user_id": exchanges[0].user_id,
    }
    order = sorted(range(2), key=lambda place: exchanges[place].exchange_id)
    ranking = {
        **about,
        "completions": [texts[place] for place in order],
        "ranks": [ranks[place] for place in order],
        "flags": [ranks[place] is None for place in order],
        "labeler_id": labeler_id,
        "instruction_version": "1",
    }
    checked = parse(Ranking, ranking)
    completions = [{"text": texts[place], "model": exchanges[place].version} for place in order]
    store.add_sets([parse(ComparisonSet, {**about, "completions": completions})])
    store.add_rankings([checked], feedback.SOURCE)
