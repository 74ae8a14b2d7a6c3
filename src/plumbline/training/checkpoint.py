"""A run that is killed goes on from its last checkpoint as if nothing had happened, to the bit.

    checkpoints/step-00000120/state.pt          weights, optimiser and whatever else has a state, random numbers
    checkpoints/step-00000120/checkpoint.json   the step and its score

A checkpoint is written beside its place, forced to the disk and renamed, so one that is there is whole, whenever the
process was killed. The last one is kept and the one with the lowest score. Where the run stood in its data is the
step's number (see `batches`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from plumbline.errors import UserError
from plumbline.project import placed_whole
from plumbline.training.devices import Process, random_state, set_random_state

if TYPE_CHECKING:
    import torch

STATE, CARD = "state.pt", "checkpoint.json"


class Stateful(Protocol):
    """What a checkpoint can keep beside weights: tensors, numbers and texts in dicts and lists."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Checkpoint:
    """One that is on the disk."""

    folder: Path
    step: int
    score: float | None
    """Lower is better; None where nothing was measured."""


def find(folder: Path) -> list[Checkpoint]:
    """The checkpoints of a run, the last one at the end. Half ones and those being removed have other names."""
    found = []
    for place in folder.glob("step-*"):
        card = json.loads((place / CARD).read_text(encoding="utf-8"))
        found.append(Checkpoint(place, card["step"], card["score"]))
    return sorted(found, key=lambda each: each.step)


def latest(folder: Path) -> Checkpoint | None:
    return next(reversed(find(folder)), None)


def best(folder: Path) -> Checkpoint | None:
    """The one with the lowest score, the earlier one of equals."""
    scored = [(each.score, each.step, each) for each in find(folder) if each.score is not None]
    return min(scored)[-1] if scored else None


class Checkpoints:
    """Saves and restores the given weights, each of `parts`, and the random numbers of every process."""

    def __init__(self, folder: Path, process: Process, weights: Iterable[torch.Tensor], **parts: Stateful) -> None:
        self.folder = folder
        self.process = process
        self.weights = list(weights)
        self.parts = parts

    def save(self, step: int, score: float | None = None) -> None:
        """Keeps the state after `step`; all processes call it, the first one writes."""
        import torch

        randoms = self.process.gather(random_state())
        place = self.folder / f"step-{step:08}"
        if self.process.first and not place.exists():
            state = {
                "weights": [each.detach() for each in self.weights],
                "parts": {name: part.state_dict() for name, part in self.parts.items()},
                "random": randoms,
            }
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with placed_whole(place) as filling:
                    torch.save(state, filling / STATE)
                    card = {"step": step, "score": score}
                    (filling / CARD).write_text(json.dumps(card) + "\n", encoding="utf-8")
            except (OSError, RuntimeError) as error:  # torch tells of a full disk by a RuntimeError
                raise UserError(
                    f"the checkpoint of step {step} cannot be written to {str(self.folder)!r} ({error}): make room, "
                    "and --resume goes on from the one before"
                ) from error
            self._tidy()
        self.process.wait()

    def restore(self) -> int:
        """Puts back the last state; returns the steps done, 0 where there is no checkpoint."""
        found = latest(self.folder)
        if found is None:
            return 0
        state = self._load(found)
        self._set_weights(state)
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        if self.process.rank < len(state["random"]):  # a run may go on with more processes than it had
            set_random_state(state["random"][self.process.rank])
        return found.step

    def take_best(self) -> Checkpoint | None:
        """Puts back the weights with the lowest score, and nothing else; None where no score was given."""
        found = best(self.folder)
        if found is not None:
            self._set_weights(self._load(found))
        return found

    def _load(self, found: Checkpoint) -> dict[str, Any]:
        import torch

        state: dict[str, Any] = torch.load(found.folder / STATE, map_location="cpu", weights_only=True)
        return state

    def _set_weights(self, state: dict[str, Any]) -> None:
        import torch

        with torch.no_grad():
            for mine, kept in zip(self.weights, state["weights"], strict=True):
                mine.copy_(kept)

    def _tidy(self) -> None:
        """Removes all but the last and the best; a folder loses its name before it loses its files."""
        keep = {each.folder for each in (latest(self.folder), best(self.folder)) if each is not None}
        going = self.folder / ".old"
        shutil.rmtree(going, ignore_errors=True)  # what a process that was killed had begun
        for each in find(self.folder):
            if each.folder not in keep:
                each.folder.rename(going)
                shutil.rmtree(going)
