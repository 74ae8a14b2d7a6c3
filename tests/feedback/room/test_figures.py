"""When figures are reckoned anew, by a clock that the test holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from plumbline.feedback.room import figures
from plumbline.feedback.room.figures import Reckoner, pace
from plumbline.feedback.store import Overlap, Store
from plumbline.records import Ranking
from rooms import HOT, HOT_ANSWERS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path) as store:
        yield store


def rank(store: Store, who: str, set_id: str = "a") -> None:
    row = {"set_id": set_id, "prompt": HOT, "completions": HOT_ANSWERS, "ranks": (2, 1, 3), "flags": (False,) * 3}
    store.add_rankings([Ranking.model_validate({**row, "labeler_id": who, "instruction_version": "1"})], "elsewhere")


class Clock:
    """Goes on by `step` seconds with each look at it."""

    def __init__(self) -> None:
        self.now = self.step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_the_same_figures_until_somebody_ranks(store: Store) -> None:
    reckoner = Reckoner(store, Clock())
    rank(store, "ann")
    first = reckoner.figures()
    assert reckoner.figures() is first
    assert first.agreement["helpful"].sets == 1
    rank(store, "ben")
    assert reckoner.figures().agreement["helpful"].shared == 1


def test_slow_reckoning_rests_nine_times_as_long_as_it_took(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "Thread", AtOnce)
    clock = Clock()
    reckoner = Reckoner(store, clock)
    clock.step = 0.5  # it looks at the clock before and after, so it takes half a second
    rank(store, "ann")
    first = reckoner.figures()
    clock.step = 0.0
    rank(store, "ben")
    clock.now += 4.4
    assert [reckoner.figures() is first for _ in range(2)] == [True, True]
    clock.now += 0.1
    assert [reckoner.figures() is first for _ in range(2)] == [True, False]  # begun at the first look


def test_what_takes_long_is_done_beside_and_nobody_waits(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    reckoner = Reckoner(store, clock)
    rank(store, "ann")
    clock.step = 2.0
    first = reckoner.figures()
    rank(store, "ben")
    clock.now += 100.0
    may_go_on, done = Event(), Event()
    find = figures.find_disputes

    def slow(rankings: Iterator[Ranking]) -> figures.Disputes:
        assert may_go_on.wait(10)
        done.set()
        return find(rankings)

    monkeypatch.setattr(figures, "find_disputes", slow)
    assert reckoner.figures() is first
    assert reckoner.figures() is first  # and it is not begun twice
    may_go_on.set()
    assert done.wait(10)
    with reckoner._lock:  # it is let go when the newer ones are there
        pass
    clock.step = 0.0
    assert reckoner.figures().agreement["helpful"].shared == 1


def test_a_reckoning_that_fails_beside_can_be_begun_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    reckoner = Reckoner(store, clock)
    rank(store, "ann")
    clock.step = 2.0
    first = reckoner.figures()
    rank(store, "ben")
    clock.now += 100.0
    monkeypatch.setattr(figures, "Thread", AtOnce)
    monkeypatch.setattr(figures, "find_disputes", lambda rankings: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        reckoner.figures()
    monkeypatch.undo()
    monkeypatch.setattr(figures, "Thread", AtOnce)
    assert reckoner.figures() is first
    clock.step = 0.0
    assert reckoner.figures().agreement["helpful"].shared == 1


class AtOnce:
    """A thread that runs where it is started."""

    def __init__(self, target: object, daemon: bool) -> None:
        self.start = target


def test_pace_counts_what_still_lacks(store: Store) -> None:
    store.set_overlap(Overlap(each=3))
    rank(store, "ann")
    rank(store, "ben")
    rank(store, "ann", "b")
    going = pace(store)
    assert going.lacking == 3  # one person for the first set, two for the second
    assert (going.last_hour, going.left) == (0, None)  # what was imported is no pace
