"""Ranking over the API, for applications with a page of their own for labelers: claim a set, rank it, or skip it.

Its users take their places in the same queue as whoever sits in the ranking room, as labelers `user:KEY/USER`: a set
goes to as many people as it needs and to nobody twice. What they are shown are prompts and answers of the whole
project, so the scope `label` is for applications that may read those.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import Field

from plumbline.feedback.events import add_labelers
from plumbline.feedback.queue import Queue
from plumbline.feedback.room.labeler import shown_set
from plumbline.feedback.sets import checked_id
from plumbline.feedback.store import Store, Submission
from plumbline.serve.keys import Caller
from plumbline.serve.requests import Body
from plumbline.serve.service import Service, refusal_of

T = TypeVar("T")

Name = Annotated[str, Field(min_length=1, max_length=200)]


class Claiming(Body):
    """The body of /v1/label/claim."""

    user: Name
    """Who ranks, as the application names them."""


class Which(Claiming):
    set_id: Name
    again: bool = False
    """As the claim said it: this labeler has ranked the set before."""


class Ranked(Which):
    """The body of /v1/label/rank. The lists go by the places of the answers."""

    key: Annotated[str, Field(min_length=16, max_length=64)]
    """Made once for each ranking; sent again with the same one it adds nothing."""
    ranks: Annotated[list[Annotated[int, Field(ge=1)] | None], Field(max_length=100)]
    """1 is the best; null for an answer that makes no sense."""
    instruction_version: int
    shown_order: Annotated[list[int], Field(max_length=100)] | None = None
    """The places of the answers as they stood on the screen."""
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class Skipped(Which):
    """The body of /v1/label/skip."""

    reason: Annotated[str, Field(min_length=1, max_length=200)]


async def claim(service: Service, caller: Caller, said: Claiming) -> dict[str, Any]:
    """The set that this user is to rank now, the same until it is ranked or skipped; none where there is none."""

    def work() -> dict[str, Any] | None:
        found = Queue(service.store).claim(labeler_of(service.store, caller, said.user))
        if found is None:
            return None
        return shown_set(found.set, found.order, found.instruction, again=found.again)

    return {"object": "claim", "set": await done(service, caller, work)}


async def rank(service: Service, caller: Caller, said: Ranked) -> dict[str, Any]:
    """Stores a ranking; when this returns it is on the disk."""

    def work() -> bool:
        return service.store.submit(
            Submission(
                key=f"{caller.tenant}/{said.key}",
                set_id=said.set_id,
                labeler_id=labeler_of(service.store, caller, said.user),
                ranks=tuple(said.ranks),
                flags=tuple(rank is None for rank in said.ranks),
                instruction_version=said.instruction_version,
                shown_order=None if said.shown_order is None else tuple(said.shown_order),
                seconds=said.seconds,
                again=said.again,
            )
        ).replayed

    replayed = await done(service, caller, work)
    service.metrics.add("plumbline_feedback_total", kind="ranking")
    return {"object": "ranking", "set_id": said.set_id, "stored": True, "replayed": replayed}


async def skip(service: Service, caller: Caller, said: Skipped) -> dict[str, Any]:
    """Gives a set back for good, with a reason."""

    def work() -> None:
        labeler_id = labeler_of(service.store, caller, said.user)
        service.store.skip(said.set_id, labeler_id, said.reason, again=said.again)

    await done(service, caller, work)
    return {"object": "skip", "set_id": said.set_id, "stored": True}


def labeler_of(store: Store, caller: Caller, user: str) -> str:
    """The user as a labeler, who is added where they are new."""
    labeler_id = checked_id("`user`", f"user:{Caller(caller.key, user).user_id}")
    with store.write("sets") as connection:
        add_labelers(connection, [labeler_id], store.clock())
    return labeler_id


async def done(service: Service, caller: Caller, work: Callable[[], T]) -> T:
    """The work's result, in a thread and within the key's share; what is wrong with it as a refusal."""
    with service.keys.admitted(caller.key):
        try:
            return await asyncio.to_thread(work)
        except Exception as error:
            told = refusal_of(error, service.settings)
            if told is error:
                raise
            raise told from error
