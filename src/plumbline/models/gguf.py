"""GGUF files: what one says about itself, and writing one.

A GGUF file is a header (magic, version, metadata, a table of tensors) and then the tensors' bytes. `read_header` reads
the header alone, without torch, and refuses a file that is corrupt or ends early before anything is built on it.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from plumbline.errors import BadModel, UserError
from plumbline.files import sync
from plumbline.models.families import read_config, refuse_incomplete
from plumbline.models.gguf_tokenizer import add_tokenizer
from plumbline.models.tokenizer import Tokenizer
from plumbline.models.weights import Stored, read_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = b"GGUF"
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class TensorInfo:
    """A line of the tensor table. `shape` is in numpy's order; `offset` counts from the start of the file."""

    name: str
    shape: tuple[int, ...]
    kind: str
    offset: int
    size: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a GGUF file says about itself."""

    path: Path
    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def about_model(self, name: str, default: Any = None) -> Any:
        """A metadata value under the architecture's own prefix, as `llama.context_length`."""
        return self.metadata.get(f"{self.architecture}.{name}", default)

    @property
    def parameters(self) -> int:
        return sum(tensor.elements for tensor in self.tensors)


def read_header(path: str | Path) -> Header:
    """The header of the file; BadModel where it is no GGUF file, is corrupt, or ends before its last tensor."""
    path = Path(path)
    size = path.stat().st_size
    if size < 24:
        raise BadModel(f"{str(path)!r} has {size} bytes: too short for a GGUF file")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        cursor = _Cursor(path, view)
        magic = cursor.take(4)
        if magic != MAGIC:
            raise BadModel(f"{str(path)!r} is not a GGUF file: it begins with {magic!r}, not with {MAGIC!r}")
        version = cursor.number("<I")
        if version not in (2, 3):
            raise BadModel(
                f"{str(path)!r} is a GGUF file of version {version}, and versions 2 and 3 are read: convert it anew"
            )
        tensor_count, entry_count = cursor.number("<Q"), cursor.number("<Q")
        metadata = {}
        for _ in range(entry_count):
            name = cursor.text()
            metadata[name] = cursor.value(cursor.number("<I"))
        table = [cursor.tensor() for _ in range(tensor_count)]
        alignment = int(metadata.get("general.alignment", 32)) or 32
        start = -(-cursor.position // alignment) * alignment
    tensors = tuple(
        TensorInfo(name, shape, kind, start + offset, bytes_) for name, shape, kind, offset, bytes_ in table
    )
    promised = max((tensor.offset + tensor.size for tensor in tensors), default=start)
    if size < promised:
        raise BadModel(f"{str(path)!r} ends early: its tensors need {promised} bytes and it has {size}; fetch it again")
    return Header(path, metadata, tensors)


class _Cursor:
    """Reads the header front to back, and says so when the file ends inside it."""

    def __init__(self, path: Path, view: mmap.mmap) -> None:
        self.path = path
        self.view = view
        self.position = 0

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.view):
            raise BadModel(
                f"{str(self.path)!r} ends early: its header needs {count} bytes at byte {self.position} and the file "
                f"has {len(self.view)}; fetch it again"
            )
        taken = self.view[self.position : end]
        self.position = end
        return taken

    def number(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, length = self.number("<I"), self.number("<Q")
            if inner in _SCALARS:
                form = f"<{length}{_SCALARS[inner][1]}"
                return list(struct.unpack(form, self.take(length * struct.calcsize(_SCALARS[inner]))))
            return [self.value(inner) for _ in range(length)]
        if kind not in _SCALARS:
            raise BadModel(f"{str(self.path)!r} is corrupt: metadata of unknown type {kind} at byte {self.position}")
        return struct.unpack(_SCALARS[kind], self.take(struct.calcsize(_SCALARS[kind])))[0]

    def tensor(self) -> tuple[str, tuple[int, ...], str, int, int]:
        """Name, shape in numpy's order, kind, offset behind the header, bytes."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        name = self.text()
        dimensions = self.number("<I")
        if dimensions > 4:
            raise BadModel(f"{str(self.path)!r} is corrupt: tensor {name!r} has {dimensions} dimensions")
        shape = tuple(reversed([self.number("<Q") for _ in range(dimensions)]))
        number, offset = self.number("<I"), self.number("<Q")
        try:
            kind = GGMLQuantizationType(number)
        except ValueError as error:
            raise BadModel(f"{str(self.path)!r} is corrupt: tensor {name!r} has the unknown type {number}") from error
        block, block_bytes = GGML_QUANT_SIZES[kind]
        return name, shape, kind.name, offset, math.prod(shape) // block * block_bytes


KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0")
"""How weights can be stored, from exact to small. Q8_0 and Q4_0 round in blocks of 32 along a row."""

_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""From transformers' model types to GGUF's architectures; a Mistral without a sliding window is a Llama."""

_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NEEDED = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "rms_norm_eps",
    "vocab_size",
)
_BLOCK = 32


