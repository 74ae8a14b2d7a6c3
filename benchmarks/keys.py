"""The labeler's page in headless Chromium: how many keys a ranking takes, and how soon the next set is there."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

from storm import ANSWERS, Server, some_sets

from plumbline.feedback.store import Overlap, Store

KEYS = ("1", "1", "F", "2", "Enter")
"""A ranking of four answers with a tie and a flag."""
READING = 400
"""Milliseconds that a set is on the page before the first key; the next one is loaded meanwhile. People take longer."""

# From the key event's own time stamp, so with all waiting before the page hears of it, until the frame with another
# prompt has been painted: a message that is posted while a frame is made arrives when it is done.
WATCH = """
window.painted = [];
addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  const said = () => document.querySelector("#prompt .text")?.textContent;
  const before = said();
  const look = () => {
    if (said() === before) return requestAnimationFrame(look);
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => window.painted.push(performance.now() - event.timeStamp);
    port2.postMessage(null);
  };
  requestAnimationFrame(look);
}, true);
"""


@dataclass
class Seen:
    """What a browser went through."""

    milliseconds: list[float] = field(default_factory=list)
    """From Enter to the next set, painted."""
    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    """Requests that left this machine."""
    requests: int = 0
    stored: int = 0
    """Rankings that are in the database as they were typed."""


def burn() -> None:
    """What a training run does to a core."""
    import numpy as np

    matrix = np.random.default_rng(0).random((512, 512), dtype=np.float32)
    while True:
        matrix @ matrix


@contextmanager
def busy(cores: int) -> Iterator[None]:
    """Keeps so many cores busy."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    processes = [multiprocessing.get_context("spawn").Process(target=burn, daemon=True) for _ in range(cores)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def run(folder: Path, *, sets: int, load: bool) -> Seen:
    """Ranks so many sets by keys, beside a load on all cores or without one."""
    from playwright.sync_api import sync_playwright

    seen = Seen()
    database = folder / ("busy.db" if load else "quiet.db")
    with Store.open(database) as store:
        store.set_overlap(Overlap(each=1, gold_share=0.0))
        store.add_sets(some_sets(0, sets + 10))
        ann = store.add_labeler("ann").labeler_id
        server = Server(str(database), folder)
        with busy((os.cpu_count() or 1) if load else 0), sync_playwright() as playwright:
            found = shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1280, "height": 860})
            page.add_init_script(WATCH)
            listen(page, seen, server.port)
            page.goto(f"http://127.0.0.1:{server.port}/sign-in/{store.new_link(ann, timedelta(hours=1))}")
            page.get_by_role("button", name="Sign in").click()
            for number in range(sets):
                rank(page, number)
            page.wait_for_function("() => document.querySelector('#saved').textContent === 'All saved'")
            seen.milliseconds = page.evaluate("window.painted")
            browser.close()
        server.close()
        said = [ranking for ranking in store.rankings() if ranking.ranks.count(1) == 2 and sum(ranking.flags) == 1]
        seen.stored = len(said)
    return seen


def listen(page: Any, seen: Seen, port: int) -> None:
    def requested(request: Any) -> None:
        seen.requests += 1
        if not request.url.startswith(f"http://127.0.0.1:{port}/"):
            seen.elsewhere.append(request.url)

    page.on("request", requested)
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("console", lambda line: seen.complaints.append(line.text) if line.type in ("error", "warning") else None)


def rank(page: Any, number: int) -> None:
    page.wait_for_function("(count) => window.painted.length === count", arg=number, timeout=60_000)
    page.wait_for_selector("#answers .answer")
    page.wait_for_timeout(READING)
    for key in KEYS:
        page.keyboard.press(key)
    page.wait_for_function("(count) => window.painted.length === count", arg=number + 1, timeout=60_000)


HEAD = ["", "sets", "median, ms", "p95, ms", "slowest, ms", "console errors", "requests", "of them elsewhere"]


def row(name: str, seen: Seen) -> list[object]:
    times = sorted(seen.milliseconds)
    assert seen.stored == len(times), f"{seen.stored} of {len(times)} rankings are stored as they were typed"
    p95 = times[int(0.95 * (len(times) - 1))]
    figures = [f"{median(times):.0f}", f"{p95:.0f}", f"{times[-1]:.0f}"]
    return [name, len(times), *figures, len(seen.complaints), seen.requests, len(seen.elsewhere)]


def notes() -> str:
    return (
        f"{ANSWERS} answers with a tie and a flag took {len(KEYS)} keys: {', '.join(KEYS)}. A time runs from the key "
        "event's own time stamp to the end of the frame that shows the next set. The load is one process a core that "
        "multiplies matrices, as a training run does."
    )
