"""What the tests of whole runs share: tiny settings, what a run measured, a run that is killed, a run of two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plumbline.training.run import Settings

TINY: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 8,
    "tokens": 400,
    "lr": 3e-3,
    "every": 3,
    "lora_rank": 4,
    "precision": "float32",
    "device": "cpu",
}


def write(path: Path, *lines: Any) -> tuple[str, ...]:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return (str(path),)


def lines(folder: Path) -> list[dict[str, Any]]:
    """What the run measured, without the time that it took."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


TRAIN = """
import json, os, signal, sys
from importlib import import_module

method, settings, step = import_module(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]

def kill(event, arguments):
    if event == "os.rename" and step and step in str(arguments):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
method.train(method.Config(**settings))
"""


def run_killed(config: Settings, step: str) -> None:
    """Runs the settings' method in a process that is killed while that checkpoint gets its name."""
    command = [sys.executable, "-c", TRAIN, type(config).__module__, json.dumps(asdict(config)), step]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]


def run_two(config: Settings, folder: Path) -> None:
    """Runs the settings' method in two processes. One that ends by a signal says where each of its threads stood."""
    script = folder / "both.py"
    script.write_text(TRAIN)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    command = [*launch, type(config).__module__, json.dumps(asdict(config)), ""]
    told = {**os.environ, "PYTHONFAULTHANDLER": "1"}
    done = subprocess.run(command, env=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # all of it: the launcher's own trace comes last and hides the cause
