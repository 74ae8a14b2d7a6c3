"""How long `plumb demo` takes, step by step, and which stage moved which figure.

    python benchmarks/demo.py [--runs N] [--fast]

Each run is a process of its own in a new folder. The first one on a machine also converts the bundled model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from measure import machine, table, write_section

from plumbline.cli.demo.ending import SHOWN, STAGES
from plumbline.project import Project
from plumbline.records import Measured

PLUMB = [sys.executable, "-c", "from plumbline.cli.main import main; main()"]


def run(folder: Path, *, fast: bool) -> dict[str, float]:
    """Goes round once; the seconds of each step."""
    words = ["demo", str(folder), "--no-serve", *(["--fast"] if fast else [])]
    subprocess.run([*PLUMB, *words], check=True, stdout=subprocess.DEVNULL)
    found: dict[str, float] = json.loads((folder / "demo.json").read_text())["seconds"]
    return found


def cell(each: Measured) -> str:
    return f"{each.value:.1%} ({each.low:.1%} to {each.high:.1%})"


def stages(folder: Path) -> list[list[object]]:
    """A row for each figure, its stages beside each other."""
    project = Project(folder)
    sft, policy = (project.evaluations(ref)[-1] for ref in ("sft@1", "policy@1"))
    after = {(each.task, each.metric): each for each in policy.measured}
    rows: list[list[object]] = []
    for each in sft.measured:
        if (key := (each.task, each.metric)) in SHOWN:
            before = f"{each.change.other:.1%}" if each.change and each.task == "refusal" else "–"
            rows.append([SHOWN[key], before, cell(each), cell(after[key]), each.n])
    value, low, high, sets = json.loads((folder / "runs/reward/accuracy.json").read_text())["right"]
    rows.append(
        ["reward model agrees with held-out rankings", "–", f"{value:.1%} ({low:.1%} to {high:.1%})", "–", sets]
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--full", action="store_true", help="three runs")
    given = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / str(number) for number in range(3 if given.full else given.runs)]
        taken = [run(folder, fast=given.fast) for folder in folders]
        figures = stages(folders[-1])
    rows: list[list[object]] = [
        [step, f"{median(seconds[step] for seconds in taken):.0f}", *(f"{seconds[step]:.0f}" for seconds in taken)]
        for step in taken[0]
    ]
    totals = [sum(seconds.values()) for seconds in taken]
    rows.append(["all", f"{median(totals):.0f}", *(f"{total:.0f}" for total in totals)])
    head = ["step, seconds", "median", *(f"run {number}" for number, _ in enumerate(taken, 1))]
    command = f"python benchmarks/demo.py{' --fast' if given.fast else ''}"
    told = table(head, rows) + "\n\n" + table(["of the last run", *STAGES.values(), "n"], figures)
    write_section(f"The demo{', fast' if given.fast else ''}", command, told)


if __name__ == "__main__":
    main()