def supported(folder: str | Path) -> bool:
    """Whether `write_gguf` can write the model in the folder."""
    try:
        _refuse_unwritable(Path(folder), read_config(folder))
    except BadModel:
        return False
    return True


def write_gguf(folder: str | Path, out: str | Path, kind: str = "F16") -> Path:
    """The model of a transformers-style folder as one GGUF file.

    Matrices are stored as `kind`, except that with Q4_0 the output head (which may be the embedding) is Q8_0, and that
    a matrix whose rows the blocks do not divide is F16. Norms and biases stay F32. The tensors pass through memory one
    by one, and the file appears under its name when it is whole.
    """
    folder, out = Path(folder), Path(out)
    if kind not in KINDS:
        raise UserError(f"kind is {kind!r}: give one of {', '.join(KINDS)}")
    config = read_config(folder)
    _refuse_unwritable(folder, config)
    lacking = [name for name in _NEEDED if name not in config]
    if lacking:
        raise BadModel(f"the config.json in {str(folder)!r} lacks {', '.join(lacking)}")
    tensors = _plan(folder, config, kind)
    scratch = out.with_name(f".{out.name}.part-{os.getpid()}")
    try:
        _write(scratch, folder, config, tensors, kind)
        sync(scratch)
        scratch.replace(out)
        sync(out.parent)
    except OSError as error:
        needed = sum(tensor.size for tensor in tensors)
        raise UserError(f"{str(out)!r} could not be written ({error}): it needs {needed / 1e6:,.1f} MB") from error
    finally:
        scratch.unlink(missing_ok=True)
    return out


@dataclass(frozen=True)
class _Planned:
    """A tensor on its way: where it is stored now, and as what it will be."""

    name: str
    source: Stored
    kind: str
    heads: int
    """Heads whose rows change their order; 0 for a tensor that is written as it is."""

    @property
    def size(self) -> int:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[self.kind]]
        return self.source.elements // block * block_bytes


