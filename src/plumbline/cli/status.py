"""`plumb status`: the circle with today's counts, on one screen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.cli.terminal import AsJson, note, print_json, screen, waiting

if TYPE_CHECKING:
    from rich.table import Table

    from plumbline.feedback.store import Store
    from plumbline.project import Project, Promotion, Version
    from plumbline.records import Evaluation, Measured

SHOWN = 8
"""Figures of an evaluation that fit on the screen."""


def status(as_json: AsJson = False) -> None:
    """Show where the circle stands, with today's counts.

    Prompts, answers, rankings and how far people agree; models, what was measured of the one that is served, and what
    people said since it is. Figures of an evaluation come with their n and a 95 % interval.
    """
    from plumbline.project import Project

    project = Project.require()
    with waiting("counting"):
        found = counts(project)
    if as_json:
        print_json(found)
    else:
        draw(project, found)


def counts(project: Project) -> dict[str, Any]:
    """All that the circle shows, as plain data."""
    versions, promoted = project.versions(), project.promoted()
    since = served_since(project) if promoted else None
    return {
        "project": str(project.folder),
        "criterion": project.config.criterion,
        **people(project, since),
        "reward": reward_accuracy(project),
        "versions": len(versions),
        "newest": newest(versions),
        "evaluation": evaluation(project, promoted, versions),
        "served": promoted.ref if promoted else None,
        "promotion": promotion(project) if promoted else None,
        "guarded": list(project.config.guarded),
    }


# ---- what people said


NOBODY: dict[str, Any] = {
    "prompts": 0,
    "sets": 0,
    "answers": 0,
    "rankings": 0,
    "labelers": 0,
    "agreement": None,
    "thumbs": {"up": 0, "down": 0},
    "since": {"up": 0, "down": 0, "rankings": 0, "exchanges": 0},
}


def people(project: Project, since: datetime | None) -> dict[str, Any]:
    """What is in the project's store, which is opened only where there is one."""
    if not project.config.database and not (project.folder / "plumb.db").exists():
        return NOBODY
    from plumbline.feedback.store import Store

    with Store.open(project) as store:
        return {**answers(store), **said(store, since)}


def answers(store: Store) -> dict[str, Any]:
    prompts: set[str] = set()
    sets = texts = 0
    for each in store.sets():
        prompts.add(each.prompt_id)
        sets += 1
        texts += len(each.completions)
    return {"prompts": len(prompts), "sets": sets, "answers": texts}


def said(store: Store, since: datetime | None) -> dict[str, Any]:
    """Rankings and thumbs, how far labelers agree, and what came since a moment."""
    from plumbline.feedback.agreement import agreement

    total = {"rankings": 0, "new": 0}

    def counted() -> Iterator[Any]:
        for ranking in store.rankings():
            total["rankings"] += 1
            total["new"] += is_after(ranking, since)
            yield ranking

    found = agreement(counted())
    same = found.with_ties
    thumbs, new = {"up": 0, "down": 0}, {"up": 0, "down": 0}
    for rating in store.ratings():
        way = "up" if rating.label else "down"
        thumbs[way] += 1
        new[way] += is_after(rating, since)
    exchanges = sum(hour.exchanges for hour in store.hours(since)) if since else 0
    return {
        "rankings": total["rankings"],
        "labelers": found.labelers,
        "agreement": None
        if same.value is None
        else {"value": same.value, "low": same.low, "high": same.high, "n": same.n},
        "thumbs": thumbs,
        "since": {**new, "rankings": total["new"], "exchanges": exchanges},
    }


def is_after(record: Any, since: datetime | None) -> bool:
    return since is not None and datetime.fromisoformat(record.at) >= since


# ---- what was made of it


def reward_accuracy(project: Project) -> dict[str, Any] | None:
    """Of the newest run that measured it: how often a reward model agrees with people on pairs held out."""
    found = sorted(project.runs.glob("*/accuracy.json"), key=lambda path: path.stat().st_mtime)
    for path in reversed(found):
        told = json.loads(path.read_text(encoding="utf-8"))
        if told.get("pairs"):
            value, low, high, sets = told["right"]
            return {"run": path.parent.name, "value": value, "low": low, "high": high, "n": sets}
    return None


def newest(versions: list[Version]) -> str | None:
    return max(versions, key=lambda version: (version.created, version.number)).ref if versions else None


def evaluation(project: Project, promoted: Version | None, versions: list[Version]) -> dict[str, Any] | None:
    """The latest evaluation of what is served; before the first promotion, the latest of any version."""
    of = [promoted] if promoted else versions
    every = [each for version in of for each in project.evaluations(version.ref)]
    if not every:
        return None
    latest: Evaluation = max(every, key=lambda each: each.created)
    return {
        "version": latest.version,
        "against": latest.against,
        "created": latest.created,
        "measured": [as_data(each) for each in latest.measured],
    }


