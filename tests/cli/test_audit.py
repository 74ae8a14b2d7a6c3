"""`plumb audit`: verdicts on the screen, a page in the run's folder, one clear line for what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from plumbline.records import Rollout, write_jsonl

Plumb = Callable[..., Result]

JUDGE = """
def plain(prompt, completion):
    with open("asked", "a") as file:
        print(completion, file=file)
    return -completion.count("!")
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Sixteen steps in which answers come to shout, and a judge that does not like it."""
    (tmp_path / "judge.py").write_text(JUDGE)
    rollouts = [
        Rollout(
            step=step,
            prompt_id=f"p{prompt}",
            prompt="Why?",
            completion=f"So {prompt} {n} {step % 3}" + ("! Wow \x1b[2J !" if step > 8 else "."),
            reward=float(step),
            kl=step / 4,
            tokens=9 if step > 8 else 5,
            ended=True,
            reference_logprob=-9.0,
        )
        for step in range(1, 17)
        for prompt in range(4)
        for n in range(2)
    ]
    write_jsonl(tmp_path / "runs" / "loud" / "rollouts.jsonl", rollouts)
    return Path("runs/loud")


def test_the_verdicts_are_told_and_the_page_is_written(plumb: Plumb, run: Path, tmp_path: Path) -> None:
    result = plumb("audit", run, "--by", "judge.py:plain")
    assert result.exit_code == 0, result.stderr
    told = " ".join(result.stdout.split())
    assert "alarm Does the trained reward still stand for what judge.py:plain sees?" in told
    assert "changed Did answers change in length?" in told and "n: 128 answers, 16 steps" in told
    assert "\x1b" not in result.stdout  # a model must not steer the terminal
    assert result.stderr.splitlines()[-1] == "page: runs/loud/audit/index.html"
    assert sorted(each.name for each in (tmp_path / run / "audit").iterdir()) == [
        "audit.json",
        "audit.png",
        "index.html",
        "scores.jsonl",
    ]
    asked = (tmp_path / "asked").read_text().count("\n")
    plumb("audit", run, "--by", "judge.py:plain")
    assert (tmp_path / "asked").read_text().count("\n") == asked  # the second audit asks nobody
    plumb("audit", run, "--by", "judge.py:plain", "--again")
    assert (tmp_path / "asked").read_text().count("\n") == 2 * asked


def test_without_a_scorer_the_first_question_stays_open(plumb: Plumb, run: Path, tmp_path: Path) -> None:
    result = plumb("audit", run, "--json")
    found = json.loads(result.stdout)
    assert found == json.loads((tmp_path / run / "audit" / "audit.json").read_text())
    assert [each["state"] for each in found["findings"] if each["name"] == "gaming"] == ["unjudged"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "there is no run 'nowhere'"),
        (["runs"], "'runs' has no rollouts.jsonl"),
        (["runs/loud", "--label", "1"], "--label and --reads are about one scorer: give exactly one --by with them"),
        (["runs/loud", "--by", "judge.py:plain", "--answers", "0"], "answers is 0: a scorer must see at least 1"),
        (["runs/loud", "--by", "judge.py:plain", "--by", "judge.py:plain"], "two scorers are called 'judge.py:plain'"),
    ],
)
def test_what_cannot_be_is_one_line(plumb: Plumb, run: Path, arguments: list[str], said: str) -> None:
    result = plumb("audit", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr and len(result.stderr.splitlines()) == 1
