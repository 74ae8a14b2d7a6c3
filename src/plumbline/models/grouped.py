"""The grouped forward pass: a prompt with its K completions is computed as one thing, gradients included.

    plain     K · (P + C) tokens: every completion with its own copy of the prompt
    grouped   P + K · C tokens: the prompt once, the completions against its keys and values

The prompt's pass keeps its keys and values with their gradients; the completions' pass reads them, row by row, at
positions that go on after the prompt. It is exact for every model whose attention reads the cache as given, and a
self-test at the first use decides per model; where it fails the plain path is taken, and said once.

Recomputation (`recompute=True`) keeps only each layer's input and computes the layer again in backward. The stock
gradient checkpointing drops the cache, silently; here the cache is read and never appended to, so a layer can run
twice.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal

from plumbline.models.batches import pad_left, pad_right
from plumbline.models.shared_attention import Prompts, attending, blocks, share

if TYPE_CHECKING:
    import torch

    from plumbline.models.trunk import Trunk

Path = Literal["auto", "grouped", "plain"]

WORTH = 1.5
"""The plain path's tokens over the grouped path's, from which grouping pays for its second pass."""


@dataclass(frozen=True)
class Group:
    """Token ids of one prompt and of its completions."""

    prompt: Sequence[int]
    completions: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Answers:
    """Hidden states of the completions' tokens, completion after completion, group after group."""

    states: torch.Tensor  # (tokens, hidden), each the state that predicts its target
    targets: torch.Tensor  # (tokens,)
    row: torch.Tensor  # (tokens,), the completion that each token belongs to
    last: torch.Tensor  # (completions, hidden), the state at each completion's own last token

    def sums(self, per_token: torch.Tensor) -> torch.Tensor:
        """Per completion (completions,), the sum of something given per token."""
        return per_token.new_zeros(len(self.last)).index_add(0, self.row, per_token)


def forward(
    model: Any,
    groups: Sequence[Group],
    *,
    path: Path = "auto",
    recompute: bool = False,
    trunk: Trunk | None = None,
) -> Answers:
    """The completions' hidden states under a decoder-only model. Both paths give the same states and gradients.

    With a `trunk` only the layers above it are computed with gradients, from what the trunk made of the groups.
    """
    for group in groups:
        assert group.prompt and group.completions and all(group.completions), "an empty prompt or completion"
    if path == "auto":
        path = "grouped" if pays(groups) and works(model) else "plain"
    shared = path == "grouped" and way(model) == "in place"
    with (
        recomputed(model) if recompute else contextlib.nullcontext(),
        trunk.skipped(groups, path) if trunk is not None else contextlib.nullcontext(),
    ):
        return _grouped(model, groups, shared=shared) if path == "grouped" else _plain(model, groups)


def pays(groups: Sequence[Group]) -> bool:
    """Whether the grouped path saves enough tokens, padding included."""
    prompts, rows = len(groups), sum(len(group.completions) for group in groups)
    prompt = max(len(group.prompt) for group in groups)
    completion = max(len(completion) for group in groups for completion in group.completions)
    return rows * (prompt + completion) >= WORTH * (prompts * prompt + rows * completion)


