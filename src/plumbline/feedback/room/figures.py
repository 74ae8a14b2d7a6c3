"""What is reckoned from all rankings for the manager: kept until there are new ones, and never waited for twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock, Thread
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from plumbline.feedback.agreement import Agreement, Figure, agreement, with_themselves
from plumbline.feedback.labelers import LabelerScore, judge_labelers
from plumbline.feedback.room.disputes import Disputes, find_disputes
from plumbline.feedback.room.habits import Habits, find_habits
from plumbline.feedback.schema import assignment, comparison_set, exclusion_event, gold, labeler, ranking_event
from plumbline.records import Ranking

if TYPE_CHECKING:
    from plumbline.feedback.store import Store

QUICK = 0.25
"""Seconds of reckoning that a page may wait for; what takes longer is done beside it, and the page shows the last."""
REST = 9
"""Times as long as it took, slow reckoning rests, so that it takes a tenth of the time however many rankings there are.
"""


@dataclass(frozen=True)
class Figures:
    """All that takes a pass over the rankings."""

    stamp: str
    at: datetime
    agreement: dict[str, Agreement]
    """By criterion, without those left out."""
    scores: dict[str, LabelerScore]
    """By labeler, those left out too, so that an exclusion can be looked at again."""
    themselves: dict[str, Figure]
    """How far those who were asked a set twice said the same again."""
    habits: dict[str, Habits]
    disputes: Disputes


class Reckoner:
    """Gives the figures of a store; many threads may ask at once."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self.store = store
        self.clock = clock
        self._lock = Lock()
        self._last: Figures | None = None
        self._took = self._ended = 0.0

    def figures(self) -> Figures:
        """The newest figures, or those before while newer ones are on their way."""
        last = self._last
        if last is None or (self._took < QUICK and self._due()):
            with self._lock:
                return self._reckon() if self._last is None or self._due() else self._last
        if self._due() and self._lock.acquire(blocking=False):
            Thread(target=self._reckon_beside, daemon=True).start()
        return last

    def _due(self) -> bool:
        rested = self._took < QUICK or self.clock() - self._ended >= REST * self._took
        return rested and (self._last is None or self._last.stamp != stamp(self.store))

    def _reckon_beside(self) -> None:
        try:
            self._reckon()
        finally:
            self._lock.release()

    def _reckon(self) -> Figures:
        begun, mark = self.clock(), stamp(self.store)
        store = self.store
        scores = judge_labelers(store.rankings(include_excluded=True), gold=gold_rankings(store))
        self._last = Figures(
            stamp=mark,
            at=store.clock(),
            agreement={name: agreement(store.rankings(criterion=name)) for name in store.criteria()},
            scores={each.labeler_id: each for each in scores},
            themselves=themselves(store),
            habits=find_habits(store.rankings(include_excluded=True)),
            disputes=find_disputes(store.rankings()),
        )
        self._ended = self.clock()
        self._took = self._ended - begun
        return self._last


def gold_rankings(store: Store) -> list[Ranking]:
    """The known ranks of gold sets, as rankings by "gold"."""
    rankings = []
    for set_id, ranks in store.gold_sets().items():
        each = store.comparison_set(set_id)
        rankings.append(
            Ranking(
                set_id=set_id,
                prompt_id=each.prompt_id,
                prompt=each.prompt,
                completions=tuple(answer.text for answer in each.completions),
                ranks=ranks,
                flags=tuple(rank is None for rank in ranks),
                labeler_id="gold",
                instruction_version="gold",
            )
        )
    return rankings


def themselves(store: Store) -> dict[str, Figure]:
    """The agreement of each labeler with themselves."""
    first, again = (store.rankings(again=again, include_excluded=True) for again in (False, True))
    return with_themselves(first, again)


def stamp(store: Store) -> str:
    """Another one whenever a ranking, an exclusion or a labeler came, or one was erased."""
    with store.read() as connection:
        newest = select(func.max(ranking_event.c.number)).scalar_subquery()
        events = select(func.count()).select_from(ranking_event).scalar_subquery()
        exclusions = select(func.max(exclusion_event.c.number)).scalar_subquery()
        people = select(func.count()).select_from(labeler).scalar_subquery()
        newcomer = select(func.max(labeler.c.at)).scalar_subquery()  # who is erased becomes somebody new
        row = connection.execute(select(newest, events, exclusions, people, newcomer)).one()
    return "-".join(str(each or 0).replace(" ", "T") for each in row)


@dataclass(frozen=True)
class Pace:
    """How fast it goes."""

    last_hour: int
    """Rankings that came in the last hour."""
    last_day: int
    people: int
    """Who ranked in the last day."""
    lacking: int
    """Rankings that are still needed."""
    skipped: list[tuple[str, int]]
    """Reasons for which sets were skipped, the most common first."""

    @property
    def left(self) -> timedelta | None:
        """The time that the rest takes as it goes now; None where nobody ranks."""
        return timedelta(hours=self.lacking / self.last_hour) if self.last_hour and self.lacking else None


def pace(store: Store) -> Pace:
    overlap, now = store.overlap(), store.clock()
    needed = overlap.needed()
    lacking = select(func.sum(needed - comparison_set.c.counted)).where(
        needed > comparison_set.c.counted, comparison_set.c.set_id.not_in(select(gold.c.set_id))
    )
    came = select(func.count()).select_from(ranking_event).where(ranking_event.c.source.is_(None))
    day = ranking_event.c.at > now - timedelta(days=1)
    reasons = (
        select(assignment.c.reason, func.count())
        .where(assignment.c.state == "skipped")
        .group_by(assignment.c.reason)
        .order_by(func.count().desc(), assignment.c.reason)
    )
    with store.read() as connection:
        return Pace(
            last_hour=connection.execute(came.where(ranking_event.c.at > now - timedelta(hours=1))).scalar_one(),
            last_day=connection.execute(came.where(day)).scalar_one(),
            people=connection.execute(
                select(func.count(ranking_event.c.labeler_id.distinct())).where(day, ranking_event.c.source.is_(None))
            ).scalar_one(),
            lacking=int(connection.execute(lacking).scalar() or 0),
            skipped=[(reason or "no reason", count) for reason, count in connection.execute(reasons)],
        )
