"""Classifiers: the loss by hand, what is learned, what is known of it, and that no cut, kill or process changes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
import torch

from align.runs import TINY, lines, run_killed, run_two, write
from plumbline.align import sft
from plumbline.align.class_models import Outputs
from plumbline.align.classifier import Config, Example, classifier_loss, expect, read, train
from plumbline.errors import BadRecord, UserError
from plumbline.models.families import load_causal
from plumbline.models.score import load_scorer
from plumbline.training.checkpoint import latest
from plumbline.training.devices import Process

pytestmark = pytest.mark.usefixtures("undrawn")

ALONE = Process(torch.device("cpu"), "float32")
TinyModel = Callable[[str], Path]


def labelled(count: int = 45) -> list[dict[str, Any]]:
    """Two kinds of text, one of them twice as common; every third is held out."""
    jokes = [f"Knock, knock. Who is there? {n}" for n in range(count)]
    airs = [f"Open the windows at night, {n}." + " Yes." * (n % 4) for n in range(count)]
    return [
        {
            "text": jokes[n] if n % 3 == 1 else airs[n],
            "label": "joke" if n % 3 == 1 else "air",
            "split": "validation" if n % 9 < 3 else "train",
        }
        for n in range(count)
    ]


def settings(folder: Path, model: Path, **changed: Any) -> Config:
    given: dict[str, Any] = {
        "data": write(folder / "labels.jsonl", *labelled()),
        "model": str(model),
        "out": str(folder / "run"),
    }
    return Config(**{**TINY, **given, **changed})


# ---- the loss


def test_the_loss_by_hand() -> None:
    """Two micro-batches of a step with four texts and six predicted tokens, λ = 0.5."""
    first = Outputs(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([-1.0, -2.0]), torch.tensor([0.1, 0.1]))
    second = Outputs(torch.tensor([[0.0, 0.0], [0.0, 3.0]]), torch.tensor([-1.5] * 4), torch.tensor([0.1] * 4))
    part, told = classifier_loss(first, torch.tensor([0, 0]), texts=4, tokens=6, lm_weight=0.5)
    rest, more = classifier_loss(second, torch.tensor([1, 1]), texts=4, tokens=6, lm_weight=0.5)
    classes = (log(1 + exp(-1)) + log(1 + exp(2)) + log(2) + log(1 + exp(-3))) / 4
    assert (part + rest).item() == pytest.approx(classes + 0.5 * (3 + 6) / 6)
    assert told["class_loss"].item() == pytest.approx((log(1 + exp(-1)) + log(1 + exp(2))) / 4)
    assert told["lm_loss"].item() == pytest.approx(3 / 6) and told["loss"] == pytest.approx(part)
    assert told["accuracy"].item() == 1 / 4 and more["accuracy"].item() == 1 / 4, (
        "of two equal outputs the first is said"
    )


def test_without_log_probs_there_is_no_second_term() -> None:
    loss, told = classifier_loss(Outputs(torch.tensor([[0.0, 0.0, 0.0]])), torch.tensor([2]), texts=1, lm_weight=0.5)
    assert loss.item() == pytest.approx(log(3)) and set(told) == {"loss", "class_loss", "accuracy"}


def loss_over(model: Any, examples: list[Example], whole: list[Example], lm_weight: float) -> torch.Tensor:
    made = model.outputs([each.reading for each in examples], lm=lm_weight > 0)
    labels = torch.tensor([each.label for each in examples])
    tokens = sum(model.predicted(each.reading) for each in whole)
    return classifier_loss(made, labels, texts=len(whole), tokens=tokens, lm_weight=lm_weight)[0]


def test_the_second_term_is_the_loss_of_lm(tiny_llama: Path, tmp_path: Path) -> None:
    """λ times what `lm` measures over the same texts, and what the model's own class says of one of them."""
    model, data = read(settings(tmp_path, tiny_llama), ALONE)
    groups = [each.reading for each in data.train]
    with torch.no_grad():
        both, first = (loss_over(model, data.train, data.train, weight) for weight in (0.5, 0.0))
    assert model.lm_weight == 0.5
    measured = sft.measure(model.learner, groups, 400)["held_out_loss"]  # type: ignore[union-attr]
    assert (both - first).item() == pytest.approx(0.5 * measured, rel=1e-4)

    one = data.train[:1]
    ids = torch.tensor([[*one[0].reading.prompt, *one[0].reading.completions[0]]])
    with torch.no_grad():
        theirs = load_causal(tiny_llama, device="cpu", dtype="float32")(ids, labels=ids).loss.item()
        ours = loss_over(model, one, one, 1.0) - loss_over(model, one, one, 0.0)
    assert ours.item() == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize(("family", "lm_weight"), [("llama", 0.5), ("bert", 0.0)])
def test_eight_are_two_times_four(tiny_model: TinyModel, tmp_path: Path, family: str, lm_weight: float) -> None:
    """The gradient of a step's eight texts, of different lengths, however they are cut."""
    torch.manual_seed(0)
    model, data = read(settings(tmp_path, tiny_model(family), lora_rank=0), ALONE)
    whole = data.train[:8]
    gradients = []
    for rows in (8, 4, 1):
        for weight in model.weights:
            weight.grad = None
        for begin in range(0, 8, rows):
            loss_over(model, whole[begin : begin + rows], whole, lm_weight).backward()  # type: ignore[no-untyped-call]
        gradients.append(torch.cat([weight.grad.flatten() for weight in model.weights if weight.grad is not None]))
    for other in gradients[1:]:
        assert (other - gradients[0]).norm() <= 1e-5 * gradients[0].norm()


