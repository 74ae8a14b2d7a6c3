"""The report: one page that stands alone, with every figure drawn, and the answers side by side, the worst first.

There is no script in it and no file beside it, and its policy lets the browser load nothing, since what it shows was
written by models. Texts are escaped by the template; what is drawn is SVG, made here, in lengths that are percentages
of the place that a chart is given.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.evaluate import TASKS
from plumbline.evaluate.records import Outcome
from plumbline.evaluate.run import Done, Result
from plumbline.evaluate.statistics import reliability
from plumbline.evaluate.tasks import Metric
from plumbline.files import replaced
from plumbline.records import Measured

if TYPE_CHECKING:
    from markupsafe import Markup

SHOWN = 8
"""Outcomes of a task that the page shows."""
LONGEST = 900
"""Characters of a text; more are cut."""
AIMS = {
    "helpful": "Helpful",
    "honest": "Honest",
    "harmless": "Harmless",
    "capable": "What it can do",
    "near": "How far it has moved",
}
VERDICTS = {"better": "better", "worse": "worse", "same": "unclear", "unknown": ""}


@dataclass(frozen=True)
class Row:
    """A figure as the page shows it."""

    name: str
    about: str
    value: str
    reach: str
    n: str
    drawn: Markup
    other: str
    difference: str
    gap: Markup | None
    verdict: str
    word: str


@dataclass(frozen=True)
class Section:
    """A task with its figures and its outcomes."""

    name: str
    question: str
    rows: list[Row]
    outcomes: list[Shown]
    of: int
    drawing: Markup | None


@dataclass(frozen=True)
class Shown:
    """An outcome as the page shows it."""

    about: str
    prompt: str
    answers: list[tuple[str, str, str]]
    """Who, what they said, what was made of it."""


def write_report(result: Result, path: Path) -> None:
    """Writes the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as file:
        file.write(page(result).encode())


def page(result: Result) -> str:
    import jinja2

    here = Path(__file__)
    style = here.with_name("report.css").read_text(encoding="utf-8")
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(here.with_name("report.html").read_text(encoding="utf-8"))
    aims = {
        title: [section(each, result) for each in result.done if each.task.aim == aim] for aim, title in AIMS.items()
    }
    return template.render(
        evaluation=result.evaluation,
        style=style,
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        aims={title: sections for title, sections in aims.items() if sections},
        found={word: named(result, word) for word in ("better", "worse", "same")},
        words=VERDICTS,
        notes=result.notes,
        commands=sorted({each.command for each in result.evaluation.measured if each.command}),
    )


def named(result: Result, verdict: str) -> list[str]:
    """The figures with that verdict."""
    return [each.metric.replace("_", " ") for each in result.evaluation.measured if each.verdict == verdict]


def section(done: Done, result: Result) -> Section:
    metrics = {metric.name: metric for metric in done.task.metrics}
    drawing = None
    if any({"confidence", "right"} <= set(metric.numbers) for metric in done.task.metrics):
        drawing = reliability_chart(done.outcomes)
    return Section(
        name=done.task.name,
        question=TASKS[done.task.name].help,
        rows=[row(each, metrics[each.metric]) for each in done.measured],
        outcomes=shown(done, result),
        of=len(done.outcomes),
        drawing=drawing,
    )


def row(measured: Measured, metric: Metric) -> Row:
    form, change = metric.form, measured.change
    plus = form if form.startswith("+") else f"+{form}"
    return Row(
        name=measured.metric.replace("_", " "),
        about=metric.about,
        value=format(measured.value, form),
        reach=f"{measured.low:{form}} to {measured.high:{form}}",
        n=f"{measured.n:,}",
        drawn=intervals(measured, form),
        other=format(change.other, form) if change else "",
        difference=f"{change.value:{plus}} ({change.low:{plus}} to {change.high:{plus}})" if change else "",
        gap=gap_chart(measured, form) if change else None,
        verdict=measured.verdict,
        word=VERDICTS[measured.verdict],
    )


# ---- answers


def shown(done: Done, result: Result) -> list[Shown]:
    """The worst outcomes; beside another model, those where this one falls furthest behind."""
    theirs = {each.item_id: each for each in done.others or ()}

    def standing(each: Outcome) -> float:
        return each.worth - theirs[each.item_id].worth if each.item_id in theirs else each.worth

    chosen = sorted(done.outcomes, key=standing)[:SHOWN]
    return [as_shown(each, theirs.get(each.item_id), result) for each in chosen]


