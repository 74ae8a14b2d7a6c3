"""`plumb constitution`: a run at the command line, what it shows, and what it says to bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from cli.conftest import Mortal, read_lines

Plumb = Callable[..., Result]


@pytest.fixture
def pupil(tmp_path: Path) -> str:
    lines = [{"prompt": prompt, "completion": f"Sure: {prompt}"} for prompt in ("Hack it", "Help me", "Be nice")]
    (tmp_path / "pupil.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return "scripted:pupil.jsonl"


@pytest.fixture
def critic(tmp_path: Path) -> str:
    texts = ["It helps a crime.", "It is rude.", "I can't help with that.", "No."]
    (tmp_path / "critic.jsonl").write_text("".join(json.dumps({"completion": text}) + "\n" for text in texts))
    return "scripted:critic.jsonl"


@pytest.fixture
def run(plumb: Plumb, pupil: str, critic: str, tmp_path: Path) -> Callable[..., Result]:
    (tmp_path / "p.txt").write_text("Hack it\nHelp me\n")
    (tmp_path / "fine.txt").write_text("Be nice\n")
    given = ("p.txt", "--harmless", "fine.txt", "--out", "run", "--model", pupil, "--critic", critic)
    return lambda *more: plumb("constitution", "run", *given, *more)


def test_a_run_writes_demonstrations_and_its_trail_and_counts_refusals(run: Callable[..., Result]) -> None:
    result = run()
    assert result.exit_code == 0, result.stderr
    assert [line["messages"][-1]["content"] for line in read_lines(Path("run/demonstrations.jsonl"))] == [
        "I can't help with that.",
        "No.",
        "Sure: Be nice",
    ]
    kinds = [line["kind"] for line in read_lines(Path("run/trail.jsonl"))]
    assert kinds == ["answer"] * 3 + ["critique"] * 2 + ["revision"] * 2
    assert [line.split(maxsplit=3)[-1].strip() for line in result.stdout.splitlines() if "refused" in line] == [
        "0 of 2 (0%)",
        "2 of 2 (100%)",
        "0 of 1 (0%)",
    ]
    assert "next: plumb train sft --data run/demonstrations.jsonl" in result.stderr


def test_without_prompts_those_that_ship_are_asked_with_those_that_look_like_them(plumb: Plumb, tmp_path: Path) -> None:
    for name, texts in (("pupil", ["Sure, first you take it."] * 128), ("critic", ["I can't help with that."] * 128)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"completion": text}) + "\n" for text in texts))
    given = ("--model", "scripted:pupil.jsonl", "--critic", "scripted:critic.jsonl", "--keep", "refusal")
    summary = json.loads(plumb("constitution", "run", "--out", "run", *given, "--json").stdout)
    assert (summary["prompts"], summary["harmless"], summary["demonstrations"]) == (64, 64, 128)
    assert (summary["refused_before"], summary["refused_after"], summary["refused_harmless"]) == (0, 64, 0)
    asked = [line["messages"][0]["content"] for line in read_lines(tmp_path / "run" / "demonstrations.jsonl")]
    assert asked[0] == "How can I hack my neighbour's wifi?" and asked[64] == "How do I reset my own wifi router?"


def test_a_run_is_shown_step_by_step(run: Callable[..., Result], plumb: Plumb) -> None:
    assert json.loads(run("--json").stdout)["demonstrations"] == 3
    shown = plumb("constitution", "show", "run").stdout
    assert [shown.index(text) for text in ("Hack it", "It helps a crime.", "I can't help with that.")] == sorted(
        shown.index(text) for text in ("Hack it", "It helps a crime.", "I can't help with that.")
    )
    other = read_lines(Path("run/trail.jsonl"))[1]["prompt_id"]
    steps = json.loads(plumb("constitution", "show", "run", "--prompt-id", other, "--json").stdout)
    assert [(step["kind"], step["text"]) for step in steps] == [
        ("answer", "Sure: Help me"),
        ("critique", "It is rude."),
        ("revision", "No."),
    ]
    result = plumb("constitution", "show", "run", "--prompt-id", "nobody")
    assert (result.exit_code, "has no step of the prompt 'nobody'" in result.stderr) == (2, True)


def test_the_shipped_constitution_is_shown(plumb: Plumb) -> None:
    shown = plumb("constitution", "show")
    assert "no-crime" in shown.stdout and "no-needless-refusal" in shown.stdout
    assert "10 principles, 9 examples" in shown.stderr
    assert json.loads(plumb("constitution", "show", "--json").stdout)["principles"][0]["id"] == "no-crime"


def test_answers_are_ranked_by_a_judge(plumb: Plumb, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("Hi\n")
    (tmp_path / "pupil.jsonl").write_text('{"completion": "Hello."}\n{"completion": "Go."}\n')
    (tmp_path / "judge.jsonl").write_text('{"completion": "A"}\n{"completion": "B"}\n')
    given = ("p.txt", "--stage", "rank", "--out", "run", "--model", "scripted:pupil.jsonl")
    result = plumb("constitution", "run", *given, "--judge", "scripted:judge.jsonl")
    assert result.exit_code == 0, result.stderr
    (ranking,) = read_lines(tmp_path / "run" / "rankings.jsonl")
    assert (ranking["completions"], ranking["ranks"], ranking["labeler_id"]) == (
        ["Hello.", "Go."],
        [1, 2],
        "scripted:judge.jsonl",
    )
    shown = plumb("constitution", "show", "run").stdout
    assert "answers 0 and 1: first, log-odds +1.00 and +1.00" in shown


def test_an_endpoint_that_dies_at_item_700_of_1000_is_asked_for_the_other_300(
    plumb: Plumb, mortal: Mortal, tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("question 000\n")
    (tmp_path / "fine.txt").write_text("".join(f"question {number:03}\n" for number in range(1, 1000)))
    (tmp_path / "critic.jsonl").write_text('{"completion": "Fine."}\n' * 2)
    given = (
        "p.txt",
        "--harmless",
        "fine.txt",
        "--model",
        f"openai:m@{mortal.url}",
        "--critic",
        "scripted:critic.jsonl",
    )
    result = plumb("constitution", "run", *given, "--out", "run")
    assert result.exit_code == 2 and "your credit is used up" in result.stderr
    answers = [line for line in read_lines(tmp_path / "run" / "trail.jsonl") if line["kind"] == "answer"]
    assert [line["prompt"] for line in answers] == [f"question {number:03}" for number in range(700)]
    before = mortal.answered()
    mortal.dead = False
    assert plumb("constitution", "run", *given, "--out", "run").exit_code == 0
    assert len(before) == 700 and sorted(mortal.answered()[700:]) == [
        f"question {number:03}" for number in range(700, 1000)
    ]
    assert len(read_lines(tmp_path / "run" / "demonstrations.jsonl")) == 1000


def test_an_endpoint_that_dies_in_the_middle_is_gone_on_with(plumb: Plumb, mortal: Mortal, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\n".join(f"question {number}" for number in range(680, 720)))
    (tmp_path / "critic.jsonl").write_text('{"completion": "Fine."}\n' * 80)
    given = ("p.txt", "--model", f"openai:m@{mortal.url}", "--critic", "scripted:critic.jsonl", "--out")
    result = plumb("constitution", "run", *given, "run")
    assert result.exit_code == 2 and "your credit is used up" in result.stderr
    answered = [line for line in read_lines(tmp_path / "run" / "trail.jsonl") if line["kind"] == "answer"]
    assert [line["prompt"] for line in answered] == [f"question {number}" for number in range(680, 700)]

    mortal.dead = False
    mortal.requests.clear()
    assert plumb("constitution", "run", *given, "run").exit_code == 0
    asked = {request.body["messages"][-1]["content"] for request in mortal.requests}
    assert asked == {f"question {number}" for number in range(700, 720)}
    assert plumb("constitution", "run", *given, "whole").exit_code == 0
    for made in ("trail.jsonl", "demonstrations.jsonl", "summary.json"):
        assert (tmp_path / "run" / made).read_bytes() == (tmp_path / "whole" / made).read_bytes()


def test_bad_input_is_told_in_one_line(plumb: Plumb, pupil: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("Hack it\n")
    (tmp_path / "law.yaml").write_text(
        "name: a\nversion: 1\nprinciples:\n  - id: kind\n    domain: x\n    critique: y\n"
    )
    for more, said in (
        (("--stage", "rang"), "--stage is 'rang': it is one of revise, rank"),
        (("--rounds", "0"), "rounds is 0: it must be at least 1"),
        (("--constitution", "law.yaml"), "'law.yaml': principle 1 ('kind'): `revision` is missing"),
        (("--domains", "kind"), "has no domain 'kind'"),
        (("--stage", "rank", "--way", "alone"), "gives no probabilities of labels, which 'alone' needs"),
        (("--stage", "rank", "--harmless", "p.txt"), "--harmless is of the stage revise, and --stage is 'rank'"),
        (("--stage", "rank", "--keep", "refusal"), "--keep is of the stage revise"),
        (("--judge", pupil), "--judge is of the stage rank, and --stage is 'revise': leave it out"),
    ):
        result = plumb("constitution", "run", "p.txt", "--out", "run", "--model", pupil, *more)
        assert (result.exit_code, said in result.stderr) == (2, True), result.stderr
    assert plumb("constitution", "show", str(tmp_path)).exit_code == 2


def test_seeds_are_expanded(plumb: Plumb, tmp_path: Path) -> None:
    (tmp_path / "seeds.txt").write_text("How do I open a lock that is not mine?\n")
    texts = ["Where is poison sold?", "Sell me false papers.", "Write my boss a threat.", "Whose keys fit here?"]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps({"completion": text}) + "\n" for text in texts * 2))
    given = ("seeds.txt", "--out", "more.jsonl", "--model", "scripted:s.jsonl", "--count")
    result = plumb("constitution", "expand", *given, 3)
    assert (result.exit_code, result.stderr) == (0, "3 prompts are in more.jsonl\n")
    assert [line["prompt"] for line in read_lines(tmp_path / "more.jsonl")] == texts[:3]
    assert plumb("constitution", "expand", *given, 0).exit_code == 2
