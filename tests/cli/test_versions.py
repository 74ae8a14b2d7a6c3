"""`plumb versions`, `plumb promote`, `plumb rollback`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from plumbline.project import Project

Plumb = Callable[..., Result]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project.create(tmp_path)
    for number in (1, 2):
        project.record_version(
            "polite",
            lambda folder, number=number: (folder / "weights").write_text(str(number)),  # type: ignore[misc]
            base="smollm2-135m",
            engine_mode="openvino:f32",
        )
    return project


@pytest.mark.usefixtures("project")
def test_versions_are_listed_with_the_promoted_one(plumb: Plumb) -> None:
    plumb("promote", "polite@2")
    first, second = plumb("versions").stdout.splitlines()[1:]
    assert first.split()[:3] == ["polite@1", "smollm2-135m", "openvino:f32"]
    assert second.split()[:4] == ["polite@2", "promoted", "smollm2-135m", "openvino:f32"]
    listed = json.loads(plumb("versions", "--json").stdout)
    assert [(each["version"], each["promoted"], each["base"]) for each in listed] == [
        ("polite@1", False, "smollm2-135m"),
        ("polite@2", True, "smollm2-135m"),
    ]


def test_promote_and_rollback(plumb: Plumb, project: Project) -> None:
    steps = [
        (["promote", "polite@1"], "polite@1\n", "before: nothing\n"),
        (["promote", "polite"], "polite@2\n", "before: polite@1\n"),
        (["promote", "polite@2"], "polite@2\n", ""),
        (["rollback"], "polite@1\n", "before: polite@2\n"),
        (["rollback"], "nothing is promoted\n", "before: polite@1\n"),
    ]
    for args, said, beside in steps:
        result = plumb(*args)
        assert (result.exit_code, result.stdout, result.stderr) == (0, said, beside), args
    assert project.promoted() is None
    result = plumb("rollback")
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.usefixtures("project")
def test_json_for_a_script(plumb: Plumb) -> None:
    assert json.loads(plumb("promote", "polite@1", "--json").stdout) == {"promoted": "polite@1", "before": None}
    assert json.loads(plumb("promote", "polite@2", "--json").stdout) == {"promoted": "polite@2", "before": "polite@1"}
    assert json.loads(plumb("rollback", "--json").stdout) == {"promoted": "polite@1", "before": "polite@2"}


@pytest.mark.usefixtures("project")
def test_an_unknown_version_is_named(plumb: Plumb) -> None:
    result = plumb("promote", "polit@1")
    assert (result.exit_code, result.stderr) == (2, "plumb: there is no version 'polit@1': is 'polite@1' meant?\n")


def test_outside_a_project_and_before_any_version(plumb: Plumb, tmp_path: Path) -> None:
    for args in (["versions"], ["promote", "polite@1"], ["rollback"]):
        result = plumb(*args)
        assert result.exit_code == 2
        assert "lies in no project: go into one, or make one with `plumb init .`" in result.stderr
    Project.create(tmp_path)
    result = plumb("versions")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.endswith("yet: training makes them\n")
    assert json.loads(plumb("versions", "--json").stdout) == []
