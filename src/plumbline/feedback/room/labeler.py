"""The labeler's page, and what its script asks for: sets to rank, drafts, rankings, skips, the last ten.

Answers travel in the order in which this labeler sees them, each with its place in the set's own order; ranks and flags
travel by place. Who made an answer does not travel at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field, StrictBool, StrictInt
from starlette.responses import Response

from plumbline.feedback.queue import shown_order
from plumbline.feedback.room.changes import changes
from plumbline.feedback.store import Past, Submission, Written
from plumbline.records import ComparisonSet, Message
from plumbline.web.auth import Visitor, needs
from plumbline.web.errors import Refusal

if TYPE_CHECKING:
    from plumbline.feedback.queue import Claim, Queue
    from plumbline.feedback.store import Instruction, Store

router = APIRouter(prefix="/label")
Ranker = Annotated[Visitor, Depends(needs("labeler", "manager"))]

REASONS = (
    "I do not know enough about this",
    "The prompt is not clear",
    "It is not in a language I read well",
    "It shows personal data",
    "It is disturbing",
    "Another reason",
)
KEYS = (
    (
        ("1", "…", "9"),
        "Give the answer this rank and go on; 1 is the best. The same rank twice is a tie. 0 is rank 10.",
    ),
    (("F",), "The answer makes no sense: it is struck out and gets no rank. F again takes that back."),
    (("Del",), "Take the answer's rank or flag away."),
    (("⏎",), "Submit and go on to the next set."),
    (("⌫", "U"), "Back to the set before, to change what you said."),
    (("S",), "Skip this set, with a reason."),
    (("Tab", "← ↑ ↓ →"), "Go to another answer."),
    (("Space", "PgDn"), "Scroll a long answer."),
    (("O",), "Show all of a long answer."),
    (("E",), "Edit the answer into the one you would rather have read."),
    (("W",), "Write a better answer yourself."),
    (("H",), "Show or fold the instructions."),
    (("?",), "Show these keys."),
)
MOST_HELD = 32
"""Sets that a browser may name as those it has."""
BEGINNING = 90
"""Characters of a prompt that stand for it in a list."""


def store_of(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def queue_of(request: Request) -> Queue:
    queue: Queue = request.app.state.queue
    return queue


@router.get("")
def room(request: Request, visitor: Ranker) -> Response:
    store = store_of(request)
    page: Response = request.app.state.pages.render(
        request,
        "label.html",
        keys=KEYS,
        reasons=REASONS,
        mine=store.ranked_by(visitor.id),
        progress=store.progress(),
        beside=request.app.state.beside,
    )
    return page


# ---- a set to rank


class Held(BaseModel):
    have: Annotated[list[str], Field(max_length=MOST_HELD)] = []
    """The sets that the browser has: on the page, or ranked and not yet sent."""


@router.post("/api/claim")
def claim(request: Request, visitor: Ranker, held: Held) -> dict[str, Any]:
    """The next set that the browser does not have; null where there is none for this labeler."""
    queue = queue_of(request)
    for ahead in range(len(held.have) + 1):
        found = queue.claim(visitor.id, ahead=ahead)
        if found is None or found.set.set_id not in held.have:
            return {"claim": found and shown_claim(found)}
    return {"claim": None}


def shown_claim(claim: Claim) -> dict[str, Any]:
    return {**shown_set(claim.set, claim.order, claim.instruction, again=claim.again), "draft": claim.draft}


def shown_set(each: ComparisonSet, order: Sequence[int], by: Instruction, *, again: bool) -> dict[str, Any]:
    """A set as the browser gets it, without what would tell whose answer is whose."""
    return {
        "set_id": each.set_id,
        "again": again,
        "prompt": [{"role": turn["role"], "content": said(turn)} for turn in turns(each.prompt)],
        "answers": [{"place": place, "text": each.completions[place].text} for place in order],
        "instruction": {"criterion": by.criterion, "version": by.version, "text": by.text},
    }


def turns(prompt: str | list[Message]) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def said(turn: Message) -> str:
    calls = [call.get("function", {}).get("name", "a tool") for call in turn.get("tool_calls") or []]
    return turn["content"] or f"(calls {', '.join(map(str, calls))})"


# ---- what the labeler says


class Text(BaseModel):
    place: Annotated[int, Field(ge=0)] | None
    text: str


class Said(BaseModel):
    """What is said of a set so far; the lists go by place."""

    ranks: list[StrictInt | None]
    flags: list[StrictBool]
    texts: list[Text] = []
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class Draft(BaseModel):
    set_id: str
    again: bool = False
    draft: Said


class Submitted(Said):
    key: Annotated[str, Field(min_length=16, max_length=64)]
    set_id: str
    again: bool = False
    instruction_version: int
    shown_order: list[int]
    client_time: Annotated[str, Field(max_length=40)] | None = None


class Skipped(BaseModel):
    key: str
    set_id: str
    again: bool = False
    reason: Annotated[str, Field(min_length=1, max_length=200)]


@router.post("/api/draft")
def save_draft(request: Request, visitor: Ranker, given: Draft) -> dict[str, Any]:
    """Keeps what was begun, and the set for this labeler a while longer."""
    store_of(request).save_draft(given.set_id, visitor.id, given.draft.model_dump())
    until = queue_of(request).renew(given.set_id, visitor.id, again=given.again)
    return {"lease_until": until and until.isoformat()}


@router.post("/api/submit")
def submit(request: Request, visitor: Ranker, given: Submitted) -> dict[str, Any]:
    """Stores a ranking; the answer says that it is on the disk."""
    receipt = store_of(request).submit(
        Submission(
            key=given.key,
            set_id=given.set_id,
            labeler_id=visitor.id,
            ranks=tuple(given.ranks),
            flags=tuple(given.flags),
            instruction_version=given.instruction_version,
            shown_order=tuple(given.shown_order),
            seconds=given.seconds,
            client_time=given.client_time,
            texts=tuple(Written(each.text, each.place) for each in given.texts),
            again=given.again,
        )
    )
    return {"replayed": receipt.replayed}


@router.post("/api/skip")
def skip(request: Request, visitor: Ranker, given: Skipped) -> dict[str, Any]:
    store_of(request).skip(given.set_id, visitor.id, given.reason, again=given.again)
    return {}


# ---- what the labeler said before, and by which words


class Which(BaseModel):
    set_id: str
    again: bool = False


class Versions(BaseModel):
    criterion: str
    since: int
    until: int


@router.get("/api/history")
def history(request: Request, visitor: Ranker) -> dict[str, Any]:
    """The last ten sets in short, the latest first."""
    return {"items": [in_short(past, visitor) for past in store_of(request).history(visitor.id)]}


def in_short(past: Past, visitor: Visitor) -> dict[str, Any]:
    text = " ".join(said(turns(past.set.prompt)[-1]).split())
    return {
        "set_id": past.set.set_id,
        "again": past.again,
        "prompt": text if len(text) <= BEGINNING else text[: BEGINNING - 1] + "…",
        "state": past.state,
        "reason": past.reason,
        "order": order_of(past, visitor),
        "ranks": past.ranks,
        "flags": past.flags,
    }


def order_of(past: Past, visitor: Visitor) -> tuple[int, ...]:
    """The order in which this labeler saw the set's answers."""
    return shown_order(past.set.set_id, visitor.id, len(past.set.completions), again=past.again)


@router.post("/api/reopen")
def reopen(request: Request, visitor: Ranker, which: Which) -> dict[str, Any]:
    """One of the last ten as it was, to be said anew."""
    store = store_of(request)
    for past in store.history(visitor.id):
        if (past.set.set_id, past.again) == (which.set_id, which.again):
            order = order_of(past, visitor)
            instruction = store.instruction(past.set.criterion or "")
            kept = {"ranks": past.ranks, "flags": past.flags, "texts": [asdict(each) for each in past.texts]}
            draft = store.draft(past.set.set_id, visitor.id) if past.state == "skipped" else None
            return {"claim": shown_set(past.set, order, instruction, again=past.again), "kept": draft or kept}
    raise Refusal(404, f"The set {which.set_id!r} is not among your last ten.")


@router.post("/api/changes")
def what_changed(request: Request, visitor: Ranker, between: Versions) -> dict[str, Any]:
    """What is new in the instructions since a version that the labeler has read."""
    store = store_of(request)
    before, after = (store.instruction(between.criterion, each) for each in (between.since, between.until))
    return {"parts": [asdict(each) for each in changes(before.text, after.text)]}
