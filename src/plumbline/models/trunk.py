"""The trunk: the layers below the adapters, computed once for all hats and all epochs.

    states = top(trunk(ids))        trunk: frozen, no gradients, no adapter; top: the N layers that adapters change

What the trunk makes of a prompt and its completions depends on their tokens alone. So it is computed without
gradients, may be kept, and the passes of policy, value, reward and reference begin above it.

The model itself runs both halves: a pass of it in which the layers of the other half hand on what they are given.
Masks, positions, layer numbers and the cache are therefore the model's own, and nothing has to be shifted. A
self-test at the first use decides per model; where it fails every layer is computed each time, and said once.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plumbline.models.grouped import Group, Path, decoder_layers, difference, forward, works

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Below:
    """A group's states as they leave the trunk."""

    prompt: torch.Tensor  # (its tokens, hidden)
    completions: list[torch.Tensor]  # each (its tokens, hidden)

    def copy(self) -> Below:
        """The same, without the batch that it is a part of."""
        return Below(self.prompt.clone(), [completion.clone() for completion in self.completions])

    @property
    def bytes(self) -> int:
        return sum(each.nbytes for each in (self.prompt, *self.completions))


class Trunk:
    """All but the top N layers of a model whose adapters sit on these N; given to `grouped.forward`.

    `keep` is the room, in bytes, for the states of groups that were seen: the next pass over such a group, by
    whichever hat, computes the top only. Groups beyond it are computed each time. Use the trunk outside training
    mode: kept states would keep a dropout's choice.
    """

    def __init__(self, model: Any, top_layers: int, *, keep: int = 0) -> None:
        self.model = model
        self.layers = decoder_layers(model)
        self.height = len(self.layers) - top_layers
        assert 0 <= self.height < len(self.layers), f"{top_layers} of {len(self.layers)} layers"
        self.keep = keep
        self._kept: dict[Any, Below] = {}
        self._room = keep
        self._works: bool | None = None
        self._in_tuples = False

    def forget(self) -> None:
        """Makes room for other groups."""
        self._kept.clear()
        self._room = self.keep

    def states(self, groups: Sequence[Group], path: Path) -> list[Below]:
        """What the trunk makes of each group, kept or computed now on that path, "grouped" or "plain"."""
        keys = [(tuple(group.prompt), tuple(map(tuple, group.completions))) for group in groups]
        found = {key: self._kept[key] for key in keys if key in self._kept}
        lacking = {key: group for key, group in zip(keys, groups, strict=True) if key not in found}
        if lacking:
            self._check_free()
            for key, below in zip(lacking, self._compute(list(lacking.values()), path), strict=True):
                found[key] = below
                if below.bytes <= self._room:
                    found[key] = self._kept[key] = below.copy()
                    self._room -= below.bytes
        return [found[key] for key in keys]

    @contextlib.contextmanager
    def skipped(self, groups: Sequence[Group], path: Path) -> Iterator[None]:
        """Inside, one forward pass over the groups on that path begins above the trunk."""
        if self.height == 0 or not self.works():
            yield
            return
        given = iter(_laid_out(self.states(groups, path), path))
        top = self.layers[self.height].forward

        def enter(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            return top(next(given), *args, **kwargs)

        with _replaced({**dict.fromkeys(self.layers[: self.height], self._hand_on), self.layers[self.height]: enter}):
            yield

    def works(self) -> bool:
        """The self-test, once: both halves after one another give the states of the whole."""
        if self._works is None:
            self._check_free()
            self._works = True  # for the passes of the test itself
            why = self._self_test()
            self._works = not why
            if why:
                kind = type(self.model).__name__
                print(
                    f"plumb: {kind} does not pass the trunk's self-test ({why}); all layers are computed",
                    file=sys.stderr,
                )
        return self._works

    def _self_test(self) -> str:
        """Why the halves are not the whole; "" if they are."""
        import torch

        def note(_: Any, __: Any, output: Any) -> None:
            self._in_tuples = isinstance(output, tuple)

        hook = self.layers[0].register_forward_hook(note)
        with torch.no_grad():
            forward(self.model, [Group([0], [[0]])])
        hook.remove()

        def off_by(path: Path) -> str:
            try:
                return difference(
                    self.model,
                    lambda groups: forward(self.model, groups, path=path, trunk=self),
                    lambda groups: forward(self.model, groups, path="plain"),
                )
            finally:
                self.forget()

        return off_by("plain") or (off_by("grouped") if works(self.model) else "")

    def _compute(self, groups: Sequence[Group], path: Path) -> list[Below]:
        import torch

        taken: list[torch.Tensor] = []

        def take(hidden_states: torch.Tensor, *_: Any, **__: Any) -> Any:
            taken.append(hidden_states)
            return self._hand_on(hidden_states)

        works(self.model)  # its self-test wants whole layers
        above = dict.fromkeys(self.layers[self.height + 1 :], self._hand_on)
        with torch.no_grad(), _replaced({self.layers[self.height]: take, **above}):
            forward(self.model, groups, path=path)
        return list(_taken_apart(taken, groups))

    def _hand_on(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        """What a layer does that belongs to the other half."""
        return (hidden_states, None) if self._in_tuples else hidden_states

    def lies_below_what_is_worn(self) -> bool:
        """Whether the adapter that computes now changes nothing in the trunk."""
        hats: Any = getattr(self.model, "hats", None)
        return hats is None or hats.worn is None or hats.lowest_layer(hats.worn) >= self.height

    def _check_free(self) -> None:
        """The trunk is one for all: nothing in it is trained, and what is worn does not reach into it."""
        hats: Any = getattr(self.model, "hats", None)
        assert self.lies_below_what_is_worn(), (
            f"{hats.worn!r} changes layer {hats.lowest_layer(hats.worn)}, and the trunk has {self.height} layers"
        )
        adapters = {id(each) for name in (hats.names if hats else ()) for each in hats.parameters(name)}
        below = (self.model.get_input_embeddings(), *self.layers[: self.height])
        trained = any(
            each.requires_grad and id(each) not in adapters for module in below for each in module.parameters()
        )
        assert not trained, f"a weight below layer {self.height} is trained: the trunk must be frozen"


@contextlib.contextmanager
def _replaced(forwards: dict[Any, Callable[..., Any]]) -> Iterator[None]:
    """Inside, each of these layers computes what is given for it."""
    before = {layer: vars(layer).get("forward") for layer in forwards}
    for layer, instead in forwards.items():
        layer.forward = instead
    try:
        yield
    finally:
        for layer, was in before.items():
            if was is None:
                del layer.forward  # the class's own shows again
            else:
                layer.forward = was


def _laid_out(states: Sequence[Below], path: Path) -> list[torch.Tensor]:
    """The inputs of the path's forward passes, padded as the path pads its ids."""
    from torch.nn.utils.rnn import pad_sequence

    if path == "grouped":
        completions = [completion for below in states for completion in below.completions]
        prompts = pad_sequence([below.prompt for below in states], batch_first=True, padding_side="left")
        return [prompts, pad_sequence(completions, batch_first=True)]
    rows = [(below.prompt, completion) for below in states for completion in below.completions]
    return [pad_sequence([_joined(*row) for row in rows], batch_first=True)]


def _joined(prompt: torch.Tensor, completion: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.cat([prompt, completion])


def _taken_apart(taken: Sequence[torch.Tensor], groups: Sequence[Group]) -> Iterator[Below]:
    """The states of each group, from those of the grouped path's two passes or of the plain path's one."""
    row = 0
    for number, group in enumerate(groups):
        length, rows = len(group.prompt), range(row, row + len(group.completions))
        row = rows.stop
        if len(taken) == 2:
            prompts, completions = taken
            prompt = prompts[number, prompts.shape[1] - length :]
            begin = 0
        else:
            (completions,) = taken
            prompt = completions[rows.start, :length]
            begin = length
        yield Below(
            prompt,
            [
                completions[place, begin : begin + len(completion)]
                for place, completion in zip(rows, group.completions, strict=True)
            ],
        )
