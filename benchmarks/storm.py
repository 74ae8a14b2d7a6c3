"""Fifty labelers at once over HTTP, while the server is killed and connections are cut: what is lost, what is double.

Labelers are threads in two processes, each with a connection of its own and no time to think, so the server is as busy
as it can be. Every few seconds it is killed with SIGKILL and started again on the same database. Some requests are cut:
half of one is sent, or the answer to it is never read; the labeler then sends it again under the same key, as the page
does. Some labelers walk away with a set until its lease is over, and submit then. Sets are added as they are needed,
and none any more when the time is over; what was begun is then finished, by people who neither think nor walk away.
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

from databases import free_port
from sqlalchemy import func, select

from plumbline.feedback.queue import Queue
from plumbline.feedback.schema import assignment, comparison_set, ranking_event, session
from plumbline.feedback.store import Overlap, Store
from plumbline.records import ComparisonSet

LABELERS, PROCESSES = 50, 2
EACH, ANSWERS = 3, 4
LEASE = timedelta(seconds=15)
CUT, WALK_AWAY = 0.02, 0.002
"""How often a request is cut, and how often a labeler leaves with a set."""
READY = 150
"""Sets that are kept ready for labelers who do not think."""


def some_sets(begin: int, count: int) -> Iterator[ComparisonSet]:
    """Sets of four answers of a few hundred characters, all different."""
    for number in range(begin, begin + count):
        draw = random.Random(number)
        texts = [" ".join(f"word{draw.randrange(5000)}" for _ in range(40)) for _ in range(ANSWERS)]
        yield ComparisonSet.model_validate(
            {
                "set_id": f"set-{number}",
                "prompt": f"Question {number}: what would you do?",
                "completions": [{"text": text, "model": "m"} for text in texts],
            }
        )


# ---- the server, and what befalls it


class Server:
    """The ranking room over a database, on a fixed port, as a child process."""

    def __init__(self, database: str, folder: Path) -> None:
        self.port = free_port()
        self.command = [sys.executable, __file__, database, str(self.port)]
        self.log = folder / "server.log"
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, cwd=self.log.parent)
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                assert connection.getresponse().status == 200
                return self.process
            except OSError:
                assert self.process.poll() is None, self.log.read_text()[-2000:]
                time.sleep(0.05)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait()


def most_memory(pid: int) -> float:
    """The most memory that a process has held so far, in MiB; 0 where it is gone."""
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except FileNotFoundError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


@contextmanager
def beside(run: Any) -> Iterator[None]:
    """Calls `run()` again and again in a thread until the block ends; an error there is an error here."""
    done = Event()
    failed: list[Exception] = []

    def loop() -> None:
        try:
            while not done.is_set():
                run(done)
        except Exception as error:
            failed.append(error)

    thread = Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failed:
        raise failed[0]


# ---- one labeler


class Cut(OSError):
    """We ended the connection ourselves."""


@dataclass
class Told:
    """What a process of labelers reports."""

    acknowledged: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The set and the labeler of each key that the server acknowledged."""
    clean: list[float] = field(default_factory=list)
    """Seconds from submitting to holding the next set, where nothing was cut, killed or refused."""
    harmed: list[float] = field(default_factory=list)
    """The same where something was: with all the waiting for the server to come back."""
    in_time: int = 0
    """Those acknowledged before the time was over. The seconds are of those that were begun by then."""
    cuts: int = 0
    late: int = 0
    """Submissions that were begun after their lease was over."""
    faults: list[str] = field(default_factory=list)


