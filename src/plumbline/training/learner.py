"""The model that a run trains: all its weights, or adapters over weights that stay as they are."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.errors import UserError
from plumbline.models.adapters import TOKENIZER_FILES, Hats, LoRA
from plumbline.models.grouped import Answers, Group, forward
from plumbline.models.logprobs import Head, token_logprobs
from plumbline.models.tokenizer import Tokenizer
from plumbline.models.trunk import Trunk
from plumbline.training.batches import micro_batches, size
from plumbline.training.devices import Process
from plumbline.training.run import Settings

if TYPE_CHECKING:
    import torch

HAT = "policy"
"""The adapters' name."""


@dataclass(frozen=True)
class Learner:
    """A decoder-only model in training. It is never in training mode: dropout is asked for where it is wanted."""

    folder: Path
    """Where the model came from."""
    tokenizer: Tokenizer
    model: Any
    weights: list[torch.nn.Parameter]
    """What is trained."""
    process: Process
    recompute: bool = False
    hats: Hats | None = None
    """The adapters, None where all weights are trained."""
    trunk: Trunk | None = None
    """What lies below the adapters where they are on the top layers only."""

    @classmethod
    def load(cls, config: Settings, process: Process) -> Learner:
        """The model that the settings name, the same on every process."""
        import torch

        from plumbline.models.families import load_causal
        from plumbline.models.resolve import resolve

        source = resolve(config.model)
        if source.kind != "folder":
            raise UserError(f"{config.model!r} cannot be trained here: name a local model or one from a hub")
        model: Any = load_causal(source.folder, device=str(process.device), dtype="float32")
        hats: Hats | None = None
        trunk: Trunk | None = None
        if config.lora_rank:
            hats = Hats(model)
            hats.add(HAT, LoRA(rank=config.lora_rank, alpha=config.lora_alpha, top_layers=config.top_layers))
            weights = hats.parameters(HAT)
            trunk = Trunk(model, config.top_layers) if config.top_layers else None
            if process.precision != "float32" and (trunk is None or trunk.works()):
                hats.round_base(getattr(torch, process.precision))
        else:
            weights = list(model.requires_grad_(True).parameters())
        process.spread(weights)
        return cls(source.folder, Tokenizer(source.folder), model, weights, process, config.recompute, hats, trunk)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Inside, the model computes with what is trained."""
        with self.hats.wearing(HAT) if self.hats else contextlib.nullcontext():
            yield

    def make_room(self, groups: Sequence[Group], config: Settings, *, passes: int) -> bool:
        """From here on, what lies below the adapters is kept for these groups when it is first computed, where it fits.

        They will be seen `passes` times; what was kept of others is forgotten. Returns whether anything is kept.
        """
        if self.trunk is None:
            return False
        self.trunk.keep = self.kept_bytes(groups, config, passes=passes)
        self.trunk.forget()
        return self.trunk.keep > 0

    def prepare(self, groups: Sequence[Group], config: Settings) -> None:
        """Computes what lies below the adapters for these groups once, where it fits, and keeps it for all epochs.

        All of it or nothing, and in an order of its own: rounding depends on what shares a pass, and a run that goes
        on must find the same bits.
        """
        import torch

        if not self.make_room(groups, config, passes=config.epochs):
            return
        sizes = [size(group) for group in groups]
        with torch.no_grad():
            for places in micro_batches(sizes, range(len(groups)), config.tokens, device=self.process.device.type):
                self.answers([groups[place] for place in places])

    def kept_bytes(self, groups: Sequence[Group], config: Settings, *, passes: int) -> int:
        """What `prepare` keeps of these groups: 0 where nothing lies below, where all is seen once, or no room is."""
        if self.trunk is None or passes == 1:
            return 0
        different = {(tuple(group.prompt), tuple(map(tuple, group.completions))) for group in groups}
        tokens = sum(len(prompt) + sum(map(len, completions)) for prompt, completions in different)
        needed: int = tokens * self.model.config.hidden_size * 4
        return needed if needed <= config.trunk_memory * 1e9 else 0

    def answers(self, groups: Sequence[Group]) -> Answers:
        """The completions' states under what is worn, in the run's precision."""
        trunk = self.trunk if self.trunk and self.trunk.lies_below_what_is_worn() else None
        with self.process.autocast():
            return forward(self.model, groups, recompute=self.recompute, trunk=trunk)

    def logprobs(
        self, groups: Sequence[Group], temperature: float = 1.0, *, entropy_gradient: bool = False
    ) -> tuple[Answers, torch.Tensor, torch.Tensor]:
        """The completions' states, and the log-prob and entropy of each of their tokens, both (tokens,).

        The entropy is to be looked at: gradients flow through it only where `entropy_gradient` says so.
        """
        answers = self.answers(groups)
        with self.process.autocast():
            head = Head.of(self.model)
            return answers, *token_logprobs(
                head, answers.states, answers.targets, temperature, entropy_gradient=entropy_gradient
            )

    def save(self, folder: Path) -> None:
        """Writes the trained model as a folder that `load` takes; adapters also by themselves, as `adapter/`."""
        if self.hats is not None:
            self.hats.export(HAT, folder)
            self.hats.save(HAT, folder / "adapter")
            return
        from plumbline.models.families import quiet

        with quiet():
            self.model.save_pretrained(folder)
        for name in TOKENIZER_FILES:
            if (self.folder / name).is_file():
                shutil.copy2(self.folder / name, folder)
