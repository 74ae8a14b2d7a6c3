"""Continued pretraining: one's own texts become likelier, and other texts' copies and order do not matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline.align.lm import Config, read, train
from plumbline.align.sft import measure
from plumbline.errors import BadRecord, UserError
from plumbline.models.families import load_causal
from plumbline.models.tokenizer import Tokenizer
from plumbline.training.devices import Process
from plumbline.training.learner import Learner

pytestmark = pytest.mark.usefixtures("undrawn")

ALONE = Process(torch.device("cpu"), "float32")
SENTENCES = [
    f"Plumb line number {n} hangs straight beside wall {n * 7 % 30}, whatever the wall does." for n in range(30)
]


def settings(folder: Path, model: Path, **changed: Any) -> Config:
    notes = folder / "notes"
    notes.mkdir(exist_ok=True)
    for number, sentence in enumerate(SENTENCES):
        (notes / f"{number:02}.txt").write_text(sentence)
    given: dict[str, Any] = {
        "data": (str(notes),),
        "model": str(model),
        "out": str(folder / "run"),
        "epochs": 4,
        "batch_size": 8,
        "tokens": 400,
        "lr": 5e-3,
        "held_out": 0.2,
        "lora_rank": 8,
        "precision": "float32",
    }
    return Config(**{**given, **changed})


def test_ones_own_texts_become_likelier(tiny_llama: Path, tmp_path: Path) -> None:
    """On texts that were held out, by the figure of the run and by the model that was saved."""
    config = settings(tmp_path, tiny_llama)
    _, held_out = read(config, Tokenizer(tiny_llama), ALONE)
    before = measure(Learner.load(config, ALONE), held_out, 400)["held_out_loss"]
    name = train(config)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["held_out_loss"] < 0.7 * before
    saved = Learner.load(settings(tmp_path, Path(name)), ALONE)
    assert measure(saved, held_out, 400)["held_out_loss"] == pytest.approx(rows[-1]["held_out_loss"], rel=1e-4)


def test_the_loss_is_that_of_the_models_own_class(tiny_llama: Path, tmp_path: Path) -> None:
    """One text of one piece, against transformers' loss over the same tokens."""
    data = tmp_path / "one.txt"
    data.write_text(SENTENCES[0])
    config = settings(tmp_path, tiny_llama, data=(str(data),), held_out=0.0)
    pieces, _ = read(config, Tokenizer(tiny_llama), ALONE)
    [[*ids]] = [[*piece.prompt, *piece.completions[0]] for piece in pieces]
    model: Any = load_causal(tiny_llama, device="cpu", dtype="float32")
    with torch.no_grad():
        theirs = model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
    ours = measure(Learner.load(config, ALONE), pieces, 400)["held_out_loss"]
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_copies_are_told_and_learned_once(tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = settings(tmp_path, tiny_llama, held_out=0.0)
    once, _ = read(config, Tokenizer(tiny_llama), ALONE)
    for number in range(5):
        (tmp_path / "notes" / f"copy{number}.md").write_text(f"{SENTENCES[number]}\n")
    again, _ = read(config, Tokenizer(tiny_llama), ALONE)
    assert sorted(map(str, again)) == sorted(map(str, once))
    assert "5 of 35 texts are copies of others; 30 stay" in capsys.readouterr().err


def test_good_examples_choose(tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = tmp_path / "good.txt"
    good.write_text("A plumb line hangs straight, whatever the wall beside it does.")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "spam.txt").write_text("CLICK click click http://x !!! $$$ win a prize now now now")
    learn, _ = read(
        settings(tmp_path, tiny_llama, good=(str(good),), drop=0.03, held_out=0.0), Tokenizer(tiny_llama), ALONE
    )
    assert len(learn) == len(SENTENCES)
    assert "1 are the least like the good ones; 30 stay" in capsys.readouterr().err


def test_a_folder_without_texts_is_an_error(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadRecord, match="there is no text to train on"):
        train(settings(tmp_path, tiny_llama, data=(str(tmp_path / "empty"),)))


def test_settings_out_of_range_are_named(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="length is 1: it must be at least 2"):
        settings(tmp_path, tiny_llama, length=1)
    with pytest.raises(UserError, match="drop is 1.0"):
        settings(tmp_path, tiny_llama, drop=1.0)
