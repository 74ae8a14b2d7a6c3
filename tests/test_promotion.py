"""The gate: which evaluation decides, which figures, and that the worse are refused and only the worse."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import BadProject
from plumbline.project import Project
from plumbline.promotion import Finding, hold_against, promote
from plumbline.records import Change, Evaluation, Measured


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project.create(tmp_path)
    for _ in range(3):
        project.record_version("bot", lambda folder: (folder / "weights").write_bytes(b"0"))
    (tmp_path / "plumb.toml").write_text('guarded = ["refusal", "hhh:better"]\n')
    project.promote("bot@1")
    return Project(tmp_path)


def figure(task: str, metric: str, low: float, high: float, better: Any = "higher", **more: Any) -> Measured:
    change = Change(other=0.5, value=(low + high) / 2, low=low, high=high)
    return Measured(task=task, metric=metric, value=0.5, n=9, low=0, high=1, better=better, change=change, **more)


def record(project: Project, *figures: Measured, against: str | None = "bot@1", ref: str = "bot@2") -> None:
    project.record_evaluation(ref, Evaluation(version=ref, against=against, measured=figures))


GOOD = (figure("refusal", "refused", -0.1, 0.1), figure("hhh", "better", 0.1, 0.3))


def states(project: Project, ref: str = "bot@2") -> list[tuple[str, str, str]]:
    return [finding[:3] for finding in hold_against(project, project.version(ref), project.in_force())]


def test_each_guarded_figure_is_judged_by_its_interval(project: Project) -> None:
    record(
        project,
        figure("refusal", "refused", 0.01, 0.2),
        figure("refusal", "over", 0.01, 0.2, better="lower"),
        figure("refusal", "length", 5, 9, better=None),
        figure("hhh", "better", -0.2, 0.01),
        figure("hhh", "honest", -0.9, -0.5),
        figure("toxicity", "rate", 0.5, 0.9, better="lower"),
    )
    assert states(project) == [
        ("refusal", "refused", "better"),
        ("refusal", "over", "worse"),
        ("hhh", "better", "same"),
    ]


def test_a_figure_that_is_worse_refuses_and_names_itself(project: Project) -> None:
    record(project, GOOD[0], figure("hhh", "better", -0.3, -0.1))
    with pytest.raises(BadProject, match=r"hhh:better is worse than that of bot@1: .* -0.2 \(95 % -0.3 to -0.1, n 9\)"):
        promote(project, "bot@2")
    assert project.promoted() == project.version("bot@1")
    version, found = promote(project, "bot@2", force="we know", by="ann")
    assert project.promoted() == version == project.version("bot@2")
    assert [finding.state for finding in found] == ["same", "worse"]
    last = project.promotions()[-1]
    assert (last.by, last.why, len(last.overrode)) == ("ann", "we know", 1)


def test_what_was_not_compared_with_the_one_in_force_refuses(project: Project) -> None:
    record(project, *GOOD, against=None)
    record(project, *GOOD, against="bot@3")
    assert [state for _, _, state in states(project)] == ["unmeasured", "unmeasured"]
    record(project, GOOD[0])
    with pytest.raises(BadProject, match="hhh:better was not measured beside bot@1: `plumb evaluate bot@2 --against"):
        promote(project, "bot@2")
    record(project, GOOD[1])  # another evaluation may bring the rest
    assert promote(project, "bot@2")[0].ref == "bot@2"


def test_the_latest_evaluation_of_a_task_decides(project: Project) -> None:
    record(project, *GOOD)
    record(project, figure("refusal", "refused", -0.4, -0.2))
    assert states(project)[0][2] == "worse"
    record(project, GOOD[0])
    assert states(project)[0][2] == "same"


def test_nothing_is_held_against_a_first_version_or_the_one_in_force(project: Project) -> None:
    assert states(project, "bot@1") == []
    project.rollback()
    assert states(project) == []
    assert promote(project, "bot@2")[1] == []


def test_one_in_force_whose_files_are_gone_can_be_replaced(project: Project) -> None:
    """The gate still asks for the comparison that there was; nothing else of it is needed."""
    record(project, *GOOD)
    shutil.rmtree(project.version("bot@1").folder)
    with pytest.raises(BadProject, match="'bot@1' was promoted and is gone"):
        project.promoted()
    with pytest.raises(BadProject, match="refusal was not measured beside bot@1"):
        promote(project, "bot@3")
    assert promote(project, "bot@2")[0] == project.promoted() == project.version("bot@2")


def test_without_guarded_tasks_everything_passes(project: Project) -> None:
    (project.folder / "plumb.toml").write_text("")
    record(project, figure("refusal", "refused", -0.9, -0.8))
    assert promote(Project(project.folder), "bot@2")[1] == []


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(project, *GOOD)
    record(project, *GOOD, ref="bot@3")
    look: Callable[..., list[Finding]] = hold_against

    def meanwhile(*given: Any) -> list[Finding]:
        """While the gate looks at bot@2, another process promotes bot@3."""
        found = look(*given)
        Project(project.folder).promote("bot@3", by="somebody else")
        return found

    monkeypatch.setattr("plumbline.promotion.hold_against", meanwhile)
    with pytest.raises(BadProject, match="'bot@2' is not promoted: it was held against 'bot@1', and meanwhile 'bot@3'"):
        promote(project, "bot@2")
    assert project.promoted() == project.version("bot@3")
    assert [each.version for each in project.promotions()] == ["bot@1", "bot@3"]
