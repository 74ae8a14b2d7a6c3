"""One thread writes: many rows to a commit, each told when it is on the disk, and none told so that is not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collecting import an_exchange
from plumbline.errors import UserError
from plumbline.feedback.database import DatabaseFailed
from plumbline.feedback.store import Exchange, Store
from plumbline.serve import journal as journal_module
from plumbline.serve.journal import Journal
from plumbline.web.errors import Refusal


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "plumb.db") as store:
        yield store


class SlowStore:
    """A store whose first commit waits until it may end."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.batches: list[int] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def add_exchanges(self, rows: list[Exchange]) -> None:
        self.begun.set()
        self.go.wait(30)
        self.batches.append(len(rows))
        self.store.add_exchanges(rows)


def test_rows_gather_while_a_commit_is_under_way(store: Store) -> None:
    slow = SlowStore(store)
    journal = Journal(slow)  # type: ignore[arg-type]

    async def scenario() -> None:
        first = asyncio.create_task(journal.write(an_exchange("first")))
        await asyncio.to_thread(slow.begun.wait, 30)
        rest = [asyncio.create_task(journal.write(an_exchange(str(number)))) for number in range(50)]
        await asyncio.sleep(0)
        assert not first.done() and not any(task.done() for task in rest)
        slow.go.set()
        await asyncio.gather(first, *rest)

    asyncio.run(scenario())
    journal.close()
    assert slow.batches == [1, 50]
    assert len(list(store.exchanges())) == 51


def test_whoever_is_told_so_is_on_the_disk(store: Store) -> None:
    journal = Journal(store)

    async def one(name: str) -> None:
        await journal.write(an_exchange(name))
        assert store.exchange(name, "shop") is not None

    async def scenario() -> None:
        await asyncio.gather(*(one(str(number)) for number in range(200)))

    asyncio.run(scenario())
    journal.close()
    assert journal.rows == 200 and journal.commits <= 200


def test_one_row_that_cannot_be_written_takes_no_other_with_it(store: Store) -> None:
    slow = SlowStore(store)
    journal = Journal(slow)  # type: ignore[arg-type]

    async def scenario() -> list[Any]:
        first = asyncio.create_task(journal.write(an_exchange("there")))
        await asyncio.to_thread(slow.begun.wait, 30)
        rows = [an_exchange("a"), an_exchange("there"), an_exchange("b")]
        rest = [asyncio.create_task(journal.write(row)) for row in rows]
        await asyncio.sleep(0)
        slow.go.set()
        return await asyncio.gather(first, *rest, return_exceptions=True)

    results = asyncio.run(scenario())
    journal.close()
    assert [type(result) for result in results] == [type(None), type(None), Refusal, type(None)]
    assert sorted(each.exchange_id for each in store.exchanges()) == ["a", "b", "there"]


def test_a_disk_that_is_full_acknowledges_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(rows: object) -> None:
        raise UserError("the database 'plumb.db' failed: database or disk is full")

    monkeypatch.setattr(store, "add_exchanges", full)
    journal = Journal(store)
    with pytest.raises(Refusal) as refused:
        asyncio.run(journal.write(an_exchange()))
    assert refused.value.status == 503 and refused.value.wait
    journal.note(an_exchange("gone"))
    journal.close()
    assert (journal.lost, list(store.exchanges())) == (1, [])


def test_a_queue_that_is_full_is_said_and_not_grown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "WAITING", 1)
    slow = SlowStore(store)
    journal = Journal(slow)  # type: ignore[arg-type]

    async def scenario() -> None:
        first = asyncio.create_task(journal.write(an_exchange("1")))
        await asyncio.to_thread(slow.begun.wait, 30)
        second = asyncio.create_task(journal.write(an_exchange("2")))
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="does not keep up"):
            await journal.write(an_exchange("3"))
        journal.note(an_exchange("4"))
        slow.go.set()
        await asyncio.gather(first, second)

    asyncio.run(scenario())
    journal.close()
    assert journal.lost == 1
    assert [each.exchange_id for each in store.exchanges()] == ["1", "2"]


def test_what_waits_at_the_end_is_written(store: Store) -> None:
    journal = Journal(store)
    for number in range(30):
        journal.note(an_exchange(str(number)))
    journal.close()
    assert len(list(store.exchanges())) == 30


def test_a_database_that_fails_is_asked_once_and_not_for_each_row(store: Store) -> None:
    """While another process holds it each try takes a minute: of 500 rows the last would be refused after hours."""
    slow = SlowStore(store)
    tries: list[int] = []

    def locked(rows: list[Exchange]) -> None:
        slow.begun.set()
        slow.go.wait(30)
        tries.append(len(rows))
        raise DatabaseFailed("the database 'plumb.db' failed: database is locked")

    slow.add_exchanges = locked  # type: ignore[method-assign]
    journal = Journal(slow)  # type: ignore[arg-type]

    async def scenario() -> list[Any]:
        first = asyncio.create_task(journal.write(an_exchange("1")))
        await asyncio.to_thread(slow.begun.wait, 30)
        rest = [asyncio.create_task(journal.write(an_exchange(name))) for name in "abc"]
        journal.note(an_exchange("noted"))
        await asyncio.sleep(0)
        slow.go.set()
        return await asyncio.gather(first, *rest, return_exceptions=True)

    results = asyncio.run(scenario())
    journal.close()
    assert [type(result) for result in results] == [Refusal] * 4
    assert (tries, journal.lost) == ([1, 4], 1)
