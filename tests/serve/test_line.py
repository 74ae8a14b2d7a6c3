"""Who is next: fair between keys, bounded, and a place is never lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from plumbline.serve.line import Line
from plumbline.web.errors import Refusal
from sites import Clock


class Crowd:
    """Requests at a line: each says that it got its place, and leaves when it is told to."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.served: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._leave: dict[str, asyncio.Event] = {}

    def come(self, name: str, who: str, rows: int = 1, size: int = 0) -> asyncio.Task[None]:
        self._leave[name] = asyncio.Event()

        async def request() -> None:
            async with self.line.place(who, rows, size):
                self.served.append(name)
                await self._leave[name].wait()

        self.tasks.append(asyncio.create_task(request()))
        return self.tasks[-1]

    async def leave(self, name: str) -> None:
        self._leave[name].set()
        await settle()

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def settle() -> None:
    """Until nothing happens without something from outside."""
    for _ in range(10):
        await asyncio.sleep(0)


def on_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """An asynchronous test."""

    def run() -> None:
        async def whole() -> None:
            await test()

        asyncio.run(whole())

    run.__name__ = test.__name__  # type: ignore[attr-defined]
    run.__doc__ = test.__doc__
    return run


@on_loop
async def test_one_key_that_asks_much_does_not_keep_another_waiting() -> None:
    crowd = Crowd(Line(1))
    for number in range(5):
        crowd.come(f"much {number}", "much")
    await settle()
    crowd.come("little", "little")
    await settle()
    await crowd.leave("much 0")
    assert crowd.served == ["much 0", "little"]
    await crowd.leave("little")
    assert crowd.served[2] == "much 1"
    await crowd.end()


@on_loop
async def test_who_comes_late_has_saved_nothing_up() -> None:
    crowd = Crowd(Line(1))
    for number in range(6):
        crowd.come(f"a{number}", "a")
    await settle()
    for number in range(3):
        await crowd.leave(f"a{number}")
    for number in range(3):
        crowd.come(f"b{number}", "b")
    await settle()
    for _ in range(4):
        await crowd.leave(crowd.served[-1])
    assert [name[0] for name in crowd.served[4:]] in (list("bab" + "a"), list("abab"), list("baba"))
    await crowd.end()


@on_loop
async def test_a_place_is_a_row_and_a_large_request_is_not_overtaken_for_ever() -> None:
    crowd = Crowd(Line(4))
    crowd.come("three", "a", rows=3)
    crowd.come("four", "b", rows=4)
    await settle()
    crowd.come("one", "c")
    await settle()
    assert crowd.served == ["three"]
    await crowd.leave("three")
    assert crowd.served == ["three", "four"]
    await crowd.leave("four")
    assert crowd.served == ["three", "four", "one"]
    await crowd.end()


@on_loop
async def test_more_rows_than_there_are_places_is_refused() -> None:
    with pytest.raises(Refusal, match="5 answers were asked for at once and there are 4 places"):
        async with Line(4).place("a", rows=5):
            raise AssertionError("it got in")


@on_loop
async def test_a_line_that_is_full_says_when_to_come_back() -> None:
    clock = Clock()
    line = Line(1, waiting=2, size=100, clock=clock)
    crowd = Crowd(line)
    for number in range(3):
        crowd.come(str(number), "a", size=10)
    await settle()
    assert line.waiting == 2
    with pytest.raises(Refusal, match="2 requests wait already") as refused:
        async with line.place("b"):
            raise AssertionError("it got in")
    assert refused.value.status == 429 and refused.value.wait == 2
    for number in range(3):  # at ten seconds a place, the advice grows
        clock.now += 10
        await crowd.leave(str(number))
        crowd.come(f"again {number}", "a")
        await settle()
    with pytest.raises(Refusal) as refused:
        async with line.place("b"):
            raise AssertionError("it got in")
    assert refused.value.wait is not None and refused.value.wait > 2
    await crowd.end()


@on_loop
async def test_long_prompts_fill_the_line_as_well() -> None:
    line = Line(1, size=100)
    crowd = Crowd(line)
    crowd.come("runs", "a", size=1000)
    crowd.come("waits", "a", size=90)
    await settle()
    with pytest.raises(Refusal) as refused:
        async with line.place("b", size=11):
            raise AssertionError("it got in")
    assert refused.value.status == 429
    crowd.come("small", "b", size=10)
    await settle()
    assert line.waiting == 2
    await crowd.end()


@on_loop
async def test_who_waits_too_long_is_told_so_and_leaves_the_line() -> None:
    line = Line(1, patience=0.01)
    crowd = Crowd(line)
    crowd.come("runs", "a")
    await settle()
    with pytest.raises(Refusal, match="No place came free within 0.01 s") as refused:
        async with line.place("b"):
            raise AssertionError("it got in")
    assert (refused.value.status, line.waiting) == (503, 0)
    await crowd.end()
    assert line.free == 1


@on_loop
async def test_who_gives_up_takes_no_place_with_them() -> None:
    line = Line(1)
    crowd = Crowd(line)
    crowd.come("runs", "a")
    waits = crowd.come("waits", "b")
    crowd.come("also", "c")
    await settle()
    waits.cancel()
    with suppress(asyncio.CancelledError):
        await waits
    await crowd.leave("runs")
    assert crowd.served == ["runs", "also"]
    await crowd.leave("also")
    assert (line.free, line.waiting) == (1, 0)


@on_loop
async def test_who_gives_up_as_the_place_comes_gives_it_on() -> None:
    line = Line(1)
    crowd = Crowd(line)
    crowd.come("runs", "a")
    waits = crowd.come("waits", "b")
    crowd.come("also", "c")
    await settle()
    crowd._leave["runs"].set()
    await asyncio.sleep(0)  # the place is given to "waits", which has not run yet
    waits.cancel()
    await settle()
    assert "also" in crowd.served
    await crowd.end()
    assert (line.free, line.waiting) == (1, 0)


@on_loop
async def test_where_nobody_may_wait_who_finds_no_place_is_turned_away() -> None:
    line = Line(1, waiting=0)
    crowd = Crowd(line)
    crowd.come("runs", "a")
    await settle()
    with pytest.raises(Refusal) as refused:
        async with line.place("b"):
            raise AssertionError("it got in")
    assert (refused.value.status, line.waiting) == (429, 0)
    await crowd.leave("runs")
    crowd.come("next", "b")
    await settle()
    assert crowd.served == ["runs", "next"]
    await crowd.end()
