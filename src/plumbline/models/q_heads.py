"""Q heads: what every next token would be worth, and a policy that is guided by it.

    Q(h, a) = u_a · (D h) + b            D (rank, hidden), u (vocabulary, rank)
    guided    log π(a | h) + β · (min(Q₁, Q₂)(h, a) − V(h))

A full head has vocabulary × hidden numbers, and four of them with their optimiser's moments would be larger than most
models they stand on; one of low rank has (vocabulary + hidden) × rank. V(h) is the same for every token, so a softmax
does not see it, and guiding needs no value head.

A model folder with `q_heads.safetensors` is answered by its guided policy. β stands in `q_heads.json` beside it: 0 is
the policy alone, more follows the rewards further.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.errors import BadModel
from plumbline.models.logprobs import Head, token_logprobs

if TYPE_CHECKING:
    import torch

FILE, CARD = "q_heads.safetensors", "q_heads.json"


class QHead:
    """One head of low rank. At the start every token is worth `level`."""

    def __init__(
        self, hidden: int, vocabulary: int, rank: int, *, level: float = 0.0, device: Any = "cpu", dtype: Any = None
    ) -> None:
        import torch

        down = torch.randn(rank, hidden) / math.sqrt(hidden)
        self.down = torch.nn.Parameter(down.to(device, dtype))  # (rank, hidden)
        self.up = torch.nn.Parameter(torch.zeros(vocabulary, rank, device=device, dtype=dtype))
        self.level = torch.nn.Parameter(torch.full((), level, device=device, dtype=dtype))

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Q (rows, vocabulary) of every token in states (rows, hidden): for a few rows only."""
        return self._narrow(states) @ self.up.T + self.level

    def tokens(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Q (rows,) of one token in each state."""
        return (self._narrow(states) * self.up[tokens]).sum(-1) + self.level

    def logprobs(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """log softmax Q (rows,) at one token of each state; the vocabulary is taken in chunks."""
        return token_logprobs(Head(self.up), self._narrow(states), tokens, entropy_gradient=False)[0]

    def _narrow(self, states: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.nn.functional.linear(states.to(self.down.dtype), self.down)

    def parameters(self) -> list[torch.nn.Parameter]:
        return [self.down, self.up, self.level]


@dataclass
class Guide:
    """A policy's vocabulary head with the Q heads that guide it."""

    policy: Head
    heads: Sequence[QHead]
    beta: float

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Guided logits (rows, vocabulary) of states (rows, hidden)."""
        import torch

        logits = self.policy.logits(states)
        if not self.beta:
            return logits
        return logits + self.beta * reduce(torch.minimum, (head(states) for head in self.heads)).to(logits.dtype)


def save_q_heads(folder: str | Path, heads: Sequence[QHead], beta: float) -> None:
    """Writes the heads into the folder of their model."""
    from safetensors.torch import save_file

    tensors = {
        f"{number}.{name}": getattr(head, name).detach().contiguous()
        for number, head in enumerate(heads)
        for name in ("down", "up", "level")
    }
    save_file(tensors, Path(folder) / FILE)
    (Path(folder) / CARD).write_text(json.dumps({"beta": beta}) + "\n", encoding="utf-8")


def load_guide(folder: str | Path, model: Any) -> Guide | None:
    """What guides the model in that folder; None where nothing does."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        kept = load_file(path)
        heads = [_head(kept, number, model.device) for number in range(len(kept) // 3)]
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise BadModel(f"{str(path)!r} does not hold Q heads: {error}") from error
    policy = Head.of(model)
    for head in heads:
        if (len(head.up), head.down.shape[1]) != tuple(policy.weight.shape):
            raise BadModel(
                f"{str(path)!r} holds Q heads for {len(head.up)} tokens and states of {head.down.shape[1]} numbers, "
                f"and its model has {' and '.join(map(str, policy.weight.shape))}: they belong to another model"
            )
    return Guide(policy, heads, _beta(Path(folder) / CARD))


def _head(kept: dict[str, torch.Tensor], number: int, device: Any) -> QHead:
    down, up = kept[f"{number}.down"], kept[f"{number}.up"]
    head = QHead(down.shape[1], len(up), len(down), device=device, dtype=down.dtype)
    for name in ("down", "up", "level"):
        getattr(head, name).data.copy_(kept[f"{number}.{name}"])
    return head


def _beta(path: Path) -> float:
    try:
        beta = json.loads(path.read_text(encoding="utf-8"))["beta"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadModel(f'{str(path)!r} does not say beta: write {{"beta": 1.0}} into it') from error
    if not isinstance(beta, (int, float)) or not math.isfinite(beta):
        raise BadModel(f"{str(path)!r} has the beta {beta!r}: it must be a finite number")
    return float(beta)
