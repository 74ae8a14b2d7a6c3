"""Answers held against references, and programs against tests: exact match, BLEU, ROUGE, CodeBLEU, pass@k.

These tasks bring no items: give a file of prompts with references, or of programming tasks with tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from plumbline.errors import UserError
from plumbline.evaluate import codebleu
from plumbline.evaluate.bench import Bench
from plumbline.evaluate.records import Asked, Outcome, Programming
from plumbline.evaluate.tasks import Metric, Setting, Task, plain
from plumbline.evaluate.text import bleu, bleu_counts, exact_match, final_number, pass_at_k, rouge, smooth_bleu, words
from plumbline.models import Prompt, Sampling

ANSWER = Sampling(temperature=0.0, max_new_tokens=256)
COUNTS = tuple(f"bleu{place}" for place in range(10))
FENCE = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)

Values = dict[str, float]


def against(score: Callable[[str, Asked, Setting], tuple[Values, float]]) -> Callable[..., list[Outcome]]:
    """A solver that asks each prompt once and scores the answer against its references: numbers, and their worth."""

    def solve(bench: Bench, items: Sequence[Asked], setting: Setting) -> list[Outcome]:
        for item in items:
            if not item.references:
                raise UserError(f"the item {item.item_id!r} has no reference: give one in `references`")
        answers = bench.answer([item.prompt for item in items], ANSWER)
        outcomes = []
        for item, answer in zip(items, answers, strict=True):
            values, worth = score(answer, item, setting)
            outcomes.append(
                Outcome(
                    item_id=item.item_id,
                    about=item.about,
                    prompt=plain(item.prompt),
                    completion=answer,
                    values=values,
                    beside=item.references[0],
                    worth=worth,
                )
            )
        return outcomes

    return solve


def matching(answer: str, item: Asked, setting: Setting) -> tuple[Values, float]:
    """Whether the whole answer is a reference, and whether their last numbers are the same."""
    numbers = {final_number(reference) for reference in item.references} - {""}
    values = {"exact": exact_match(answer, item.references)}
    if numbers:
        values["number"] = float(final_number(answer) in numbers)
    return values, max(values.values())


def bleu_of(answer: str, item: Asked, setting: Setting) -> tuple[Values, float]:
    counts = bleu_counts(words(answer), [words(reference) for reference in item.references])
    return dict(zip(COUNTS, counts, strict=True)), counts[2] / max(1.0, counts[3])


def rouge_of(answer: str, item: Asked, setting: Setting) -> tuple[Values, float]:
    values = rouge(answer, item.references)
    return values, values["rougeL"]


def codebleu_of(answer: str, item: Asked, setting: Setting) -> tuple[Values, float]:
    counts = codebleu.counts(program_in(answer), list(item.references), setting.language)
    return dict(zip(codebleu.NUMBERS, counts, strict=True)), counts[-4] / max(1.0, counts[-3])


def program_in(answer: str) -> str:
    """The code of an answer: what stands in its first fence, else all of it."""
    found = FENCE.search(answer)
    return found[1] if found else answer


EXACT_MATCH = Task(
    name="exact_match",
    aim="capable",
    kind=Asked,
    solve=against(matching),
    metrics=(
        Metric(
            "exact", ("exact",), better="higher", about="answers that are a reference, white space around them apart"
        ),
        Metric("number", ("number",), better="higher", about="answers whose last number is the reference's"),
    ),
    needs=("data",),
)

BLEU = Task(
    name="bleu",
    aim="capable",
    kind=Asked,
    solve=against(bleu_of),
    metrics=(
        Metric("bleu", COUNTS, bleu, "higher", about="of words and signs, up to four, over all answers"),
        Metric("smooth_bleu", COUNTS, smooth_bleu, "higher", about="with 1 added to each order's counts"),
    ),
    needs=("data",),
)

ROUGE = Task(
    name="rouge",
    aim="capable",
    kind=Asked,
    solve=against(rouge_of),
    metrics=tuple(Metric(name, (name,), better="higher", about="F1") for name in ("rouge1", "rouge2", "rougeL")),
    needs=("data",),
)

CODEBLEU = Task(
    name="codebleu",
    aim="capable",
    kind=Asked,
    solve=against(codebleu_of),
    metrics=(
        Metric("codebleu", codebleu.NUMBERS, codebleu.codebleu, "higher", about="mean of the four below"),
        *(
            Metric(name, codebleu.NUMBERS, part, "higher", about=about)
            for name, (part, about) in codebleu.PARTS.items()
        ),
    ),
    needs=("data",),
)


# ---- programs

DRAWN = 0.8
"""The temperature at which programs are drawn where there are several for a task."""


def program(bench: Bench, items: Sequence[Programming], setting: Setting) -> list[Outcome]:
    """Programs for each task, run against its tests by the runner."""
    if setting.runner is None:
        raise UserError("pass_at_k runs programs, and Plumbline runs none by itself: give --runner FILE.py:FUNCTION")
    drawn = Sampling(n=setting.samples, temperature=DRAWN if setting.samples > 1 else 0.0, max_new_tokens=384, seed=0)
    prompts: list[Prompt] = [item.prompt for item in items]
    outcomes = []
    for item, samples in zip(items, bench.samples(prompts, drawn), strict=True):
        programs = [program_in(sample) for sample in samples]
        passed = [bool(setting.runner(each, item.tests)) for each in programs]
        many = {k: pass_at_k(len(passed), sum(passed), k) for k in KS if k <= len(passed)}
        shown = passed.index(False) if False in passed else 0
        outcomes.append(
            Outcome(
                item_id=item.item_id,
                about=item.about,
                prompt=plain(item.prompt),
                completion=samples[shown],
                values={f"pass@{k}": share for k, share in many.items()},
                note=f"{sum(passed)} of {len(passed)} pass",
                worth=sum(passed) / len(passed),
            )
        )
    return outcomes


KS = (1, 5, 10, 100)

PASS_AT_K = Task(
    name="pass_at_k",
    aim="capable",
    kind=Programming,
    solve=program,
    metrics=tuple(
        Metric(f"pass@{k}", (f"pass@{k}",), better="higher", about=f"one of {k} programs passes" if k > 1 else "")
        for k in KS
    ),
    needs=("data", "runner"),
)
