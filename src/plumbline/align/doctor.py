"""What is wrong with a run that goes wrong: symptoms of an iteration, and their likeliest cause, found by trying.

    symptom                                       looked for in
    the KL is negative                            its mean over the answers, against three standard errors
    the first ratio is not 1                      the first step's log π − log π_old, before anything has moved
    sampler and policy disagree                   the mean difference of their log-probs
    the first KL is not 0                         the first iteration, in which policy and reference are one model
    the entropy, the answers' length collapses    against the run's first iteration
    answers no longer end                         likewise
    the value diverges                            its loss, while it explains less than nothing
    all rewards are equal                         their spread

The first four have causes that a few passes over two prompts tell apart, each tried in turn: dropout (the same tokens
twice), padding (a prompt alone and beside another), a cut distribution (the sampler's log-probs are the policy's own
plus the mass that was kept), another temperature (one at which they agree), and, where nothing else is left, a
reference that is another model. A KL can be negative by chance, hence the errors; it cannot stay so.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.align.rollouts import Rollouts
from plumbline.models.grouped import Group
from plumbline.training.learner import Learner

if TYPE_CHECKING:
    import torch

    from plumbline.align.online import Cast, Online

LINES = "doctor.jsonl"
TRIED = 2
"""Prompts that are tried."""

RATIO = {"float32": 0.01, "bfloat16": 0.7}
"""Largest log-ratio of a token that rounding explains, by precision."""

GAP = 0.1
"""Mean difference of the sampler's log-probs that rounding explains."""

SAME = {"float32": 1e-3, "bfloat16": 0.3}
"""Difference of two log-probs of one token that rounding explains."""

TEMPERATURES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0)


@dataclass(frozen=True)
class Finding:
    """A symptom, and what has likely caused it."""

    step: int
    symptom: str
    cause: str

    def __str__(self) -> str:
        return f"iteration {self.step}: {self.symptom}; {self.cause}"


class Doctor:
    """Looks at every iteration, and says each symptom once."""

    def __init__(self, config: Online, cast: Cast, folder: Path) -> None:
        self.config, self.cast, self.folder = config, cast, folder
        self.said: set[str] = set()

    def look(
        self, row: Mapping[str, float], first: Mapping[str, float], step: int, rollouts: Rollouts
    ) -> list[Finding]:
        """What is new in the iteration of that row; `first` is the run's first row.

        To be called before the update, with what is known then, so that trials meet the policy that sampled; and after.
        """
        if not self.cast.learner.process.first:
            return []
        new = [each for each in symptoms(row, first, self.config, step) if each[0] not in self.said]
        found = []
        for name, told, cause in new:
            self.said.add(name)
            found.append(Finding(step, told, cause or self._cause(name, rollouts)))
        for finding in found:
            print(f"plumb: {finding}", file=sys.stderr)
            with (self.folder / LINES).open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(finding)) + "\n")
        return found

    def _cause(self, symptom: str, rollouts: Rollouts) -> str:
        learner = self.cast.learner
        groups, count = rollouts.groups[:TRIED], sum(len(group.completions) for group in rollouts.groups[:TRIED])
        completions = rollouts.completions[:count]
        with learner.working():
            if drops(learner, groups):
                return "dropout is on: two passes over the same tokens differ, so turn it off in sampling and learning"
            if padding_matters(learner, groups):
                return "padding reaches the answers: a prompt's answers get other log-probs beside a longer prompt"
            sampled = [each for completion in completions for each in completion.sampler_logprobs]
            told = [each for completion in completions for each in completion.logprobs]
            if was_cut(sampled, told):
                return (
                    "sampling was cut (top-k, top-p, or a grammar), so answers come from another distribution than the "
                    "policy's: sample from all of it, or leave --correction on"
                )
            temperature = fitting_temperature(learner, groups, sampled, self.config.temperature)
            if temperature is not None:
                return (
                    f"the sampler draws at a temperature of about {temperature:g} and the policy learns at "
                    f"{self.config.temperature:g}: give both the same"
                )
        if symptom in ("first KL", "negative KL"):
            return "nothing else is wrong, so the reference is likely not the model that training started from"
        return "dropout, padding, cutting and temperature were tried, and none of them is it"


