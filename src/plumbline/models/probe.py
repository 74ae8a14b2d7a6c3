"""A probe: the model's state where a judge's label would stand, read by a direction fitted to labelled answers.

    score = w · h + b        h is the last state of the question about the answer (models/judge.py)

A judge reads two rows of the vocabulary head there, as they happen to be. A small model often knows more than these two
words say, and a probe (Alain and Bengio 2016, arXiv 1610.01644) finds it. It belongs to one model and one question.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.errors import BadModel
from plumbline.models import Prompt
from plumbline.models.hashed import SHIPPED, calibrated
from plumbline.models.judge import REFUSAL, Judge, cases_of

if TYPE_CHECKING:
    import torch


class Probe:
    """A `Score` from a judge's states. A score does not depend on what else is in the call, beyond rounding."""

    def __init__(self, judge: Judge, weights: torch.Tensor, bias: float, name: str) -> None:
        if len(weights) != judge.hidden:
            raise BadModel(
                f"the probe {name!r} has {len(weights)} weights and the model's states {judge.hidden}: "
                "it was fitted to another model"
            )
        self.judge, self.weights, self.bias, self.name = judge, weights, bias, name

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """One number per pair of prompt and completion, in the order given."""
        states = self.judge.states(cases_of(prompts, completions))
        scores: list[float] = (states @ self.weights + self.bias).tolist()
        return scores

    def save(self, path: str | Path) -> None:
        """Writes weights and bias into one safetensors file."""
        from safetensors.torch import save_file

        save_file({"weights": self.weights.contiguous()}, path, metadata={"bias": repr(self.bias)})

    @classmethod
    def load(cls, judge: Judge, path: str | Path, name: str) -> Probe:
        """The probe in that file, for this judge."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                about: dict[str, str] = file.metadata() or {}
                return cls(judge, file.get_tensor("weights"), float(about["bias"]), name)
        except (SafetensorError, KeyError, OSError, ValueError) as error:
            raise BadModel(f"{str(path)!r} is no probe: {error}; write one with Probe.save") from error

    @classmethod
    def shipped(cls, name: str, *, device: str = "auto") -> Probe:
        """The one that comes with the package, over the bundled model."""
        return cls.load(Judge.shipped(REFUSAL, name, device=device), SHIPPED / f"{name}.safetensors", name)


def fit_probe(
    judge: Judge, prompts: Sequence[Prompt], completions: Sequence[str], labels: Sequence[bool], penalty: float
) -> Probe:
    """Logistic regression on the states, each of unit spread, calibrated on what was left out of each fold."""
    import numpy as np
    import torch

    states: Any = judge.states(cases_of(prompts, completions)).double().numpy()
    middle, spread = states.mean(0), states.std(0) * np.sqrt(states.shape[1])
    weights, bias = calibrated((states - middle) / spread, np.where(labels, 1.0, -1.0), penalty, list(completions))
    weights = weights / spread
    return Probe(judge, torch.tensor(weights, dtype=torch.float32), float(bias - weights @ middle), judge.name)
