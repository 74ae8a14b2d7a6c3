"""How often rewards agree with people on comparisons held out from training, how sure that is, and why it may be.

Each set weighs 1, however many pairs it holds, and counts as one vote in the interval: its pairs share answers, so
they are no independent evidence, and an interval over pairs would be too narrow. Ties by people are left out; answers
with equal rewards count one half.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from math import exp, log1p, sqrt
from pathlib import Path
from typing import NamedTuple

from plumbline.align.data import Preference
from plumbline.files import replaced


class Share(NamedTuple):
    """A share between 0 and 1 with its 95 % interval, and the number of sets that it was counted over."""

    value: float
    low: float
    high: float
    sets: int

    def __str__(self) -> str:
        if not self.sets:
            return "no sets"
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%}, {self.sets} sets)"


class Bin(NamedTuple):
    """Pairs, or texts, of which the model said about the same: how likely, on average, and how often it was so."""

    said: float
    was: float
    pairs: int


@dataclass(frozen=True)
class Accuracy:
    """What `measure_accuracy` found."""

    pairs: int
    right: Share
    """The better answer has the higher reward."""
    longer: Share
    """The same, over the pairs in which the better answer is the longer one."""
    shorter: Share
    """And where it is the shorter one: far below `longer`, and the model likes length."""
    longer_wins: Share
    """How often the longer answer is the better one: what a rule that only counts tokens would reach."""
    log_loss: float
    """−log σ(r_w − r_l), ln 2 = 0.693 for a coin."""
    calibration: tuple[Bin, ...]
    """From the least sure pairs to the surest."""

    @property
    def beats_length(self) -> bool:
        """Whether even the low end lies above the rule that always takes the longer, or always the shorter answer."""
        return self.right.low > max(self.longer_wins.value, 1 - self.longer_wins.value)


class Case(NamedTuple):
    """One pair: the rewards' difference and the lengths' difference, better minus worse."""

    set: int
    weight: float
    gap: float
    length: int


def keep_accuracy(folder: Path, accuracy: Accuracy, **more: float) -> None:
    """Writes it, and what else is known, to the run's accuracy.json."""
    found = {**asdict(accuracy), "beats_length": accuracy.beats_length, **more}
    with replaced(folder / "accuracy.json") as file:
        file.write(json.dumps(found, indent=2).encode() + b"\n")


def measure_accuracy(examples: Sequence[Preference], rewards: Sequence[Sequence[float]]) -> Accuracy:
    """Compares the rewards of each set's answers with its orders."""
    cases = []
    for number, (example, values) in enumerate(zip(examples, rewards, strict=True)):
        lengths = [len(completion) for completion in example.group.completions]
        for pair in example.comparisons:
            if not pair.tied:
                gap, length = (each[pair.better] - each[pair.worse] for each in (values, lengths))
                cases.append(Case(number, pair.weight, gap, int(length)))
    return Accuracy(
        pairs=len(cases),
        right=share(cases, lambda case: above(case.gap)),
        longer=share((case for case in cases if case.length > 0), lambda case: above(case.gap)),
        shorter=share((case for case in cases if case.length < 0), lambda case: above(case.gap)),
        longer_wins=share(cases, lambda case: above(case.length)),
        log_loss=mean_per_set(cases, lambda case: softplus(-case.gap))[0],
        calibration=calibration(cases),
    )


def above(difference: float) -> float:
    return 0.5 if difference == 0 else float(difference > 0)


def softplus(number: float) -> float:
    """log(1 + e^x), for any x."""
    return max(number, 0.0) + log1p(exp(-abs(number)))


def share(cases: Iterable[Case], right: Callable[[Case], float]) -> Share:
    value, sets = mean_per_set(cases, right)
    return Share(value, *wilson(value, sets), sets)


def mean_per_set(cases: Iterable[Case], value: Callable[[Case], float]) -> tuple[float, int]:
    """The mean over sets of the weighted mean over a set's pairs, and the number of sets."""
    sums: dict[int, tuple[float, float]] = {}
    for case in cases:
        total, weight = sums.get(case.set, (0.0, 0.0))
        sums[case.set] = total + case.weight * value(case), weight + case.weight
    means = [total / weight for total, weight in sums.values()]
    return (sum(means) / len(means) if means else 0.0), len(means)


def wilson(value: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval for a share of so many votes (1927, doi 10.1080/01621459.1927.10502953)."""
    if not count:
        return 0.0, 1.0
    middle = (value + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(value * (1 - value) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def calibration(cases: Sequence[Case]) -> tuple[Bin, ...]:
    """How sure the model is of its favourite in each pair, and how often that was right."""
    return in_bins([(1 / (1 + exp(-abs(case.gap))), above(case.gap)) for case in cases])


def in_bins(judged: Sequence[tuple[float, float]], bins: int = 5) -> tuple[Bin, ...]:
    """What was said and whether it was so, in bins of like size, from the least sure to the surest."""
    by_surety = sorted(judged, key=lambda each: each[0])
    edges = [len(judged) * number // bins for number in range(bins + 1)]
    return tuple(
        Bin(
            said=sum(said for said, _ in part) / len(part),
            was=sum(was for _, was in part) / len(part),
            pairs=len(part),
        )
        for begin, end in zip(edges, edges[1:], strict=False)
        if (part := by_surety[begin:end])
    )