def symptoms(
    row: Mapping[str, float], first: Mapping[str, float], config: Online, step: int
) -> list[tuple[str, str, str]]:
    """Of an iteration: each symptom's name, what is told of it, and its cause where that needs no trying.

    What the row does not have is not looked at.
    """
    found = []

    def see(is_so: bool, name: str, told: str, cause: str = "") -> None:
        if is_so:
            found.append((name, told, cause))

    kl, error = row["kl"], row["kl_error"]
    precision = config.precision if config.precision in RATIO else "bfloat16"
    see(kl < -3 * error - 0.01, "negative KL", f"the KL is negative ({kl:.3g} ± {error:.2g})")
    ratio = row.get("first_log_ratio", 0.0)
    see(ratio > RATIO[precision], "first ratio", f"the first ratio is off 1 by e^{ratio:.2g}")
    see(row["sampler_gap"] > GAP, "sampler", f"sampler and policy differ by {row['sampler_gap']:.2g} a token")
    see(
        step == 1 and not config.reference and abs(kl) > SAME[precision] * row["length"],
        "first KL",
        f"the KL is {kl:.3g} before the first update",
    )
    entropy, before = row.get("entropy", math.inf), first.get("entropy", 0.0)
    see(
        entropy < 0.2 * before,
        "entropy",
        f"the entropy has fallen from {before:.2g} to {entropy:.2g}",
        "the policy writes nearly the same each time: raise beta or the entropy's weight, or lower the learning rate",
    )
    see(
        row["length"] < 0.3 * first.get("length", 0.0),
        "length",
        f"answers have shrunk from {first.get('length', 0.0):.0f} tokens to {row['length']:.0f}",
        "ending early pays: look at what the reward gives to very short answers",
    )
    see(
        row["ended"] < 0.1 and first.get("ended", 0.0) > 0.5,
        "end",
        f"{row['ended']:.0%} of the answers end, and {first.get('ended', 0.0):.0%} did at first",
        "going on pays: raise --missing-end, or --max-new-tokens where answers need more room",
    )
    diverges = row.get("explained", 0.0) < -1 and row.get("value_loss", 0.0) > 10 * first.get("value_loss", 0.0) > 0
    see(
        diverges,
        "value",
        f"the value's loss has grown from {first.get('value_loss', 0.0):.2g} to {row.get('value_loss', 0.0):.2g}",
        "the value diverges: lower --value-lr, scale the rewards to a spread of 1, or warm it up (--value-warmup)",
    )
    see(
        row["reward_spread"] == 0,
        "rewards",
        f"all answers got the reward {row['reward']:g}",
        "nothing can be learned from equal rewards: look at what the reward can tell apart",
    )
    return found


# ---- the causes that are tried


def drops(learner: Learner, groups: Sequence[Group]) -> bool:
    """Whether the same tokens get other log-probs a second time, as they are computed in the update."""
    return _differ(_logprobs(learner, groups, update=True), _logprobs(learner, groups, update=True), 0.0)


def padding_matters(learner: Learner, groups: Sequence[Group]) -> bool:
    """Whether a prompt's answers get other log-probs beside another prompt than alone."""
    import torch

    alone = torch.cat([_logprobs(learner, [group]) for group in groups])
    return _differ(_logprobs(learner, groups), alone, SAME[learner.process.precision])


def was_cut(sampled: Sequence[float], told: Sequence[float]) -> bool:
    """Whether the sampler drew from a part of its own distribution, whose log-probs it told."""
    kept = [own - drawn for drawn, own in zip(sampled, told, strict=True)]  # log of the mass that was kept
    return bool(kept) and max(kept) < 1e-6 and sum(kept) / len(kept) < -1e-3


def fitting_temperature(
    learner: Learner, groups: Sequence[Group], sampled: Sequence[float], given: float
) -> float | None:
    """The temperature at which the policy says what the sampler said, where that is clearly another one."""
    import torch

    said = torch.tensor(list(sampled))

    def off(temperature: float) -> float:
        return float((_logprobs(learner, groups, temperature).cpu() - said).abs().mean())

    best = min((off(temperature), temperature) for temperature in TEMPERATURES)
    return best[1] if best[1] != given and best[0] < 0.5 * off(given) else None


def _logprobs(
    learner: Learner, groups: Sequence[Group], temperature: float = 1.0, *, update: bool = False
) -> torch.Tensor:
    import torch

    with torch.set_grad_enabled(update):
        return learner.logprobs(groups, temperature)[1].detach()


def _differ(one: torch.Tensor, other: torch.Tensor, slack: float) -> bool:
    return float((one - other).abs().max()) > slack
