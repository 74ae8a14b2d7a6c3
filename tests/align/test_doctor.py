"""Each cause is planted in a run, and named; a run that is well is told nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from align.online_runs import LIKES_E, config, prompts
from plumbline.align import grpo, ppo
from plumbline.align.doctor import LINES, symptoms
from plumbline.align.rollouts import OwnSampler
from plumbline.models import Completion, Sampling
from plumbline.models.functions import FunctionScore
from plumbline.training.learner import Learner

pytestmark = pytest.mark.usefixtures("undrawn")


class Cooler(OwnSampler):
    """Draws at another temperature than it is told."""

    def __call__(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Completion]]:
        return super().__call__(prompts, replace(sampling, temperature=0.5))


def findings(folder: Path) -> dict[str, str]:
    path = folder / "run" / LINES
    told = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {each["symptom"]: each["cause"] for each in told}


def only(found: dict[str, str], symptom: str) -> str:
    """The cause of the one symptom that begins so."""
    causes = [cause for told, cause in found.items() if told.startswith(symptom)]
    assert len(causes) == 1, found
    return causes[0]


@pytest.mark.parametrize("method", [ppo, grpo])
def test_a_run_that_is_well_is_told_nothing(tiny_llama: Path, tmp_path: Path, method: Any) -> None:
    method.train(config(tmp_path, tiny_llama, method.Config, iterations=4), score=LIKES_E)
    assert findings(tmp_path) == {}


def test_another_temperature_is_named(tiny_llama: Path, tmp_path: Path) -> None:
    ppo.train(config(tmp_path, tiny_llama, iterations=1), score=LIKES_E, sampler=Cooler())
    cause = only(findings(tmp_path), "sampler and policy differ")
    assert "draws at a temperature of about 0.5 and the policy learns at 1" in cause


def test_a_cut_distribution_is_named(tiny_llama: Path, tmp_path: Path) -> None:
    ppo.train(config(tmp_path, tiny_llama, iterations=1, top_k=4), score=LIKES_E)
    assert "sampling was cut" in only(findings(tmp_path), "sampler and policy differ")


@contextmanager
def planted(monkeypatch: pytest.MonkeyPatch, fault: Callable[..., Any]) -> Iterator[None]:
    """Inside, what the learner says of answers goes through the fault."""
    real = Learner.logprobs
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "logprobs", lambda self, *args, **kwargs: fault(real(self, *args, **kwargs), *args))
        yield


def test_dropout_is_named(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(found: Any, *_: Any) -> Any:
        answers, logprobs, entropy = found
        noise = 0.1 * torch.randn_like(logprobs) if torch.is_grad_enabled() else 0.0
        return answers, logprobs + noise, entropy

    with planted(monkeypatch, fault):
        ppo.train(config(tmp_path, tiny_llama, iterations=1), score=LIKES_E)
    assert "dropout is on" in only(findings(tmp_path), "the first ratio is off 1")


def test_padding_that_is_seen_is_named(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(found: Any, groups: Sequence[Any], *_: Any) -> Any:
        answers, logprobs, entropy = found
        longest = max(len(group.prompt) for group in groups)
        padded = [longest - len(group.prompt) for group in groups for each in group.completions for _ in each]
        return answers, logprobs - 0.05 * torch.tensor(padded), entropy

    with planted(monkeypatch, fault):
        ppo.train(config(tmp_path, tiny_llama, iterations=1), score=LIKES_E)
    assert "padding reaches the answers" in only(findings(tmp_path), "sampler and policy differ")


def test_a_reference_that_is_another_model_is_named(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plumbline.align.online import Cast

    real = Cast.reference_logprobs
    monkeypatch.setattr(Cast, "reference_logprobs", lambda *given: [each + 0.2 for each in real(*given)])
    ppo.train(config(tmp_path, tiny_llama, iterations=1), score=LIKES_E)
    found = findings(tmp_path)
    assert "the reference is likely not the model that training started from" in only(found, "the KL is negative")
    assert "the reference is likely not" in only(found, "the KL is -")


def test_equal_rewards_are_named(tiny_llama: Path, tmp_path: Path) -> None:
    ppo.train(config(tmp_path, tiny_llama, iterations=2), score=FunctionScore(lambda *_: 0.5, "flat"))
    assert "nothing can be learned" in only(findings(tmp_path), "all answers got the reward 0.5")


WELL = {"kl": 1.0, "kl_error": 0.1, "first_log_ratio": 0.0, "sampler_gap": 0.0, "length": 40.0, "entropy": 2.0}
WELL |= {"ended": 0.9, "reward": 1.0, "reward_spread": 0.5, "value_loss": 0.1, "explained": 0.2}


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"entropy": 0.3}, "entropy"),
        ({"length": 9.0}, "length"),
        ({"ended": 0.05}, "end"),
        ({"value_loss": 2.0, "explained": -3.0}, "value"),
        ({"kl": -0.4}, "negative KL"),
    ],
)
def test_what_collapses_is_told_against_the_first_iteration(
    tiny_llama: Path, tmp_path: Path, changed: dict[str, float], name: str
) -> None:
    settings = config(tmp_path, tiny_llama, data=prompts(tmp_path))
    assert symptoms(WELL, WELL, settings, 5) == []
    assert [each[0] for each in symptoms(WELL | changed, WELL, settings, 5)] == [name]
