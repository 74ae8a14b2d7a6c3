"""The record of a run: its lines, its bar, its trackers, and what a killed process leaves of them."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from plumbline.errors import MissingExtra, UserError
from plumbline.training.devices import Process
from plumbline.training.metrics import Metrics, Sums, keep_until, time_text, tracker
from plumbline.training.run import Settings

ALONE = Process(torch.device("cpu"), "float32")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def log(folder: Path, steps: range, *, process: Process = ALONE, clock: Callable[[], float] | None = None) -> None:
    with Metrics(folder, process, Settings(), total=10, done=steps[0] - 1, clock=clock or Clock()) as metrics:
        for step in steps:
            metrics.log(step, {"loss": 1 / step})


def test_a_line_a_step(tmp_path: Path) -> None:
    log(tmp_path, range(1, 4))
    assert lines(tmp_path) == [{"step": step, "loss": 1 / step, "seconds": 0.0} for step in (1, 2, 3)]


def test_numbers_that_json_has_no_word_for_are_null(tmp_path: Path) -> None:
    with Metrics(tmp_path, ALONE, Settings(), total=1) as metrics:
        metrics.log(1, {"loss": math.nan, "lr": math.inf})
    assert lines(tmp_path)[0] | {"seconds": 0} == {"step": 1, "loss": None, "lr": None, "seconds": 0}


def test_going_on_takes_out_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    """Killed in the middle of writing line 7, with the last checkpoint at step 4."""
    log(tmp_path, range(1, 7))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    log(tmp_path, range(5, 11))
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 11))


def test_the_seconds_go_on_where_they_were(tmp_path: Path) -> None:
    clock = Clock()
    with Metrics(tmp_path, ALONE, Settings(), total=4, clock=clock) as metrics:
        clock.now += 5
        metrics.log(1, {"loss": 1.0})
    clock.now += 1000  # between two processes
    with Metrics(tmp_path, ALONE, Settings(), total=4, done=1, clock=clock) as metrics:
        clock.now += 2
        metrics.log(2, {"loss": 1.0})
        assert metrics.left() == 4.0  # two steps more at two seconds each
    assert [line["seconds"] for line in lines(tmp_path)] == [5.0, 7.0]


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    log(tmp_path, range(1, 4), process=Process(torch.device("cpu"), "float32", rank=1, world=2))
    assert list(tmp_path.iterdir()) == []


def test_the_page_says_how_it_ended(tmp_path: Path) -> None:
    log(tmp_path, range(1, 3))
    assert "<p>finished</p>" in (tmp_path / "index.html").read_text()
    with pytest.raises(UserError):
        with Metrics(tmp_path, ALONE, Settings(), total=9, done=2) as metrics:
            metrics.log(3, {"loss": 1.0})
            raise UserError("the gradients are not finite")
    assert "<p>stopped: the gradients are not finite</p>" in (tmp_path / "index.html").read_text()


def test_the_page_is_drawn_now_and_then(tmp_path: Path) -> None:
    clock = Clock()
    with Metrics(tmp_path, ALONE, Settings(), total=9, clock=clock) as metrics:
        clock.now += 10
        metrics.log(1, {"loss": 1.0})
        assert not (tmp_path / "index.html").exists()
        clock.now += 30
        metrics.log(2, {"loss": 1.0})
        assert "step 2 of 9, 2 min 20 s left" in (tmp_path / "index.html").read_text()


def test_lines_are_kept_up_to_a_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert keep_until(path, 3) == []
    path.write_text('{"step": 1}\n{"step": 3}\n{"step": 4}\n')
    assert keep_until(path, 3) == [{"step": 1}, {"step": 3}]
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'


def test_a_run_says_where_it_is_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "made").mkdir()
    log(tmp_path / "made", range(8, 11))
    assert "made: step 10 of 10, 0 s left  loss 0.1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.4, "4 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7380, "2 h 03 min"), (math.inf, "unknown time")],
)
def test_times_as_a_person_says_them(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


def test_sums_take_tensors_and_numbers() -> None:
    sums = Sums()
    sums.add({"loss": torch.tensor(0.25), "n": 1})
    sums.add({"loss": 0.5})
    assert sums == {"loss": 0.75, "n": 1.0}


# ---- trackers


def test_an_unknown_tracker_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'wandbb' is unknown: give one of tensorboard, mlflow, wandb"):
        with tracker("wandbb", tmp_path, {}):
            pass


def test_a_tracker_that_is_not_installed_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtra, match="reporting to mlflow needs the extra `trackers`"):
        with tracker("mlflow", tmp_path, {}):
            pass


def test_tensorboard_reads_what_was_reported(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tracker("tensorboard", tmp_path, {}) as report:
        report(1, {"loss": 0.5})
        report(2, {"loss": 0.25})
    read = events.EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(each.step, each.value) for each in read.Scalars("loss")] == [(1, 0.5), (2, 0.25)]


def test_mlflow_keeps_what_was_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="the extra `trackers` is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with tracker("mlflow", tmp_path / "first", asdict(Settings(lr=0.5, data=("a.jsonl", "b.jsonl")))) as report:
        report(1, {"loss": 0.5})
        report(2, {"loss": 0.25, "held_out_loss": math.nan})
    from mlflow import MlflowClient

    (run,) = MlflowClient().search_runs(["0"])
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert run.data.params["lr"] == "0.5" and "b.jsonl" in run.data.params["data"]
    history = MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [(each.step, each.value) for each in history] == [(1, 0.5), (2, 0.25)]


class Recorder:
    """Stands for a tracker's run: open, then closed, with what it was told in between."""

    def __init__(self, told: list[Any]) -> None:
        self.told = told

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.told.append("closed")

    def log(self, values: dict[str, float], step: int) -> None:
        self.told.append((step, values))


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_trackers_are_told_settings_and_figures_and_closed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against their documented interfaces, wherever the libraries themselves are not there."""
    told: list[Any] = []
    recorder = Recorder(told)
    module: Any = ModuleType(name)

    def begin(**given: Any) -> Recorder:
        told.append(given.get("config", given))
        return recorder

    module.init = module.start_run = begin
    module.log_params = told.append
    module.log_metrics = recorder.log
    monkeypatch.setitem(sys.modules, name, module)
    with Metrics(tmp_path, ALONE, Settings(trackers=(name,), lr=0.5), total=1) as metrics:
        metrics.log(1, {"loss": 0.5})
    assert told[-2:] == [(1, {"loss": 0.5}), "closed"]
    assert any(isinstance(each, dict) and each.get("lr") == 0.5 for each in told[:-2])
