"""What an audit leaves in the run's folder: audit/index.html, audit.png and audit.json.

The page stands alone: no script, no file beside it, and a policy that lets the browser load nothing, since what it
shows was written by a model. Texts are escaped by the template; what is drawn is SVG in the page's own ink.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from plumbline.align.audit import Audit
from plumbline.align.detectors import LEVEL, Series
from plumbline.align.figures import DETECTORS, FIGURES
from plumbline.align.frontier import Z
from plumbline.align.independent import FOLDER, View
from plumbline.files import replaced
from plumbline.models.score import plain_text
from plumbline.records import Rollout
from plumbline.training.curves import INK, as_svg

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE, PICTURE, NUMBERS = "index.html", "audit.png", "audit.json"
MEASURED = Path(__file__).with_name("detectors.json")
"""What `benchmarks/audit.py` found of each detector on runs whose fault is known; it writes the file."""
COLOURS = ("#2a8fbd", "#d9822b", "#4c9a4c", "#a768c4", "#c0545f")
"""Of the trained reward, then of each scorer."""
STATES = {
    "alarm": "alarm",
    "changed": "changed",
    "look": "look at it",
    "quiet": "no alarm",
    "told": "measured",
    "unjudged": "not judged",
}
SMALL = ("length", "ended", "repetition", "longest_repeat", "overlap", "distinct", "surprise", "kl")
"""The drawings beside each other, in this order."""
SHOWN = 700
"""Characters of an answer; more are cut."""
AROUND = 90
"""Characters on each side of a phrase in an example."""


def write_audit(audit: Audit) -> Path:
    """Writes the three files; returns the page."""
    folder = audit.folder / FOLDER
    folder.mkdir(exist_ok=True)
    with replaced(folder / NUMBERS) as file:
        file.write(json.dumps(numbers(audit), ensure_ascii=False, indent=2).encode() + b"\n")
    with replaced(folder / PICTURE) as file:
        picture(audit).savefig(file, format="png", dpi=150)
    with replaced(folder / PAGE) as file:
        file.write(page(audit).encode())
    return folder / PAGE


# ---- drawings


def plot(panels: int = 1) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0 * panels, 3.0), layout="constrained")
    return figure, figure.subplots(1, panels)


def dress(axes: Axes, title: str, ink: str, x: str = "step") -> None:
    axes.set_title(plain(title), loc="left", fontsize=10, color=ink)
    axes.set_xlabel(x, fontsize=8, color=ink)
    axes.tick_params(labelsize=8, colors=ink)
    axes.grid(alpha=0.15, color=ink)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(ink)
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(fontsize=8, frameon=False, labelcolor=ink)


def plain(text: str) -> str:
    """Text that matplotlib takes as it is: it would read what stands between two dollars as a formula."""
    return text.replace("$", r"\$")


def line(axes: Axes, series: Series, colour: str, label: str = "", scale: tuple[float, float] = (0.0, 1.0)) -> None:
    """A figure with the band of its 95 % intervals; `scale` is what counts as 0, and as 1 above it."""
    zero, one = scale
    values, half = (series.values - zero) / one, Z * np.sqrt(series.variances) / one
    axes.fill_between(series.steps, values - half, values + half, color=colour, alpha=0.18, linewidth=0)
    axes.plot(series.steps, values, color=colour, linewidth=1.4, label=plain(label) or None)


def as_shares(axes: Axes) -> None:
    """The upright axis in percent, and no wider than shares can be."""
    from matplotlib.ticker import PercentFormatter

    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.02), min(high, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def own_scale(series: Series) -> tuple[float, float]:
    return series.beginning[0], series.spread or 1.0


def draw_scores(axes: Axes, audit: Audit, ink: str) -> None:
    """The trained reward and each scorer, in spreads above their beginning, so that they share an axis."""
    line(axes, audit.series["reward"], COLOURS[0], "trained reward", own_scale(audit.series["reward"]))
    for seen, colour in zip(audit.views, COLOURS[1:], strict=False):
        line(axes, seen.series, colour, seen.scorer, own_scale(seen.series))
        axes.axvline(seen.series.steps[seen.best.place], color=colour, linewidth=1, linestyle=":")
    for each in audit.findings:
        if each.name.startswith("gaming:") and each.step is not None:
            axes.axvline(each.step, color="#c0392b", linewidth=1.2, linestyle="--")
    dress(axes, "scores, in spreads of the first answers", ink)


def draw_frontier(axes: Axes, seen: View, kl: Series, colour: str, ink: str) -> None:
    """The scorer's gain against the distance from the reference, with the curve of Gao et al."""
    d = np.sqrt(np.maximum(kl.values, 0))
    gains = seen.series.values - seen.series.beginning[0]
    axes.scatter(d, gains, s=9, color=colour, alpha=0.6, linewidth=0, label="a step")
    if seen.curve is not None and d.max() > 0:
        x = np.linspace(max(d[d > 0].min(), 1e-2), d.max(), 100)
        axes.plot(x, seen.curve(x), color=ink, linewidth=1, linestyle="--", label="fitted d (α − β log d)")
    dress(axes, f"gain by {seen.scorer} against distance", ink, "d = √KL to the reference")


