"""Where requests to a served model were routed, what that cost, and what the larger model can teach the smaller one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from plumbline.feedback import schema
from plumbline.feedback.store import Exchange, Store
from plumbline.records import Demonstration, Message, parse

columns = schema.exchange.c


@dataclass(frozen=True)
class Routed:
    """The answered requests that went one way."""

    route: str
    """small, large, or fallback: small, since the large one failed."""
    exchanges: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    up: int
    down: int
    """Thumbs."""


def routes(store: Store, since: datetime) -> list[Routed]:
    """The ways that requests were routed, the most frequent first."""
    query = (
        select(
            columns.route,
            func.count().label("exchanges"),
            func.sum(columns.prompt_tokens).label("prompt_tokens"),
            func.sum(columns.completion_tokens).label("completion_tokens"),
            func.coalesce(func.sum(columns.cost), 0.0).label("cost"),
        )
        .where(columns.at >= since, columns.route.is_not(None), columns.status == "answered")
        .group_by(columns.route)
        .order_by(func.count().desc(), columns.route)
    )
    thumbs = thumbs_by_route(store, since)
    with store.read() as connection:
        found = connection.execute(query).all()
    counts = [thumbs.get(row.route, [0, 0]) for row in found]
    return [Routed(**row._mapping, up=up, down=down) for row, (up, down) in zip(found, counts, strict=True)]


def thumbs_by_route(store: Store, since: datetime) -> dict[str, list[int]]:
    """How many thumbs went up and how many down, for the answers of each way."""
    rated, counts = schema.rating_event.c, dict[str, list[int]]()
    with store.read() as connection:
        for row in connection.execute(select(rated.label, rated.extra).where(rated.at >= since)):
            if (route := row.extra.get("route")) is not None:
                counts.setdefault(route, [0, 0])[0 if row.label else 1] += 1
    return counts


# ---- what the larger model teaches


@dataclass(frozen=True)
class Taught:
    """Answers of the larger model that the smaller one may learn."""

    demonstrations: list[Demonstration]
    users: int
    over: int
    """How many were left out, since their users had given as many as the cap."""
    disliked: int
    """How many were left out, since somebody said that they are bad."""


def taught(store: Store, teacher: str, cap: int) -> Taught:
    """Whole answers of that model to users who agreed, each prompt once for each user, of one user `cap` at most."""
    bad = {(rating.model_extra or {}).get("exchange_id") for rating in store.ratings() if not rating.label}
    taken: dict[str, dict[str, Demonstration]] = {}
    over = disliked = 0
    for each in store.exchanges():
        found = lesson(each, teacher)
        if found is None:
            continue
        mine = taken.setdefault(each.user_id, {})
        if each.exchange_id in bad:
            disliked += 1
        elif found.prompt_id not in mine and len(mine) == cap:
            over += 1
        else:
            mine.setdefault(found.prompt_id, found)
    kept = {user: mine for user, mine in taken.items() if mine}
    return Taught([each for mine in kept.values() for each in mine.values()], len(kept), over, disliked)


def lesson(each: Exchange, teacher: str) -> Demonstration | None:
    """The exchange as a conversation to learn, where that model gave one whole answer and the user agreed."""
    told = each.settings or {}
    if each.status != "answered" or each.version != teacher or not told.get("consent"):
        return None
    if told.get("finish_reasons") != ["stop"] or not isinstance(each.prompt, dict) or not each.answers:
        return None
    asked: list[Message] = each.prompt.get("messages") or []
    answer = each.answers[0]["text"]
    if not asked or not answer.strip() or each.prompt.get("tools"):
        return None
    made = {"messages": [*asked, {"role": "assistant", "content": answer}], "user_id": each.user_id, "source": "serve"}
    return parse(Demonstration, {**made, "teacher": teacher})