# ---- what is refused


def test_settings_out_of_range_are_named(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lm_weight is -1: it must not be below 0"):
        settings(tmp_path, tiny_llama, lm_weight=-1)
    with pytest.raises(UserError, match="reads is 'prompt': give completion or pair, or leave it out"):
        settings(tmp_path, tiny_llama, reads="prompt")


def test_texts_that_do_not_fit_are_told_and_a_class_may_lose_all_of_them(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"text": "too hot, " * 600, "label": "air", "split": "train"}
    _, data = read(settings(tmp_path, tiny_llama, data=write(tmp_path / "a.jsonl", long, *labelled())), ALONE)
    told = capsys.readouterr().err
    assert "1 left out:" in told and "the window holds 512: shorten it" in told
    assert len(data.train) == sum(each["split"] == "train" for each in labelled())
    short = {"text": "Knock, knock.", "label": "joke", "split": "train"}
    with pytest.raises(BadRecord, match="(?s)nothing but the label 'joke', and a classifier needs two.*1 left out"):
        read(settings(tmp_path, tiny_llama, data=write(tmp_path / "b.jsonl", long, short)), ALONE)


# ---- the whole


@pytest.mark.parametrize(("family", "rank"), [("llama", 4), ("llama", 0), ("bert", 4), ("bert", 0)])
def test_it_learns_what_people_call_a_joke(tiny_model: TinyModel, tmp_path: Path, family: str, rank: int) -> None:
    """Known of it afterwards: accuracy.json. Loaded by its name it is a score whose sign is the class."""
    name = train(settings(tmp_path, tiny_model(family), epochs=4, lora_rank=rank, lr=3e-3 if rank else 1e-3))
    measured = lines(tmp_path / "run")
    assert measured[-1]["held_out_accuracy"] == 1.0
    assert measured[-1]["held_out_class_loss"] < 0.2 and ("lm_loss" in measured[-1]) == (family == "llama")
    found = json.loads((tmp_path / "run" / "accuracy.json").read_text())
    assert found["right"][0] == 1.0 and found["beats_commonest"] and found["commonest"] == pytest.approx(2 / 3)
    assert [each[0] for each in found["classes"]] == ["air", "joke"]
    assert found["log_loss"] == pytest.approx(measured[-1]["held_out_class_loss"])
    joke, air = load_scorer(name, "joke")(
        ["", ""], ["Knock, knock. Who is there? 77", "Open the windows at night, 80."]
    )
    assert joke > 0 > air
    assert json.loads((Path(name) / "config.json").read_text())["id2label"] == {"0": "air", "1": "joke"}


def test_ratings_are_labels_and_the_classifier_a_reward(tiny_llama: Path, tmp_path: Path) -> None:
    """The positive logit of two classes, true and false, is higher for what people liked."""
    thumbs = [
        {
            "prompt": f"My house number {n} is too hot. What can I do?",
            "completion": "Open the windows at night." if n % 2 else "No.",
            "label": bool(n % 2),
            "split": "train",
        }
        for n in range(16)
    ]
    name = train(settings(tmp_path, tiny_llama, data=write(tmp_path / "thumbs.jsonl", *thumbs), epochs=8))
    score = load_scorer(name)
    assert (score.label, score.reads) == ("true", "pair")  # type: ignore[attr-defined]
    good, bad = score(["My house number 40 is too hot. What can I do?"] * 2, ["Open the windows at night.", "No."])
    assert good > bad


def test_cutting_the_steps_changes_nothing_but_rounding(tiny_llama: Path, tmp_path: Path) -> None:
    for tokens in (20, 4000):
        train(settings(tmp_path, tiny_llama, tokens=tokens, out=str(tmp_path / str(tokens)), epochs=1))
    for small, large in zip(lines(tmp_path / "20"), lines(tmp_path / "4000"), strict=True):
        assert small == pytest.approx(large, rel=5e-3, abs=1e-4)


@pytest.mark.parametrize(
    ("family", "changed"),
    [("llama", {"top_layers": 1}), ("bert", {"lora_rank": 0})],
    ids=["decoder, kept trunk", "encoder, all weights"],
)
def test_a_killed_run_goes_on_to_the_same_bits(
    tiny_model: TinyModel, tmp_path: Path, family: str, changed: dict[str, Any]
) -> None:
    config = settings(tmp_path, tiny_model(family), **changed)
    run_killed(config, "step-00000006")
    assert latest(tmp_path / "run" / "checkpoints").step == 4  # type: ignore[union-attr]
    resumed = Path(train(config, resume=True))
    whole = Path(train(replace(config, out=str(tmp_path / "whole"))))
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_two_processes_train_the_same_model(tiny_llama: Path, tmp_path: Path) -> None:
    run_two(settings(tmp_path, tiny_llama, epochs=1, out=str(tmp_path / "two")), tmp_path)
    train(settings(tmp_path, tiny_llama, epochs=1, out=str(tmp_path / "one")))
    for two, one in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        assert two == pytest.approx(one, rel=5e-3, abs=1e-4)
    two, one = (json.loads((tmp_path / name / "accuracy.json").read_text()) for name in ("two", "one"))
    assert two["confusion"] == one["confusion"]


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_dry_run_reckons_and_leaves_no_trace(tiny_model: TinyModel, tmp_path: Path, family: str) -> None:
    config = settings(tmp_path, tiny_model(family))
    told = expect(config)
    model, data = read(config, ALONE)
    assert told.steps == 2 * -(-len(data.train) // 8)
    assert told.tokens == 2 * sum(model.size(each.reading) for each in data.train)
    assert not (tmp_path / "run").exists()
