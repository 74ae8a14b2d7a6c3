"""What the tests of online methods share: tiny settings, a reward, and the cast of a run outside its loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from align.runs import lines, write
from plumbline.align import reward
from plumbline.align.online import Cast
from plumbline.align.ppo import Config
from plumbline.models import Prompt
from plumbline.models.functions import FunctionScore
from plumbline.training.devices import started

ONLINE: dict[str, Any] = {
    "tokens": 400,
    "lr": 2e-3,
    "every": 2,
    "lora_rank": 4,
    "precision": "float32",
    "device": "cpu",
    "sampler": "own",
    "samples": 3,
    "prompts": 6,
    "batch_size": 3,
    "passes": 2,
    "max_new_tokens": 8,
    "held_out": 0.0,
}


def prompts(folder: Path, count: int = 12) -> tuple[str, ...]:
    """Prompts of different lengths."""
    return write(folder / "prompts.jsonl", *({"prompt": f"My house {'is ' * (n % 4)}{n}"} for n in range(count)))


def config(folder: Path, model: Path, kind: type[Any] = Config, **changed: Any) -> Any:
    settings = {**ONLINE, "data": prompts(folder), "model": str(model), "out": str(folder / "run")}
    return kind(**{**settings, **changed})


def count_e(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    """A reward that anyone can check."""
    return [each.count("e") / 2 - len(each) / 50 for each in completions]


LIKES_E = FunctionScore(count_e, "likes e")


@contextmanager
def cast_of(settings: Any, score: Any = LIKES_E) -> Iterator[Cast]:
    with started(settings.device, settings.precision, seed=settings.seed) as process:
        yield Cast.of(settings, process, score)


def reward_model(folder: Path, model: Path, **changed: Any) -> str:
    """A reward model trained as an adapter on that model, as a person would."""
    pairs = [{"prompt": f"Say {n}", "chosen": "Yes, I will.", "rejected": "No."} for n in range(12)]
    data = write(folder / "pairs.jsonl", *pairs)
    settings = {"epochs": 2, "batch_size": 6, "lr": 3e-3, "lora_rank": 4, "precision": "float32", "device": "cpu"}
    out = str(folder / "reward")
    return reward.train(reward.Config(**{**settings, "data": data, "model": str(model), "out": out, **changed}))


def measured(folder: Path) -> list[dict[str, Any]]:
    """What a run measured, without anything that a clock told."""
    return [
        {name: value for name, value in row.items() if not name.startswith(("seconds", "tokens_per"))}
        for row in lines(folder)
    ]
