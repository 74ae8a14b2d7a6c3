"""The one-time conversion of a GGUF file into a transformers-style folder, kept in the cache.

The folder's name is the digest of the file's bytes, so that a changed file never meets an old copy. transformers does
the reading; what it leaves out of a tokenizer is mended here.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import math
import os
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from plumbline.errors import BadModel, UserError
from plumbline.models.cache import build_once
from plumbline.models.families import quiet
from plumbline.models.gguf import Header, read_header
from plumbline.models.gguf_tokenizer import mend
from plumbline.project import cache_folder

_FORMAT = 1
"""Counts up when this file learns to write a better copy, so that older copies are made anew."""

_SETTLED = 2.0
"""Seconds without a change after which a file's time stamps are sure to tell a later change."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_MARGIN = 32_000_000
"""Bytes beside the weights: tokenizer and configs, generously."""


_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def convert_gguf(path: str | Path) -> Path:
    """The folder (config.json, safetensors, tokenizer.json) that holds the same model, made at the first call.

    Weights are dequantised to float32. BadModel where the file is corrupt, ends early or is of a kind that transformers
    does not read; UserError where the disk has no room.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise BadModel(f"{str(path)!r} is not a file: give the path of a GGUF file")
    home = cache_folder() / "converted"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the cache {str(home)!r} cannot be made ({error}): set PLUMBLINE_CACHE to a folder") from error
    stamps = _stamps(path)
    target = home / _digest(path, stamps, home)
    if target.is_dir():
        return target
    header = read_header(path)
    needed = 4 * header.parameters + _MARGIN

    def build(scratch: Path) -> None:
        free = shutil.disk_usage(home).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{needed} bytes needed, {free} free")
        _write_folder(header, scratch)
        if _stamps(path) != stamps:
            raise BadModel(f"{str(path)!r} changed while it was being converted: try again when it is complete")

    return build_once(target, build, what=f"the converted copy of {path.name} ({needed / 1e6:,.0f} MB)")


def _stamps(path: Path) -> tuple[int, ...]:
    """What any later write to the file changes; nobody can set an inode's change time back."""
    stat = path.stat()
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _digest(path: Path, stamps: tuple[int, ...], home: Path) -> str:
    """A digest of the file's bytes, remembered under its stamps so that a large file is read through once.

    A file changed within the last moments is not remembered, since its next change could carry the same stamps.
    """
    key = repr((_FORMAT, str(path), stamps)).encode()
    note = home / f"{hashlib.blake2b(key, digest_size=16).hexdigest()}.digest"
    known = note.read_text() if note.is_file() else ""
    if len(known) == 32:
        return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16, salt=b"%d" % _FORMAT)).hexdigest()
    changed = max(stamps[-2:]) / 1e9
    if time.time() - changed > _SETTLED:
        draft = note.with_suffix(f".{os.getpid()}")
        draft.write_text(digest)
        draft.replace(note)
    return digest


def _write_folder(header: Header, folder: Path) -> None:
    _refuse_split(header)
    with _progress(f"converting {header.path.name}, once") as say:
        say("weights")
        model = _read_model(header)
        say("tokenizer")
        tokenizer = _read_tokenizer(header)
        say("writing")
        _save(model, tokenizer, header, folder)


def _refuse_split(header: Header) -> None:
    parts = int(header.metadata.get("split.count", 0))
    if parts > 1:
        raise BadModel(
            f"{str(header.path)!r} is one of {parts} parts: join them first (llama.cpp's gguf-split --merge does it)"
        )


def _save(model: Any, tokenizer: Any, header: Header, folder: Path) -> None:
    tokenizer.model_max_length = header.about_model("context_length", tokenizer.model_max_length)
    end_of_turn = header.metadata.get("tokenizer.ggml.eot_token_id")
    if end_of_turn is not None:  # transformers reads only the end of text
        ends = model.generation_config.eos_token_id
        known = ends if isinstance(ends, list) else [] if ends is None else [ends]
        model.generation_config.eos_token_id = sorted({*known, end_of_turn})
    try:
        with quiet():
            tokenizer.save_pretrained(folder)
            model.save_pretrained(folder)
    except Exception as error:
        # The Rust libraries tell a full disk only in words.
        full = next((number for number in DISK_FULL if f"os error {number}" in str(error)), None)
        if full is None:
            raise
        raise OSError(full, str(error)) from error


