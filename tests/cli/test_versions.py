"""`plumb versions`, `plumb promote`, `plumb rollback`."""

from __future__ import annotations

import getpass
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from plumbline.project import Project
from plumbline.records import Change, Evaluation, Measured

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
    unguarded = "no task is guarded in plumb.toml, so nothing was compared\n"
    steps = [
        (["promote", "polite@1"], "polite@1\n", "before: nothing\n"),
        (["promote", "polite"], "polite@2\n", f"{unguarded}before: polite@1\n"),
        (["promote", "polite@2"], "polite@2\n", unguarded),
        (["rollback"], "polite@1\n", "before: polite@2\n"),
        (["rollback"], "nothing is promoted\n", "before: polite@1\n"),
    ]
    for args, said, beside in steps:
        result = plumb(*args)
        assert (result.exit_code, result.stdout, result.stderr) == (0, said, beside), args
    assert project.promoted() is None
    result = plumb("rollback")
    assert (result.exit_code, result.stdout) == (2, "")


def test_where_the_one_in_force_is_gone_another_is_promoted_or_it_is_rolled_back(
    plumb: Plumb, project: Project
) -> None:
    for name in ("polite@1", "polite@2"):
        project.promote(name)
    shutil.rmtree(project.version("polite@2").folder)
    result = plumb("rollback")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "polite@1\n", "before: polite@2\n")
    shutil.rmtree(project.version("polite@1").folder)
    project.record_version("kind", lambda folder: (folder / "weights").write_text("3"))
    result = plumb("promote", "kind")
    assert (result.exit_code, result.stdout) == (0, "kind@1\n"), result.stderr


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
    for args in (["versions"], ["promote", "polite@1"], ["rollback"], ["lineage", "polite@1"], ["status"]):
        result = plumb(*args)
        assert result.exit_code == 2
        assert "lies in no project: go into one, or make one with `plumb init .`" in result.stderr
    Project.create(tmp_path)
    result = plumb("versions")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.endswith("yet: training makes them\n")
    assert json.loads(plumb("versions", "--json").stdout) == []


# ---- the gate


def evaluated(project: Project, low: float, high: float, against: str = "polite@1") -> None:
    change = Change(other=0.1, value=(low + high) / 2, low=low, high=high)
    figure = Measured(task="toxicity", metric="rate", value=0.2, n=80, low=0.1, high=0.3, better="lower", change=change)
    project.record_evaluation("polite@2", Evaluation(version="polite@2", against=against, measured=(figure,)))


@pytest.fixture
def guarded(project: Project) -> Project:
    (project.folder / "plumb.toml").write_text('guarded = ["toxicity"]\n')
    project.promote("polite@1")
    return Project.require(project.folder)


def test_a_worse_version_is_refused_and_a_forced_one_is_recorded(plumb: Plumb, guarded: Project) -> None:
    evaluated(guarded, 0.02, 0.18)
    result = plumb("promote", "polite@2")
    assert result.exit_code == 2
    assert "'polite@2' is not promoted: toxicity:rate is worse than that of polite@1: 0.2 against 0.1" in result.stderr
    assert guarded.promoted() == guarded.version("polite@1")
    result = plumb("promote", "polite@2", "--force", "the demo is at noon")
    assert (result.exit_code, result.stdout) == (0, "polite@2\n")
    last = guarded.promotions()[-1]
    assert (last.version, last.by, last.why) == ("polite@2", getpass.getuser(), "the demo is at noon")
    assert "toxicity:rate is worse" in last.overrode[0] and last.at
    plumb("rollback", "--why", "it swore")
    assert guarded.promoted() == guarded.version("polite@1")
    assert guarded.promotions()[-1].why == "it swore"


def test_a_version_that_is_not_worse_passes_and_what_was_found_is_said(plumb: Plumb, guarded: Project) -> None:
    evaluated(guarded, -0.02, 0.18)
    result = plumb("promote", "polite@2")
    assert (result.exit_code, result.stdout) == (0, "polite@2\n")
    assert "toxicity:rate is the same as that of polite@1" in result.stderr
    assert guarded.promotions()[-1].overrode == ()


@pytest.mark.usefixtures("guarded")
def test_a_version_that_was_not_compared_is_refused_with_the_command_to_run(plumb: Plumb) -> None:
    result = plumb("promote", "polite@2")
    assert result.exit_code == 2
    assert "`plumb evaluate polite@2 --against polite@1 --tasks toxicity`" in result.stderr
