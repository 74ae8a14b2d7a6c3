"""`plumb score`: the scorer's own numbers beside each answer, every line otherwise as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from cli.conftest import read_lines
from plumbline.models.score import load_scorer

Plumb = Callable[..., Result]

DATA: list[dict[str, Any]] = [
    {"prompt_id": "a", "prompt": "Knock, knock", "completion": "Who is there?", "seed": 4, "mine": [1, 2]},
    {"prompt": [{"role": "user", "content": "Hi"}], "completion": "It's me; I'll wait."},
    {"prompt": "Why?", "completion": ""},
]


@pytest.fixture
def classifier(tiny_model: Callable[[str], Path]) -> Path:
    return tiny_model("bert-classifier")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in DATA * 50))
    return path


def test_each_line_keeps_what_it_had_and_gets_its_score(
    plumb: Plumb, classifier: Path, data: Path, tmp_path: Path
) -> None:
    result = plumb("score", data, "--model", classifier, "--out", "scored.jsonl", "--label", "1")
    assert result.exit_code == 0, result.stderr
    written = read_lines(tmp_path / "scored.jsonl")
    expected = load_scorer(str(classifier), 1)([line["prompt"] for line in DATA], [line["completion"] for line in DATA])
    for line, was, number in zip(written, DATA * 50, expected * 50, strict=True):
        assert {key: line[key] for key in was} == was
        assert line["score"] == pytest.approx(number, abs=1e-6)
        assert line["scorer"] == f"{classifier}:nothate"
    assert result.stderr.splitlines()[-1] == "150 of 150 answers are in scored.jsonl"


def test_without_a_file_the_lines_go_to_stdout(plumb: Plumb, classifier: Path, data: Path) -> None:
    result = plumb("score", data, "--model", classifier)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == 150
    assert all(isinstance(line["score"], float) for line in lines)


def test_the_summary_is_that_of_the_scores(plumb: Plumb, classifier: Path, data: Path, tmp_path: Path) -> None:
    summary = json.loads(plumb("score", data, "--model", classifier, "--out", "s.jsonl", "--json").stdout)
    scores = [line["score"] for line in read_lines(tmp_path / "s.jsonl")]
    mean = sum(scores) / 150
    assert summary["answers"] == 150
    assert summary["mean"] == pytest.approx(mean)
    assert summary["deviation"] == pytest.approx((sum((each - mean) ** 2 for each in scores) / 150) ** 0.5)
    assert (summary["lowest"], summary["highest"]) == (min(scores), max(scores))


def test_the_same_command_goes_on_where_it_stopped(plumb: Plumb, classifier: Path, data: Path, tmp_path: Path) -> None:
    args = ["score", data, "--model", classifier, "--out"]
    plumb(*args, "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "torn.jsonl").write_bytes(b"".join(lines[:70]) + lines[70][:30])
    result = plumb(*args, "torn.jsonl")
    assert result.stdout == plumb(*args, "whole.jsonl").stdout
    assert (tmp_path / "torn.jsonl").read_bytes() == b"".join(lines)


def test_scores_of_other_data_are_not_mixed_in(plumb: Plumb, classifier: Path, data: Path, tmp_path: Path) -> None:
    args = ["score", data, "--model", classifier, "--out", "scored.jsonl"]
    plumb(*args)
    before = (tmp_path / "scored.jsonl").read_bytes()
    lines = data.read_text().splitlines(keepends=True)
    for changed, number in ((lines[1:], 1), (lines[:100], 101)):
        data.write_text("".join(changed))
        result = plumb(*args)
        assert result.exit_code == 2
        assert f"line {number} of 'scored.jsonl' is not line {number} of the data" in result.stderr
        assert (tmp_path / "scored.jsonl").read_bytes() == before
    assert plumb(*args, "--force").exit_code == 0
    assert len(read_lines(tmp_path / "scored.jsonl")) == 100


def test_a_line_without_an_answer_is_named(plumb: Plumb, classifier: Path, data: Path) -> None:
    data.write_text('{"prompt": "Hi", "completion": "Hello."}\n{"prompt": "Hi", "complete": "Hello."}\n')
    result = plumb("score", data, "--model", classifier)
    assert result.exit_code == 2
    assert "data.jsonl:2: `completion` is missing: is `complete` meant to be it?" in result.stderr


def test_a_language_model_is_no_scorer(plumb: Plumb, tiny_llama: Path, data: Path) -> None:
    result = plumb("score", data, "--model", tiny_llama)
    assert result.exit_code == 2
    assert result.stderr.startswith("plumb: ")
