"""Where a run computes: its device, its precision, and its place among several processes.

Several processes (`torchrun --nproc-per-node 2 ...`) each hold the whole model and take a share of every step. Our
forward passes call the model below its wrapper, which a wrapper for data parallelism does not see, so the gradients
are added up here, by one call a step. The losses are divided by the whole step's denominators (see `batches`), so
the sum over processes is the gradient that one process would have.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.errors import UserError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "float32", "bfloat16")
APART = 1_000_003
"""A prime between the seeds of two processes, so that nearby seeds of runs share no stream."""


@dataclass(frozen=True)
class Process:
    """This process: the `rank`-th of `world`, computing on `device` in `precision`."""

    device: torch.device
    precision: str
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks to people."""
        return self.rank == 0

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, matrix products are taken in the run's precision; the weights stay as they are."""
        import torch

        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.precision))

    def spread(self, parameters: Iterable[torch.Tensor]) -> None:
        """Gives every process the values that the first one holds."""
        if self.world == 1:
            return
        import torch.distributed as dist

        for each in parameters:
            dist.broadcast(each.data, src=0)

    def reduce_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Adds up the gradients of all processes, in one message for each type of number."""
        if self.world == 1:
            return
        import torch
        import torch.distributed as dist

        by_type: dict[torch.dtype, list[torch.nn.Parameter]] = {}
        for each in parameters:
            if each.grad is None:  # this process had no example
                each.grad = torch.zeros_like(each)
            by_type.setdefault(each.dtype, []).append(each)
        for same in by_type.values():
            gradients = [each.grad for each in same if each.grad is not None]
            flat = torch.cat([each.flatten() for each in gradients])
            dist.all_reduce(flat)
            begin = 0
            for gradient in gradients:
                gradient.copy_(flat[begin : begin + gradient.numel()].view_as(gradient))
                begin += gradient.numel()

    def total(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each value added up over all processes; one that a process lacks counts as 0."""
        gathered = self.gather(dict(values))
        names = dict.fromkeys(name for each in gathered for name in each)
        return {name: sum(each.get(name, 0.0) for each in gathered) for name in names}

    def gather(self, value: Any) -> list[Any]:
        """What each process gave, by rank."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Returns when all processes have come here."""
        self.gather(None)


@contextlib.contextmanager
def started(device: str = "auto", precision: str = "auto", *, seed: int = 0) -> Iterator[Process]:
    """This process, seeded, and joined with the others where a launcher started several."""
    from plumbline.models.families import pick_device

    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if device == "auto" and world > 1 and "LOCAL_RANK" in os.environ:
        device = _own_gpu() or "cpu"
    place = pick_device(device)
    process = Process(place, pick_precision(precision, place), rank, world)
    plant_seeds(seed + APART * rank)
    with _joined(process), _shortage_told():
        yield process


@contextlib.contextmanager
def _joined(process: Process) -> Iterator[None]:
    if process.world == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    # Its functions take the group that there is when it is first imported as a default and so keep it for ever; what
    # gloo's threads hold is then freed when Python is gone, which ends the process by SIGABRT now and then.
    import torch.distributed.nn  # noqa: F401

    if process.device.type == "cuda":
        torch.cuda.set_device(process.device)  # messages of objects go through the current one
    dist.init_process_group("nccl" if process.device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def _own_gpu() -> str | None:
    import torch

    return f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else None


@contextlib.contextmanager
def _shortage_told() -> Iterator[None]:
    """Says what to lower where memory runs out."""
    from plumbline.models.memory import ran_out

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise UserError(
            f"memory ran out ({str(error).splitlines()[0] if str(error) else 'no more is known'}): lower --tokens "
            "(the result stays the same), pass --recompute, train adapters (--lora-rank 16) or fewer layers "
            "(--top-layers), and --resume goes on from the last checkpoint"
        ) from error


def plant_seeds(seed: int) -> None:
    """Seeds the random numbers of Python, numpy and torch."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Where the random numbers of Python, numpy and torch stand, in types that load without running code."""
    import numpy as np
    import torch

    legacy: Any = np.random.get_state()
    name, keys, *rest = legacy
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype("int64")), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Puts the random numbers back to where `random_state` found them."""
    import numpy as np
    import torch

    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype("uint32"), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])


def pick_precision(precision: str, device: torch.device) -> str:
    """The precision of that name; "auto" is bfloat16 where the hardware multiplies it, never by a measurement.

    A measured choice could fall out otherwise at the next start, and a resumed run would not be the same run.
    """
    import torch

    if precision not in PRECISIONS:
        raise UserError(f"precision is {precision!r}: give one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    has = torch.cuda.is_bf16_supported() if device.type == "cuda" else device.type == "cpu" and _cpu_multiplies_bf16()
    return "bfloat16" if has else "float32"


@lru_cache(maxsize=1)
def _cpu_multiplies_bf16() -> bool:
    """Whether the processor has instructions for it: without them bfloat16 is slower than float32."""
    info = Path("/proc/cpuinfo")
    words = set(info.read_text(encoding="utf-8").split()) if info.exists() else set()
    return bool(words & {"amx_bf16", "avx512_bf16"})
