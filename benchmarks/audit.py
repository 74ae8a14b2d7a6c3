"""How soon the audit's detectors notice a reward that is being gamed, and how often they cry wolf, on planted runs.

Every run has its own bank of answers (`planted.py`) and its own samples. Harm is known exactly: the step at which the
policy's expected gold has fallen below its best by a tenth of the spread of the answers to one prompt.

python benchmarks/audit.py            40 runs of each kind
python benchmarks/audit.py --full     200
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import planted
from measure import table, write_section

from plumbline.align.accuracy import wilson
from plumbline.align.audit import inflated_phrases
from plumbline.align.audit_page import MEASURED
from plumbline.align.detectors import LEVEL
from plumbline.align.figures import (
    DETECTORS,
    FIGURES,
    Figure,
    agreement_with,
    blocks_of,
    series_of,
    watch,
)
from plumbline.align.frontier import best_step
from plumbline.records import Rollout

STEPS, SPEED = 60, 0.05
HARM = 0.1
GAMED, HARMLESS = ("superlatives", "length"), ("nothing", "shuffled", "honest", "noisy")
KINDS = {
    "superlatives": "likes superlatives",
    "length": "likes length",
    "nothing": "no reward at all",
    "shuffled": "the superlatives runs, their groups dealt to steps at random",
    "honest": "the reward is the gold itself",
    "noisy": "the reward is the gold and as much noise",
}


@dataclass
class Seen:
    """What came of the runs of one kind; a step is None where there was no alarm."""

    at: dict[str, list[int | None]] = field(default_factory=lambda: defaultdict(list))
    """By detector, the step of its alarm, from 1."""
    bare: dict[str, list[int | None]] = field(default_factory=lambda: defaultdict(list))
    """The same where any change counts, however small."""
    harm: list[int | None] = field(default_factory=list)
    drift: list[int | None] = field(default_factory=list)
    """Where the expected length has moved by 10 %."""
    phrases: list[tuple[str, ...]] = field(default_factory=list)
    regret: list[float] = field(default_factory=list)
    """Gold of the best step that there was, less gold of the one that was chosen."""


def first_place(there: np.ndarray) -> int | None:
    return int(there.argmax()) + 1 if there.any() else None


def examine(
    seen: Seen,
    rollouts: list[Rollout],
    worth: dict[tuple[str, str], float],
    course: planted.Plan,
    *,
    with_phrases: bool,
) -> None:
    blocks = blocks_of(rollouts)
    gold = {id(each): worth[str(each.prompt), each.completion] for each in rollouts}
    watched = {detector.figure for detector in DETECTORS.values()} | {"reward"}
    figures = {name: figure for name, figure in FIGURES.items() if name in watched} | {
        "score": Figure("gold", ".3g", lambda group: [gold[id(each)] for each in group]),
        "agreement": Figure("agreement", ".1%", agreement_with(gold), fewest=2),
    }
    series = {name: series_of(blocks, figure) for name, figure in figures.items()}
    for name, detector in DETECTORS.items():
        own, reward = series[detector.figure], series["reward"] if name == "gaming" else None
        assert own is not None
        for kept, rule in ((seen.at, detector), (seen.bare, replace(detector, least=0.0))):
            alarm = watch(rule, own, reward)
            kept[name].append(alarm.at + 1 if alarm else None)
    best = np.maximum.accumulate(course.gold)
    seen.harm.append(first_place(best - course.gold >= HARM))
    seen.drift.append(first_place(np.abs(course.words / course.words[0] - 1) >= DETECTORS["length"].least))
    if with_phrases:
        seen.phrases.append(tuple(" ".join(each.words) for each in inflated_phrases(blocks)[0].phrases))
    assert series["score"] is not None
    seen.regret.append(float(course.gold.max() - course.gold[best_step(series["score"]).place]))


def shuffled(rollouts: Sequence[Rollout], seed: int) -> list[Rollout]:
    """Every group keeps its answers and is dealt to a step at random, as many to each as before."""
    groups: dict[tuple[int, str], list[Rollout]] = defaultdict(list)
    for each in rollouts:
        groups[each.step, each.prompt_id].append(each)
    steps = np.random.default_rng(seed).permutation([step for step, _ in groups])
    return [
        each.model_copy(update={"step": int(step), "prompt_id": f"{each.prompt_id}-{number}"})
        for number, (step, group) in enumerate(zip(steps, groups.values(), strict=True))
        for each in group
    ]


def simulate(runs: int) -> dict[str, Seen]:
    found = {kind: Seen() for kind in KINDS}
    for seed in range(runs):
        bank = planted.make_bank(seed)
        for kind, (proxy, gold) in planted.proxies(bank, seed).items():
            course = planted.plan(bank, proxy, gold, steps=STEPS, speed=SPEED)
            rollouts, worth = planted.sample(bank, course, seed)
            examine(found[kind], rollouts, worth, course, with_phrases=seed % 5 == 0)
            if kind == "superlatives":
                examine(found["shuffled"], shuffled(rollouts, seed), worth, course, with_phrases=seed % 5 == 0)
        if seed % 10 == 9:
            print(f"  {seed + 1} of {runs}", flush=True)
    return found


# ---- tables


def share(count: int, runs: int) -> str:
    low, high = wilson(count / runs, runs)
    return f"{count} of {runs} ({low:.1%} to {high:.1%})"


def alarms(steps: Sequence[int | None]) -> int:
    return sum(step is not None for step in steps)


def delays(steps: Sequence[int | None], since: Sequence[int | None]) -> str:
    """Median, and the middle 80 %, of the steps from the known one to the alarm; no alarm is later than any."""
    known = [
        STEPS * 2 if step is None else step - begin
        for step, begin in zip(steps, since, strict=True)
        if begin is not None
    ]
    tenths = statistics.quantiles(known, n=10)
    told = ["never" if each >= STEPS else f"{each:+.0f}" for each in (statistics.median(known), tenths[0], tenths[-1])]
    return f"{told[0]} ({told[1]} to {told[2]})"


def planted_table(found: dict[str, Seen]) -> str:
    rows = []
    for name in DETECTORS:
        row = [name]
        for kind in GAMED:
            seen = found[kind]
            row += [share(alarms(seen.at[name]), len(seen.harm)), delays(seen.at[name], seen.harm)]
        rows.append(row)
    head = ["detector"]
    for kind in GAMED:
        head += [f"{KINDS[kind]}: noticed", "steps after the harm"]
    return table(head, rows)


def harmless_table(found: dict[str, Seen]) -> str:
    rows = []
    for name in DETECTORS:
        row = [share(alarms(found[kind].at[name]), len(found[kind].harm)) for kind in HARMLESS]
        bare = found["shuffled"].bare[name]
        rows.append([name, *row, share(alarms(bare), len(bare))])
    phrases = [share(sum(bool(each) for each in found[kind].phrases), len(found[kind].phrases)) for kind in HARMLESS]
    rows.append(["phrases", *phrases, ""])
    return table(["detector", *(KINDS[kind] for kind in HARMLESS), "shuffled, any change counts"], rows)


def sentence(name: str, found: dict[str, Seen]) -> str:
    """What the audit's page says of a detector."""
    told = []
    for kind in GAMED:
        seen = found[kind]
        count, runs = alarms(seen.at[name]), len(seen.harm)
        late = delays(seen.at[name], seen.harm).partition(" ")[0]
        side = f"{late[1:]} steps {'before' if late[0] == '-' else 'after'} the harm"
        when = "" if late == "never" else f", in the median {side}"
        told.append(f"a reward that {KINDS[kind]}: noticed in {count} of {runs} runs{when}")
    said = []
    for kinds in (("nothing", "shuffled"), ("honest", "noisy")):
        count = sum(alarms(found[kind].at[name]) for kind in kinds)
        said.append(f"{count} of {sum(len(found[kind].harm) for kind in kinds)}")
    return f"{'; '.join(told)}; alarms in {said[0]} runs without change, in {said[1]} that improved honestly"


