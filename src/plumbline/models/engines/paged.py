"""A language model compiled by OpenVINO with a paged key-value cache, driven by us. Runs in the engine's own process.

The cache is a pool of blocks. A sequence is a list of blocks, and the samples of one prompt share the blocks that the
prompt filled: forking a sequence copies at most its last, half-filled block. Because we drive the model ourselves,
every token is drawn by our own sampler, and the logits of any position can be read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plumbline.models.engines.adapter import Adapter, Slot, graft, linear_layers, sizes

BLOCK = 32
"""Positions per block, fixed by OpenVINO's CPU plugin."""


@dataclass
class Cached:
    """A sequence in the cache: its blocks in order and how many positions are filled."""

    blocks: list[int] = field(default_factory=list)
    length: int = 0


@dataclass(frozen=True)
class Feed:
    """New tokens for one sequence, and how many of their logits are wanted, counted from the last."""

    cached: Cached
    tokens: Sequence[int]
    wanted: int = 1


class PagedModel:
    """Feeds in, logits out."""

    def __init__(self, folder: Path, *, precision: str, kv_precision: str, threads: int, cache_bytes: int) -> None:
        import openvino

        self._core = openvino.Core()
        self._file = folder / "openvino_model.xml"
        self._options = {
            "INFERENCE_PRECISION_HINT": precision,
            "KV_CACHE_PRECISION": kv_precision,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads:
            self._options["INFERENCE_NUM_THREADS"] = str(threads)
        self._sizes: dict[str, tuple[int, int]] = {}
        self._slots: list[Slot] = []
        self._request = self._compile(())
        ports = {port.any_name: port for port in self._request.model_inputs if "_cache." in port.any_name}
        shapes = {name: [size.get_length() for size in list(port.partial_shape)[1:]] for name, port in ports.items()}
        self.block = BLOCK
        bytes_per_block = sum(int(np.prod(shapes[name])) * port.element_type.size for name, port in ports.items())
        self.blocks = max(1, cache_bytes // bytes_per_block)
        self._tensors = {
            name: openvino.Tensor(port.element_type, openvino.Shape([self.blocks, *shapes[name]]))
            for name, port in ports.items()
        }
        for name, tensor in self._tensors.items():
            self._request.set_tensor(name, tensor)
        # bf16 shows as another 16-bit type: good enough to copy rows
        self._caches: list[NDArray[Any]] = [tensor.data for tensor in self._tensors.values()]
        self._users = [0] * self.blocks  # sequences that hold each block
        self._free = list(range(self.blocks))[::-1]

    def wear(self, adapter: Adapter | None) -> None:
        """Compute with that adapter from now on, with None as the model does; no sequence may be in the cache.

        The graph is compiled for the set of adapted layers: another adapter for the same layers, of whatever rank, is
        copied in, and only other layers, or None, compile it anew.
        """
        import openvino

        assert self.free == self.blocks, "a sequence of another adapter is in the cache"
        if adapter is not None:
            adapter.refuse_unless_fits(self._sizes)
        layers = set(adapter.down) if adapter is not None else set()
        if layers != {layer for slot in self._slots for layer in slot.layers}:
            del self._request  # its copy of the weights is free before the next one is made
            self._request = self._compile(layers)
            for name, tensor in self._tensors.items():
                self._request.set_tensor(name, tensor)
        if adapter is None:
            return
        for slot in self._slots:
            for name, matrix in slot.inputs(adapter).items():
                self._request.set_tensor(name, openvino.Tensor(matrix))

    def _compile(self, layers: Collection[str]) -> Any:
        """A request on the graph with room for an adapter of those layers."""
        model = self._core.read_model(self._file)
        self._sizes = sizes(linear_layers(model))
        _page(model)
        self._slots = graft(model, layers) if layers else []
        return self._core.compile_model(model, "CPU", self._options).create_infer_request()

    @property
    def free(self) -> int:
        """Blocks that no sequence holds."""
        return len(self._free)

    def blocks_for(self, length: int) -> int:
        """Blocks that a sequence of that length fills."""
        return -(-length // self.block)

    def fork(self, cached: Cached) -> Cached:
        """A second sequence with the same past; only a half-filled last block is copied."""
        full, rest = divmod(cached.length, self.block)
        blocks = cached.blocks[:full]
        for block in blocks:
            self._users[block] += 1
        if rest:
            copy = self._take()
            for cache in self._caches:
                cache[copy] = cache[cached.blocks[full]]
            blocks = [*blocks, copy]
        return Cached(blocks, cached.length)

    def drop(self, cached: Cached) -> None:
        """The sequence is done: blocks that nobody else holds are free again."""
        for block in cached.blocks:
            self._users[block] -= 1
            if not self._users[block]:
                self._free.append(block)
        cached.blocks, cached.length = [], 0

    def forward(self, feeds: Sequence[Feed]) -> NDArray[np.float32]:
        """The wanted logits (sum of wanted, vocabulary), feed after feed. The array is overwritten by the next call."""
        for feed in feeds:
            while len(feed.cached.blocks) < self.blocks_for(feed.cached.length + len(feed.tokens)):
                feed.cached.blocks.append(self._take())
        past = np.array([feed.cached.length for feed in feeds], np.int32)
        sizes = np.array([len(feed.tokens) for feed in feeds], np.int32)
        begins = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        inputs = {
            "input_ids": np.concatenate([np.asarray(feed.tokens, np.int64) for feed in feeds]),
            "position_ids": np.concatenate(
                [np.arange(p, p + s, dtype=np.int64) for p, s in zip(past, sizes, strict=True)]
            ),
            "past_lens": past,
            "subsequence_begins": begins,
            "block_indices": np.concatenate([np.asarray(feed.cached.blocks, np.int32) for feed in feeds]),
            "block_indices_begins": np.cumsum([0, *(len(feed.cached.blocks) for feed in feeds)]).astype(np.int32),
            "max_context_len": np.array((past + sizes).max(), np.int32),
            "wanted_rows": np.concatenate(
                [np.arange(end - feed.wanted, end) for feed, end in zip(feeds, begins[1:], strict=True)]
            ).astype(np.int64),
        }
        import openvino

        for name, value in inputs.items():
            self._request.set_tensor(name, openvino.Tensor(value))
        self._request.infer()
        for feed in feeds:
            feed.cached.length += len(feed.tokens)
        output = self._request.get_output_tensor(0).data
        return output.reshape(-1, output.shape[-1])  # type: ignore[no-any-return]

    def _take(self) -> int:
        assert self._free, "the scheduler admitted more than the cache holds"
        block = self._free.pop()
        self._users[block] = 1
        return block


def _page(model: Any) -> None:
    """Turn the model's attention into paged attention, and its head to the rows in `wanted_rows` only."""
    import openvino.opset13 as ops
    from openvino._offline_transformations import paged_attention_transformation

    paged_attention_transformation(model)
    head = model.outputs[0].get_node().input_value(0).get_node()
    while head.get_type_name() != "MatMul":
        head = head.input_value(0).get_node()
    wanted = ops.parameter([-1], np.int64, name="wanted_rows")
    wanted.output(0).get_tensor().set_names({"wanted_rows"})
    rows = ops.gather(head.input_value(0), wanted, ops.constant(np.int64(0)))
    head.input(0).replace_source_output(rows.output(0))
    model.add_parameters([wanted])
    model.validate_nodes_and_infer_types()
