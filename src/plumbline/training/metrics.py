"""What a run tells while it runs: a line a step in metrics.jsonl, a bar with the time left, curves, trackers.

A loss returns, beside itself, numbers that are shares of the step's mean as the loss is: divided by the denominator of
the whole step. So they add up over micro-batches (`Sums`) and over processes (`Process.total`).
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.errors import MissingExtra, UserError
from plumbline.files import replaced
from plumbline.training.curves import draw
from plumbline.training.devices import Process
from plumbline.training.run import Settings

if TYPE_CHECKING:
    import torch

LINES = "metrics.jsonl"
DRAWN_EVERY = 30.0
"""Seconds between two drawings of the curves, and between two lines where no terminal shows a bar."""

Report = Callable[[int, Mapping[str, float]], object]


class Sums(defaultdict[str, float]):
    """Numbers that add up."""

    def __init__(self) -> None:
        super().__init__(float)

    def add(self, values: Mapping[str, torch.Tensor | float]) -> None:
        for name, value in values.items():
            self[name] += float(value)


class Metrics:
    """The run's record, to be opened with `with`. Only the first process writes and shows anything."""

    def __init__(
        self,
        folder: Path,
        process: Process,
        config: Settings,
        *,
        total: int,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.config = folder, config
        self.total, self.begun_at, self.step = total, done, done
        self.active = process.first
        self.clock = clock
        self.rows: list[dict[str, Any]] = []

    def __enter__(self) -> Metrics:
        self.begin = self.drawn = self.told = self.clock()
        self.exits = ExitStack()
        if not self.active:
            return self
        self.rows = keep_until(self.folder / LINES, self.begun_at)
        self.before = self.rows[-1]["seconds"] if self.rows else 0.0
        self.file = self.exits.enter_context((self.folder / LINES).open("a", encoding="utf-8"))
        self.reports = [
            self.exits.enter_context(tracker(name, self.folder, asdict(self.config))) for name in self.config.trackers
        ]
        self.show = self.exits.enter_context(shown(self.folder.name, self.total, self.begun_at))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self.exits.close()
        if self.active and self.rows:
            self._draw("finished" if kind is None else f"stopped: {error}" if str(error) else "stopped", done=True)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Records what is known after `step`: one line, so call it once a step."""
        self.step = step
        if not self.active:
            return
        now = self.clock()
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        row = {"step": step, **finite, "seconds": round(self.before + now - self.begin, 3)}
        self.rows.append(row)
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        for report in self.reports:
            report(step, values)
        told = "  ".join(f"{name} {value:.4g}" for name, value in list(values.items())[:3])
        self.show(step, told, self.left())
        if now - self.drawn >= DRAWN_EVERY:
            self._draw(f"step {step} of {self.total}, {time_text(self.left())} left", done=False)
            self.drawn = self.clock()

    @property
    def first(self) -> Mapping[str, float]:
        """What was known after the first step, on the first process; nothing before that."""
        return self.rows[0] if self.rows else {}

    def left(self) -> float:
        """Seconds that the rest of the run will take at the pace of this process so far."""
        taken = self.step - self.begun_at
        return (self.clock() - self.begin) / taken * (self.total - self.step) if taken else math.inf

    def _draw(self, state: str, *, done: bool) -> None:
        draw(self.folder, self.rows, state=state, done=done, settings=asdict(self.config))


def keep_until(path: Path, done: int) -> list[dict[str, Any]]:
    """The lines up to step `done`; those after it were written by a process that was killed and are taken out."""
    if not path.exists():
        return []
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n") and (row := json.loads(line))["step"] <= done:
            kept.append(row)
    with replaced(path) as file:
        file.writelines(json.dumps(row).encode() + b"\n" for row in kept)
    return kept


def time_text(seconds: float) -> str:
    """Seconds as a person says them."""
    if not math.isfinite(seconds):
        return "unknown time"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


Show = Callable[[int, str, float], None]


@contextmanager
def shown(name: str, total: int, done: int) -> Iterator[Show]:
    """Shows the run on stderr: a bar on a terminal, elsewhere a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(name, total)
        return
    bar = Progress(
        TextColumn(name, markup=False),
        BarColumn(style="dim", complete_style="cyan", finished_style="cyan"),
        MofNCompleteColumn(),
        TextColumn("{task.description}", style="dim", markup=False),
        console=console,
    )
    with bar:
        task = bar.add_task("", total=total, completed=done)
        yield lambda step, told, left: bar.update(
            task, completed=step, description=f"{time_text(left)} left  {told}" if step < total else told
        )


def _lines(name: str, total: int) -> Show:
    last = time.monotonic()

    def show(step: int, told: str, left: float) -> None:
        nonlocal last
        if time.monotonic() - last >= DRAWN_EVERY or step == total:
            last = time.monotonic()
            print(f"{name}: step {step} of {total}, {time_text(left)} left  {told}", file=sys.stderr)

    return show


TRACKERS = {"tensorboard": "torch.utils.tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


@contextmanager
def tracker(name: str, folder: Path, settings: Mapping[str, Any]) -> Iterator[Report]:
    """A function that reports to the tracker of that name. Where it runs and who may is the tracker's own matter,
    told by its own environment variables (MLFLOW_TRACKING_URI, WANDB_API_KEY, ...)."""
    if name not in TRACKERS:
        raise UserError(f"the tracker {name!r} is unknown: give one of {', '.join(TRACKERS)}")
    try:
        library: Any = import_module(TRACKERS[name])
    except ImportError as error:
        raise MissingExtra("trackers", f"reporting to {name}") from error
    if name == "tensorboard":
        with library.SummaryWriter(str(folder / "tensorboard")) as writer:
            yield lambda step, values: [writer.add_scalar(key, value, step) for key, value in values.items()]
    elif name == "mlflow":
        with library.start_run(run_name=folder.name):
            library.log_params(dict(settings))
            yield lambda step, values: library.log_metrics(dict(values), step=step)
    else:
        with library.init(name=folder.name, dir=str(folder), config=dict(settings)) as run:
            yield lambda step, values: run.log(dict(values), step=step)
