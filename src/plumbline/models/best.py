"""Best of n: draw n answers, keep the one that a scorer likes most. Any reward at work, without training.

    y = argmax r(x, y_i)        y_1 … y_n ~ π(· | x)

    KL(best of n ‖ π)  ≤  log n − (n − 1) / n

The bound is reached where all answers differ and no two have the same reward (Stiennon et al. 2020, arXiv 2009.01325,
state it as an equality; Beirami et al. 2024, arXiv 2401.01879, show that it is a bound). It is 0.19 for n = 2 and 1.8
for n = 16, so best of n stays near the model; what it costs is n answers for one, every time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from plumbline.errors import UserError
from plumbline.files import shown
from plumbline.models import Chunk, Completion, Generate, Prompt, Sampling, Score, Speed


@dataclass(frozen=True)
class Best(Completion):
    """The answer that was kept, with its score."""

    score: float = 0.0


class BestOf:
    """A `Generate` that draws `n` answers for each one that it gives: the one with the highest score.

    All answers to a prompt are asked for in one call, so an engine reads the prompt once. `Sampling.n` samples are
    that many independent choices, each among n answers of its own. A stream is one piece, since nothing can be shown
    before the choice is made. Answers are `Best`.
    """

    def __init__(self, generate: Generate, score: Score, n: int) -> None:
        if n < 1:
            raise UserError(f"best of {n!r}: choose among at least 1 answer")
        self.generate = generate
        self.score = score
        self.n = n
        self.name = f"{generate.name}, best of {n} by {score.name}"

    @property
    def speed(self) -> Speed:
        """Of the model below, all its answers counted."""
        return self.generate.speed

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling | None = None) -> list[list[Completion]]:
        """For each prompt its samples, in order."""
        sampling = sampling or Sampling()
        drawn = self.generate(prompts, replace(sampling, n=sampling.n * self.n))
        asked = [prompt for prompt, answers in zip(prompts, drawn, strict=True) for _ in answers]
        scores = iter(self.score(asked, [answer.text for answers in drawn for answer in answers]) if asked else [])
        return [
            [
                self._best(answers[begin : begin + self.n], [next(scores) for _ in range(self.n)])
                for begin in range(0, len(answers), self.n)
            ]
            for answers in drawn
        ]

    def stream(self, prompt: Prompt, sampling: Sampling | None = None) -> Iterator[Chunk]:
        """The chosen answer as one piece, which carries the whole."""
        sampling = sampling or Sampling()
        if sampling.n != 1:
            raise UserError(f"n is {sampling.n}: a stream carries one answer")
        ((completion,),) = self([prompt], sampling)
        yield Chunk(completion.text, completion)

    def _best(self, answers: Sequence[Completion], scores: Sequence[float]) -> Best:
        for answer, score in zip(answers, scores, strict=True):
            if math.isnan(score):
                raise UserError(
                    f"{self.score.name!r} scores {shown(answer.text)} with {score}: only numbers can be compared, so "
                    "mend the scorer or choose by another"
                )
        place = highest(scores)
        return Best(**{**vars(answers[place]), "model": self.name, "score": scores[place]})


def highest(scores: Sequence[float]) -> int:
    """The place of the highest score, the first one of equals."""
    return max(range(len(scores)), key=scores.__getitem__)
