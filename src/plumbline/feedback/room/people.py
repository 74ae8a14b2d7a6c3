"""Labelers as the manager sees them: the evidence about each, in figures and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from plumbline.feedback.agreement import Figure
from plumbline.feedback.labelers import LabelerScore
from plumbline.feedback.room.charts import columns
from plumbline.feedback.room.figures import Figures
from plumbline.feedback.room.habits import Habits
from plumbline.feedback.room.shown import PERCENT, Measure, measure, moment, share
from plumbline.feedback.store import Exclusion, Labeler

LOOKS = {
    "random": "That looks like guessing.",
    "reversed": "That looks as if best and worst were swapped.",
}
NOTHING = Measure("", "", 0, undefined="nothing ranked yet")


@dataclass(frozen=True)
class ExclusionShown:
    by: str
    at: str
    note: str


@dataclass(frozen=True)
class Person:
    id: str
    name: str
    manager: bool
    rankings: int
    others: Measure
    gold: Measure
    themselves: Measure
    flags: Measure
    first: Measure
    places: Markup
    """Which place on the screen won, as a chart; empty where that is not known."""
    chance: str
    """What the first place would win if the place did not matter."""
    seconds: str
    flagged: str
    reasons: list[str]
    """Why to look at this person's rankings: sentences that go on after the name."""
    excluded: ExclusionShown | None


def show_people(labelers: list[Labeler], excluded: Mapping[str, Exclusion], figures: Figures) -> list[Person]:
    """Everybody by name, those to look at first and those left out last."""
    people = [show_person(each, excluded.get(each.labeler_id), figures) for each in labelers]
    return sorted(people, key=lambda each: (not each.reasons, each.excluded is not None, each.name.casefold()))


def show_person(labeler: Labeler, excluded: Exclusion | None, figures: Figures) -> Person:
    score, habits = figures.scores.get(labeler.labeler_id), figures.habits.get(labeler.labeler_id)
    return Person(
        id=labeler.labeler_id,
        name=labeler.name,
        manager=labeler.role == "manager",
        rankings=habits.rankings if habits else 0,
        others=agreement_of("Agrees with the others", "with the majority of the other labelers", score, "others"),
        gold=agreement_of("Known sets", "with the ranks that are known", score, "gold"),
        themselves=with_themselves(figures.themselves.get(labeler.labeler_id)),
        flags=agreement_of("Flags as others do", "answers flagged, or not, as most do", score, "flags"),
        first=first_place(habits),
        places=places_chart(labeler.name, habits),
        chance=share(1, len(habits.places)) if habits and habits.places else "",
        seconds=f"{habits.seconds:.0f}" if habits and habits.seconds is not None else "–",
        flagged=share(habits.flagged, habits.judged) if habits else "–",
        reasons=[] if excluded else reasons_about(score),
        excluded=exclusion_shown(excluded) if excluded else None,
    )


def exclusion_shown(excluded: Exclusion) -> ExclusionShown:
    return ExclusionShown(excluded.by, moment(excluded.at), str(excluded.evidence.get("note", "")))


def agreement_of(name: str, meaning: str, score: LabelerScore | None, kind: str) -> Measure:
    if score is None:
        return NOTHING
    mark = None if kind == "flags" else 0.5
    return measure(name, meaning, getattr(score, kind), percent=True, mark=mark)


def with_themselves(figure: Figure | None) -> Measure:
    if figure is None:
        return Measure("The same again", "", 0, undefined="never asked a set twice")
    meaning = "asked a set twice: same of first, tie, second"
    return measure("The same again", meaning, figure, percent=True, mark=None)


def first_place(habits: Habits | None) -> Measure:
    if habits is None:
        return NOTHING
    mark = 1 / len(habits.places) if habits.places else None
    return measure("Best stood first", "on the screen, answers being shuffled", habits.first, percent=True, mark=mark)


def places_chart(name: str, habits: Habits | None) -> Markup:
    if habits is None or not habits.places:
        return Markup("")
    return columns(f"{name}: where the best answer stood", habits.places, mark=1 / len(habits.places))


def reasons_about(score: LabelerScore | None) -> list[str]:
    if score is None or score.suggestion is None:
        return []
    return [f"{score.evidence.replace('%', PERCENT)}. {LOOKS[score.suggestion]}"]


def evidence_about(labeler_id: str, figures: Figures, note: str) -> dict[str, Any]:
    """What was known when somebody was left out, to be stored with that decision."""
    score, habits = figures.scores.get(labeler_id), figures.habits.get(labeler_id)
    evidence: dict[str, Any] = {"note": note, "rankings": habits.rankings if habits else 0}
    if score is not None:
        evidence |= {
            "suggestion": score.suggestion,
            "said": score.evidence,
            "others": [score.others.value, score.others.low, score.others.high, score.others.n],
            "gold": [score.gold.value, score.gold.low, score.gold.high, score.gold.n],
        }
    return evidence
