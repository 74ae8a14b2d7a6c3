"""Runs of DPO: what it learns, against which reference, and that no cut, kill or second process changes it."""

from __future__ import annotations

from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch

from align.runs import TINY, lines, run_killed, run_two, write
from plumbline.align.dpo import Config, read, train
from plumbline.errors import UserError
from plumbline.models.families import load_causal
from plumbline.models.grouped import forward
from plumbline.models.logprobs import Head, token_logprobs
from plumbline.models.tokenizer import Tokenizer
from plumbline.training.devices import Process

pytestmark = pytest.mark.usefixtures("undrawn")
ALONE = Process(torch.device("cpu"), "float32")


def pairs(count: int = 40) -> list[dict[str, Any]]:
    """Sets of two or three answers, as pairs; the one that opens windows is best."""
    better, worse, worst = "Open the windows at night.", "Buy a jumper, it is cold.", "No."
    made = []
    for number in range(count):
        told = {
            "prompt": f"My house number {number} is too hot. What can I do?",
            "set_id": f"s{number}",
            "split": "validation" if number % 5 == 0 else "train",
        }
        made.append({**told, "chosen": better, "rejected": worst})
        if number % 2:
            made += [{**told, "chosen": better, "rejected": worse}, {**told, "chosen": worse, "rejected": worst}]
    return made


def settings(folder: Path, model: Path, **changed: Any) -> Config:
    data = write(folder / "pairs.jsonl", *pairs())
    return Config(**{**TINY, "data": data, "model": str(model), "out": str(folder / "run"), **changed})


def logprobs(folder: Path, groups: Any) -> torch.Tensor:
    """log π of whole answers under the model in a folder."""
    model: Any = load_causal(folder, device="cpu", dtype="float32")
    with torch.no_grad():
        answers = forward(model, groups, path="plain")
        return answers.sums(token_logprobs(Head.of(model), answers.states, answers.targets)[0])


@pytest.mark.parametrize(
    "changed", [{}, {"lora_rank": 0, "lr": 1e-3}, {"loss": "plackett-luce"}, {"loss": "ipo"}], ids=str
)
def test_it_learns_what_people_prefer(tiny_llama: Path, tmp_path: Path, changed: dict[str, Any]) -> None:
    config = settings(tmp_path, tiny_llama, **{"epochs": 3, **changed})
    name = Path(train(config))
    measured = lines(tmp_path / "run")
    assert measured[-1]["held_out_accuracy"] >= 0.9
    assert measured[-1]["held_out_loss"] < 0.9 * measured[0]["loss"]

    # The model on the disk has moved from the one it started from towards the better answers.
    held_out = [each.group for each in read(config, Tokenizer(tiny_llama), ALONE).held_out]
    gains = (logprobs(name, held_out) - logprobs(tiny_llama, held_out)).split([len(g.completions) for g in held_out])
    assert all(its[0] > its[1] for its in gains)


@pytest.mark.parametrize(("loss", "expected"), [("sigmoid", log(2)), ("ipo", 25.0), ("plackett-luce", log(6))])
def test_the_first_loss_is_that_of_a_policy_that_is_its_reference(
    tiny_llama: Path, tmp_path: Path, loss: str, expected: float
) -> None:
    ranked = {"completions": ["Air it.", "No.", "Move."], "ranks": [1, 3, 2], "flags": [False] * 3, "split": "train"}
    told = {"prompt": "Hot?", "prompt_id": "p", "set_id": "s", "labeler_id": "ann", "instruction_version": "1"}
    data = write(tmp_path / "r.jsonl", {**told, **ranked})
    train(settings(tmp_path, tiny_llama, data=data, loss=loss, epochs=1))
    assert lines(tmp_path / "run")[0]["loss"] == pytest.approx(expected, rel=1e-4)


