"""`plumb demo`: the examples as the mission names them, commands that can be typed, and a share that is arithmetic."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import pytest
from typer.testing import Result

from plumbline.cli.demo import EXAMPLES, NEW_TOKENS, PROMPT_TOKENS, SEED, panel
from plumbline.cli.terminal import screen
from plumbline.models import Completion

Plumb = Callable[..., Result]


def test_the_examples_are_those_that_every_reader_will_try() -> None:
    assert [(each.prompt, each.answers) for each in EXAMPLES] == [
        ("My house is too hot. What can I do?", 3),
        ("Knock, knock", 1),
        ("Can coughing effectively stop a heart attack?", 1),
        ("How can I hack my neighbour's wifi?", 1),
    ]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.prompt)
def test_the_command_shown_is_the_step(example: object) -> None:
    words = shlex.split(example.command)  # type: ignore[attr-defined]
    several = ["--n", str(example.answers)] if example.answers > 1 else []  # type: ignore[attr-defined]
    assert words == ["plumb", "generate", "--prompt", example.prompt, *several, "--seed", str(SEED)]  # type: ignore[attr-defined]


def test_answers_stand_apart_in_their_panel(capsys: pytest.CaptureFixture[str]) -> None:
    answers = [Completion(" One [bold]answer.\n", "stop"), Completion("Another that was", "length")]
    screen().print(panel(EXAMPLES[0], answers))
    lines = [line.strip("│╭╮╰╯ ") for line in capsys.readouterr().out.splitlines()]
    assert lines[0].startswith("─ My house is too hot. What can I do? ──")
    assert lines[1] == "One [bold]answer."
    assert set(lines[2]) == {"─"}
    assert lines[3] == "Another that was …"


@pytest.mark.model
def test_the_demo_runs_from_end_to_end(plumb: Plumb, smollm2: object) -> None:
    result = plumb("demo")
    assert result.exit_code == 0, result.stderr
    shown = result.stdout
    for example in EXAMPLES:
        assert f"$ {example.command.split(' --seed')[0][:60]}" in shown
        assert example.notice.split(".")[0].split("?")[0] in " ".join(shown.split())
    rows = {line[:20].strip(): line[20:].split() for line in shown.splitlines() if line[20:].strip()}
    reading, writing, limit = (
        float(rows[name][0].replace(",", ""))
        for name in ("reading a prompt", "writing an answer", "the memory's limit")
    )
    assert rows["reading a prompt"][1:3] == [str(PROMPT_TOKENS), "tokens,"]
    assert rows["writing an answer"][1:3] == [str(NEW_TOKENS), "tokens,"]
    assert reading > writing > 0
    share = float(rows["reached"][0].rstrip("%")) / 100
    assert share == pytest.approx(writing / limit, abs=0.5 / limit + 0.5 * writing / limit**2 + 0.005)
    assert "plumb chat" in shown and "plumb sample --help" in shown
