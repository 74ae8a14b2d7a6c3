"""A scalar head: what stands in for the vocabulary head where a model gives a reward or a value.

    r(h) = w · h + b        w ~ N(0, 1 / √(hidden + 1)), b = 0 at the start

(Stiennon et al. 2020, arXiv 2009.01325, appendix B.1, for the start.)
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.errors import BadModel

if TYPE_CHECKING:
    import torch

FILE = "scalar_head.safetensors"


class ScalarHead:
    """One number for each state."""

    def __init__(self, hidden: int, *, device: Any = "cpu", dtype: torch.dtype | None = None) -> None:
        import torch

        weight = torch.randn(hidden) / math.sqrt(hidden + 1)
        self.weight = torch.nn.Parameter(weight.to(device, dtype))  # (hidden,)
        self.bias = torch.nn.Parameter(torch.zeros((), device=device, dtype=dtype))

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Numbers (...) for states (..., hidden)."""
        # A product and a sum, since autocast would take a matrix product in bfloat16, whose eight bits are too few
        # for the small differences between rewards.
        return (states.to(self.weight.dtype) * self.weight).sum(-1) + self.bias

    def parameters(self) -> list[torch.nn.Parameter]:
        return [self.weight, self.bias]

    def standardise(self, given: torch.Tensor) -> None:
        """Moves and scales the head so that the numbers it gave, (n,), would have had mean 0 and spread 1."""
        import torch

        spread = given.std(correction=0)
        assert len(given) > 1 and spread > 0, f"{len(given)} numbers with a spread of {spread.item()}"
        with torch.no_grad():
            self.bias.sub_(given.mean()).div_(spread)
            self.weight.div_(spread)

    def save(self, folder: str | Path) -> None:
        """Writes the head into the folder of its adapter or model."""
        from safetensors.torch import save_file

        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file({"weight": self.weight.detach(), "bias": self.bias.detach()}, Path(folder) / FILE)

    @classmethod
    def load(cls, folder: str | Path, *, device: Any = "cpu") -> ScalarHead:
        """The head that was saved there."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = Path(folder) / FILE
        if not path.is_file():
            raise BadModel(f"{str(folder)!r} has no {FILE}: it holds no reward model or value function of ours")
        try:
            kept = load_file(path)
            weight, bias = kept["weight"], kept["bias"]
        except (SafetensorError, KeyError, OSError) as error:
            raise BadModel(f"{str(path)!r} is not a scalar head: {error}") from error
        head = cls(len(weight), device=device, dtype=weight.dtype)
        head.weight.data.copy_(weight)
        head.bias.data.copy_(bias)
        return head
