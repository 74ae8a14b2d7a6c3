"""Many people at once, processes that are killed, and clocks that run on: nothing is lost, doubled or stuck."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from collecting import Clock, said, some_sets
from plumbline.feedback.places import Progress
from plumbline.feedback.queue import Overlap, Queue
from plumbline.feedback.store import Labeler, Store

HERE = Path(__file__).parent.parent

WORKER = """
import json, sys
from collecting import said
from plumbline.feedback.queue import Queue
from plumbline.feedback.store import Store

where, *ids = json.loads(sys.argv[1])
with Store.open(where) as store:
    queue, people = Queue(store), [store.labeler(each) for each in ids]
    print("ready", flush=True)
    sys.stdin.readline()
    while people:
        for who in list(people):
            claim = queue.claim(who.labeler_id)
            if claim is None:
                people.remove(who)
                continue
            submission = said(claim, who)
            store.submit(submission)
            print(submission.key, flush=True)  # what has been acknowledged
"""


@contextmanager
def worker(where: str, people: list[Labeler]) -> Iterator[subprocess.Popen[str]]:
    """A process that claims and submits for these people and prints each key that was acknowledged."""
    argument = json.dumps([where, *(who.labeler_id for who in people)])
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, argument],
        cwd=HERE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdin
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("go\n")
    process.stdin.flush()


def ranked_by(store: Store) -> dict[str, list[str]]:
    """Who ranked each set; somebody who did so twice is there twice."""
    found: dict[str, list[str]] = {}
    for ranking in store.rankings(current=False):
        found.setdefault(ranking.set_id, []).append(ranking.labeler_id)
    return found


def at_once(people: list[Labeler], act: Callable[[Labeler], None]) -> None:
    """Runs `act` for everyone in threads that start together; the first fault is raised."""
    start = threading.Barrier(len(people))
    faults: list[BaseException] = []

    def run(who: Labeler) -> None:
        try:
            start.wait()
            act(who)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=run, args=(who,)) for who in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]


def test_fifty_threads_fill_each_place_once(store: Store) -> None:
    store.add_sets(some_sets(30))
    people = [store.add_labeler(f"labeler {number}") for number in range(50)]
    queue = Queue(store, Overlap(each=3))
    lots = random.Random(0)
    patience = {who.labeler_id: lots.randint(1, 3) for who in people}

    def rank(who: Labeler) -> None:
        for _ in range(patience[who.labeler_id]):
            claim = queue.claim(who.labeler_id)
            ahead = queue.claim(who.labeler_id, ahead=1)
            if claim is None:
                return
            store.submit(said(claim, who))
            if ahead is not None:
                queue.release(ahead.set.set_id, who.labeler_id)

    at_once(people, rank)
    for who in people:  # those who came to a moment when every free place was held
        while (claim := queue.claim(who.labeler_id)) is not None:
            store.submit(said(claim, who))
    assert store.progress() == Progress(done=30)
    ranked = ranked_by(store)
    assert {len(by) for by in ranked.values()} == {3} and all(len(set(by)) == 3 for by in ranked.values())
    assert len(ranked) == 30 and store.rebuild() == 0


def test_two_tabs_of_one_labeler_hold_the_same_set(store: Store) -> None:
    store.add_sets(some_sets(9))
    ann = store.add_labeler("Ann")
    queue = Queue(store, Overlap(each=1))
    held: list[str] = []

    def look(who: Labeler) -> None:
        claim = queue.claim(who.labeler_id)
        assert claim is not None
        held.append(claim.set.set_id)

    at_once([ann] * 8, look)
    assert held == ["s0"] * 8 and store.progress() == Progress(waiting=8, open=1)


def test_one_submission_sent_by_many_connections_is_stored_once(store: Store) -> None:
    store.add_sets(some_sets(1))
    ann = store.add_labeler("Ann")
    claim = Queue(store).claim(ann.labeler_id)
    assert claim is not None
    receipts = []
    at_once([ann] * 8, lambda who: receipts.append(store.submit(said(claim, who, "the key"))))
    assert len({receipt.event_id for receipt in receipts}) == 1
    assert Counter(receipt.replayed for receipt in receipts) == {True: 7, False: 1}
    assert ranked_by(store) == {"s0": [ann.labeler_id]}


def test_leases_of_everyone_expire_and_nothing_sticks(store: Store, clock: Clock) -> None:
    store.add_sets(some_sets(10))
    people = [store.add_labeler(f"labeler {number}") for number in range(25)]
    queue = Queue(store, Overlap(each=2, lease=timedelta(minutes=5)))

    def leave(who: Labeler) -> None:
        queue.claim(who.labeler_id)

    at_once(people, leave)
    assert store.progress() == Progress(open=10)
    clock.pass_minutes(6)
    assert store.progress() == Progress(waiting=10)
    for who in people:
        while (claim := queue.claim(who.labeler_id)) is not None:
            store.submit(said(claim, who))
    assert store.progress() == Progress(done=10)
    assert {len(by) for by in ranked_by(store).values()} == {2}


@pytest.mark.slow
def test_processes_that_rank_together_fill_each_place_once(where: str) -> None:
    with Store.open(where) as store:
        store.add_sets(some_sets(20))
        people = [store.add_labeler(f"labeler {number}") for number in range(9)]
        Queue(store, Overlap(each=2))
        with worker(where, people[:3]) as one, worker(where, people[3:6]) as two, worker(where, people[6:]) as three:
            for each in (one, two, three):
                assert each.stdout and each.stdout.readline() == "ready\n"
            for each in (one, two, three):
                go(each)
            acknowledged = [each.communicate()[0].splitlines() for each in (one, two, three)]
            assert [each.returncode for each in (one, two, three)] == [0, 0, 0]
        ranked = ranked_by(store)
        assert sorted(f"{by} {of} False" for of, names in ranked.items() for by in names) == sorted(
            sum(acknowledged, [])
        )
        assert {of: len(set(by)) for of, by in ranked.items()} == {f"s{number}": 2 for number in range(20)}
        assert store.progress() == Progress(done=20)


@pytest.mark.slow
def test_what_a_killed_process_acknowledged_is_there_once_and_its_leases_come_back(where: str) -> None:
    clock = Clock()
    lots = random.Random(1)
    with Store.open(where) as store:
        store.add_sets(some_sets(60))
        people = [store.add_labeler(f"labeler {number}") for number in range(4)]
        Queue(store, Overlap(each=2))
    acknowledged: list[str] = []
    for _ in range(6):
        with worker(where, people) as process:
            assert process.stdout and process.stdout.readline() == "ready\n"
            go(process)
            for _ in range(lots.randint(1, 12)):
                acknowledged += process.stdout.readline().split("\n")[:1]
            process.send_signal(signal.SIGKILL)
            acknowledged += [line for line in process.stdout.read().split("\n")[:-1] if line]
            assert process.wait() == -signal.SIGKILL
    with Store.open(where, clock=clock) as store:
        said_by = [f"{by} {of} False" for of, names in ranked_by(store).items() for by in names]
        assert len(said_by) == len(set(said_by))
        assert set(acknowledged) - {""} <= set(said_by)
        assert store.rebuild() == 0
        clock.now = max(row.at for row in store.labelers()) + timedelta(days=1)
        assert store.progress().open == 0
        queue = Queue(store)
        for who in people:
            while (claim := queue.claim(who.labeler_id)) is not None:
                store.submit(said(claim, who))
        assert store.progress() == Progress(done=60)
        assert {len(by) for by in ranked_by(store).values()} == {2}
