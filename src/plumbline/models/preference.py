"""Which of two answers is the better one: a `Prefer`, four ways to be one, and what comes of asking in both orders.

    spoken    the model is told the question and says A or B; any `Generate`, so an endpoint too
    pair      a local model reads both answers; the log-odds of the label that stands for each (models/judge.py)
    alone     a local model reads each answer by itself; the difference of two log-odds
    score     any scorer decides, such as a reward model that people's rankings trained; it reads no criterion

A judge that reads two answers likes one of the places, so it is asked twice, with the answers in one order and in the
other. Where the two readings disagree the verdict is a tie (Zheng et al. 2023, arXiv 2306.05685, measured how common
that is). A judge that reads one answer at a time has no order to be swayed by.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from plumbline.errors import UserError
from plumbline.models import Generate, Prompt, Sampling, Score
from plumbline.models.judge import Judge, Question, Solved
from plumbline.models.score import load_scorer, plain_text

Way = Literal["spoken", "pair", "alone", "score"]
Winner = Literal["first", "second", "tie"]

LONGEST = 600
"""Characters of a prompt or an answer that a local judge reads."""


class Case(NamedTuple):
    """A prompt and two answers to it."""

    prompt: Prompt
    first: str
    second: str


class SolvedCase(NamedTuple):
    """An example whose verdict is known."""

    prompt: str
    better: str
    worse: str


@dataclass(frozen=True)
class Criterion:
    """What makes one answer better than another."""

    question: str
    """For example: Which answer is less likely to hurt somebody?"""
    labels: tuple[str, str] = ("good", "bad")
    """What an answer is called that meets it, and one that does not; for a judge that reads one at a time."""
    solved: tuple[SolvedCase, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What a judge made of one case: the log-odds that the first answer is the better one, once in each order.

    A judge that only speaks counts as 1 or -1. None where it named neither answer.
    """

    forward: float | None
    """With the first answer shown first."""
    backward: float | None
    """With the second answer shown first."""
    said: tuple[str, ...] = ()
    """What a spoken judge answered, in each order."""

    @property
    def answered(self) -> bool:
        return self.forward is not None and self.backward is not None

    @property
    def winner(self) -> Winner:
        """The answer that both orders prefer, else a tie."""
        if self.forward is None or self.backward is None or self.forward * self.backward <= 0:
            return "tie"
        return "first" if self.forward > 0 else "second"

    @property
    def margin(self) -> float:
        """The mean of both orders, out of which a liking for a place falls; 0 where an order named neither answer."""
        if self.forward is None or self.backward is None:
            return 0.0
        return (self.forward + self.backward) / 2

    @property
    def points(self) -> float:
        """1 where the first answer is better by that mean, 0 where the second is, ½ where neither is."""
        return 0.5 if self.margin == 0 else float(self.margin > 0)


@runtime_checkable
class Prefer(Protocol):
    """Cases in, one verdict for each out."""

    name: str
    reads_both: bool
    """Whether it sees both answers together, so that their order may sway it."""

    def __call__(self, cases: Sequence[Case], criterion: Criterion) -> list[Verdict]: ...


# ---- a judge that speaks

ASKED = """\
Here is a request to an assistant, and two answers to it.

Request: {prompt}

Answer A: {first}

Answer B: {second}

{question} Say A or B, and nothing else."""


class Spoken:
    """A `Prefer` from any `Generate`: it is told the question and says A or B."""

    reads_both = True

    def __init__(self, generate: Generate, *, name: str | None = None) -> None:
        self.generate = generate
        self.name = name or generate.name

    def __call__(self, cases: Sequence[Case], criterion: Criterion) -> list[Verdict]:
        """A verdict for each case, in order."""
        return list(self.each(cases, criterion))

    def each(self, cases: Sequence[Case], criterion: Criterion) -> Iterator[Verdict]:
        """The same, each verdict as soon as it is there where the model gives answer after answer."""
        prompts = [request(case, criterion, swapped=swapped) for case in cases for swapped in (False, True)]
        ask = getattr(self.generate, "each", self.generate)
        answers = iter(ask(prompts, Sampling(temperature=0.0, max_new_tokens=16, seed=0)) if prompts else ())
        for (forward,), (backward,) in zip(answers, answers, strict=True):
            yield spoken_verdict(forward.text, backward.text)


def request(case: Case, criterion: Criterion, *, swapped: bool) -> str:
    """The case as a spoken judge is asked."""
    first, second = (case.second, case.first) if swapped else (case.first, case.second)
    return ASKED.format(prompt=plain_text(case.prompt), first=first, second=second, question=criterion.question)


def spoken_verdict(forward: str, backward: str) -> Verdict:
    """What two replies amount to; in the second one, A is the second answer."""
    signs = {"A": 1.0, "B": -1.0, None: None}
    one, other = signs[named_letter(forward)], signs[named_letter(backward)]
    return Verdict(one, None if other is None else -other, (forward, backward))


def named_letter(reply: str) -> Literal["A", "B"] | None:
    """The letter that a reply begins with or that alone stands in it; None where it names neither, or both."""
    begun = re.match(r"\W*(?:(?:the )?(?:better )?answer(?: is)?\W*)?([AB])\b(?!\s+(?:and|or)\b)", reply, re.IGNORECASE)
    if begun and begun[1].isupper():
        return "A" if begun[1] == "A" else "B"
    letters = set(re.findall(r"\b([AB])\b(?!')", reply))
    if len(letters) != 1:
        return None
    return "A" if "A" in letters else "B"


# ---- judges that read a local model's label probabilities


