"""The page that shows what a served model does: traffic, times, tokens, what people think, versions and faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from plumbline.feedback.routes import Routed, routes
from plumbline.feedback.store import Hour
from plumbline.serve.api import service_of
from plumbline.serve.route import Prices, Route, cost_of
from plumbline.web.auth import Visitor, needs

router = APIRouter()
Manager = Annotated[Visitor, Depends(needs("manager"))]

HOURS = 48
WIDTH, HEIGHT, BAR = 960, 120, 20
"""Of the chart, in its own units; one bar for an hour."""


@dataclass(frozen=True)
class VersionRow:
    """What one version did in that time."""

    version: str
    exchanges: int
    failed: int
    tokens: int
    mean_ms: float
    up: int
    down: int


@dataclass(frozen=True)
class RouteRow:
    """What went one way, and what was said of it."""

    route: str
    exchanges: int
    share: float
    tokens: int
    cost: float
    liked: float | None
    """The share of good ones among its thumbs; None where there is no thumb."""
    thumbs: int


@router.get("/traffic")
def page(request: Request, visitor: Manager) -> Response:
    service = service_of(request)
    store = service.store
    now = store.clock()
    hours = store.hours(now - timedelta(hours=HOURS))
    labels = [(now - timedelta(hours=back)).strftime("%Y-%m-%d %H") for back in reversed(range(HOURS))]
    ways = routes(store, now - timedelta(hours=HOURS))
    shown: Response = request.app.state.pages.render(
        request,
        "traffic.html",
        hours=HOURS,
        bars=bars(labels, hours),
        width=WIDTH,
        height=HEIGHT,
        versions=by_version(hours, store.thumbs(now - timedelta(hours=HOURS))),
        routes=by_route(ways),
        cost=sum(each.cost for each in ways),
        saved=saved(ways, service.settings.route, service.settings.prices),
        engines=service.versions.engines(),
        fault=service.versions.fault,
        waiting=service.line.waiting,
        rows=service.line.places - service.line.free,
        places=service.line.places,
        telemetry=request.app.state.telemetry.report(),
    )
    return shown


def bars(labels: Sequence[str], hours: Sequence[Hour]) -> list[dict[str, Any]]:
    """A bar for each hour: what was answered, and on it what failed."""
    done = {label: [0, 0] for label in labels}
    for each in hours:
        if each.hour in done:
            done[each.hour][0] += each.exchanges
            done[each.hour][1] += each.failed
    most = max((count for count, _ in done.values()), default=0) or 1
    return [
        {
            "x": place * BAR + 2,
            "width": BAR - 4,
            "y": HEIGHT - HEIGHT * count / most,
            "height": HEIGHT * count / most,
            "failed": HEIGHT * failed / most,
            "label": f"{label}:00 UTC: {count:,} requests" + (f", {failed:,} failed" if failed else ""),
        }
        for place, (label, (count, failed)) in enumerate(done.items())
    ]


def by_version(hours: Sequence[Hour], thumbs: Mapping[str, tuple[int, int]]) -> list[VersionRow]:
    """What each version did, and what was said of it."""
    rows = []
    for version in dict.fromkeys(each.version for each in hours):
        mine = [each for each in hours if each.version == version]
        exchanges = sum(each.exchanges for each in mine)
        up, down = thumbs.get(version, (0, 0))
        rows.append(
            VersionRow(
                version=version or "none, it was refused before",
                exchanges=exchanges,
                failed=sum(each.failed for each in mine),
                tokens=sum(each.tokens for each in mine),
                mean_ms=sum(each.mean_ms * each.exchanges for each in mine) / exchanges,
                up=up,
                down=down,
            )
        )
    return rows


def by_route(ways: Sequence[Routed]) -> list[RouteRow]:
    """The ways that requests went, each with its share."""
    total = sum(each.exchanges for each in ways)
    return [
        RouteRow(
            route=each.route,
            exchanges=each.exchanges,
            share=each.exchanges / total,
            tokens=each.prompt_tokens + each.completion_tokens,
            cost=each.cost,
            liked=each.up / (each.up + each.down) if each.up or each.down else None,
            thumbs=each.up + each.down,
        )
        for each in ways
    ]


def saved(ways: Sequence[Routed], route: Route | None, prices: Prices) -> float | None:
    """What less was paid than if the larger model had answered all, the tokens being as many; None without its price.

    That is an estimate: the larger model counts tokens in its own way, and would have written other answers.
    """
    if route is None or route.large not in prices:
        return None
    all_large = sum(cost_of(prices, route.large, each.prompt_tokens, each.completion_tokens) for each in ways)
    return all_large - sum(each.cost for each in ways)
