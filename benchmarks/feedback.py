"""People: fifty labelers and a server that dies, keys in a browser, whom to look at, many sets in and many pairs out.

    python benchmarks/feedback.py [--part NAME ...] [--full | --quick] [--minutes N]

The parts are `storm`, `keys`, `panel` and `streams`, each a section of RESULTS.md; what one does stands at the top of
its file, `streams` below. About twenty-five minutes; `--full` is ten minutes of storm on each database instead of
three, `--quick` a look at whether everything runs, which writes no result.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import crowd
import keys
import storm
from databases import postgres, programs
from measure import machine, table, write_section


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    minutes: float
    sets: int
    """That are ranked in the browser, quiet and beside a load."""
    seeds: int
    panels: tuple[int, ...]
    """Sets that a labeler of a panel ranks."""
    streams: tuple[int, ...]
    """Sets that go in and out."""


PLAIN = Size(3.0, 60, 30, (30, 60, 120), (10_000, 100_000))
FULL = Size(10.0, 200, 100, (30, 60, 120, 240), (10_000, 100_000))
QUICK = Size(0.2, 5, 2, (30,), (300, 1_000))


# ---- the storm


def run_storm(size: Size, scratch: Path) -> Iterator[str]:
    rows = []
    print("SQLite")
    outcome = storm.run(str(scratch / "plumb.db"), scratch, minutes=size.minutes)
    rows.append(storm.row("SQLite", outcome))
    yield storm_so_far(size, rows)
    if programs() is None:
        rows.append(["PostgreSQL: not installed", *[""] * (len(storm.HEAD) - 1)])
    else:
        print("PostgreSQL")
        with postgres(scratch / "postgres") as url:
            rows.append(storm.row("PostgreSQL", storm.run(url, scratch, minutes=size.minutes)))
    yield storm_so_far(size, rows)
    print("SQLite, at people's pace")
    calm = storm.run(str(scratch / "calm.db"), scratch, minutes=size.minutes / 3, kills=False, pause=5.0, ready=60)
    rows.append(storm.row("SQLite, no kills, each thinks for 5 s", calm))
    yield storm_so_far(size, rows)


def storm_so_far(size: Size, rows: list[list[object]]) -> str:
    return (
        f"{table(storm.HEAD, rows)}\n\n{storm.LABELERS} labelers for {size.minutes:g} minutes (at people's pace: a "
        f"third of that), each set for {storm.EACH} people, leases of {storm.LEASE.total_seconds():.0f} s; all on this "
        "machine. Answers are acknowledged submissions; `lost` are those that are not in the database as they were "
        "sent, `twice` those that are there more than once, `people a set` the number of people that every set was "
        "counted for, `stuck` sets and leases that nobody can go on with, and derived rows that differ from the "
        "events. `late` were sent after their lease was over, and were stored all the same. A cut request is sent "
        "again until it is acknowledged."
    )


# ---- the browser


def run_keys(size: Size, scratch: Path) -> Iterator[str]:
    rows = []
    for name, load in (("nothing else runs", False), ("beside a load on every core", True)):
        rows.append(keys.row(name, keys.run(scratch, sets=size.sets, load=load)))
        yield f"{table(keys.HEAD, rows)}\n\n{keys.notes()}"


# ---- the panel


def run_panel(size: Size, scratch: Path) -> Iterator[str]:
    rows = []
    for each in size.panels:
        rows.append(crowd.row(each, size.seeds))
        yield f"{table(crowd.HEAD, rows)}\n\n{crowd.notes(size.seeds)}"


# ---- streams


def run_streams(size: Size, scratch: Path) -> Iterator[str]:
    """Sets of nine answers with one ranking each through `plumb feedback import` and out again as 36 pairs each."""
    rows: list[list[object]] = []
    head = ["", "sets", "rows", "seconds", "rows a second", "peak memory, MiB"]
    notes = (
        "Sets of nine answers, one ranking each: imported, a row is a ranking with its set; exported, a pair. Whole "
        "processes, start and libraries included."
    )
    for count in size.streams:
        print(f"  {count:,} sets")
        folder = scratch / f"project-{count}"
        command("init", str(folder), cwd=scratch)
        write_rankings(folder / "rankings.jsonl", count)
        steps: list[tuple[str, int, list[str]]] = [
            ("import", count, ["import", "rankings.jsonl"]),
            ("export --format trl-dpo", count * 36, ["export", "--format", "trl-dpo", "--out", "pairs.jsonl"]),
        ]
        for name, amount, arguments in steps:
            seconds, peak = command("feedback", *arguments, cwd=folder)
            rows.append([f"`{name}`", f"{count:,}", f"{amount:,}", f"{seconds:.1f}", f"{amount / seconds:,.0f}", peak])
        with (folder / "pairs.jsonl").open("rb") as file:
            written = sum(1 for _ in file)
        assert written == count * 36, f"{written} pairs of {count} sets"
        for each in folder.glob("*.jsonl"):
            each.unlink()
        yield f"{table(head, rows)}\n\n{notes}"


def write_rankings(path: Path, count: int) -> None:
    draw = random.Random(0)
    with path.open("w") as file:
        for number in range(count):
            ranks = list(range(1, 10))
            draw.shuffle(ranks)
            row = {
                "set_id": f"set-{number}",
                "prompt": f"Question {number}: what would you do?",
                "completions": [f"I would do {draw.randrange(10**9)}, number {place}." for place in range(9)],
                "ranks": ranks,
                "flags": [False] * 9,
                "labeler_id": f"labeler-{number % 40}",
                "instruction_version": "1",
            }
            file.write(json.dumps(row) + "\n")


def command(*arguments: str, cwd: Path) -> tuple[float, int]:
    """Seconds and peak memory in MiB of a `plumb` command in a process of its own."""
    begun, peak = time.perf_counter(), 0.0
    process = subprocess.Popen([Path(sys.executable).with_name("plumb"), *arguments], cwd=cwd)
    while process.poll() is None:
        peak = max(peak, storm.most_memory(process.pid))
        time.sleep(0.05)
    assert process.returncode == 0, f"{arguments} ended with {process.returncode}"
    return time.perf_counter() - begun, round(peak)


# ---- all of it

# A part gives its section whenever that has another row, so that a run that is ended early leaves what it had.
PARTS: dict[str, tuple[str, Callable[[Size, Path], Iterator[str]]]] = {
    "storm": ("Fifty labelers and a server that dies", run_storm),
    "keys": ("From Enter to the next set", run_keys),
    "panel": ("A panel with labelers who guess", run_panel),
    "streams": ("Many sets in, many pairs out", run_streams),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, help="only this one; may be given again")
    parser.add_argument("--full", action="store_true", help="longer")
    parser.add_argument("--quick", action="store_true", help="whether everything runs; nothing is written")
    parser.add_argument("--minutes", type=float, help="of the storm on each database")
    given = parser.parse_args()
    size = FULL if given.full else QUICK if given.quick else PLAIN
    if given.minutes is not None:
        size = Size(given.minutes, size.sets, size.seeds, size.panels, size.streams)
    said = "python benchmarks/feedback.py" + (" --full" if given.full else "")
    said += f" --minutes {given.minutes:g}" if given.minutes is not None else ""
    print(machine())
    for name in given.part or PARTS:
        title, run = PARTS[name]
        print(title)
        with tempfile.TemporaryDirectory() as scratch:
            for body in run(size, Path(scratch)):
                if given.quick:
                    print(body)
                else:
                    write_section(title, f"{said} --part {name}" if given.part else said, body)


if __name__ == "__main__":
    main()
