"""Settings, a run's own folder, and the model that it leaves."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline.errors import UserError
from plumbline.project import Project
from plumbline.training.devices import Process
from plumbline.training.run import Settings, keep_model, open_run

ALONE = Process(torch.device("cpu"), "float32")


def settings(folder: Path, **changed: Any) -> Settings:
    return Settings(**{"data": ("d.jsonl",), "out": str(folder / "runs" / "first"), **changed})


def test_a_new_run_is_marked_with_all_its_settings(tmp_path: Path) -> None:
    config = settings(tmp_path, lr=0.5)
    folder = open_run(config, ALONE)
    assert folder == tmp_path / "runs" / "first"
    kept = json.loads((folder / "config.json").read_text())
    assert kept == json.loads(json.dumps(dataclasses.asdict(config)))
    assert Settings(**kept) == config


def test_a_run_is_not_written_over(tmp_path: Path) -> None:
    open_run(settings(tmp_path), ALONE)
    with pytest.raises(UserError, match="first' holds a run already: pass --resume to go on with it"):
        open_run(settings(tmp_path), ALONE)
    assert open_run(settings(tmp_path), ALONE, resume=True).is_dir()


def test_other_settings_are_named_when_a_run_goes_on(tmp_path: Path) -> None:
    open_run(settings(tmp_path), ALONE)
    with pytest.raises(UserError, match=r"\(lr was 0.0002 and is 0.5; seed was 0 and is 3\)"):
        open_run(settings(tmp_path, lr=0.5, seed=3), ALONE, resume=True)


def test_a_run_that_was_moved_goes_on(tmp_path: Path) -> None:
    open_run(settings(tmp_path), ALONE).rename(tmp_path / "moved")
    config = settings(tmp_path, out=str(tmp_path / "moved"))
    assert open_run(config, ALONE, resume=True) == tmp_path / "moved"


def test_resuming_nothing_begins(tmp_path: Path) -> None:
    assert (open_run(settings(tmp_path), ALONE, resume=True) / "config.json").exists()


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds other files and no run"):
        open_run(settings(tmp_path), ALONE)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"out": ""}, "the run has no folder: name one, for example --out runs/first"),
        ({"data": ()}, "no data was given"),
        ({"epochs": 0}, "epochs is 0: it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0: it must be at least 1"),
        ({"lr": 0.0}, "lr is 0.0: it must be above 0"),
        ({"warmup": 1.0}, "warmup is 1.0: it must be at least 0 and below 1"),
        ({"held_out": -0.1}, "held_out is -0.1"),
        ({"clip": -1.0}, "clip is -1.0: it must not be below 0"),
        ({"schedule": "cos"}, "schedule is 'cos': give one of cosine, linear, constant"),
        ({"precision": "fp8"}, "precision is 'fp8': give one of auto, float32, bfloat16"),
    ],
)
def test_a_setting_out_of_range_is_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_run(settings(tmp_path, **changed), ALONE)


def write(folder: Path) -> None:
    (folder / "weights").write_text("1 2 3")


def test_the_model_stays_in_the_run_outside_a_project(tmp_path: Path) -> None:
    config = settings(tmp_path)
    name = keep_model(open_run(config, ALONE), config, ALONE, write)
    assert Path(name) == tmp_path / "runs" / "first" / "model"
    assert (Path(name) / "weights").read_text() == "1 2 3"


def test_the_model_becomes_a_version_in_a_project(tmp_path: Path) -> None:
    project = Project.create(tmp_path)
    (tmp_path / "d.jsonl").write_text("{}\n")
    config = settings(tmp_path, data=(str(tmp_path / "d.jsonl"),))
    assert keep_model(open_run(config, ALONE), config, ALONE, write) == "first@1"
    made = project.version("first@1")
    assert (made.folder / "weights").read_text() == "1 2 3"
    assert made.base == "smollm2-135m" and list(made.data) == ["d.jsonl"] and made.config["lr"] == config.lr
    again = settings(tmp_path, out=str(tmp_path / "runs" / "second"), model="first@1")
    assert keep_model(open_run(again, ALONE), again, ALONE, write) == "second@1"
    assert project.version("second@1").parents == ("first@1",)
