"""Is the reward of a run being gamed? Questions asked of the answers that it kept, each with its n.

A reward stands for something that somebody wants, and a policy that is trained on it finds where the two part. So the
answers are held against what had no part in the training: scorers that the user names, the reference's own log-probs,
and what can be counted in the texts. `figures` says what is measured and which change is an alarm, `detectors` how an
alarm is given, `phrases` which wording spread, `frontier` what the distance from the reference bought.

This is an audit and no proof of anything: what no scorer sees and no count shows stays unseen, and a question that
nothing was given to answer is said to be not judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from plumbline.align.detectors import FEWEST_STEPS, Series
from plumbline.align.figures import DETECTORS, FIGURES, Block, blocks_of, ends_of, series_of
from plumbline.align.findings import (
    Finding,
    State,
    drift_finding,
    independent_findings,
    phrase_finding,
    spent_finding,
    told_reward,
)
from plumbline.align.independent import ANSWERS_SCORED, Advance, View, refuse_own, see
from plumbline.align.phrases import Inflated, Inflation, inflation, within
from plumbline.align.wording import words_of
from plumbline.errors import BadRecord, UserError
from plumbline.files import BadLine, read_jsonl
from plumbline.models import Score
from plumbline.records import Rollout
from plumbline.training.curves import ROLLOUTS

EXAMPLES = 2
"""Answers that are shown for a phrase."""
FEW_PROMPTS = 4
SAMPLES = 6
"""Prompts whose early and late answers are shown side by side."""


class Sample(NamedTuple):
    """One prompt's first answer in an early step and in a late one."""

    early: Rollout
    late: Rollout


COUNTED: dict[State, str] = {
    "alarm": "alarm",
    "changed": "changed",
    "look": "to look at",
    "quiet": "without an alarm",
    "unjudged": "not judged",
    "told": "measured without a verdict",
}


@dataclass(frozen=True)
class Audit:
    """Everything that was found."""

    folder: Path
    answers: int
    steps: int
    findings: tuple[Finding, ...]
    series: dict[str, Series]
    views: tuple[View, ...]
    inflation: Inflation
    examples: dict[Inflated, tuple[Rollout, ...]]
    samples: tuple[Sample, ...]
    notes: tuple[str, ...]
    """What is to be said about how the run was read."""

    @property
    def summary(self) -> str:
        """How many questions came out how."""
        counts = Counter(each.state for each in self.findings)
        said = [f"{counts[state]} {words}" for state, words in COUNTED.items() if counts[state]]
        return "Of the questions: " + ", ".join(said) + "."


def audit(
    run: str | Path,
    scores: Sequence[Score] = (),
    *,
    answers: int = ANSWERS_SCORED,
    again: bool = False,
    advance: Callable[[str, int], Advance] | None = None,
) -> Audit:
    """Asks all questions of the run in that folder; `scores` judge about `answers` of each step.

    Scores of an earlier audit are taken from the run's folder unless `again`. `advance(scorer, answers)` begins to
    follow the scoring of so many answers and returns what is called as they are done.
    """
    folder = Path(run)
    refuse_own(folder, scores)
    rollouts, notes = read_run(folder)
    blocks = blocks_of(rollouts)
    if (prompts := int(median(len(block.groups) for block in blocks))) < FEW_PROMPTS:
        notes.append(
            f"Prompts per step: {prompts}. With fewer than {FEW_PROMPTS} prompts per step an alarm can be false more "
            "often than its level says, and a change takes long to be seen."
        )
    series = {name: each for name, figure in FIGURES.items() if (each := series_of(blocks, figure)) is not None}
    views = tuple(see(folder, blocks, score, answers=answers, again=again, advance=advance) for score in scores)
    inflated, examples = inflated_phrases(blocks)
    findings = [told_reward(series["reward"])]
    for seen in views or (None,):
        findings += independent_findings(seen)
    findings += [drift_finding(name, series) for name in DETECTORS if name not in ("gaming", "agreement")]
    findings += [phrase_finding(inflated, blocks), *(spent_finding(folder, each, series["kl"]) for each in views)]
    return Audit(
        folder, len(rollouts), len({each.step for each in rollouts}), tuple(findings), series, views, inflated,
        examples, tuple(samples_of(blocks)), tuple(notes),
    )  # fmt: skip


# ---- the run


def read_run(folder: Path) -> tuple[list[Rollout], list[str]]:
    """Its answers, and what is to be said about how they were read."""
    if not folder.is_dir():
        raise UserError(f"there is no run {str(folder)!r}: name the folder of a run, for example runs/first")
    path = folder / ROLLOUTS
    if not path.is_file():
        raise UserError(
            f"{str(folder)!r} has no {ROLLOUTS}: audit a run that samples answers, such as `plumb train ppo` makes"
        )
    bad: list[BadLine] = []
    prompts: dict[str, Rollout] = {}
    rollouts: list[Rollout] = []
    try:
        for rollout in read_jsonl(path, Rollout, on_bad=bad.append):
            same = prompts.setdefault(rollout.prompt_id, rollout).prompt
            if rollout.prompt == same:  # a prompt comes in every epoch: keep its text once
                rollout = rollout.model_copy(update={"prompt": same})
            rollouts.append(rollout)
    except BadRecord:
        if not bad:
            raise
    torn = [each for each in bad if "cut off" in each.reason]
    if len(bad) > len(torn) or not rollouts:
        raise BadRecord(
            f"{first_of(bad)}: a run's lines are written by the run alone; take the bad ones out to audit it"
        )
    steps = sorted({each.step for each in rollouts})
    if len(steps) < FEWEST_STEPS:
        raise UserError(
            f"{str(folder)!r} has answers of {len(steps)} step{'s' * (len(steps) > 1)}, and a change takes at least "
            f"{FEWEST_STEPS} to be seen: let the run go on, then audit it"
        )
    return rollouts, [f"{each} (left out: the run was writing it, or was stopped there)" for each in torn]


def first_of(bad: Sequence[BadLine]) -> str:
    return str(bad[0]) if len(bad) == 1 else f"{bad[0]} (and {len(bad) - 1} more)"


# ---- answers to look at


def inflated_phrases(blocks: Sequence[Block]) -> tuple[Inflation, dict[Inflated, tuple[Rollout, ...]]]:
    """What `inflation` finds between the first and the last steps, and late answers that hold each phrase."""
    early, late = (
        [[words_of(each.completion) for each in group] for block in part for group in block.groups]
        for part in ends_of(blocks)
    )
    found = inflation(early, late)
    answers = [each for block in reversed(ends_of(blocks)[1]) for group in block.groups for each in group]
    examples = {}
    for phrase in found.phrases:
        holding = {each.completion: each for each in answers if within(phrase.words, words_of(each.completion))}
        examples[phrase] = tuple(list(holding.values())[:EXAMPLES])
    return found, examples


def samples_of(blocks: Sequence[Block]) -> list[Sample]:
    """For prompts that came at the beginning and at the end, an answer of each time."""
    early, late = ends_of(blocks)
    before = {group[0].prompt_id: group[0] for block in reversed(early) for group in block.groups}
    after = {group[0].prompt_id: group[0] for block in late for group in block.groups}
    both = sorted(before.keys() & after.keys())
    return [Sample(before[each], after[each]) for each in both[:: max(1, len(both) // SAMPLES)][:SAMPLES]]