def test_the_reference_is_the_model_it_started_from_and_is_computed_once(tiny_llama: Path, tmp_path: Path) -> None:
    """Resumed from a model that has moved on, the kept log-probs are still those of the first model."""
    from safetensors.torch import load_file

    config = settings(tmp_path, tiny_llama)
    run_killed(config, "step-00000006")
    kept = load_file(tmp_path / "run" / "reference.safetensors")["logprobs"]
    data = read(config, Tokenizer(tiny_llama), ALONE)
    first = logprobs(tiny_llama, [each.group for each in (*data.train, *data.held_out)])
    assert torch.allclose(kept, first, atol=1e-3)

    resumed = Path(train(config, resume=True))
    assert torch.equal(load_file(tmp_path / "run" / "reference.safetensors")["logprobs"], kept)
    whole = Path(train(settings(tmp_path, tiny_llama, out=str(tmp_path / "whole"))))
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_a_killed_run_with_its_trunk_kept_goes_on_to_the_same_bits(tiny_llama: Path, tmp_path: Path) -> None:
    """The reference passes through the trunk in a first run and is read from its file in one that goes on, so what
    is kept of the trunk must hang on neither. In bfloat16, where what shares a pass shows the soonest."""
    config = settings(tmp_path, tiny_llama, top_layers=1, precision="bfloat16")
    run_killed(config, "step-00000006")
    assert [each.name for each in (tmp_path / "run" / "checkpoints").glob("step-*")] == ["step-00000004"]
    resumed = Path(train(config, resume=True))
    whole = Path(train(replace(config, out=str(tmp_path / "whole"))))
    reference = "reference.safetensors"
    assert (tmp_path / "run" / reference).read_bytes() == (tmp_path / "whole" / reference).read_bytes()
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_data_that_changed_since_the_run_began_is_noticed(tiny_llama: Path, tmp_path: Path) -> None:
    config = settings(tmp_path, tiny_llama, epochs=1)
    train(config)
    write(tmp_path / "pairs.jsonl", *pairs(30))
    with pytest.raises(UserError, match=r"holds log-probs of 100 answers and the data has 75: it has changed"):
        train(config, resume=True)


def test_training_that_goes_on_has_the_trained_model_as_its_reference(tiny_llama: Path, tmp_path: Path) -> None:
    first = train(settings(tmp_path, tiny_llama, out=str(tmp_path / "first")))
    train(settings(tmp_path, Path(first), out=str(tmp_path / "second"), epochs=1, batch_size=64))
    assert lines(tmp_path / "second")[0]["loss"] == pytest.approx(log(2), rel=1e-4)


def test_cutting_the_steps_changes_nothing_but_rounding(tiny_llama: Path, tmp_path: Path) -> None:
    for tokens in (20, 4000):
        train(settings(tmp_path, tiny_llama, tokens=tokens, out=str(tmp_path / str(tokens)), epochs=1))
    assert_equal_within_rounding(tmp_path / "20", tmp_path / "4000")


def test_two_processes_train_the_same_model(tiny_llama: Path, tmp_path: Path) -> None:
    run_two(settings(tmp_path, tiny_llama, epochs=1, out=str(tmp_path / "two")), tmp_path)
    train(settings(tmp_path, tiny_llama, epochs=1, out=str(tmp_path / "one")))
    assert_equal_within_rounding(tmp_path / "two", tmp_path / "one")


def assert_equal_within_rounding(one: Path, other: Path) -> None:
    for mine, theirs in zip(lines(one), lines(other), strict=True):
        if mine["step"] == 1:  # the policy is its reference: its rewards are zero and their order is rounding
            del mine["accuracy"], theirs["accuracy"]
        assert mine == pytest.approx(theirs, rel=2e-3, abs=1e-4)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"loss": "hinge"}, "loss is 'hinge': give one of sigmoid, ipo, plackett-luce"),
        ({"beta": 0.0}, "beta is 0.0: it must be above 0"),
        ({"smoothing": 0.5}, "smoothing is 0.5: it must be at least 0 and below 0.5"),
        ({"smoothing": 0.1, "loss": "ipo"}, "only the sigmoid loss can be smoothed"),
    ],
)
def test_a_setting_out_of_range_is_refused(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Config(**changed)
