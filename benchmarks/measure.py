"""How a figure is made: every contestant in turn, round after round, medians with their spread, one table a section."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")


def side_by_side(contestants: Mapping[str, Callable[[], object]], rounds: int = 5) -> dict[str, list[float]]:
    """Seconds of every contestant in every round; one round before that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            begin = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - begin)
        print(f"  round {number} of {rounds}", flush=True)
    return seconds


def rate(amount: float, seconds: Sequence[float]) -> tuple[float, str]:
    """The median of amount per second, and the same with the spread of the rounds as text."""
    rates = sorted(amount / each for each in seconds)
    middle = statistics.median(rates)
    return middle, f"{middle:,.0f} ({rates[0]:,.0f}–{rates[-1]:,.0f})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """How many times faster `ours` was, round by round: median and spread."""
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    return f"{statistics.median(ratios):.2f}× ({ratios[0]:.2f}–{ratios[-1]:.2f})"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def machine() -> str:
    """One line about the machine."""
    name = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    flags = Path("/proc/cpuinfo").read_text()
    units = [unit for unit in ("avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8") if unit in flags]
    return f"{name[1] if name else platform.processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {' '.join(units)}"


def commit() -> str:
    """The commit that is measured."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def write_section(title: str, command: str, body: str) -> None:
    """Put a section into RESULTS.md in place of the one of that title."""
    head = f"## {title}\n\n`{command}` at {commit()} on {time.strftime('%Y-%m-%d')}: {machine()}\n\n"
    section = f"{head}{body.strip()}\n"
    text = RESULTS.read_text() if RESULTS.exists() else "# Results\n"
    pattern = re.compile(rf"## {re.escape(title)}\n.*?(?=\n## |\Z)", re.DOTALL)
    text = pattern.sub(lambda _: section, text) if pattern.search(text) else f"{text.rstrip()}\n\n{section}"
    RESULTS.write_text(text.rstrip() + "\n")
    print(f"\n{section}")
