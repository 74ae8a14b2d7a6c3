"""A low-rank adapter in a compiled graph: its matrices are inputs of the graph, so another adapter is only a copy.

    y = W x + s · B A x          A (rank, in), B (out, rank), s = alpha / rank

Hu et al. 2021 (LoRA, arXiv 2106.09685). The weights W stay what they are, so the exact mode stays exact: nothing is
merged, rounded or exported. Linear layers that read the same input (query, key and value; gate and up) share one
product with their A matrices side by side.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plumbline.errors import UserError

_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_WEIGHT = re.compile(r"model\.layers\[(\d+)\]\.(.+)\.weight")


@dataclass(frozen=True)
class Adapter:
    """Per linear layer, named as in the model (`model.layers.20.self_attn.q_proj`), its matrices. All have one rank."""

    down: dict[str, NDArray[np.float32]]
    """A: (rank, in)."""
    up: dict[str, NDArray[np.float32]]
    """s · B: (out, rank)."""

    @classmethod
    def read(cls, tensors: Mapping[str, NDArray[Any]], scale: float) -> Adapter:
        """From the tensors of a PEFT adapter, by PEFT's names; UserError where they are no plain low-rank adapter."""
        found: dict[str, dict[str, NDArray[np.float32]]] = {"A": {}, "B": {}}
        for name, tensor in tensors.items():
            parts = _TENSOR.fullmatch(name)
            if parts is None or tensor.ndim != 2:
                raise UserError(
                    f"the adapter holds {name!r} of shape {tensor.shape}: the engine wears matrices named "
                    "base_model.model.(layer).lora_A.weight and .lora_B.weight and nothing else"
                )
            found[parts[2]][parts[1]] = np.asarray(tensor, np.float32)
        down, up = found["A"], found["B"]
        for layer in sorted(down.keys() ^ up.keys()):
            raise UserError(f"the adapter holds only one of the two matrices of {layer!r}: give lora_A and lora_B")
        ranks = {down[layer].shape[0] for layer in down} | {up[layer].shape[1] for layer in up}
        if len(ranks) != 1 or ranks == {0}:
            raise UserError(
                f"the adapter has the ranks {sorted(ranks)}: the engine wears one rank of at least 1 at a time"
            )
        return cls(down, {layer: matrix * np.float32(scale) for layer, matrix in up.items()})

    def refuse_unless_fits(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        """UserError where a layer is not among those of the model, (out, in) by name, or has another shape."""
        for layer, down in self.down.items():
            if layer not in sizes:
                raise UserError(
                    f"the adapter changes {layer!r}, and the engine's graph has no such linear layer: load the base "
                    "that the adapter was trained on"
                )
            wants, has = sizes[layer], (self.up[layer].shape[0], down.shape[1])
            if wants != has:
                raise UserError(
                    f"the adapter's matrices for {layer!r} fit a layer of {has[0]} × {has[1]}, and the model's is "
                    f"{wants[0]} × {wants[1]}: load the base that the adapter was trained on"
                )


@dataclass(frozen=True)
class Slot:
    """The graph's inputs for linear layers that read the same values: their A side by side, and a B each."""

    layers: tuple[str, ...]

    @property
    def down(self) -> str:
        return f"{self.layers[0]}.down"

    def inputs(self, adapter: Adapter) -> dict[str, NDArray[np.float32]]:
        """What the graph is given; both matrices are stored with the inner size first, as a product wants them."""
        down = np.concatenate([adapter.down[layer] for layer in self.layers])
        return {
            self.down: np.ascontiguousarray(down.T),
            **{f"{layer}.up": np.ascontiguousarray(adapter.up[layer].T) for layer in self.layers},
        }


def linear_layers(model: Any) -> dict[str, Any]:
    """The products with the weights of the decoder blocks, by the names of their linear layers.

    OpenVINO GenAI's reader of GGUF names a stored matrix after its layer, where it is not stored in blocks.
    """
    found = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        weight = node.input_value(1).get_node()
        if weight.get_type_name() == "Convert":
            weight = weight.input_value(0).get_node()
        if parts := _WEIGHT.fullmatch(weight.get_friendly_name()):
            found[f"model.layers.{parts[1]}.{parts[2]}"] = node
    return found


def sizes(linear: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """(out, in) of each."""
    return {name: tuple(node.input_value(1).get_shape()) for name, node in linear.items()}


def graft(model: Any, layers: Collection[str]) -> list[Slot]:
    """Put the adapter's part behind each of those linear layers of a paged model; its matrices are new inputs.

    The rank is left open. Behind the paging every token is a row: (tokens, 1, width).
    """
    import openvino.opset13 as ops

    linear = linear_layers(model)
    groups: dict[str, list[str]] = {}
    for name in linear:
        if name in layers:
            groups.setdefault(linear[name].input_value(0).get_node().get_friendly_name(), []).append(name)
    slots = [Slot(tuple(names)) for names in groups.values()]
    parameters = []

    def parameter(name: str, shape: list[int]) -> Any:
        made = ops.parameter(shape, np.float32, name=name)
        made.output(0).get_tensor().set_names({name})
        parameters.append(made)
        return made

    for slot in slots:
        first = linear[slot.layers[0]]
        width = first.input_value(1).get_shape()[1]
        rows = ops.reshape(first.input_value(0), ops.constant(np.array([-1, width], np.int64)), False)
        low = ops.matmul(rows, parameter(slot.down, [width, -1]), False, False)
        parts = ops.split(low, ops.constant(np.int64(1)), len(slot.layers)) if len(slot.layers) > 1 else low
        for layer, part in zip(slot.layers, parts.outputs(), strict=True):
            node = linear[layer]
            readers = node.output(0).get_target_inputs()
            out = node.input_value(1).get_shape()[0]
            change = ops.matmul(part, parameter(f"{layer}.up", [-1, out]), False, False)
            shaped = ops.reshape(change, ops.constant(np.array([-1, 1, out], np.int64)), False)
            whole = ops.add(node, shaped)
            for reader in readers:
                reader.replace_source_output(whole.output(0))
    model.add_parameters(parameters)
    model.validate_nodes_and_infer_types()
    return slots
