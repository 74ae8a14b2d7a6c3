"""Figures as the manager's pages show them: numbers in words, charts beside them, people by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from markupsafe import Markup

from plumbline.errors import UserError
from plumbline.feedback.agreement import Agreement, Figure
from plumbline.feedback.places import Progress
from plumbline.feedback.room.changes import Change, changes
from plumbline.feedback.room.charts import Part, bar, interval
from plumbline.feedback.room.disputes import Difference, Flagged
from plumbline.feedback.room.figures import Pace
from plumbline.feedback.sets import Instruction

if TYPE_CHECKING:
    from plumbline.records import ComparisonSet

A_PAGE = 20
"""Disputes on a page."""
PERCENT = "\u00a0%"
"""The sign with a space before it that no line ends at."""


# ---- numbers in words


def number(value: float) -> str:
    return f"{value:,.0f}"


def many(count: int, one: str, several: str) -> str:
    return f"{number(count)} {one if count == 1 else several}"


def share(count: int, total: int) -> str:
    """A share that says "0 %" and "100 %" only where it is exactly so."""
    if not total:
        return "–"
    if 0 < count < 0.005 * total:
        return f"< 1{PERCENT}"
    if total > count > 0.995 * total:
        return f"> 99{PERCENT}"
    return f"{100 * count / total:.0f}{PERCENT}"


def duration(span: timedelta) -> str:
    """Roughly, as one says it."""
    minutes = max(1, round(span.total_seconds() / 60))
    if minutes < 90:
        return many(minutes, "minute", "minutes")
    hours = round(minutes / 60)
    return many(hours, "hour", "hours") if hours < 48 else many(round(hours / 24), "day", "days")


def moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


# ---- progress


@dataclass(frozen=True)
class Row:
    """A row of the table beside the bar."""

    kind: str
    name: str
    meaning: str
    count: int
    share: str


@dataclass(frozen=True)
class ProgressShown:
    total: int
    asked: int
    """Sets that a number of people is asked to rank: all but those with known ranks."""
    finished: int
    ahead: str
    parts: list[Row]
    chart: Markup


MEANINGS = (
    ("done", "done", "as many rankings as asked"),
    ("surplus", "surplus", "more than asked"),
    ("partly", "partly", "some rankings, nobody at it"),
    ("open", "open", "somebody is at it now"),
    ("skipped", "skipped", "skipped, ranked by nobody"),
    ("waiting", "waiting", "not begun"),
    ("gold", "known", "ranks known, shown to all"),
)


def show_progress(progress: Progress, pace: Pace) -> ProgressShown:
    counts = [(kind, name, meaning, int(getattr(progress, kind))) for kind, name, meaning in MEANINGS]
    return ProgressShown(
        total=progress.total,
        asked=progress.total - progress.gold,
        finished=progress.done + progress.surplus,
        ahead=duration(pace.left) if pace.left else "",
        parts=[Row(kind, name, meaning, count, share(count, progress.total)) for kind, name, meaning, count in counts],
        chart=bar("Sets by state", [Part(kind, name, count) for kind, name, _, count in counts]),
    )


# ---- agreement


@dataclass(frozen=True)
class Measure:
    """A figure with its chart, or why there is none."""

    name: str
    meaning: str
    n: int
    value: str = ""
    interval: str = ""
    chart: Markup = Markup("")
    undefined: str = ""


def measure(name: str, meaning: str, figure: Figure, *, percent: bool, mark: float | None, low: float = 0.0) -> Measure:
    """`low` is the least value that a chart shows; the greatest is 1."""
    if figure.value is None:
        return Measure(name, meaning, figure.n, undefined=figure.why.removeprefix("undefined: "))

    def said(value: float) -> str:
        return (f"{100 * value:.0f}{PERCENT}" if percent else f"{value:.2f}").replace("-", "−").replace("−0.00", "0.00")

    if figure.low is None or figure.high is None:
        reach, chart = figure.why, interval(name, figure.value, figure.value, figure.value, scale=(low, 1.0), mark=mark)
    else:
        reach = f"{said(figure.low).removesuffix(PERCENT)} to {said(figure.high)}"
        chart = interval(name, figure.value, figure.low, figure.high, scale=(low, 1.0), mark=mark)
    return Measure(name, meaning, figure.n, said(figure.value), reach, chart)


@dataclass(frozen=True)
class CriterionShown:
    name: str
    basis: str
    rows: list[Measure]


def show_agreement(found: Mapping[str, Agreement]) -> list[CriterionShown]:
    """Criteria without a ranking have nothing to show."""
    return [criterion_shown(name, each) for name, each in found.items() if each.sets]


def criterion_shown(name: str, found: Agreement) -> CriterionShown:
    basis = (
        f"{many(found.sets, 'set', 'sets')} ranked by {many(found.labelers, 'person', 'people')}, "
        f"{number(found.shared)} of them by more than one; {many(found.comparisons, 'comparison', 'comparisons')} of "
        "two people on two answers. n counts sets."
    )
    rows = [
        measure("Without ties", "both chose: did they choose alike", found.without_ties, percent=True, mark=0.5),
        measure("With ties", "same of three: first, tie, second", found.with_ties, percent=True, mark=None),
        measure("Krippendorff's alpha", "ordinal; 1 is full agreement", found.alpha, percent=False, mark=0.0, low=-1.0),
        measure("Flags", "alpha on “makes no sense”", found.flags, percent=False, mark=0.0, low=-1.0),
    ]
    return CriterionShown(name, basis, rows)


# ---- pages of disputes

Item = TypeVar("Item")
Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Shown(Generic[Item]):
    """One page of something long."""

    items: list[Item]
    total: int
    page: int
    pages: int


def a_page(kept: Sequence[Kept], total: int, page: int, show: Callable[[Kept], Item]) -> Shown[Item]:
    pages = max(1, -(-len(kept) // A_PAGE))
    page = min(max(page, 1), pages)
    items = []
    for each in kept[(page - 1) * A_PAGE : page * A_PAGE]:
        with suppress(UserError):  # its set was erased since the figures were reckoned
            items.append(show(each))
    return Shown(items, total, page, pages)


@dataclass(frozen=True)
class Judged:
    """What one person said of one answer."""

    name: str
    rank: int | None
    flag: bool


@dataclass(frozen=True)
class Side:
    """One answer with what people said of it."""

    text: str
    contested: bool
    judged: list[Judged]


@dataclass(frozen=True)
class DifferenceShown:
    prompt: Any
    words: str
    answers: list[Side]


def show_difference(difference: Difference, of: ComparisonSet, names: Mapping[str, str]) -> DifferenceShown:
    sides = [
        Side(
            of.completions[place].text,
            place in difference.contested,
            [Judged(names[each.labeler_id], each.ranks[place], each.flags[place]) for each in difference.said],
        )
        for place in difference.places
    ]
    words = (
        f"{difference.contradicted} of {many(difference.choices, 'choice', 'choices')} contradicted, "
        f"{len(difference.said)} people, by {difference.criterion!r}, set {difference.set_id}"
    )
    return DifferenceShown(of.prompt, words, sides)


@dataclass(frozen=True)
class FlagShown:
    prompt: Any
    words: str
    text: str


def show_flag(flag: Flagged, of: ComparisonSet, names: Mapping[str, str]) -> FlagShown:
    who = listed([names[each] for each in flag.by])
    answer = of.completions[flag.place]
    source = f", written by {answer.model}" if answer.model else ""
    words = f"{who} of {many(flag.judges, 'judge', 'judges')}: makes no sense. Set {flag.set_id}{source}"
    return FlagShown(of.prompt, words, answer.text)


def listed(names: Sequence[str]) -> str:
    """Names as one says them: "Ann, Ben and Cem"."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


# ---- instructions


@dataclass(frozen=True)
class VersionShown:
    number: int
    words: str
    changed: bool
    """That there is a version before it to have changed from."""
    changes: list[Change]


def show_versions(versions: Iterable[Instruction]) -> list[VersionShown]:
    """The newest first, each with what it changed."""
    shown, former = [], ""
    for each in versions:
        words = f"{moment(each.at)}{f' by {each.by}' if each.by else ''}"
        shown.append(VersionShown(each.version, words, each.version > 1, changes(former, each.text.strip())))
        former = each.text.strip()
    return shown[::-1]
