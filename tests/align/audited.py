"""What the tests of the audit share: rollouts written by hand, and whole runs with a planted fault."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from plumbline.align.detectors import Series
from plumbline.records import Rollout, write_jsonl


def load_planted() -> ModuleType:
    """The generator of runs whose fault is known, which the benchmark uses too."""
    path = Path(__file__).parents[2] / "benchmarks" / "planted.py"
    spec = importlib.util.spec_from_file_location("planted", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["planted"] = module
    spec.loader.exec_module(module)
    return module


planted = load_planted()


def rollout(step: int = 1, prompt: str = "p", completion: str = "Yes.", reward: float = 0.0, **more: Any) -> Rollout:
    fields = {"kl": 0.0, "tokens": 3, "ended": True, "reference_logprob": -3.0, **more}
    return Rollout(step=step, prompt_id=prompt, prompt=f"{prompt}?", completion=completion, reward=reward, **fields)


def series(values: Sequence[float], variance: float = 1.0, groups: int = 16, spread: float = 1.0) -> Series:
    many = len(values)
    return Series(
        np.arange(1.0, many + 1), np.array(values, float), np.full(many, variance), groups, many * groups, spread
    )


def write_run(folder: Path, rollouts: Sequence[Rollout]) -> Path:
    write_jsonl(folder / "rollouts.jsonl", rollouts)
    return folder


def planted_run(
    folder: Path, kind: str, *, seed: int = 1, steps: int = 60
) -> tuple[Path, dict[tuple[str, str], float]]:
    """A run of that kind on the disk, and the gold of its answers by prompt and text."""
    bank = planted.make_bank(seed)
    proxy, gold = planted.proxies(bank, seed)[kind]
    course = planted.plan(bank, proxy, gold, steps=steps, speed=3.0 / steps)
    rollouts, worth = planted.sample(bank, course, seed)
    return write_run(folder, rollouts), worth
