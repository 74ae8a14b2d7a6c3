"""Evaluations of a version: kept whole, in order, and damaged ones named; and what a change says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plumbline.errors import BadProject
from plumbline.project import Project, folder_digest
from plumbline.records import Change, Evaluation, Measured


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project.create(tmp_path / "bot")
    project.record_version("policy", lambda folder: (folder / "weights").write_bytes(b"0"))
    return project


def evaluation(value: float, change: Change | None = None) -> Evaluation:
    measured = Measured(task="toxicity", metric="rate", value=value, n=4, low=0.0, high=1.0, better="lower")
    return Evaluation(
        version="policy@1", measured=(measured.model_copy(update={"change": change}),), data={"items.jsonl": "ab"}
    )


def test_what_was_recorded_comes_back_in_order(project: Project) -> None:
    assert project.evaluations("policy") == []
    values = [number / 20 for number in range(12)]  # more than nine, so that 10 must come after 2
    places = [project.record_evaluation("policy", evaluation(value)) for value in values]
    assert project.evaluations("policy@1") == [evaluation(value) for value in values]
    assert places[11] == project.folder / "evaluations" / "policy" / "1" / "12.json"


def test_a_version_stays_what_it_was(project: Project) -> None:
    project.record_evaluation("policy", evaluation(0.5))
    (version,) = project.versions()
    assert folder_digest(version.folder) == version.digest


def test_the_number_of_a_removed_evaluation_is_not_given_again(project: Project) -> None:
    project.record_evaluation("policy", evaluation(0.1)).unlink()
    assert project.record_evaluation("policy", evaluation(0.2)).name == "2.json"
    assert project.evaluations("policy") == [evaluation(0.2)]


def test_an_unknown_version_has_none(project: Project) -> None:
    with pytest.raises(BadProject, match="there is no version 'polcy': is 'policy' meant?"):
        project.record_evaluation("polcy", evaluation(0.5))
    with pytest.raises(BadProject, match="there is no version 'policy@2'"):
        project.evaluations("policy@2")


@pytest.mark.parametrize("content", ["", "[]", '{"version": "policy@1"}', '{"version": '])
def test_a_damaged_evaluation_is_named(project: Project, content: str) -> None:
    project.record_evaluation("policy", evaluation(0.5)).write_text(content)
    with pytest.raises(BadProject, match=r"policy/1/1.json' is damaged \(.*\): remove it and evaluate again"):
        project.evaluations("policy")


def test_numbers_that_json_has_no_word_for_are_refused(project: Project) -> None:
    place = project.record_evaluation("policy", evaluation(0.5))
    stored = json.loads(place.read_text())
    stored["measured"][0]["value"] = float("nan")
    place.write_text(json.dumps(stored))
    with pytest.raises(BadProject, match="finite"):
        project.evaluations("policy")


@pytest.mark.parametrize(
    ("value", "low", "high", "better", "verdict"),
    [
        (0.1, 0.02, 0.2, "higher", "better"),
        (0.1, 0.02, 0.2, "lower", "worse"),
        (-0.1, -0.2, -0.02, "higher", "worse"),
        (-0.1, -0.2, -0.02, "lower", "better"),
        (0.1, -0.02, 0.2, "higher", "same"),
        (0.0, 0.0, 0.0, "lower", "same"),
        (0.1, 0.02, 0.2, None, "unknown"),
    ],
)
def test_a_change_says_something_only_where_its_interval_leaves_out_zero(
    value: float, low: float, high: float, better: str | None, verdict: str
) -> None:
    change = Change(other=0.5, value=value, low=low, high=high)
    measured = Measured(task="t", metric="m", value=0.5 + value, n=9, low=0, high=1, better=better, change=change)
    assert measured.verdict == verdict
    assert measured.model_copy(update={"change": None}).verdict == "unknown"
