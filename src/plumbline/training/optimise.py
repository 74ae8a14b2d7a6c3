"""AdamW, its learning rate over the run, and clipping, as one thing that a checkpoint keeps.

    rate(n) = lr · n / warm-up                                        for n = 1 … warm-up
    rate(n) = lr · decay((n − 1 − warm-up) / (steps − warm-up))       from there to n = steps

    constant   decay(x) = 1
    linear     decay(x) = 1 − (1 − floor) · x
    cosine     decay(x) = floor + (1 − floor) · (1 + cos πx) / 2

Weight decay is left off vectors (norms and biases), as usual. (Loshchilov and Hutter 2019, arXiv 1711.05101.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from plumbline.errors import UserError

if TYPE_CHECKING:
    import torch

    from plumbline.training.run import Settings

SCHEDULES = ("cosine", "linear", "constant")


def rate(number: int, steps: int, *, warmup: int, schedule: str, floor: float = 0.0) -> float:
    """The share of the learning rate in force at step `number` of `steps`."""
    if number <= warmup:
        return number / warmup
    done = (number - 1 - warmup) / (steps - warmup)
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1.0 - (1.0 - floor) * done
    if schedule == "cosine":
        return floor + (1.0 - floor) * (1.0 + math.cos(math.pi * done)) / 2
    raise UserError(f"schedule is {schedule!r}: give one of {', '.join(SCHEDULES)}")


class Optimiser:
    """Takes the run's steps. `warmup` is a share of the run, `floor` the share of `lr` that is left at its end."""

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        *,
        steps: int,
        lr: float,
        warmup: float = 0.0,
        schedule: str = "cosine",
        floor: float = 0.0,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        clip: float = 1.0,
    ) -> None:
        import torch

        self.parameters = list(parameters)
        assert self.parameters, "there is nothing to optimise"
        self.done, self.steps, self.lr, self.clip = 0, steps, lr, clip
        self.shape: dict[str, Any] = {"warmup": round(warmup * steps), "schedule": schedule, "floor": floor}
        rate(1, steps, **self.shape)  # an unknown schedule is told before the first step
        matrices = [each for each in self.parameters if each.ndim > 1]
        vectors = [each for each in self.parameters if each.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.adam = torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=betas, eps=eps)

    @classmethod
    def of(
        cls,
        config: Settings,
        parameters: Iterable[torch.nn.Parameter],
        *,
        steps: int,
        lr: float | None = None,
        eps: float = 1e-8,
    ) -> Optimiser:
        """As the run's settings say, but for another learning rate where one is given."""
        return cls(
            parameters,
            steps=steps,
            lr=config.lr if lr is None else lr,
            eps=eps,
            warmup=config.warmup,
            schedule=config.schedule,
            floor=config.lr_floor,
            weight_decay=config.weight_decay,
            clip=config.clip,
        )

    def step(self, of: object = "this step") -> dict[str, float]:
        """Clips the gradients, moves the parameters and clears the gradients; returns what was done.

        `of` names the batch where the gradients are not finite: then nothing is moved and the run ends with an error.
        """
        import torch

        with_gradient = [each for each in self.parameters if each.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(with_gradient, self.clip or math.inf))
        if not math.isfinite(norm):
            raise UserError(
                f"the gradients of {of} are not finite (their norm is {norm}), and no weight was moved: look at these "
                f"examples, or lower the learning rate (now {self.lr:g}); the last checkpoint is good, and --resume "
                "goes on from it"
            )
        self.done += 1
        lr = self.lr * rate(self.done, self.steps, **self.shape)
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return {"lr": lr, "gradient_norm": norm}

    def state_dict(self) -> dict[str, Any]:
        return {"adam": self.adam.state_dict(), "done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adam.load_state_dict(state["adam"])
        self.done = state["done"]
