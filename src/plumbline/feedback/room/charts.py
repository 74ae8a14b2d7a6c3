"""The manager's charts: SVG elements made here, without script or style of their own.

All lengths are percentages of the place a chart is given, so that it fills a wide page and a phone alike while its
lines stay as thin as they are. Colours come from the page's style sheet by class. Each chart carries a title and a
description that say in words what it shows, and never stands without the table of the same numbers beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from markupsafe import Markup, escape


@dataclass(frozen=True)
class Part:
    """One stretch of a bar: `kind` names its colour and what the page's script keeps up to date."""

    kind: str
    name: str
    count: int


def bar(title: str, parts: Sequence[Part]) -> Markup:
    """One bar whose stretches are the shares of the whole; a page's script may move them as the counts change."""
    total = sum(part.count for part in parts)
    said = ", ".join(f"{part.count} {part.name}" for part in parts) if total else "nothing yet"
    stretches, begin = [], 0.0
    for part in parts:
        width = 100 * part.count / total if total else 0.0
        stretches.append(
            Markup('<rect class="part {}" data-part="{}" x="{:.3f}%" y="0" width="{:.3f}%" height="100%"/>').format(
                part.kind, part.kind, begin, width
            )
        )
        begin += width
    return svg("stack", title, f"Of {total}: {said}.", Markup("").join(stretches))


def interval(
    title: str, value: float, low: float, high: float, *, scale: tuple[float, float] = (0.0, 1.0), mark: float | None
) -> Markup:
    """A value as a dot on its interval; `mark` is a line to hold it against, such as what chance would give."""

    def place(number: float) -> float:
        bottom, top = scale
        return 100 * (min(max(number, bottom), top) - bottom) / (top - bottom)

    drawn = [Markup('<line class="axis" x1="0%" x2="100%" y1="50%" y2="50%"/>')]
    if mark is not None:
        drawn.append(Markup('<line class="mark" x1="{0:.2f}%" x2="{0:.2f}%" y1="10%" y2="90%"/>').format(place(mark)))
    drawn.append(
        Markup('<line class="reach" x1="{:.2f}%" x2="{:.2f}%" y1="50%" y2="50%"/>').format(place(low), place(high))
    )
    drawn.append(Markup('<circle class="dot" cx="{:.2f}%" cy="50%" r="5"/>').format(place(value)))
    said = f"{value:.2f}, between {low:.2f} and {high:.2f} at 95 percent, on a line from {scale[0]:g} to {scale[1]:g}."
    return svg("interval", title, said if mark is None else f"{said} The mark stands at {mark:.2f}.", *drawn)


def columns(title: str, shares: Sequence[float], *, mark: float) -> Markup:
    """Shares side by side, upright; the line across is `mark`, what each would be if the place did not matter."""
    top = max([*shares, mark, 0.01])
    wide = 100 / max(len(shares), 1)
    drawn = [
        Markup('<rect class="column" x="{:.2f}%" y="{:.2f}%" width="{:.2f}%" height="{:.2f}%"/>').format(
            number * wide + wide * 0.12, 100 - 100 * share / top, wide * 0.76, 100 * share / top
        )
        for number, share in enumerate(shares)
    ]
    height = 100 - 100 * mark / top
    drawn.append(Markup('<line class="mark" x1="0%" x2="100%" y1="{0:.2f}%" y2="{0:.2f}%"/>').format(height))
    said = ", ".join(f"{share:.0%}" for share in shares)
    return svg("columns", title, f"{said}; the line stands at {mark:.0%}.", *drawn)


def svg(kind: str, title: str, said: str, *drawn: str) -> Markup:
    """The element around a drawing; its ids are made of its words, so that two on one page never share one."""
    name = f"chart-{sha256(f'{title} {said}'.encode()).hexdigest()[:10]}"
    return Markup(
        '<svg class="chart {kind}" role="img" aria-labelledby="{name}-title {name}-desc">'
        '<title id="{name}-title">{title}</title><desc id="{name}-desc">{said}</desc>{drawn}</svg>'
    ).format(kind=kind, name=name, title=escape(title), said=escape(said), drawn=Markup("").join(drawn))