def _read_model(header: Header) -> Any:
    """The model in float32, no longer marked as quantised."""
    import torch
    import transformers

    path = header.path
    auto: Any = transformers.AutoModelForCausalLM  # its types do not know output_loading_info
    width, stretch = header.about_model("attention.key_length"), _stretch(header)
    try:
        # The progress bar of the dequantisation asks no switch, only where standard error leads.
        with quiet(), contextlib.redirect_stderr(io.StringIO()):
            config = transformers.AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
            if width and hasattr(config, "head_dim"):  # transformers takes Qwen3's for granted
                config.head_dim = width
            if stretch:
                config.rope_parameters = {**config.rope_parameters, **stretch}
            model, loading = auto.from_pretrained(
                str(path.parent), gguf_file=path.name, config=config, dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:  # whatever transformers raises is its answer about this file
        raise BadModel(
            f"{str(path)!r} (architecture {header.architecture!r}) is a GGUF file that transformers does not read: "
            f"{error}. Take the model's own folder from the hub instead"
        ) from error
    if loading["missing_keys"]:
        lacking = ", ".join(sorted(loading["missing_keys"])[:4])
        raise BadModel(f"{str(path)!r} lacks weights that its architecture {header.architecture!r} has: {lacking}")
    # transformers refuses to save what it takes for a quantised model; the weights are dequantised by now.
    model.hf_quantizer = None
    model.is_quantized = False
    del model.config.quantization_config
    return model


def _stretch(header: Header) -> dict[str, Any]:
    """How the file stretches positions beyond the window of the first training, which transformers leaves out.

    Llama 3's way is stored only as its result, one divisor per frequency: it is taken for what Llama 3 does, and
    checked against the stored numbers.
    """
    way = header.about_model("rope.scaling.type", "none")
    stored = next((tensor for tensor in header.tensors if tensor.name == "rope_freqs.weight"), None)
    if stored is None and (way == "none" or header.architecture == "gpt-oss"):
        return {}
    if stored is not None and stored.kind == "F32":
        with header.path.open("rb") as file:
            file.seek(stored.offset)
            divisors = struct.unpack(f"<{stored.elements}f", file.read(stored.size))
        llama3 = {**_LLAMA3_ROPE, "factor": round(max(divisors), 4)}
        expected = _llama3_divisors(header.about_model("rope.freq_base", 10000.0), len(divisors), llama3)
        if all(math.isclose(given, wanted, rel_tol=1e-3) for given, wanted in zip(divisors, expected, strict=True)):
            return llama3
        way = "divisors other than Llama 3's"
    raise BadModel(
        f"{str(header.path)!r} stretches its positions ({way}), which transformers does not read from a GGUF file: "
        "take the model's own folder from the hub"
    )


def _llama3_divisors(theta: float, count: int, rope: dict[str, Any]) -> list[float]:
    """Slow frequencies are divided by the factor, fast ones kept, and those between are blended."""
    divisors = []
    for place in range(count):
        turns = rope["original_max_position_embeddings"] / (2 * math.pi * theta ** (place / count))
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        kept = min(1.0, max(0.0, (turns - low) / (high - low)))
        divisors.append(1 / ((1 - kept) / rope["factor"] + kept))
    return divisors


def _read_tokenizer(header: Header) -> Any:
    """The tokenizer, as the file means it."""
    from transformers import PreTrainedTokenizerFast

    path, metadata = header.path, header.metadata
    try:
        with quiet():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(path.parent), gguf_file=path.name)
    except Exception as error:  # as above
        kind = metadata.get("tokenizer.ggml.model")
        raise BadModel(
            f"{str(path)!r} has a tokenizer (of kind {kind!r}) that transformers does not read: {error}"
        ) from error
    mend(tokenizer.backend_tokenizer, metadata, path)
    return tokenizer


@contextlib.contextmanager
def _progress(title: str) -> Iterator[Callable[[str], None]]:
    """A line on standard error that moves on a terminal; elsewhere the title, once."""
    from rich.console import Console

    console = Console(file=sys.stderr)
    if not console.is_terminal:
        console.print(title, soft_wrap=True)
        yield lambda stage: None
        return
    with console.status(title) as status:
        yield lambda stage: status.update(f"{title}: {stage}")
