"""What all runs have: settings, a folder that no other run writes to, and a model at the end.

runs/NAME/config.json     the settings, whole
runs/NAME/metrics.jsonl, index.html, *.png, checkpoints/, model/
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from plumbline.errors import UserError
from plumbline.files import replaced
from plumbline.project import Project
from plumbline.training.devices import PRECISIONS, Process
from plumbline.training.optimise import SCHEDULES

CONFIG = "config.json"


@dataclass(frozen=True)
class Settings:
    """What every method can be told. A method's `Config` adds its own and may change a default."""

    data: tuple[str, ...] = ()
    """File of records to learn from; give it several times for several files."""
    model: str = "smollm2-135m"
    """Model to start from: a bundled name, a version (name@n), a folder, a GGUF file or a hub id."""
    out: str = ""
    """Folder of the run, for example runs/first."""
    epochs: int = 1
    """Times that each example is seen."""
    batch_size: int = 16
    """Examples of one optimiser step; an example is a prompt with all its answers."""
    tokens: int = 4096
    """Most tokens of one forward pass, padding included: fewer take less memory, and the result stays the same."""
    lr: float = 2e-4
    """Learning rate at its highest."""
    warmup: float = 0.03
    """Share of the run in which the learning rate rises to it."""
    schedule: str = "cosine"
    """How it falls afterwards: cosine, linear or constant."""
    lr_floor: float = 0.0
    """Share of it that is left at the end."""
    weight_decay: float = 0.0
    """How strongly weights are pulled to zero."""
    clip: float = 1.0
    """Largest norm of a step's gradient, 0 for any."""
    lora_rank: int = 16
    """Rank of the adapters that are trained; 0 trains all weights."""
    lora_alpha: float = 32.0
    """The adapters' output is multiplied by alpha / rank."""
    top_layers: int = 0
    """Put adapters on the top N layers only, and compute those below once; 0 is all layers."""
    trunk_memory: float = 1.0
    """Gigabytes for the states below the top layers, kept for later epochs; where they do not fit, none are kept."""
    held_out: float = 0.1
    """Share of the prompts that are kept for measuring, where the records name no split."""
    every: int = 100
    """Steps between two looks at the held-out examples, each followed by a checkpoint; an epoch's end is one too."""
    seed: int = 0
    """Decides the order of the data, new weights and dropout."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N."""
    precision: str = "auto"
    """Precision of matrix products: float32, bfloat16, or auto, which takes bfloat16 where the hardware has it."""
    recompute: bool = False
    """Compute the layers' inner results again in the backward pass: less memory, about a third more time."""
    truncate_prompt: bool = False
    """Cut prompts that do not fit the window from the left instead of leaving their examples out."""
    trackers: tuple[str, ...] = ()
    """Also report to tensorboard, mlflow or wandb."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # from JSON
                object.__setattr__(self, field.name, tuple(value))
        for name, least in (("epochs", 1), ("batch_size", 1), ("tokens", 1), ("every", 1), ("lora_rank", 0)):
            self.need(getattr(self, name) >= least, name, f"it must be at least {least}")
        for name in ("warmup", "lr_floor", "held_out"):
            self.need(0.0 <= getattr(self, name) < 1.0, name, "it must be at least 0 and below 1")
        for name in ("weight_decay", "clip", "top_layers", "trunk_memory"):
            self.need(getattr(self, name) >= 0, name, "it must not be below 0")
        self.need(not self.top_layers or self.lora_rank > 0, "top_layers", "it places adapters, and lora_rank is 0")
        self.need(self.lr > 0, "lr", "it must be above 0")
        self.need(self.schedule in SCHEDULES, "schedule", f"give one of {', '.join(SCHEDULES)}")
        self.need(self.precision in PRECISIONS, "precision", f"give one of {', '.join(PRECISIONS)}")

    def need(self, ok: bool, name: str, message: str) -> None:
        """UserError with the setting's value and what it must be, unless that is so."""
        if not ok:
            raise UserError(f"{name} is {getattr(self, name)!r}: {message}")


def open_run(config: Settings, process: Process, *, resume: bool = False) -> Path:
    """The run's folder, made and marked with the settings by the first process, or found again with the same ones."""
    if process.first:
        mark_run(config, resume)
    process.wait()
    return Path(config.out)


def mark_run(config: Settings, resume: bool) -> None:
    if not config.out:
        raise UserError("the run has no folder: name one, for example --out runs/first")
    if not config.data:
        raise UserError("no data was given: name a file of records, for example --data demonstrations.jsonl")
    folder = Path(config.out)
    marked = folder / CONFIG
    settings = json.loads(json.dumps(asdict(config)))
    if marked.exists():
        if not resume:
            raise UserError(
                f"{config.out!r} holds a run already: pass --resume to go on with it, or name another --out"
            )
        refuse_changed(json.loads(marked.read_text(encoding="utf-8")), settings, config.out)
        return
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{config.out!r} is a file: name a folder with --out")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{config.out!r} holds other files and no run: name a new folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    with replaced(marked) as file:
        file.write(json.dumps(settings, indent=2).encode() + b"\n")


def refuse_changed(before: dict[str, Any], now: dict[str, Any], out: str) -> None:
    """UserError with each setting that is not what the run began with."""
    changed = [name for name in now | before if name != "out" and before.get(name) != now.get(name)]
    if changed:
        told = "; ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in changed)
        raise UserError(
            f"the run in {out!r} cannot go on with other settings ({told}): give the ones it began with, or start a "
            "new run with another --out"
        )


def keep_model(folder: Path, config: Settings, process: Process, write: Callable[[Path], object]) -> str:
    """Keeps the finished model: `write(folder)` puts its files into an empty folder. Returns the name to load it by.

    In a project it becomes the next version of the run's name, with what it was made of; elsewhere `model/` of the run.
    """
    kept = _keep(folder, config, write) if process.first else ""
    return str(process.gather(kept)[0])


def _keep(folder: Path, config: Settings, write: Callable[[Path], object]) -> str:
    project = Project.find(folder)
    if project is None:
        place = folder / "model"
        place.mkdir(exist_ok=True)
        write(place)
        return str(place)
    known = {version.ref for version in project.versions()}
    version = project.record_version(
        folder.name,
        write,
        base=config.model,
        parents=[config.model] if config.model in known else [],
        data=[path for path in config.data if Path(path).is_file()],
        config=asdict(config),
    )
    return version.ref
