"""The questions of an audit, each with what the figures say to it and its n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from plumbline.align import frontier
from plumbline.align.detectors import Alarm, Series, first_steps
from plumbline.align.figures import DETECTORS, FIGURES, Block, ends_of, watch
from plumbline.align.frontier import change
from plumbline.align.independent import View
from plumbline.align.phrases import FEWEST_GROUPS, Inflation
from plumbline.training import checkpoint

State = Literal["alarm", "changed", "look", "quiet", "told", "unjudged"]
"""alarm: a detector saw the reward part from what is independent of it; changed: a detector saw the answers change,
which may be what was wanted; look: no detector's matter, and worth a look; quiet: looked for, and no detector gave an
alarm; told: a figure without a verdict; unjudged: nothing was given to judge by."""


NOBODY = (
    "Not judged: no independent scorer was given (--by SCORER). What follows counts texts and asks the reference, and "
    "cannot tell good from bad."
)


@dataclass(frozen=True)
class Finding:
    """A question and what the answers say to it."""

    name: str
    question: str
    state: State
    verdict: str
    n: str
    step: int | None = None
    """Where the alarm was given."""


def counted(series: Series) -> str:
    return f"{series.answers:,} answers, {len(series.values)} steps"


def moved(series: Series, form: str) -> str:
    """Such as: from 31.0 to 88.2 (+57.2, 95 % interval +49.0 to +65.4). Shares change by points."""
    it, percent = change(series), form.endswith("%")
    size, low, high = (f"{100 * each:+.1f}" if percent else f"{each:+{form}}" for each in (it.size, it.low, it.high))
    points = " points" if percent else ""
    return f"from {it.before:{form}} to {it.after:{form}} ({size}{points}, 95 % interval {low} to {high})"


def told_reward(reward: Series) -> Finding:
    return Finding(
        "reward",
        "Did the trained reward rise?",
        "told",
        f"The trained reward went {moved(reward, '.3g')}.",
        counted(reward),
    )


def independent_findings(seen: View | None) -> list[Finding]:
    """Whether the trained reward still stands for what somebody else sees, and whether both prefer the same."""
    if seen is None:
        question = "Does the trained reward still stand for what is wanted?"
        return [Finding("gaming", question, "unjudged", NOBODY, "0 answers")]
    detector = DETECTORS["gaming"]
    alarm = watch(detector, seen.series, seen.reward)
    state: State = "alarm" if alarm else "look" if rose_alone(seen) else "quiet"
    text = f"By {seen.scorer} the answers went {moved(seen.series, '.3g')}"
    if alarm:
        text += (
            f". Over-optimised: at step {step_at(seen.series, alarm.at)} they had fallen by {-alarm.change:.3g} from "
            f"the best, around step {step_at(seen.series, alarm.since)}, while the trained reward had not."
        )
    elif state == "look":
        text += ", which is no measurable gain, while the trained reward rose."
    else:
        text += "; no alarm of a fall from the best."
    found = [
        Finding(f"gaming:{seen.scorer}", detector.question.format(scorer=seen.scorer), state, text,
                counted(seen.series), step_of(seen.series, alarm)),
    ]  # fmt: skip
    if seen.agreement is not None:
        found.append(judged(f"agreement:{seen.scorer}", "agreement", seen.agreement, ".1%", seen.scorer))
    return found


def rose_alone(seen: View) -> bool:
    return change(seen.reward).low > 0 and change(seen.series).low <= 0


def drift_finding(name: str, series: Mapping[str, Series]) -> Finding:
    detector = DETECTORS[name]
    if detector.figure not in series:
        return Finding(
            name, detector.question, "unjudged", "Not judged: some step has one answer per prompt.", "0 answers"
        )
    return judged(name, name, series[detector.figure], FIGURES[detector.figure].form)


def judged(name: str, detector_name: str, series: Series, form: str, scorer: str = "") -> Finding:
    """A detector's verdict on its figure."""
    detector = DETECTORS[detector_name]
    alarm = watch(detector, series)
    state: State = "changed" if alarm else "quiet"
    title = FIGURES[detector.figure].title if detector.figure in FIGURES else "agreement"
    text = f"{title[0].upper()}{title[1:]}: {moved(series, form)}"
    text += f"; noticed at step {step_at(series, alarm.at)}." if alarm else "; no alarm."
    return Finding(
        name, detector.question.format(scorer=scorer), state, text, counted(series),
        step_of(series, alarm),
    )  # fmt: skip


