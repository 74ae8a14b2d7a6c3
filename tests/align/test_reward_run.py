"""Runs of the reward model: what it learns, what it leaves, and that no cut, kill or second process changes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from align.runs import TINY, lines, run_killed, run_two, write
from plumbline.align.reward import Config, train
from plumbline.errors import UserError
from plumbline.models.score import load_scorer

pytestmark = pytest.mark.usefixtures("undrawn")


def rankings(count: int = 40) -> list[dict[str, Any]]:
    """Three answers each, shown in turning order; the one that opens windows is best, two may be tied."""
    texts = ["Open the windows at night.", "No.", "Buy a jumper, it is cold."]
    made = []
    for number in range(count):
        ranks = [1, 2, 2] if number % 4 == 0 else [1, 3, 2]
        turn = number % 3
        made.append(
            {
                "set_id": f"s{number}",
                "prompt_id": f"p{number}",
                "prompt": f"My house number {number} is too hot. What can I do?",
                "completions": texts[turn:] + texts[:turn],
                "ranks": ranks[turn:] + ranks[:turn],
                "flags": [False] * 3,
                "labeler_id": "ann",
                "instruction_version": "1",
                "split": "validation" if number % 5 == 0 else "train",
            }
        )
    return made


def settings(folder: Path, model: Path, **changed: Any) -> Config:
    data = write(folder / "rankings.jsonl", *rankings())
    return Config(**{**TINY, "data": data, "model": str(model), "out": str(folder / "run"), **changed})


@pytest.mark.parametrize("rank", [0, 4])
def test_it_learns_what_people_prefer_and_says_how_sure_that_is(tiny_llama: Path, tmp_path: Path, rank: int) -> None:
    name = train(settings(tmp_path, tiny_llama, lora_rank=rank, epochs=3))
    measured = lines(tmp_path / "run")
    assert measured[-1]["held_out_accuracy"] >= 0.9 and measured[-1]["loss"] < 0.7 * measured[0]["loss"]
    found = json.loads((tmp_path / "run" / "accuracy.json").read_text())
    value, low, high, sets = found["right"]
    assert sets == 8 and low < value <= high and found["pairs"] == 8 * 3 - 2

    scorer = load_scorer(name)
    texts = ["Buy a jumper, it is cold.", "Open the windows at night.", "No."]
    rewards = scorer(["My house number 99 is too hot. What can I do?"] * 3, texts)
    assert max(rewards) == rewards[1]
    train_sets = [each for each in rankings() if each["split"] == "train"]
    given = torch.tensor(
        scorer(
            [each["prompt"] for each in train_sets for _ in each["completions"]],
            [text for each in train_sets for text in each["completions"]],
        )
    )
    assert given.mean().item() == pytest.approx(0, abs=1e-4)
    assert given.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_pairs_without_ties_and_without_anything_held_out(tiny_llama: Path, tmp_path: Path) -> None:
    pairs = [{"prompt": f"Say {n}", "chosen": "Yes, I will.", "rejected": "No."} for n in range(12)]
    train(settings(tmp_path, tiny_llama, data=write(tmp_path / "p.jsonl", *pairs), held_out=0.0, margin=0.5))
    measured = lines(tmp_path / "run")
    assert measured[-1]["accuracy"] == 1 and "held_out_loss" not in measured[-1]
    assert json.loads((tmp_path / "run" / "accuracy.json").read_text())["pairs"] == 0


def test_cutting_the_steps_changes_nothing_but_rounding(tiny_llama: Path, tmp_path: Path) -> None:
    for tokens in (20, 4000):
        train(settings(tmp_path, tiny_llama, tokens=tokens, out=str(tmp_path / str(tokens)), epochs=1))
    for small, large in zip(lines(tmp_path / "20"), lines(tmp_path / "4000"), strict=True):
        assert small == pytest.approx(large, rel=2e-3)


def test_a_killed_run_goes_on_to_the_same_bits(tiny_llama: Path, tmp_path: Path) -> None:
    config = settings(tmp_path, tiny_llama)
    run_killed(config, "step-00000006")
    assert [each.name for each in (tmp_path / "run" / "checkpoints").glob("step-*")] == ["step-00000004"]
    resumed = Path(train(config, resume=True))
    whole = Path(train(settings(tmp_path, tiny_llama, out=str(tmp_path / "whole"))))
    for file in ("model.safetensors", "scalar_head.safetensors"):
        assert (resumed / file).read_bytes() == (whole / file).read_bytes()
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_two_processes_train_the_same_model(tiny_llama: Path, tmp_path: Path) -> None:
    run_two(settings(tmp_path, tiny_llama, epochs=1, out=str(tmp_path / "two")), tmp_path)
    train(settings(tmp_path, tiny_llama, epochs=1, out=str(tmp_path / "one")))
    for two, one in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        assert two == pytest.approx(one, rel=2e-3)


def test_a_reward_model_has_no_labels_and_cuts_what_is_too_long(tiny_llama: Path, tmp_path: Path) -> None:
    name = train(settings(tmp_path, tiny_llama, epochs=1))
    with pytest.raises(UserError, match="is a reward model, which gives one number"):
        load_scorer(name, "good")
    scorer = load_scorer(name)
    prompts = ["heat " * 700, "Hi", "Hi"]
    texts = ["Air it.", "cold " * 700, "Air it."]
    together = scorer(prompts, texts)
    assert getattr(scorer, "truncated") == 2  # noqa: B009
    alone = [scorer([prompt], [text])[0] for prompt, text in zip(prompts, texts, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