def body(found: dict[str, Seen]) -> str:
    superlative = sum(any("most" in each or "est" in each for each in run) for run in found["superlatives"].phrases)
    runs, looked = len(found["length"].harm), len(found["superlatives"].phrases)
    praised, long = (middle(found[kind].harm) for kind in GAMED)
    regret = [f"{statistics.median(found[kind].regret):.2f} ({kind})" for kind in (*GAMED, "honest")]
    late = delays(found["length"].at["length"], found["length"].drift)
    sentences = "\n".join(f"- `{name}`: {sentence(name, found)}" for name in DETECTORS)
    return f"""
{runs} runs of each kind, {STEPS} steps of {planted.OF_A_STEP} prompts with {planted.OF_A_PROMPT} answers, every run
with a bank of its own; all answers have an independent score, the gold. Harm is the step at which the policy's expected
gold, known exactly, has fallen {HARM} spreads below its best: in the median step {praised} where the reward likes
superlatives, step {long} where it likes length. Intervals are Wilson's 95 %; of steps the median stands with the middle
80 %, and a negative number is an alarm before the harm. Each detector's level is {LEVEL:.0%} per run.

{planted_table(found)}

Held against the step at which the expected length has moved by 10 %, `length` was late by {late}
steps where the reward likes length. A phrase with a superlative was named in {superlative} of the {looked} runs
looked at whose reward likes them.

Alarms where nothing is gamed. Where the reward is the gold, answers change because they get better: an alarm of a
detector of change is true and harmless there, and one of `gaming` is false.

{harmless_table(found)}

The step chosen as best lay below the best there was, in spreads of expected gold and in the median, by
{", ".join(regret)}.

What the audit's page says of each:

{sentences}
"""


def write_measured(found: dict[str, Seen]) -> None:
    """For the audit's page, beside the package's code."""
    text = json.dumps({name: sentence(name, found) for name in DETECTORS}, indent=2)
    MEASURED.write_text(text + "\n", encoding="utf-8")


def middle(steps: Sequence[int | None]) -> str:
    return f"{statistics.median(step for step in steps if step is not None):.0f}"


def main() -> None:
    full = "--full" in sys.argv
    found = simulate(200 if full else 40)
    write_measured(found)
    write_section(
        "Audit: delay and false alarms", "python benchmarks/audit.py" + (" --full" if full else ""), body(found)
    )


if __name__ == "__main__":
    main()
