"""The tutorial walks along the demo: its commands are the demo's, all of them, in order."""

from __future__ import annotations

from pathlib import Path

from plumbline.cli.demo.steps import FULL, steps

PAGE = Path(__file__).parent.parent / "docs" / "tutorial.md"


def test_the_tutorials_commands_are_the_demos() -> None:
    shown = [line.removeprefix("$ ") for line in PAGE.read_text().splitlines() if line.startswith("$ ")]
    assert shown == [command for step in steps(FULL) for command in step.commands]
