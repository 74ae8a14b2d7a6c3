"""How often a classifier puts texts that were held out into the class that people put them into, and how sure that is.

Texts about one prompt are no independent evidence, so the interval counts a prompt as one vote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from typing import NamedTuple

from plumbline.align.accuracy import Bin, Share, in_bins, wilson


class ClassCount(NamedTuple):
    """One class by numbers. Recall is right / held_out, precision right / said."""

    label: str
    learned: int
    held_out: int
    said: int
    """How many of the texts held out the classifier puts into it."""
    right: int


@dataclass(frozen=True)
class Confusion:
    """What `measure_confusion` found."""

    examples: int
    right: Share
    commonest: float
    """What a rule that always says the class which is commonest in training would reach."""
    log_loss: float
    """−log p of the class that people chose; ln C for C classes and no idea."""
    classes: tuple[ClassCount, ...]
    confusion: tuple[tuple[int, ...], ...]
    """A row for each class that people chose, a column for each class that the classifier says."""
    calibration: tuple[Bin, ...]
    """From the least sure texts to the surest: the probability of the class it says, and how often that was right."""

    @property
    def beats_commonest(self) -> bool:
        """Whether even the low end lies above that rule."""
        return self.right.low > self.commonest


def measure_confusion(
    names: Sequence[str],
    labels: Sequence[int],
    outputs: Sequence[Sequence[float]],
    prompts: Sequence[str],
    learned: Sequence[int],
) -> Confusion:
    """Compares the outputs (texts, classes) with the labels (texts,); `learned` are the labels in training."""
    shares = [softmax(row) for row in outputs]
    said = [max(range(len(names)), key=row.__getitem__) for row in outputs]
    hits = [float(one == other) for one, other in zip(said, labels, strict=True)]
    trained, asked, answered = Counter(learned), Counter(labels), Counter(said)
    both = Counter(zip(labels, said, strict=True))
    right = sum(hits) / max(1, len(hits))
    return Confusion(
        examples=len(labels),
        right=Share(right, *wilson(right, len(set(prompts))), len(set(prompts))),
        commonest=asked[trained.most_common(1)[0][0]] / max(1, len(labels)),
        log_loss=-sum(log(max(row[label], 1e-300)) for row, label in zip(shares, labels, strict=True))
        / max(1, len(labels)),
        classes=tuple(
            ClassCount(name, trained[place], asked[place], answered[place], both[place, place])
            for place, name in enumerate(names)
        ),
        confusion=tuple(tuple(both[row, column] for column in range(len(names))) for row in range(len(names))),
        calibration=in_bins([(row[place], hit) for row, place, hit in zip(shares, said, hits, strict=True)]),
    )


def softmax(outputs: Sequence[float]) -> list[float]:
    top = max(outputs)
    weights = [exp(each - top) for each in outputs]
    return [each / sum(weights) for each in weights]