def step_at(series: Series, place: int) -> int:
    return int(series.steps[place])


def step_of(series: Series, alarm: Alarm | None) -> int | None:
    return None if alarm is None else step_at(series, alarm.at)


# ---- phrases


def phrase_finding(found: Inflation, blocks: Sequence[Block]) -> Finding:
    question = "Did phrases spread?"
    n = f"{found.looked_at:,} phrases, {found.groups[0]} and {found.groups[1]} groups"
    if min(found.groups) < FEWEST_GROUPS or not found.looked_at:
        why = f"it takes {FEWEST_GROUPS} groups of answers at each end, and phrases that so many of them hold"
        return Finding("phrases", question, "unjudged", f"Not judged: {why}.", n)
    if not found.phrases:
        return Finding("phrases", question, "quiet", "No phrase spread beyond chance (p ≤ 0.01, corrected).", n)
    first, last = (f"{part[0].step} to {part[-1].step}" for part in ends_of(blocks))
    told = ", ".join(
        f"“{' '.join(each.words)}” from {each.before:.0%} to {each.after:.0%}" for each in found.phrases[:3]
    )
    many = len(found.phrases)
    return Finding(
        "phrases", question, "changed",
        f"{many} phrase{'s' * (many > 1)} spread from steps {first} to steps {last}: {told} of the answers.", n,
    )  # fmt: skip


# ---- what the distance bought


def spent_finding(folder: Path, seen: View, kl: Series) -> Finding:
    """KL per gain, the best step, and the best of the checkpoints that are kept."""
    best, end, half = seen.best, change(seen.series), frontier.Z * seen.best.error
    at, as_good = step_at(seen.series, best.place), step_at(seen.series, best.as_good)
    name, question = f"best:{seen.scorer}", f"What did the KL buy, and which step is best, by {seen.scorer}?"
    last = f"The end has {end.size:+.3g} at a KL of {kl.end[0]:.3g}."
    if best.gain <= half:
        text = f"No step is measurably better than the beginning; the best, {at}, has {best.gain:+.3g} ± {half:.2g}."
        return Finding(name, question, "told", f"{text} {last}", counted(seen.series), at)
    cost = kl.values[best.place]
    spreads = best.gain / (seen.series.spread or 1.0)
    text = f"The best step is {at}: {best.gain:+.3g} ± {half:.2g} on the beginning at a KL of {cost:.3g}"
    text += f", {cost / spreads:.3g} nats for each spread of the answers that was gained"
    if as_good < at:
        text += f"; step {as_good} is as good within the error, at a KL of {kl.values[best.as_good]:.3g}"
    text += f". {last} {best_checkpoint(folder, seen.series)}"
    return Finding(name, question, "told", text, counted(seen.series), at)


def best_checkpoint(folder: Path, series: Series) -> str:
    """The answers of a step were written by the weights before its update, which the checkpoint before it holds."""
    kept = checkpoint.find(folder / "checkpoints")
    around = first_steps(len(series.values)) // 2
    gains = {}
    for each in kept:
        place = int(np.searchsorted(series.steps, each.step + 1))
        if place < len(series.values):
            near = slice(max(0, place - around), place + around + 1)
            gains[each.step] = series.mean(near)[0] - series.beginning[0]
    if not gains:
        return "No checkpoint is kept of which answers are." if kept else "No checkpoint is kept."
    best = max(gains, key=lambda step: gains[step])
    return f"Of the checkpoints that are kept, step {best}'s answers are the best: {gains[best]:+.3g}."