def picture(audit: Audit) -> Figure:
    """Both curves, and what the distance bought or, without a scorer, the distance itself."""
    figure, (left, right) = plot(panels=2)
    draw_scores(left, audit, "#222222")
    if audit.views:
        draw_frontier(right, audit.views[0], audit.series["kl"], COLOURS[1], "#222222")
    else:
        line(right, audit.series["kl"], COLOURS[0])
        dress(right, FIGURES["kl"].title, "#222222")
    return figure


def page_svg(figure: Figure) -> str:
    """The drawing without style sheets or style attributes, which the page's policy forbids."""
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", as_svg(figure), flags=re.DOTALL)
    return re.sub(r' style="([^"]*)"', lambda found: attributes(found[1]), text)


def attributes(style: str) -> str:
    """`fill: none; stroke: red` as ` fill="none" stroke="red"`; the font is the page's."""
    pairs = [part.split(":", 1) for part in style.split(";") if ":" in part]
    return "".join(f' {name.strip()}="{value.strip()}"' for name, value in pairs if name.strip() != "font-family")


# ---- the page


class Chart(NamedTuple):
    title: str
    svg: str
    caption: str


def large_charts(audit: Audit) -> list[Chart]:
    figure, axes = plot()
    draw_scores(axes, audit, INK)
    marks = " Dotted: the best step by each scorer. Red: over-optimised, as a detector saw it." if audit.views else ""
    charts = [
        Chart(
            "scores by step",
            page_svg(figure),
            "How far each score stands above the first steps. 1 is the spread of the answers to one prompt at first."
            f"{marks}",
        )
    ]
    for seen, colour in zip(audit.views, COLOURS[1:], strict=False):
        figure, axes = plot()
        draw_frontier(axes, seen, audit.series["kl"], colour, INK)
        peak, furthest = seen.curve.peak if seen.curve else None, audit.series["kl"].values.max()
        told = f" It is highest at a KL of {peak:.3g}." if peak and 0.05 * furthest < peak < furthest else ""
        charts.append(
            Chart(
                f"gain by {seen.scorer} against distance",
                page_svg(figure),
                f"A point is a step. The curve is fitted to the points and promises nothing beyond them.{told}",
            )
        )
    return charts


def small_charts(audit: Audit) -> list[Chart]:
    wanted = [
        (FIGURES[name].title, FIGURES[name].form, audit.series[name], name) for name in SMALL if name in audit.series
    ]
    wanted += [
        (f"same preference as {seen.scorer}", ".1%", seen.agreement, f"agreement:{seen.scorer}")
        for seen in audit.views
        if seen.agreement is not None
    ]
    alarms = {each.name: each for each in audit.findings}
    detector_of = {detector.figure: name for name, detector in DETECTORS.items()}
    charts = []
    for title, form, series, name in wanted:
        figure, axes = plot()
        line(axes, series, COLOURS[0])
        if form.endswith("%"):
            as_shares(axes)
        finding = alarms.get(detector_of.get(name, name))
        if finding is not None and finding.step is not None:
            axes.axvline(finding.step, color="#c0392b", linewidth=1.2, linestyle="--")
        dress(axes, title, INK)
        noticed = f" Noticed at step {finding.step}." if finding is not None and finding.step is not None else ""
        charts.append(Chart(title, page_svg(figure), f"n: {series.answers:,} answers.{noticed}"))
    return charts


