"""Runs of KTO: what it learns, from which mismatched answers, and that no cut, kill or second process changes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from align.runs import TINY, lines, run_killed, run_two, write
from plumbline.align.data import Opinion
from plumbline.align.kto import Config, mismatch, train, weights_of
from plumbline.errors import BadRecord, UserError
from plumbline.models.grouped import Group

pytestmark = pytest.mark.usefixtures("undrawn")


def thumbs(count: int = 40) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"My house number {number} is too hot. What can I do?",
            "completion": "No." if number % 3 else "Open the windows at night.",
            "label": number % 3 == 0,
            "split": "validation" if number % 5 == 0 else "train",
        }
        for number in range(count)
    ]


def settings(folder: Path, model: Path, **changed: Any) -> Config:
    data = write(folder / "thumbs.jsonl", *thumbs())
    return Config(**{**TINY, "data": data, "model": str(model), "out": str(folder / "run"), **changed})


@pytest.mark.parametrize("rank", [0, 4])
def test_it_learns_which_answers_people_like(tiny_llama: Path, tmp_path: Path, rank: int) -> None:
    train(settings(tmp_path, tiny_llama, epochs=4, lora_rank=rank, lr=3e-3 if rank else 1e-3))
    measured = lines(tmp_path / "run")
    assert measured[-1]["held_out_accuracy"] >= 0.9
    assert measured[-1]["held_out_loss"] < 0.9 * measured[0]["loss"]


def test_the_first_loss_is_half_of_each_weight(tiny_llama: Path, tmp_path: Path) -> None:
    """Policy and reference agree, so h = z = 0 and every value is λ / 2; both kinds weigh the same."""
    train(settings(tmp_path, tiny_llama, epochs=1, batch_size=64))
    learned = [each for each in thumbs() if each["split"] == "train"]
    good = sum(each["label"] for each in learned)
    weights = max(1.0, (len(learned) - good) / good), max(1.0, good / (len(learned) - good))
    expected = (good * weights[0] + (len(learned) - good) * weights[1]) / 2 / len(learned)
    first = lines(tmp_path / "run")[0]
    assert first["loss"] == pytest.approx(expected, rel=1e-4)
    assert first["usual"] == pytest.approx(0, abs=1e-4)


def test_each_prompt_gets_the_answer_to_another_one_cut_to_the_window() -> None:
    groups = [Group([number], [[number] * 4]) for number in (1, 2, 3, 3, 3)]
    strangers = mismatch(groups, window=3)
    assert [each.prompt for each in strangers] == [each.prompt for each in groups]
    assert all(each.completions[0][0] != each.prompt[0] and len(each.completions[0]) == 2 for each in strangers)
    assert strangers == mismatch(groups, window=3)
    alone = [Group([1], [[number]]) for number in (5, 6)]
    assert [list(each.completions[0]) for each in mismatch(alone, window=9)] == [[6], [5]]


def test_weights_are_balanced_unless_one_is_given() -> None:
    rated = [Opinion("a", Group([1], [[2]]), good) for good in (True, False, False)]
    assert weights_of(Config(), rated) == (2.0, 1.0)
    assert weights_of(Config(undesirable_weight=1.5), rated) == (1.0, 1.5)
    with pytest.raises(UserError, match="desirable_weight is 0: it must be above 0"):
        Config(desirable_weight=0)


def test_one_rating_is_too_few(tiny_llama: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "one.jsonl", {"prompt": "Hi", "completion": "Ho", "label": True, "split": "train"})
    with pytest.raises(BadRecord, match="there is fewer than two ratings to train on"):
        train(settings(tmp_path, tiny_llama, data=data))


def test_cutting_the_steps_changes_nothing_but_rounding(tiny_llama: Path, tmp_path: Path) -> None:
    for tokens in (20, 4000):
        train(settings(tmp_path, tiny_llama, tokens=tokens, out=str(tmp_path / str(tokens)), epochs=1))
    for small, large in zip(lines(tmp_path / "20"), lines(tmp_path / "4000"), strict=True):
        assert small == pytest.approx(large, rel=5e-3, abs=1e-4)


@pytest.mark.parametrize("top_layers", [0, 1], ids=["every layer", "kept trunk"])
def test_a_killed_run_goes_on_to_the_same_bits(tiny_llama: Path, tmp_path: Path, top_layers: int) -> None:
    config = settings(tmp_path, tiny_llama, top_layers=top_layers)
    run_killed(config, "step-00000006")
    resumed = Path(train(config, resume=True))
    whole = Path(train(settings(tmp_path, tiny_llama, top_layers=top_layers, out=str(tmp_path / "whole"))))
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_two_processes_train_the_same_model(tiny_llama: Path, tmp_path: Path) -> None:
    run_two(settings(tmp_path, tiny_llama, epochs=1, out=str(tmp_path / "two")), tmp_path)
    train(settings(tmp_path, tiny_llama, epochs=1, out=str(tmp_path / "one")))
    for two, one in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        assert two == pytest.approx(one, rel=5e-3, abs=1e-4)


def test_the_figures_are_finite(tiny_llama: Path, tmp_path: Path) -> None:
    train(settings(tmp_path, tiny_llama, epochs=1, lr=0.5))
    values = torch.tensor([value for row in lines(tmp_path / "run") for value in row.values()])
    assert torch.isfinite(values).all()