def as_shown(mine: Outcome, theirs: Outcome | None, result: Result) -> Shown:
    answers = [(result.evaluation.version, cut(mine.completion), mine.note)]
    if theirs is not None and theirs.completion != mine.completion:
        answers.append((result.evaluation.against or "", cut(theirs.completion), theirs.note))
    elif theirs is not None:
        answers = [(f"both {answers[0][0]} and {result.evaluation.against}", answers[0][1], mine.note)]
    if mine.beside and mine.beside != mine.completion:
        answers.append(("held against", cut(mine.beside), ""))
    return Shown(mine.about, cut(mine.prompt), answers)


def cut(text: str) -> str:
    if not text.strip():
        return "(empty)" if not text else "(white space only)"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text) - LONGEST:,} more characters)"


# ---- drawings


def intervals(measured: Measured, form: str) -> Markup:
    """The figure as a dot on its interval, the other model's as a mark, on one line."""
    numbers = [measured.low, measured.high, *([measured.change.other] if measured.change else [])]
    if form.endswith("%") and min(numbers) >= 0:
        low, high = 0.0, 1.0
    else:
        room = (max(numbers) - min(numbers)) * 0.25 or 1.0
        low, high = min(numbers) - room, max(numbers) + room
    drawn = [line("axis", 0, 100)]
    if measured.change is not None:
        drawn.append(upright("other", place(measured.change.other, low, high)))
    drawn += [
        line("reach", place(measured.low, low, high), place(measured.high, low, high)),
        dot("dot", place(measured.value, low, high), 50),
    ]
    said = f"{measured.value:{form}}, 95 % between {measured.low:{form}} and {measured.high:{form}}"
    said += f"; the other model {measured.change.other:{form}}" if measured.change else ""
    return svg("line", said, drawn)


def gap_chart(measured: Measured, form: str) -> Markup:
    """The difference on its interval, with a mark at none."""
    change = measured.change
    assert change is not None, measured.metric
    far = max(abs(change.low), abs(change.high), abs(change.value)) * 1.1 or 1.0
    drawn = [
        line("axis", 0, 100),
        upright("zero", 50),
        line(f"reach {measured.verdict}", place(change.low, -far, far), place(change.high, -far, far)),
        dot(f"dot {measured.verdict}", place(change.value, -far, far), 50),
    ]
    plus = form if form.startswith("+") else f"+{form}"
    return svg(
        "line", f"difference {change.value:{plus}}, 95 % between {change.low:{plus}} and {change.high:{plus}}", drawn
    )


def reliability_chart(outcomes: Sequence[Outcome]) -> Markup:
    """Share right by confidence; on the diagonal a model is right as often as it is sure."""
    from markupsafe import Markup

    known = [each.values for each in outcomes if {"confidence", "right"} <= set(each.values)]
    bins = reliability([each["confidence"] for each in known], [each["right"] for each in known])
    drawn = [
        Markup('<rect class="frame" x="0%" y="0%" width="100%" height="100%"/>'),
        Markup('<line class="zero" x1="0%" y1="100%" x2="100%" y2="0%"/>'),
    ]
    for confidence, right, count in bins:
        size = 3 + 9 * (count / len(known)) ** 0.5
        drawn.append(
            Markup('<circle class="dot" cx="{:.1f}%" cy="{:.1f}%" r="{:.1f}"><title>{}</title></circle>').format(
                100 * confidence, 100 * (1 - right), size, f"confidence {confidence:.0%}: {right:.0%} of {count} right"
            )
        )
    said = "; ".join(f"at {confidence:.0%} sure {right:.0%} of {count} right" for confidence, right, count in bins)
    return svg("square", f"Reliability: {said}", drawn)


def place(number: float, low: float, high: float) -> float:
    """Where on the line, in percent."""
    return 100 * (min(max(number, low), high) - low) / (high - low)


def line(kind: str, begin: float, end: float) -> Markup:
    from markupsafe import Markup

    return Markup('<line class="{}" x1="{:.2f}%" x2="{:.2f}%" y1="50%" y2="50%"/>').format(kind, begin, end)


def upright(kind: str, at: float) -> Markup:
    from markupsafe import Markup

    return Markup('<line class="{}" x1="{:.2f}%" x2="{:.2f}%" y1="12%" y2="88%"/>').format(kind, at, at)


def dot(kind: str, x: float, y: float) -> Markup:
    from markupsafe import Markup

    return Markup('<circle class="{}" cx="{:.2f}%" cy="{:.2f}%" r="4.5"/>').format(kind, x, y)


def svg(kind: str, said: str, drawn: Sequence[Markup]) -> Markup:
    """The element around a drawing, which says in words what it shows."""
    from markupsafe import Markup

    return Markup('<svg class="{}" role="img" aria-label="{}">{}</svg>').format(kind, said, Markup("").join(drawn))