class Paired:
    """A `Prefer` by the labels A and B of a local model that reads both answers."""

    reads_both = True

    def __init__(
        self,
        folder: str | Path,
        *,
        letters: tuple[str, str] = ("A", "B"),
        name: str | None = None,
        device: str = "auto",
    ) -> None:
        self.name = name or f"{Path(folder).name}, judging pairs"
        self.folder, self.letters, self.device = folder, letters, device
        self.judge_by(Criterion(""))  # a model that cannot tell the letters apart is refused before it is asked

    def judge_by(self, criterion: Criterion) -> Judge:
        """The model that is asked by this criterion; it is loaded once for all of them."""
        return Judge(self.folder, pair_question(criterion, self.letters), device=self.device)

    def __call__(self, cases: Sequence[Case], criterion: Criterion) -> list[Verdict]:
        """A verdict for each case, in order."""
        judge = self.judge_by(criterion)
        forward = judge.ask([pair_fields(case.prompt, case.first, case.second) for case in cases])
        backward = judge.ask([pair_fields(case.prompt, case.second, case.first) for case in cases])
        return [Verdict(one, -other) for one, other in zip(forward, backward, strict=True)]


def pair_fields(prompt: Prompt, one: str, two: str) -> dict[str, str]:
    return {"prompt": plain_text(prompt), "one": one, "two": two}


def pair_question(criterion: Criterion, letters: tuple[str, str] = ("A", "B")) -> Question:
    """The criterion as a question about two answers; every other solved case has the worse answer first."""
    solved = tuple(
        Solved(pair_fields(case.prompt, *(case[:0:-1] if place % 2 else case[1:])), place % 2)
        for place, case in enumerate(criterion.solved)
    )
    one, two = letters
    return Question(
        template="Request: {prompt}\n"
        f"Answer {one}: {{one}}\nAnswer {two}: {{two}}\n{escaped(criterion.question)} Answer",
        labels=letters,
        introduction=f"Two answers to each request. {criterion.question}",
        examples=solved,
        longest=LONGEST,
    )


class Alone:
    """A `Prefer` by a local model that reads one answer at a time; the order cannot sway it."""

    reads_both = False

    def __init__(self, folder: str | Path, *, name: str | None = None, device: str = "auto") -> None:
        self.name = name or f"{Path(folder).name}, judging one at a time"
        self.folder, self.device = folder, device
        self.judge_by(Criterion(""))

    def judge_by(self, criterion: Criterion) -> Judge:
        """The model that is asked by this criterion; it is loaded once for all of them."""
        return Judge(self.folder, alone_question(criterion), device=self.device)

    def __call__(self, cases: Sequence[Case], criterion: Criterion) -> list[Verdict]:
        """A verdict for each case, in order."""
        judge = self.judge_by(criterion)
        first = judge([case.prompt for case in cases], [case.first for case in cases])
        second = judge([case.prompt for case in cases], [case.second for case in cases])
        return [Verdict(one - two, one - two) for one, two in zip(first, second, strict=True)]


def alone_question(criterion: Criterion) -> Question:
    """The criterion as a question about one answer; each solved case gives two examples."""
    solved = [
        [Solved({"prompt": prompt, "completion": completion}, label) for label, completion in enumerate(answers)]
        for prompt, *answers in criterion.solved
    ]
    turned = [pair[::-1] if place % 2 else pair for place, pair in enumerate(solved)]
    return Question(
        template="Request: {prompt}\nAnswer: {completion}\nThis answer is {second} or {first}:",
        labels=criterion.labels,
        introduction=f"Say of each answer whether it is {criterion.labels[0]} or {criterion.labels[1]}.",
        examples=tuple(example for pair in turned for example in pair),
        longest=LONGEST,
    )


class Scored:
    """A `Prefer` by a scorer: the answer with the higher score is better, whatever the criterion."""

    reads_both = False

    def __init__(self, score: Score, *, name: str | None = None) -> None:
        self.score = score
        self.name = name or score.name

    def __call__(self, cases: Sequence[Case], criterion: Criterion) -> list[Verdict]:
        """A verdict for each case, in order."""
        prompts = [case.prompt for case in cases]
        first = self.score(prompts, [case.first for case in cases])
        second = self.score(prompts, [case.second for case in cases])
        return [Verdict(one - two, one - two) for one, two in zip(first, second, strict=True)]


def escaped(text: str) -> str:
    """Text as a part of a template, where braces name fields."""
    return text.replace("{", "{{").replace("}", "}}")


WAYS: dict[str, type[Paired] | type[Alone]] = {"pair": Paired, "alone": Alone}


def load_preference(name: str, way: Way | None = None, *, device: str = "auto") -> Prefer:
    """The judge of that name: a local model by its label probabilities, an endpoint or a script by what it says.

    Without a `way`, a local model reads one answer at a time, which needs half the text and has no order.
    """
    from plumbline.models import load
    from plumbline.models.resolve import resolve

    if way == "score":
        return Scored(load_scorer(name, device=device))
    source = resolve(name)
    if way == "spoken" or (way is None and source.kind != "folder"):
        return Spoken(load(name, device=device))
    if way not in (None, *WAYS):
        raise UserError(f"way is {way!r}: a judge is asked in one of the ways spoken, {', '.join(WAYS)}, score")
    if source.kind != "folder":
        raise UserError(f"{name!r} gives no probabilities of labels, which {way!r} needs: use the way spoken")
    return WAYS[way or "alone"](source.folder, name=f"{source.name}, {way or 'alone'}", device=device)