class Person:
    """A labeler with a browser's manners: one connection, a cookie, a token, the same key until it is acknowledged."""

    def __init__(self, port: int, labeler_id: str, link: str, told: Told, pause: float) -> None:
        self.port, self.labeler_id, self.told, self.pause = port, labeler_id, told, pause
        self.random = random.Random(labeler_id)
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.headers = {"Accept": "application/json", "Content-Type": "application/json"}
        status, headers, _ = self.once("POST", f"/sign-in/{link}", None)
        assert status == 303, status
        self.headers["Cookie"] = headers["set-cookie"].split(";")[0]
        self.headers["X-CSRF-Token"] = self.token()

    def token(self) -> str:
        """The page's token, however often it takes to get it."""
        while True:
            try:
                _, _, body = self.once("GET", "/label", None)
            except (OSError, http.client.HTTPException):
                self.connection.close()
                time.sleep(0.25)
                continue
            found = re.search(r'name="csrf" content="(\w+)"', body.decode())
            assert found, body[:300]
            return found[1]

    def once(self, method: str, path: str, body: Any, *, cut: bool = False) -> tuple[int, Any, bytes]:
        """One request; `cut` ends the connection within it or before its answer."""
        data = None if body is None else json.dumps(body).encode()
        if cut and data and self.random.random() < 0.5:
            self.connection.putrequest(method, path)
            for name, value in {**self.headers, "Content-Length": str(len(data))}.items():
                self.connection.putheader(name, value)
            self.connection.endheaders(data[: len(data) // 2])
            raise Cut("half a request")
        self.connection.request(method, path, data, self.headers)
        if cut:
            raise Cut("no answer read")
        answer = self.connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[Any, bool]:
        """The answer, however often it takes to get it, and whether it came at once."""
        unharmed = True
        while True:
            cut = self.random.random() < CUT
            try:
                status, headers, data = self.once(method, path, body, cut=cut)
            except (OSError, http.client.HTTPException) as error:
                self.told.cuts += isinstance(error, Cut)
                self.connection.close()
                unharmed = False
                time.sleep(0.02 if cut else 0.25)
                continue
            if status == 200:
                return json.loads(data), unharmed
            if status not in (429, 500, 503):
                self.told.faults.append(f"{status} {path}: {data[:200]!r}")
                return None, False
            unharmed = False
            time.sleep(float(headers.get("Retry-After", 0.25)))

    def claim(self) -> tuple[Any, bool]:
        answer, unharmed = self.ask("POST", "/label/api/claim", {"have": []})
        return answer and answer["claim"], unharmed

    def rank(self, until: float) -> None:
        """Claims and submits until there is nothing left, which before `until` only means to wait a little."""
        claim, _ = self.claim()
        while True:
            while claim is None:
                if time.monotonic() > until:
                    return
                time.sleep(0.2)
                claim, _ = self.claim()
            given = time.monotonic()
            if given < until:
                self.dwell()
            self.told.late += time.monotonic() - given > LEASE.total_seconds()
            claim = self.submit(claim, until)

    def dwell(self) -> None:
        """Thinks, and now and then walks away until the lease is over."""
        if self.pause:
            time.sleep(self.random.expovariate(1 / self.pause))
        if self.random.random() < WALK_AWAY:
            time.sleep(LEASE.total_seconds() + 1.0)

    def submit(self, claim: Any, until: float) -> Any:
        """Submits a ranking, with a tie and now and then a flag, and gives the next claim."""
        order = [answer["place"] for answer in claim["answers"]]
        ranks: list[int | None] = [self.random.randint(1, len(order)) for _ in order]
        flags = [self.random.random() < 0.05 for _ in order]
        body = {
            "key": f"{self.labeler_id}-{self.random.getrandbits(64):016x}",
            "set_id": claim["set_id"],
            "instruction_version": claim["instruction"]["version"],
            "shown_order": order,
            "ranks": [None if flag else rank for rank, flag in zip(ranks, flags, strict=True)],
            "flags": flags,
            "seconds": 1.0,
        }
        begun = time.monotonic()
        receipt, unharmed = self.ask("POST", "/label/api/submit", body)
        if receipt is not None:
            self.told.acknowledged[str(body["key"])] = (claim["set_id"], self.labeler_id)
            self.told.in_time += time.monotonic() < until
        following, also = self.claim()
        if begun < until:
            (self.told.clean if unharmed and also else self.told.harmed).append(time.monotonic() - begun)
        return following


def labor(port: int, people: list[tuple[str, str]], until: float, pause: float) -> Told:
    """A process full of labelers."""
    told = Told()
    with ThreadPoolExecutor(len(people)) as pool:
        for done in [pool.submit(Person(port, *each, told, pause).rank, until) for each in people]:
            done.result()
    return told


# ---- the whole


@dataclass
class Outcome:
    """What became of it all."""

    told: Told
    seconds: float
    kills: int
    lost: int
    """Acknowledged and not in the database, or not as it was acknowledged."""
    twice: int
    """Keys, or current rankings of a person and a set, that are there more than once."""
    sets: int
    overlap: dict[int, int]
    """How many sets were counted for how many people."""
    stuck: int
    """Sets that lack people, and leases that are open, when nobody is given anything any more."""
    derived_wrong: int
    surplus: int
    memory: float


def run(
    database: str, folder: Path, *, minutes: float, kills: bool = True, pause: float = 0.0, ready: int = READY
) -> Outcome:
    """The storm on one database, with `ready` sets at hand: what is left of them when the time is over comes on top."""
    with Store.open(database) as store:
        store.set_overlap(Overlap(each=EACH, lease=LEASE, gold_share=0.0))
        people = [store.add_labeler(f"labeler {number}").labeler_id for number in range(LABELERS)]
        links = [(each, store.new_link(each, timedelta(hours=2))) for each in people]
        store.add_sets(some_sets(0, ready))
        server = Server(database, folder)
        until = time.monotonic() + 60 * minutes
        made, killed, memory = ready, 0, 0.0

        def feed(done: Event) -> None:
            nonlocal made
            progress = store.progress()
            lacking = ready - progress.waiting - progress.open
            if time.monotonic() < until and lacking > 0:
                store.add_sets(some_sets(made, lacking))
                made += lacking
            done.wait(0.5)

        def kill(done: Event) -> None:
            nonlocal killed, memory
            done.wait(random.uniform(5, 15))
            memory = max(memory, most_memory(server.process.pid))
            if kills and not done.is_set() and time.monotonic() < until and signed_in(store) >= LABELERS:
                server.kill()
                server.start()
                killed += 1

        with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool, beside(feed), beside(kill):
            share = -(-LABELERS // PROCESSES)
            parts = [links[begin : begin + share] for begin in range(0, LABELERS, share)]
            tolds = [each.result() for each in [pool.submit(labor, server.port, part, until, pause) for part in parts]]
        memory = max(memory, most_memory(server.process.pid))
        finish(server, store, people)
        server.close()
        return examine(store, merged(tolds), 60 * minutes, killed, memory)


def signed_in(store: Store) -> int:
    """How many people have signed in. A one-time link whose answer is lost is used up, so nobody is killed before."""
    with store.read() as connection:
        return int(connection.execute(select(func.count(session.c.labeler_id.distinct()))).scalar_one())


def finish(server: Server, store: Store, people: list[str]) -> None:
    """Lets what was begun be finished: waits until the last lease is over, and ranks what is then left."""
    told = Told()
    while store.progress().open:
        time.sleep(0.5)
    for each in people:
        Person(server.port, each, store.new_link(each, timedelta(hours=1)), told, 0.0).rank(0.0)
    assert not told.faults, told.faults


def merged(tolds: list[Told]) -> Told:
    whole = Told()
    for told in tolds:
        whole.acknowledged |= told.acknowledged
        whole.clean += told.clean
        whole.harmed += told.harmed
        whole.faults += told.faults
        whole.in_time += told.in_time
        whole.cuts += told.cuts
        whole.late += told.late
    return whole


def examine(store: Store, told: Told, seconds: float, kills: int, memory: float) -> Outcome:
    """Holds the database against what the labelers were told."""
    with store.read() as connection:
        events = connection.execute(
            select(ranking_event.c.key, ranking_event.c.set_id, ranking_event.c.labeler_id, ranking_event.c.surplus)
        ).all()
        current = connection.execute(
            select(assignment.c.set_id, ranking_event.c.surplus)
            .join(ranking_event, ranking_event.c.number == assignment.c.event)
            .where(assignment.c.state == "submitted")
        ).all()
        open_leases = connection.execute(
            select(func.count()).select_from(assignment).where(assignment.c.state == "open")
        ).scalar_one()
        sets = connection.execute(select(func.count()).select_from(comparison_set)).scalar_one()
    stored = {key: (set_id, labeler) for key, set_id, labeler, _ in events}
    all_of, late_of = Counter(row.set_id for row in current), Counter(row.set_id for row in current if row.surplus)
    # A late ranking is surplus when its place is lent to somebody else; should they not rank, the place is its own.
    counted = dict(Counter(min(count, max(EACH, count - late_of[name])) for name, count in all_of.items()))
    lacking = sets - sum(counted.values())
    if lacking:
        counted[0] = lacking
    return Outcome(
        told=told,
        seconds=seconds,
        kills=kills,
        lost=sum(stored.get(key) != said for key, said in told.acknowledged.items()),
        twice=2 * len(events) - len(stored) - len({(set_id, labeler) for _, set_id, labeler, _ in events}),
        sets=sets,
        overlap=counted,
        stuck=open_leases + sum(count for people, count in counted.items() if people < EACH),
        derived_wrong=store.rebuild(),
        surplus=sum(surplus for *_, surplus in events),
        memory=memory,
    )


def row(name: str, outcome: Outcome) -> list[object]:
    """A row of the table."""
    told = outcome.told
    exact = all(people == EACH for people in outcome.overlap)
    overlap = f"{EACH} for all {outcome.sets:,}" if exact else str(outcome.overlap)
    times = sorted(told.clean)
    spread = " / ".join(f"{1000 * times[int(part * (len(times) - 1))]:.0f}" for part in (0.5, 0.95, 0.99))
    return [
        name,
        f"{len(told.acknowledged):,}",
        f"{told.in_time / outcome.seconds:.0f}",
        spread,
        f"{max(told.harmed, default=0.0):.1f}",
        outcome.kills,
        told.cuts,
        told.late,
        outcome.lost,
        outcome.twice,
        overlap,
        outcome.stuck + outcome.derived_wrong,
        len(told.faults),
        f"{outcome.memory:.0f}",
    ]


HEAD = [
    "",
    "answers",
    "a second",
    "submit to next, ms: p50 / p95 / p99",
    "slowest of the harmed, s",
    "kills",
    "cuts",
    "late",
    "lost",
    "twice",
    "people a set",
    "stuck",
    "refused",
    "server, MiB",
]


def serve_room(database: str, port: int) -> None:
    """What the child process does."""
    from plumbline.feedback.room.app import create_app
    from plumbline.web.server import serve

    with Store.open(database) as store:
        serve(create_app(store, Queue(store)), port=port)


if __name__ == "__main__":
    serve_room(sys.argv[1], int(sys.argv[2]))
