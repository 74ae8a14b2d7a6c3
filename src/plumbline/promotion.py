"""The gate before a version is served: it must not be worse than the one in force on any guarded task.

`guarded` in plumb.toml names the tasks. On each, the version's latest evaluation beside the one in force decides:

    worse         the 95 % interval of the difference lies wholly on the bad side
    unmeasured    no evaluation compared the two on that task

Both refuse the promotion; a forced one is recorded with who, when, why, and what spoke against it. "Same" and "better"
pass. A small evaluation sees small harm as "same": how small is said by the interval, which is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from plumbline.errors import BadProject
from plumbline.project import Project, Version

if TYPE_CHECKING:
    from plumbline.records import Evaluation, Measured

State = Literal["better", "same", "worse", "unmeasured"]
REFUSED: tuple[State, ...] = ("worse", "unmeasured")


class Finding(NamedTuple):
    """What is known of a version on a guarded task."""

    task: str
    metric: str
    state: State
    said: str
    """In a sentence, with n and interval."""


def hold_against(project: Project, version: Version, promoted: str) -> list[Finding]:
    """The version on each guarded task, beside the one in force. Nothing to be worse than is no finding."""
    if promoted in ("", version.ref):
        return []
    evaluations = [each for each in project.evaluations(version.ref) if each.against == promoted]
    return [
        finding for guarded in project.config.guarded for finding in on_task(guarded, evaluations, version, promoted)
    ]


def on_task(guarded: str, evaluations: list[Evaluation], version: Version, promoted: str) -> Iterator[Finding]:
    """The findings on one entry of `guarded`, from the latest evaluation that says anything about it."""
    task, _, metric = guarded.partition(":")
    for evaluation in reversed(evaluations):
        found = [
            each
            for each in evaluation.measured
            if each.task == task and metric in ("", each.metric) and each.verdict != "unknown"
        ]
        if found:
            yield from (as_finding(each, promoted) for each in found)
            return
    command = f"plumb evaluate {version.ref} --against {promoted} --tasks {task}"
    yield Finding(task, metric, "unmeasured", f"{guarded} was not measured beside {promoted}: `{command}`")


def as_finding(measured: Measured, promoted: str) -> Finding:
    """What a figure's change says."""
    change, state = measured.change, measured.verdict
    assert change is not None and state != "unknown", measured
    than = "the same as" if state == "same" else f"{state} than"
    return Finding(
        measured.task,
        measured.metric,
        state,
        f"{measured.task}:{measured.metric} is {than} that of {promoted}: {measured.value:.3g} against "
        f"{change.other:.3g}, difference {change.value:+.3g} (95 % {change.low:+.3g} to {change.high:+.3g}, "
        f"n {measured.n})",
    )


def promote(project: Project, ref: str, *, force: str = "", by: str = "") -> tuple[Version, list[Finding]]:
    """Puts the version in force if the gate lets it pass, or if `force` gives a reason; with what was found.

    BadProject where it is refused, and where somebody else promoted another one meanwhile.
    """
    version, promoted = project.version(ref), project.in_force()
    found = hold_against(project, version, promoted)
    against = [finding.said for finding in found if finding.state in REFUSED]
    if against and not force:
        raise BadProject(
            f"{version.ref!r} is not promoted: {'; '.join(against)}. `--force REASON` promotes it all the same, and "
            "that is recorded"
        )
    project.promote(
        version.ref,
        instead_of=promoted,
        by=by,
        why=force,
        overrode=against,
    )
    return version, found
