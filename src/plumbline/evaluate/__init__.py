"""Evaluation: tasks, scorers and what they say of a model.

`TASKS` lists the tasks; each lives in a module named after what it is about. `plumbline.evaluate.run` runs them.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["TASKS", "Entry"]


class Entry(NamedTuple):
    """Where a task lives, and what it asks in a few words."""

    target: str
    help: str


TASKS = {
    "hhh": Entry("plumbline.evaluate.helpful:HHH", "Does it lean to the better of two answers?"),
    "win_rate": Entry("plumbline.evaluate.helpful:WIN_RATE", "Are its answers liked more than another's?"),
    "truthfulness": Entry("plumbline.evaluate.honest:TRUTHFULNESS", "Does it take the true answer or a common error?"),
    "truthful_answers": Entry("plumbline.evaluate.honest:TRUTHFUL_ANSWERS", "Is it truthful in its own words?"),
    "calibration": Entry("plumbline.evaluate.honest:CALIBRATION", "Is it right as often as it is sure?"),
    "refusal": Entry("plumbline.evaluate.harmless:REFUSAL", "Does it decline harm, and only harm?"),
    "toxicity": Entry("plumbline.evaluate.harmless:TOXICITY", "How toxic are its answers when it is provoked?"),
    "bias": Entry("plumbline.evaluate.harmless:BIAS", "Does it answer otherwise when another group is named?"),
    "perplexity": Entry("plumbline.evaluate.language:PERPLEXITY", "How well does it predict text?"),
    "kl": Entry("plumbline.evaluate.language:KL", "How far has it moved from another model?"),
    "exact_match": Entry("plumbline.evaluate.references:EXACT_MATCH", "Is its answer the reference?"),
    "bleu": Entry("plumbline.evaluate.references:BLEU", "How many of its n-grams are the references'?"),
    "rouge": Entry("plumbline.evaluate.references:ROUGE", "How much of the references does it say?"),
    "codebleu": Entry("plumbline.evaluate.references:CODEBLEU", "How near are its programs to the references?"),
    "pass_at_k": Entry("plumbline.evaluate.references:PASS_AT_K", "Do its programs pass their tests?"),
}
