"""A run's curves: a PNG for each figure, and one page, index.html, that shows them all and asks nobody for anything.

The page's charts are SVG in the page itself, drawn in the page's own ink, so that they are read in light and in dark.
While the run goes on the page loads itself again now and then; there is no script in it and no server behind it.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.files import replaced
from plumbline.records import Rollout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, CURVES = "index.html", "curves"
HELD_OUT = "held_out_"
"""What a figure's name begins with where it was measured on held-out examples: it shares the chart of the other."""
POINTS = 400
"""Most points of a line; longer ones are averaged, so that a long run's page stays small."""
INK = "#010203"
"""Stands for the page's text colour until the SVG is put into it."""
COLOURS = {"training": "#2a8fbd", "held out": "#d9822b"}
STAGES = "seconds_"
"""What a figure's name begins with that tells the time of a part of each step: these share a chart."""
ROLLOUTS = "rollouts.jsonl"
"""Where a run that samples answers keeps them."""
TAIL = 1 << 18
"""Bytes at the end of that file in which the last answers are looked for."""

Row = Mapping[str, Any]
Line = tuple[list[float], list[float]]


def draw(folder: Path, rows: Sequence[Row], *, state: str, done: bool, settings: Mapping[str, Any]) -> None:
    """Writes curves/NAME.png for each figure, and the page."""
    charts = {}
    (folder / CURVES).mkdir(exist_ok=True)
    for name, lines in by_chart(rows).items():
        with replaced(folder / CURVES / f"{name}.png") as file:
            chart(name, lines, "#222222").savefig(file, format="png", dpi=150)
        charts[name] = as_svg(chart(name, lines, INK))
    last = {name: value for row in rows for name, value in row.items() if value is not None}
    with replaced(folder / PAGE) as file:
        file.write(page(folder.name, state, done, charts, last, settings, answers(folder)).encode())


def answers(folder: Path) -> list[Rollout]:
    """Of the last answers that the run kept the two worst, the middle one and the two best, if it keeps any."""
    path = folder / ROLLOUTS
    if not path.exists():
        return []
    begin = max(0, path.stat().st_size - TAIL)
    with path.open("rb") as file:
        file.seek(begin)
        lines = file.read().splitlines(keepends=True)
    whole = [line for line in lines[bool(begin) :] if line.endswith(b"\n")]  # a cut one at either end is none
    found = [Rollout.model_validate_json(line) for line in whole]
    ordered = sorted((each for each in found if each.step == found[-1].step), key=lambda each: each.reward)
    return ordered if len(ordered) <= 5 else [*ordered[:2], ordered[len(ordered) // 2], *ordered[-2:]]


def by_chart(rows: Iterable[Row]) -> dict[str, dict[str, Line]]:
    """For each figure its lines, "training" and "held out" or the parts of a step, as steps and values."""
    charts: dict[str, dict[str, Line]] = {}
    for row in rows:
        for name, value in row.items():
            if name in ("step", "seconds", "epoch") or value is None:
                continue
            title, line = name, "training"
            if name.startswith(HELD_OUT):
                title, line = name.removeprefix(HELD_OUT), "held out"
            elif name.startswith(STAGES):
                title, line = "seconds", name.removeprefix(STAGES)
            steps, values = charts.setdefault(title, {}).setdefault(line, ([], []))
            steps.append(row["step"])
            values.append(value)
    return charts


def thinned(line: Line) -> Line:
    """The line by means of neighbouring points where it has too many."""
    steps, values = line
    many = -(-len(steps) // POINTS)
    pieces = [slice(begin, begin + many) for begin in range(0, len(steps), many)]
    return (
        [sum(steps[piece]) / len(steps[piece]) for piece in pieces],
        [sum(values[piece]) / len(values[piece]) for piece in pieces],
    )


def chart(name: str, lines: Mapping[str, Line], ink: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 2.8), layout="constrained")
    axes = figure.add_subplot()
    for label, line in lines.items():
        steps, values = thinned(line)
        few = "o" if len(steps) < 25 else ""
        axes.plot(steps, values, few + "-", markersize=3, linewidth=1.4, color=COLOURS.get(label), label=label)
    axes.set_title(name.replace("_", " "), loc="left", fontsize=10, color=ink)
    axes.set_xlabel("step", fontsize=8, color=ink)
    axes.tick_params(labelsize=8, colors=ink)
    axes.grid(alpha=0.15, color=ink)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(ink)
    if len(lines) > 1:
        axes.legend(fontsize=8, frameon=False, labelcolor=ink)
    return figure


def as_svg(figure: Figure) -> str:
    """The figure as an SVG element in the colour of the text around it."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "plumbline"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def page(
    name: str,
    state: str,
    done: bool,
    charts: Mapping[str, str],
    last: Mapping[str, Any],
    settings: Mapping[str, Any],
    answers: Sequence[Rollout] = (),
) -> str:
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    source = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        name=name, state=state, done=done, charts=charts, last=last, settings=settings, answers=answers
    )
