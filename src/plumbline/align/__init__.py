"""People's comparisons, ratings, labels and demonstrations make a better model: one file per method.

Each file has a frozen `Config`, pure losses, a `train` that can be read from top to bottom, and `expect`, which says
what a run would take.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["METHODS", "Method"]


class Method(NamedTuple):
    """Where a method lives, and what it is in a few words."""

    module: str
    help: str


METHODS = {
    "sft": Method("plumbline.align.sft", "Learn to answer as people showed it."),
    "lm": Method("plumbline.align.lm", "Go on with pretraining, on your own texts."),
    "classifier": Method("plumbline.align.classifier", "Put texts into classes, for rewards and rails."),
    "reward": Method("plumbline.align.reward", "Make a reward model from ranked answers."),
    "dpo": Method("plumbline.align.dpo", "Learn from ranked answers, without a reward model."),
    "ppo": Method("plumbline.align.ppo", "Learn from answers of its own and a reward, held to a reference."),
    "grpo": Method(
        "plumbline.align.grpo", "The same without a value function: answers to a prompt measure each other."
    ),
    "kto": Method("plumbline.align.kto", "Learn from thumbs up and down."),
    "ilql": Method("plumbline.align.ilql", "Learn from answers with rewards, and answer by what a token is worth."),
}
