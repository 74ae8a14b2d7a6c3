"""`plumb train`: options are the settings, files and presets stand behind them, and a run says what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from plumbline.align import METHODS
from plumbline.cli.train import as_kind, chosen_settings, settings_of
from plumbline.errors import UserError

Plumb = Callable[..., Result]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    lines = [
        {
            "prompt": f"My house number {number} is too hot. What can I do?",
            "chosen": "Open the windows at night.",
            "rejected": "No.",
            "split": "validation" if number % 4 == 0 else "train",
        }
        for number in range(16)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def options(pairs: Path, model: Path, **changed: Any) -> list[str]:
    given = {"data": pairs, "model": model, "out": "runs/first", "epochs": 2, "lora_rank": 4, "lr": 0.01, **changed}
    return [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]


# ---- help


@pytest.mark.parametrize("method", METHODS)
def test_help_names_every_setting_and_its_default(plumb: Plumb, method: str) -> None:
    shown = plumb("train", method, "--help")
    assert shown.exit_code == 0
    text = " ".join(shown.stdout.split())
    for field in settings_of(method).values():
        assert field.flag.replace("/", " / ") in text and " ".join(field.help.split())[:40] in text
    assert text.index("--data") < text.index("--config") < text.index("--epochs")


def test_the_methods_are_listed_in_order(plumb: Plumb) -> None:
    shown = plumb("train", "--help").stdout
    places = [shown.index(f"  {name} ") for name in METHODS]
    assert places == sorted(places)


# ---- which settings


def test_an_option_goes_before_the_file_and_the_file_before_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "sft.toml"
    file.write_text('lr = 0.5\nbatch_size = 4\ndata = ["a.jsonl"]\n')
    chosen = chosen_settings("sft", {"batch_size": 2}, file, "instructgpt", resume=False)
    assert (chosen["epochs"], chosen["lr"], chosen["batch_size"]) == (16, 0.5, 2)


def test_a_run_that_goes_on_keeps_its_settings_but_for_what_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"epochs": 7, "lr": 0.5}))
    chosen = chosen_settings("dpo", {"out": str(tmp_path), "lr": 0.1}, None, None, resume=True)
    assert (chosen["epochs"], chosen["lr"]) == (7, 0.1)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("c.toml", "bata = 1", "has `bata`, which is no setting of dpo: is `data` meant?|is `beta` meant?"),
        ("c.toml", "qqq = 1", "`plumb train dpo --help` lists them"),
        ("c.toml", "lr = ", "is not TOML"),
        ("c.json", "{", "is not JSON"),
        ("none.toml", None, "cannot read"),
        ("c.toml", 'epochs = "two"', "epochs is 'two': it must be an int"),
        ("c.toml", "recompute = 1", "recompute is 1: it must be a bool"),
    ],
)
def test_a_file_of_settings_that_is_wrong_is_told(
    plumb: Plumb, tmp_path: Path, name: str, text: str, told: str
) -> None:
    import re

    if text is not None:
        (tmp_path / name).write_text(text)
    result = plumb("train", "dpo", "--config", name)
    assert result.exit_code == 2
    assert re.search(told, " ".join(result.stderr.split()))


def test_an_unknown_preset_is_told(plumb: Plumb) -> None:
    assert "there is no preset 'x': there is 'instructgpt'" in plumb("train", "sft", "--preset", "x").stderr
    assert "there is no preset 'x': dpo has none" in plumb("train", "dpo", "--preset", "x").stderr


def test_values_from_files_get_their_types() -> None:
    known = settings_of("kto")
    assert as_kind(known["data"], "a") == ("a",)
    assert as_kind(known["data"], ["a", "b"]) == ("a", "b")
    assert as_kind(known["desirable_weight"], None) is None
    assert as_kind(known["lr"], 1) == 1
    with pytest.raises(UserError, match="epochs is True: it must be an int"):
        as_kind(known["epochs"], True)


# ---- runs


def test_a_reward_model_from_the_file_to_the_score(plumb: Plumb, pairs: Path, tiny_llama: Path) -> None:
    run = plumb("train", "reward", *options(pairs, tiny_llama))
    assert run.exit_code == 0, run.stderr
    name = run.stdout.splitlines()[-1]
    assert name == "runs/first/model"
    assert "held_out_accuracy" in run.stdout and "held-out pairs in the right order: 100.0%" in run.stderr
    assert "always taking the longer answer: 100.0%, not below the interval" in run.stderr
    asked = "My house number 3 is too hot. What can I do?"
    answers = ["No.", "Open the windows at night."]
    Path("answers.jsonl").write_text(
        "".join(json.dumps({"prompt": asked, "completion": text}) + "\n" for text in answers)
    )
    scored = plumb("score", "answers.jsonl", "--model", name)
    assert scored.exit_code == 0, scored.stderr
    worse, better = (json.loads(line)["score"] for line in scored.stdout.splitlines())
    assert better > worse

    again = plumb("train", "reward", *options(pairs, tiny_llama))
    assert again.exit_code == 2 and "holds a run already: pass --resume" in " ".join(again.stderr.split())
    other = plumb("train", "reward", "--out", "runs/first", "--resume", "--lr", "0.5")
    assert other.exit_code == 2 and "lr was 0.01 and is 0.5" in " ".join(other.stderr.split())
    assert plumb("train", "reward", "--out", "runs/first", "--resume").exit_code == 0


def test_a_classifier_says_how_often_it_agrees_with_people(
    plumb: Plumb, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    """Class names are shown as they are, brackets included."""
    labels = {"[joke]": "Knock, knock. Who is there?", "air": "Open the windows at night."}
    lines = [
        {"text": f"{text} {number}", "label": label, "split": "validation" if number < 4 else "train"}
        for number in range(12)
        for label, text in labels.items()
    ]
    data = tmp_path / "labels.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = plumb("train", "classifier", *options(data, tiny_model("bert"), epochs=6, precision="float32"))
    assert run.exit_code == 0, run.stderr
    rows = [line.split() for line in run.stdout.splitlines()]
    assert ["[joke]", "8", "4", "4", "0"] in rows and ["air", "8", "4", "0", "4"] in rows
    told = " ".join(run.stderr.split())
    assert "held-out texts in the right class: 100.0%, 95 % interval 67.6% to 100.0%, 8 prompts" in told
    assert "always saying the commonest class: 50.0%, below the interval" in told


def test_the_second_process_says_nothing_of_the_result(
    plumb: Plumb, monkeypatch: pytest.MonkeyPatch, pairs: Path
) -> None:
    """The method is replaced: what runs in two processes is held by the methods' own tests."""
    monkeypatch.setattr("plumbline.align.kto.train", lambda config, *, resume: "runs/first/model")
    Path("runs/first").mkdir(parents=True)
    Path("runs/first/metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    shown = {}
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        shown[rank] = plumb("train", "kto", "--data", pairs, "--out", "runs/first", "--model", "m").stdout
    assert shown["0"].splitlines()[-1] == "runs/first/model" and shown["1"] == ""


def test_in_a_project_the_result_is_a_version_with_what_it_was_made_of(
    plumb: Plumb, pairs: Path, tiny_llama: Path
) -> None:
    assert plumb("init", ".").exit_code == 0
    run = plumb("train", "dpo", *options(pairs, tiny_llama))
    assert run.exit_code == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "first@1"
    made = json.loads(Path("models/first/1/version.json").read_text())
    assert made["base"] == str(tiny_llama) and made["config"]["beta"] == 0.1 and list(made["data"]) == ["pairs.jsonl"]


def test_a_dry_run_says_what_it_would_take_and_leaves_no_trace(plumb: Plumb, pairs: Path, tiny_llama: Path) -> None:
    run = plumb("train", "dpo", *options(pairs, tiny_llama), "--dry-run")
    assert run.exit_code == 0, run.stderr
    told = dict(line.rsplit("  ", 1) for line in run.stdout.splitlines() if line.strip())
    assert {name.strip() for name in told} == {"steps", "tokens", "memory at the peak", "time"}
    assert not Path("runs").exists()


def test_what_a_run_lacks_is_told(plumb: Plumb, pairs: Path) -> None:
    assert "the run has no folder" in plumb("train", "dpo", "--data", pairs).stderr
    assert "no data was given" in plumb("train", "dpo", "--out", "runs/x").stderr
    result = plumb("train", "dpo", "--data", pairs, "--out", "runs/x", "--beta", "-1")
    assert result.exit_code == 2 and "beta is -1.0: it must be above 0" in result.stderr
