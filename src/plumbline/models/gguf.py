"""GGUF files: what one says about itself, and writing one.

A GGUF file is a header (magic, version, metadata, a table of tensors) and then the tensors' bytes. `read_header` reads
the header alone, without torch, and refuses a file that is corrupt or ends early before anything is built on it.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbline.errors import BadModel

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
        count = 1
        for length in self.shape:
            count *= length
        return count


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
        elements = 1
        for length in shape:
            elements *= length
        return name, shape, kind.name, offset, elements // block * block_bytes