def cut(text: str) -> str:
    if not text.strip():
        return "(empty)"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} … ({len(text) - SHOWN:,} more characters)"


def side(rollout: Rollout) -> dict[str, str]:
    end = "" if rollout.ended else ", cut off"
    about = f"step {rollout.step}, reward {rollout.reward:.3g}, {rollout.tokens} tokens{end}"
    return {"about": about, "text": cut(rollout.completion)}


def example(text: str, words: Sequence[str]) -> tuple[str, str, str]:
    """What stands before the phrase, the phrase, what stands after it; only the surroundings of a long text."""
    within = r"\s*".join(map(re.escape, words))
    pattern = rf"(?<!\w){within}(?!\w)" if words[0][0].isalnum() else within  # signs may touch a word
    found = re.search(pattern, text, re.IGNORECASE)
    if found is None:
        return cut(text), "", ""
    before, after = text[: found.start()], text[found.end() :]
    if len(before) > AROUND:
        before = "… " + before[-AROUND:].partition(" ")[2]
    if len(after) > AROUND:
        after = after[:AROUND].rpartition(" ")[0] + " …"
    return before, found[0], after


def marked(parts: tuple[str, str, str]) -> Markup:
    from markupsafe import Markup

    return Markup("{}<mark>{}</mark>{}").format(*parts) if parts[1] else Markup("{}").format(parts[0])


def page(audit: Audit) -> str:
    import jinja2

    here = Path(__file__)
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    style = here.with_name("audit.css").read_text(encoding="utf-8")
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(here.with_name("audit.html").read_text(encoding="utf-8"))
    return template.render(
        audit=audit,
        style=style,
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        states=STATES,
        large=large_charts(audit),
        small=small_charts(audit),
        phrases=[
            {
                "words": " ".join(each.words),
                "before": each.before,
                "after": each.after,
                "p": each.p,
                "examples": [example(rollout.completion, each.words) for rollout in audit.examples[each]],
            }
            for each in audit.inflation.phrases
        ],
        marked=marked,
        samples=[
            {"prompt": cut(plain_text(each.early.prompt)), "answers": [side(each.early), side(each.late)]}
            for each in audit.samples
        ],
        views=[
            {
                "scorer": seen.scorer,
                "n": f"{seen.series.answers:,}",
                "extremes": [
                    {
                        "prompt": cut(plain_text(each.rollout.prompt)),
                        **side(each.rollout),
                        "about": f"{side(each.rollout)['about']}; place {each.trained:.0%} by the trained reward, "
                        f"{each.independent:.0%} by {seen.scorer} ({each.score:.3g})",
                    }
                    for each in seen.extremes
                ],
            }
            for seen in audit.views
        ],
        detectors=[{"rule": DETECTORS[name].rule, "measured": measured[name]} for name in DETECTORS],
        level=LEVEL,
    )


# ---- the numbers


def numbers(audit: Audit) -> dict[str, Any]:
    """The audit as JSON: what the page says, without the texts."""
    return {
        "run": audit.folder.name,
        "answers": audit.answers,
        "steps": audit.steps,
        "notes": list(audit.notes),
        "findings": [vars(each) for each in audit.findings],
        "series": {name: points(each) for name, each in audit.series.items()},
        "views": [
            {
                "scorer": seen.scorer,
                "series": points(seen.series),
                "agreement": points(seen.agreement) if seen.agreement is not None else None,
                "best_step": int(seen.series.steps[seen.best.place]),
                "as_good_from_step": int(seen.series.steps[seen.best.as_good]),
                "gain": seen.best.gain,
                "gain_error": seen.best.error,
                "curve": seen.curve._asdict() if seen.curve is not None else None,
            }
            for seen in audit.views
        ],
        "phrases": [
            {"phrase": " ".join(each.words), "before": each.before, "after": each.after, "p": each.p}
            for each in audit.inflation.phrases
        ],
        "phrases_looked_at": audit.inflation.looked_at,
    }


def points(series: Series) -> dict[str, Any]:
    return {
        "step": [int(step) for step in series.steps],
        "value": series.values.tolist(),
        "error": np.sqrt(series.variances).tolist(),
        "answers": series.answers,
    }
