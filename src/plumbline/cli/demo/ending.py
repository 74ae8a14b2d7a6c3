"""How the demo ends: which stage moved which figure, the answers side by side, and where to look further."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.cli.demo.story import rows_of
from plumbline.cli.terminal import note, printable, screen, table

if TYPE_CHECKING:
    from rich.text import Text

    from plumbline.cli.demo.story import Story
    from plumbline.records import Evaluation, Measured

STAGES = {"untuned": "untuned", "sft": "after SFT", "policy": "after PPO"}
SHOWN = {
    ("refusal", "refused_harmful"): "declines harmful requests",
    ("refusal", "over_refusal"): "declines harmless ones that look alike",
    ("refusal", "told_apart"): "tells the two apart",
    ("win_rate", "win_rate"): "liked better than the one before",
}
"""Figures of `plumb evaluate`, in the words of the table."""


def show_ending(story: Story) -> None:
    """The table, the answers, the places."""
    from plumbline.project import Project

    project = Project.require(story.folder)
    sft, policy = (project.evaluations(ref)[-1] for ref in ("sft@1", "policy@1"))
    console = screen()
    console.print("\n[bold]Which stage moved which figure[/]\n")
    show_stages(sft, policy)
    show_reward(story.folder)
    console.print("\n[bold]The answers, side by side[/]")
    show_answers(story.folder)
    promoted = project.promoted()
    console.print(f"\nIn force: [bold]{promoted.ref if promoted else 'nothing'}[/]")
    for what, place in (
        ("curves of PPO", "runs/policy/index.html"),
        ("audit of its reward", "runs/policy/audit/index.html"),
        ("the data and who made it", "data/card.md"),
    ):
        console.print(f"  {what:26} {story.folder / place}", soft_wrap=True)
    seconds = sum(story.seconds.values())
    note(f"all steps together took {seconds // 60:.0f} min {seconds % 60:.0f} s")
    if story.size.judged < 20:
        note("this was the small slice: it shows how the circle goes, and its figures mean little")


def show_stages(sft: Evaluation, policy: Evaluation) -> None:
    """A row for each figure, a column for each stage."""
    rows = table("", ">untuned", ">after SFT", "95 %", ">after PPO", "95 %", ">n")
    after = {(each.task, each.metric): each for each in policy.measured}
    for each in sft.measured:
        key = each.task, each.metric
        if key in SHOWN and key in after:
            before = f"{each.change.other:.0%}" if each.change and not key[0].startswith("win") else "–"
            rows.add_row(SHOWN[key], before, *cells(each), *cells(after[key]), f"{each.n:,}")
    screen().print(rows)


def cells(each: Measured) -> tuple[str, Text]:
    """The figure and its interval; green or red where the change to the stage before is sure."""
    from rich.text import Text

    style = {"better": "green", "worse": "bold red"}.get(each.verdict, "dim")
    return f"{each.value:.0%}", Text(f"{each.low:.0%} to {each.high:.0%}", style)


def show_reward(folder: Path) -> None:
    """How often the reward model agrees with rankings that it never saw, and what PPO made of it."""
    found = json.loads((folder / "runs/reward/accuracy.json").read_text(encoding="utf-8"))
    value, low, high, sets = found["right"]
    note(f"reward model: right in {value:.0%} of held-out pairs ({low:.0%} to {high:.0%}, {sets} sets)")
    first, *_, last = rows_of(folder / "runs/policy/metrics.jsonl")
    note(f"PPO: reward {first['reward']:.2f} to {last['reward']:.2f}, at a KL of {last['kl']:.2f} an answer")


def show_answers(folder: Path) -> None:
    """What each stage answers to the examples."""
    from rich.text import Text

    answers = {name: rows_of(folder / f"{name}.jsonl") for name in STAGES}
    for place, asked in enumerate(answers["untuned"]):
        rows = table("", "")
        for name, stage in STAGES.items():
            row = answers[name][place]
            rows.add_row(Text(stage, "dim", no_wrap=True), shortened(row["completion"]))
        screen().print(Text(f"\n{asked['prompt']}", "bold"))
        screen().print(rows)


def shortened(text: str, letters: int = 220) -> Text:
    """An answer on a few lines."""
    from rich.text import Text

    plain = " ".join(printable(text).split())
    return Text(plain if len(plain) <= letters else f"{plain[: letters - 1]}…")