def _grouped(model: Any, groups: Sequence[Group], *, shared: bool) -> Answers:
    """With `shared` the completions attend to their prompt's keys in place, else every row gets a copy of them."""
    import torch

    device = model.device
    kept, copied, in_place = _layers()
    lengths = torch.tensor([len(group.prompt) for group in groups], device=device)
    ids, mask = (each.to(device) for each in pad_left([group.prompt for group in groups]))
    ragged = bool((lengths != lengths[0]).any())
    cache = _cache([kept() for _ in range(model.config.num_hidden_layers)])
    prompt_states = _base(model)(
        input_ids=ids,
        attention_mask=mask if ragged else None,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    # A layer that was skipped has kept nothing and is asked for its length only, which is that of any other.
    visited = next((layer for layer in cache.layers if layer.is_initialized), cache.layers[0])
    prompts = [layer if layer.is_initialized else visited for layer in cache.layers]
    completions = [completion for group in groups for completion in group.completions]
    group_of = torch.tensor([number for number, group in enumerate(groups) for _ in group.completions], device=device)
    ids, tail = (each.to(device) for each in pad_right(completions))
    parts = blocks([len(group.prompt) for group in groups], [len(group.completions) for group in groups])
    layers = [in_place(layer, parts) if shared else copied(layer, group_of) for layer in prompts]
    with attending(model) if shared else contextlib.nullcontext():
        states = _base(model)(
            input_ids=ids,
            attention_mask=torch.cat([mask[group_of], torch.ones_like(tail)], 1) if ragged and not shared else None,
            position_ids=lengths[group_of, None] + torch.arange(ids.shape[1], device=device),
            past_key_values=_cache(layers),
            use_cache=True,
        ).last_hidden_state
    return _pick(torch.cat([prompt_states[group_of, -1:], states], 1), completions)


def _plain(model: Any, groups: Sequence[Group]) -> Answers:
    import torch

    rows = [(group.prompt, completion) for group in groups for completion in group.completions]
    ids, _ = pad_right([[*prompt, *completion] for prompt, completion in rows])
    # Padding stands behind every real token, where a causal model does not look.
    states = _base(model)(input_ids=ids.to(model.device), use_cache=False).last_hidden_state
    longest = max(len(completion) for _, completion in rows)
    begin = torch.tensor([len(prompt) - 1 for prompt, _ in rows], device=model.device)
    places = (begin[:, None] + torch.arange(longest + 1, device=model.device)).clamp(max=states.shape[1] - 1)
    row = torch.arange(len(rows), device=model.device)[:, None]
    return _pick(states[row, places], [completion for _, completion in rows])


def _pick(states: torch.Tensor, completions: Sequence[Sequence[int]]) -> Answers:
    """From states (rows, 1 + longest, hidden), the first of each row at its prompt's end, the real ones."""
    import torch

    device = states.device
    lengths = torch.tensor([len(completion) for completion in completions], device=device)
    real = torch.arange(states.shape[1], device=device) < lengths[:, None]
    return Answers(
        states=states[real],
        targets=torch.tensor([token for completion in completions for token in completion], device=device),
        row=real.nonzero()[:, 0],
        last=states[torch.arange(len(completions), device=device), lengths],
    )


def _base(model: Any) -> Any:
    """The model below its vocabulary head."""
    return model.base_model


def decoder_layers(model: Any) -> list[Any]:
    """The model's decoder blocks, the lowest first."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in _base(model).modules() if isinstance(module, GradientCheckpointingLayer)]


def _cache(layers: list[Any]) -> Any:
    from transformers import Cache

    return Cache(layers=layers)


@lru_cache(maxsize=1)
def _layers() -> tuple[Any, Any, Any]:
    """Kinds of cache layer that a recomputed forward pass may visit twice."""
    import torch
    from transformers.cache_utils import DynamicLayer

    class Kept(DynamicLayer):
        """The prompt's pass: keeps what it is given the first time."""

        def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                self.keys, self.values = key_states, value_states
            return key_states, value_states

    class Copied(DynamicLayer):
        """The completions' pass: every row gets its prompt's keys and values before its own, and nothing is kept."""

        def __init__(self, prompt: Any, group_of: Any) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.lazy_initialization(prompt.keys, prompt.values)
            self.keys: torch.Tensor = prompt.keys
            self.values: torch.Tensor = prompt.values
            self.group_of = group_of

        def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
            keys = torch.cat([self.keys[self.group_of], key_states], -2)
            return keys, torch.cat([self.values[self.group_of], value_states], -2)

    class InPlace(Copied):
        """The same without the copies, for our own attention."""

        def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
            return share(key_states, Prompts(self.keys, self.values, self.group_of)), value_states

    return Kept, Copied, InPlace


@contextlib.contextmanager
def recomputed(model: Any) -> Iterator[None]:
    """Inside, each decoder layer's inner results are not kept but computed again in backward."""
    from torch.utils.checkpoint import checkpoint

    layers = decoder_layers(model)

    hats = getattr(model, "hats", None)

    @contextlib.contextmanager
    def as_then(worn: str | None, attention: str) -> Iterator[None]:
        with hats.wearing(worn) if hats else contextlib.nullcontext(), attending(model, attention):
            yield

    def as_now() -> tuple[Any, Any]:
        # Backward comes when other things hold; the layers compute again with the forward pass's adapter and attention.
        return contextlib.nullcontext(), as_then(hats and hats.worn, model.config._attn_implementation)

    def again(plain: Any) -> Any:
        return lambda *args, **kwargs: checkpoint(plain, *args, use_reentrant=False, context_fn=as_now, **kwargs)

    for layer in layers:
        layer.forward = again(layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own shows again


Way = Literal["in place", "copied", "plain"]
_ways: weakref.WeakKeyDictionary[Any, Way] = weakref.WeakKeyDictionary()


def way(model: Any) -> Way:
    """How the model's completions meet their prompt, found once by self-tests: each way against the plain path.

    The model must be whole when it is first asked: no layer skipped, no weight rounded for autocast.
    """
    if model not in _ways:
        _ways[model] = _find_way(model)
    return _ways[model]


def works(model: Any) -> bool:
    """Whether the grouped path gives what the plain one gives."""
    return way(model) != "plain"


def _find_way(model: Any) -> Way:
    kind, plain = type(model).__name__, partial(_plain, model)
    if why := difference(model, partial(_grouped, model, shared=False), plain):
        _say(f"{kind} does not pass the grouped self-test ({why}); prompts are computed per answer")
        return "plain"
    if model.device.type != "cpu":  # elsewhere the library's own attention is faster
        return "copied"
    if why := difference(model, partial(_grouped, model, shared=True), plain):
        _say(f"{kind} gets a copy of the prompt's keys for each answer ({why})")
        return "copied"
    return "in place"


def _say(what: str) -> None:
    print(f"plumb: {what}", file=sys.stderr)


def difference(
    model: Any, ours: Callable[[Sequence[Group]], Answers], plain: Callable[[Sequence[Group]], Answers]
) -> str:
    """Why two ways do not give the same states of two ragged prompts with two and three completions; "" if they do."""
    import torch

    from plumbline.models.memory import ran_out

    words = model.config.vocab_size
    ids = [(7 * place * place + 3 * place + 5) % words for place in range(40)]
    groups = [Group(ids[:9], [ids[9:12], ids[12:19]]), Group(ids[19:24], [ids[24:29], ids[29:30], ids[30:40]])]
    hats = getattr(model, "hats", None)
    bare = hats.wearing(None) if hats else contextlib.nullcontext()
    training = model.training
    model.eval()
    try:
        # Rounding under autocast, or made large by an adapter, would hide what is looked for here.
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False), bare:
            theirs = plain(groups).states
            try:
                mine = ours(groups).states
            except (TypeError, ValueError, RuntimeError, AttributeError) as error:
                if ran_out(error):
                    raise
                # A model that takes no cache of ours, or hands nothing on.
                return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    finally:
        model.train(training)
    slack = 0.1 if theirs.dtype in (torch.bfloat16, torch.float16) else 1e-3
    off = float((mine - theirs).abs().max() / theirs.abs().max())
    return "" if off <= slack else f"states differ by {off:.1e} of the largest"