def _refuse_unwritable(folder: Path, config: dict[str, Any]) -> None:
    """BadModel where the format's readers would compute something else than the model does."""

    def refuse(why: str) -> NoReturn:
        raise BadModel(f"{str(folder)!r} cannot be written as GGUF: {why}")

    model_type = config.get("model_type")
    if model_type not in _ARCHITECTURES:
        refuse(f"its type is {model_type!r}, and {', '.join(_ARCHITECTURES)} are written")
    if config.get("hidden_act", "silu") != "silu":
        refuse(f"its activation is {config['hidden_act']!r}, and the format's is 'silu'")
    if model_type != "qwen2" and (config.get("attention_bias") or config.get("mlp_bias")):
        refuse("its linear layers have biases, and this architecture has none in the format")
    rope = _rope(config)
    if rope["rope_type"] != "default" or rope["partial_rotary_factor"] != 1.0:
        refuse(f"its positions are stretched or partly rotated ({rope}), and plain rotation is written")
    slides = config.get("use_sliding_window", model_type == "mistral")
    sliding = config.get("sliding_window", 4096) if slides else None  # 4096 is Mistral's own default
    if sliding is not None and sliding < config.get("max_position_embeddings", 0):
        refuse(f"its attention slides over {sliding} tokens, and the format's readers attend to all")
    if config.get("quantization_config"):
        refuse("its weights are quantised already: give the folder of the unquantised model")


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """The rotation of positions, as transformers 5 writes it or as it was written before."""
    given = {"rope_theta": config.get("rope_theta", 10000.0), "rope_type": "default"}
    older = config.get("rope_scaling") or {}
    given.update({"rope_type": older["type"]} if "type" in older else {}, **older)
    given.update(config.get("rope_parameters") or {})
    given.setdefault("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    return given


def _head_dim(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _plan(folder: Path, config: dict[str, Any], kind: str) -> list[_Planned]:
    """What is written, in the file's order; BadModel where weights lack or have no place in the format."""
    refuse_incomplete(folder)
    weights = read_weights(folder)
    tied = config.get("tie_word_embeddings", "lm_head.weight" not in weights)
    if tied:  # the readers take the embedding where there is no head
        weights.pop("lm_head.weight", None)
    permuted = {} if config["model_type"].startswith("qwen") else _permuted_heads(config)
    planned = []
    for name, source in sorted(weights.items(), key=lambda item: _natural(item[0])):
        stem, _, suffix = name.rpartition(".")
        layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
        if name.endswith("rotary_emb.inv_freq"):
            continue  # computed from the config; only old files store it
        if layer and layer[2] in _LAYER_NAMES:
            new = f"blk.{layer[1]}.{_LAYER_NAMES[layer[2]]}.{suffix}"
        elif name in _NAMES:
            new = _NAMES[name]
        else:
            raise BadModel(f"{str(folder)!r} has a tensor {name!r}, for which the format has no place")
        is_head = name == ("model.embed_tokens.weight" if tied else "lm_head.weight")
        heads = permuted.get(layer[2], 0) if layer else 0
        planned.append(_Planned(new, source, _stored_kind(source.shape, kind, is_head), heads))
    _refuse_gaps(folder, config, {tensor.name for tensor in planned} | ({"output.weight"} if tied else set()))
    return planned


def _permuted_heads(config: dict[str, Any]) -> dict[str, int]:
    heads = config["num_attention_heads"]
    return {"self_attn.q_proj": heads, "self_attn.k_proj": config.get("num_key_value_heads") or heads}


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts layer 10 behind layer 9, and the layers as the model runs."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _stored_kind(shape: tuple[int, ...], kind: str, is_head: bool) -> str:
    if len(shape) == 1:
        return "F32"
    if kind.startswith("Q") and shape[-1] % _BLOCK:
        return "F16"
    return "Q8_0" if kind == "Q4_0" and is_head else kind


def _refuse_gaps(folder: Path, config: dict[str, Any], names: set[str]) -> None:
    per_layer = {
        f"{new}.weight" for old, new in _LAYER_NAMES.items() if config["model_type"] == "qwen3" or "_norm" not in old
    } | {"attn_norm.weight", "ffn_norm.weight"}
    needed = {f"blk.{layer}.{name}" for layer in range(config["num_hidden_layers"]) for name in per_layer}
    lacking = sorted((needed | set(_NAMES.values())) - names)
    if lacking:
        raise BadModel(f"{str(folder)!r} lacks weights that its config.json promises: {', '.join(lacking[:4])}")


def _write(file: Path, folder: Path, config: dict[str, Any], tensors: list[_Planned], kind: str) -> None:
    import numpy as np
    from gguf import GGUFWriter
    from gguf.constants import GGMLQuantizationType

    writer = GGUFWriter(None, _ARCHITECTURES[config["model_type"]])
    _add_model(writer, folder, config, kind)
    add_tokenizer(writer, Tokenizer(folder))
    for tensor in tensors:
        number = GGMLQuantizationType[tensor.kind]
        writer.add_tensor_info(tensor.name, tensor.source.shape, np.dtype(np.float32), tensor.size, raw_dtype=number)
    try:
        writer.write_header_to_file(file)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(_encode(tensor))
    finally:
        writer.close()


def _encode(tensor: _Planned) -> NDArray[Any]:
    """The tensor's numbers as they are stored, read at the last moment."""
    import numpy as np
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    values = tensor.source.read()
    if tensor.heads:
        # The format's readers rotate neighbours where transformers rotates halves of a head: pair them up.
        values = values.reshape(tensor.heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= (65504.0 if tensor.kind == "F16" else 3.0e38):  # also where it is not a number
        raise BadModel(f"{tensor.name} holds {largest}, which {tensor.kind} cannot hold: write it as F32 or BF16")
    encoded: NDArray[Any] = quantize(np.ascontiguousarray(values), GGMLQuantizationType[tensor.kind])
    return encoded


def _add_model(writer: Any, folder: Path, config: dict[str, Any], kind: str) -> None:
    from gguf.constants import LlamaFileType

    head_dim = _head_dim(config)
    heads = config["num_attention_heads"]
    writer.add_type("model")
    writer.add_name(f"{folder.resolve().name} {kind}")  # with the bare name "mistral" transformers would fail
    writer.add_file_type(LlamaFileType[f"ALL_{kind}" if kind == "F32" else f"MOSTLY_{kind}"])
    writer.add_quantization_version(2)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(_rope(config)["rope_theta"]))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_vocab_size(config["vocab_size"])
