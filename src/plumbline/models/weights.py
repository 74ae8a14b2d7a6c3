"""A model folder's weights, read from its safetensors with numpy alone, one tensor at a time."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.errors import BadModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file; `begin` counts bytes from the start of the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def read(self) -> NDArray[np.float32]:
        """The tensor in float32, on the machine's memory."""
        import numpy as np

        if self.dtype not in _NUMPY:
            raise BadModel(f"{str(self.file)!r} holds numbers of type {self.dtype}: floats of 16 bits or more are read")
        raw = np.fromfile(self.file, _NUMPY[self.dtype], count=self.elements, offset=self.begin).reshape(self.shape)
        if self.dtype == "BF16":  # numpy has no bfloat16, which is the upper half of a float32
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32, copy=False)


def read_weights(folder: Path) -> dict[str, Stored]:
    """Every tensor of the folder by name; only the files' headers are read."""
    return {name: stored for file in weight_files(folder) for name, stored in _read_file(file)}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model: the shards of the index, or the one file."""
    index = folder / INDEX
    if not index.is_file():
        return [folder / WHOLE]
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadModel(f"{str(index)!r} is not an index of safetensors files: {error}") from error
    return [folder / shard for shard in sorted(shards)]


def _read_file(file: Path) -> list[tuple[str, Stored]]:
    size = file.stat().st_size
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if not 0 < length <= size - 8:
            raise BadModel(f"{str(file)!r} is not a safetensors file, or ends early")
        try:
            header: dict[str, Any] = json.loads(handle.read(length))
        except ValueError as error:
            raise BadModel(f"{str(file)!r} is not a safetensors file: {error}") from error
    start = 8 + length
    header.pop("__metadata__", None)
    promised = start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size < promised:
        raise BadModel(f"{str(file)!r} ends early: its tensors need {promised} bytes and it has {size}")
    return [
        (name, Stored(file, entry["dtype"], tuple(entry["shape"]), start + entry["data_offsets"][0]))
        for name, entry in header.items()
    ]
