"""Adapters on a model of your choice, on a GPU where there is one: first answers to learn, then rankings.

python larger_model.py Qwen/Qwen2.5-1.5B-Instruct demonstrations.jsonl rankings.jsonl

The name may be one of the hub, which is fetched once, or a folder. A run that was stopped goes on when the same command
is given again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from plumbline.align import dpo, sft
from plumbline.training.metrics import time_text

SMALL = {"tokens": 2048, "recompute": True, "lora_rank": 16}
"""What takes little memory; neither `tokens` nor `recompute` changes the result."""


def step(method: Any, model: str, data: str, out: str) -> str:
    """Says what the method would take, then does it; returns the name by which the result is loaded."""
    config = method.Config(model=model, data=(data,), out=out, **SMALL)
    begun = (Path(out) / "config.json").exists()
    if not begun:
        taken = method.expect(config)
        print(f"{out}: {taken.steps} steps, {taken.memory / 1e9:.1f} GB at the peak, {time_text(taken.seconds)}")
    name: str = method.train(config, resume=begun)
    return name


if __name__ == "__main__":
    model, demonstrations, rankings = sys.argv[1:]
    answers = step(sft, model, demonstrations, "runs/larger-sft")
    print(step(dpo, answers, rankings, "runs/larger-dpo"))