def as_data(measured: Measured) -> dict[str, Any]:
    kept = measured.model_dump(include={"task", "metric", "value", "low", "high", "n", "better"})
    return {**kept, "verdict": measured.verdict}


def served_since(project: Project) -> datetime:
    return datetime.fromisoformat(project.promotions()[-1].at)


def promotion(project: Project) -> dict[str, Any]:
    """How what is served came to be: promoted, forced, or gone back to."""
    last: Promotion = project.promotions()[-1]
    return {"at": last.at, "by": last.by, "why": last.why, "overrode": list(last.overrode), "undoes": last.undoes}


# ---- the picture


def draw(project: Project, found: dict[str, Any]) -> None:
    """The circle: people's half above from left to right, the models' half below from right to left."""
    from rich.markup import escape

    console = screen()
    console.print(
        f"[bold]{escape(Path(found['project']).name)}[/]  [dim]{escape(found['criterion'] or 'no criterion')}"
    )
    console.print()
    console.print(circle(found))
    if found["evaluation"]:
        console.print()
        console.print(figures(found["evaluation"]))
    made = found["promotion"]
    if made and made["overrode"]:
        note(f"{found['served']} was forced by {made['by']}: {made['why']}; against it: {'; '.join(made['overrode'])}")
    if made and made["undoes"]:
        note(f"{found['served']} is served since {made['undoes']} was undone by {made['by']}")
    guarded = ", ".join(found["guarded"]) or "nothing; name tasks under `guarded` in plumb.toml"
    note(f"guarded at promotion: {guarded}")


def circle(found: dict[str, Any]) -> Table:
    """Eight cells with arrows between them."""
    from rich.table import Table

    since, thumbs = found["since"], found["thumbs"]
    compared = found["evaluation"]
    above = [
        ("prompts", f"{found['prompts']:,}"),
        ("answers", f"{found['answers']:,} in {found['sets']:,} sets"),
        ("rankings", f"{found['rankings']:,} by {found['labelers']:,}"),
        ("agreement", with_interval(found["agreement"])),
    ]
    below = [
        ("feedback since", f"{since['up']:,} up, {since['down']:,} down\n{since['exchanges']:,} requests"),
        ("served", found["served"] or "nothing"),
        ("evaluation", f"of {compared['version']}" if compared else "none"),
        ("models", f"{found['versions']:,}, newest {found['newest']}" if found["newest"] else "none"),
    ]
    reward = [("", ""), ("", ""), ("", ""), ("reward model", with_interval(found["reward"]))]
    below[0] = (below[0][0], below[0][1] + f"\n[dim]of {thumbs['up'] + thumbs['down']:,} thumbs in all")
    rows = Table.grid(padding=(0, 1))
    for row, arrow in ((above, "─►"), (None, "▲"), (reward, " "), (None, "│"), (below, "◄─")):
        if row is None:
            rows.add_row(f"   {arrow}", "", "", "", "", "", "   ▼")
            continue
        cells = [
            f"[dim]{title}[/]\n[bold]{text}[/]" if title else "   │" * (place == 0)
            for place, (title, text) in enumerate(row)
        ]
        rows.add_row(*[part for cell in cells for part in (cell, f"[dim]{arrow}")][:-1])
    return rows


def with_interval(figure: dict[str, Any] | None) -> str:
    """A share with its interval and n, in two lines."""
    if figure is None:
        return "not measured"
    if figure["low"] is None:
        return f"{figure['value']:.0%}, n {figure['n']:,}"
    return f"{figure['value']:.0%}\n[dim]{figure['low']:.0%} to {figure['high']:.0%}, n {figure['n']:,}"


def figures(told: dict[str, Any]) -> Table:
    """The evaluation's figures, those with a verdict first."""
    from plumbline.cli.terminal import table

    colours = {"better": "green", "worse": "red", "same": "dim", "unknown": "dim"}
    beside = f"beside {told['against']}" if told["against"] else ""
    rows = table(f"{told['version']} {told['created'][:16].replace('T', ' ')}", ">value", "95 %", ">n", beside)
    ordered = sorted(told["measured"], key=lambda each: each["verdict"] == "unknown")
    for each in ordered[:SHOWN]:
        verdict = "" if each["verdict"] == "unknown" else f"[{colours[each['verdict']]}]{each['verdict']}"
        rows.add_row(
            f"{each['task']}: {each['metric']}",
            f"{each['value']:.3g}",
            f"{each['low']:.3g} to {each['high']:.3g}",
            f"{each['n']:,}",
            verdict,
        )
    if len(ordered) > SHOWN:
        rows.add_row(f"[dim]and {len(ordered) - SHOWN} more, in evaluations/", "", "", "", "")
    return rows
