"""What the tests of collecting feedback share: a clock that is told the time, sets to rank, and what people say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from plumbline.feedback.queue import Claim
from plumbline.feedback.store import Exchange, Labeler, Submission
from plumbline.records import ComparisonSet


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_minutes(self, minutes: float) -> None:
        self.now += timedelta(minutes=minutes)


def a_set(name: str = "s0", answers: int = 3, **fields: Any) -> ComparisonSet:
    completions = [{"text": f"answer {place} of {name}", "model": "m", "seed": place} for place in range(answers)]
    given = {"set_id": name, "prompt": f"prompt of {name}", "completions": completions, **fields}
    return ComparisonSet.model_validate(given)


def some_sets(count: int, answers: int = 3) -> list[ComparisonSet]:
    return [a_set(f"s{number}", answers) for number in range(count)]


def said(claim: Claim, who: Labeler, key: str = "", ranks: tuple[int | None, ...] = (), **fields: Any) -> Submission:
    """A submission for a claim; all answers tied unless `ranks` says otherwise, those without a rank flagged."""
    ranks = ranks or (1,) * len(claim.set.completions)
    return Submission(
        key or f"{who.labeler_id} {claim.set.set_id} {claim.again}",
        claim.set.set_id,
        who.labeler_id,
        ranks,
        tuple(rank is None for rank in ranks),
        claim.instruction.version,
        claim.order,
        again=claim.again,
        **fields,
    )


def an_exchange(name: str = "x1", user_id: str = "shop/u1", **fields: Any) -> Exchange:
    """What a served model was asked by a user of the tenant "shop"."""
    given = {"kind": "chat", "tenant": "shop", "version": "m@1", "status": "answered", "latency_ms": 5.0, **fields}
    return Exchange(name, user_id=user_id, **{"at": datetime(2026, 1, 1, 12, tzinfo=UTC), **given})
