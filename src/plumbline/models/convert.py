"""The one-time conversion of a GGUF file into a transformers-style folder, kept in the cache.

The folder's name is the digest of the file's bytes, so that a changed file never meets an old copy. It is built beside
its final place under a lock, written through to the disk and renamed: what exists under its final name is whole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from plumbline.errors import BadModel, UserError
from plumbline.models.families import quiet
from plumbline.models.gguf import Header, read_header
from plumbline.project import cache_folder

_FORMAT = 1
"""Counts up when this file learns to write a better copy, so that older copies are made anew."""

_SETTLED = 2.0
"""Seconds without a change after which a file's time stamps are sure to tell a later change."""

_MARGIN = 32_000_000
"""Bytes beside the weights: tokenizer and configs, generously."""

DIGITS_FIRST = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2")
"""Pre-tokenizers (`tokenizer.ggml.pre`) that split off each digit before GPT-2's rule; transformers leaves that out."""

WHOLE_WORDS_FIRST = ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken")
"""Pre-tokenizers whose models take a word that is a token as it is, merges or not; transformers leaves that out."""

PLAIN_GPT2 = ("gpt-2", "phi-2", "mpt", "olmo", "jais", "roberta-bpe", "exaone4", "trillion", "granite-docling")
"""Pre-tokenizers that are GPT-2's rule, which is what transformers falls back to."""


def convert_gguf(path: str | Path) -> Path:
    """The folder (config.json, safetensors, tokenizer.json) that holds the same model, made at the first call.

    Weights are dequantised to float32. BadModel where the file is corrupt, ends early or is of a kind that transformers
    does not read; UserError where the disk has no room.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise BadModel(f"{str(path)!r} is not a file: give the path of a GGUF file")
    home = cache_folder() / "converted"
    home.mkdir(parents=True, exist_ok=True)
    stamps = _stamps(path)
    target = home / _digest(path, stamps, home)
    if target.is_dir():
        return target
    header = read_header(path)
    with _alone(home / f"{target.name}.lock", path):
        if not target.is_dir():  # else another process has made it while this one waited
            _convert(header, target)
            if _stamps(path) != stamps:
                shutil.rmtree(target)
                raise BadModel(f"{str(path)!r} changed while it was being converted: try again when it is complete")
    return target


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


@contextlib.contextmanager
def _alone(lock: Path, path: Path) -> Iterator[None]:
    """Holds the lock; a process that has to wait for it says so after a moment."""
    import filelock

    holder = filelock.FileLock(lock)
    try:
        holder.acquire(timeout=1)
    except filelock.Timeout:
        print(f"another process is converting {path.name}: waiting for it", file=sys.stderr)
        holder.acquire()
    try:
        yield
    finally:
        holder.release()


def _convert(header: Header, target: Path) -> None:
    """Build the copy in a scratch folder beside the target and rename it."""
    _refuse_split(header)
    needed = 4 * header.parameters + _MARGIN
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise _no_room(header.path, target.parent, needed, free)
    scratch = target.with_name(f".{target.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)  # left by a process that was killed: the lock is ours
    try:
        scratch.mkdir()
        with _progress(f"converting {header.path.name}, once") as say:
            _write_folder(header, scratch, say)
            _flush(scratch)
        scratch.rename(target)
        _flush_entries(target.parent)
    except Exception as error:
        if not _is_disk_full(error):
            raise
        free = shutil.disk_usage(target.parent).free
        raise _no_room(header.path, target.parent, needed, free) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _refuse_split(header: Header) -> None:
    parts = int(header.metadata.get("split.count", 0))
    if parts > 1:
        raise BadModel(
            f"{str(header.path)!r} is one of {parts} parts: join them first (llama.cpp's gguf-split --merge does it)"
        )


def _write_folder(header: Header, folder: Path, say: Callable[[str], None]) -> None:
    say("reading the weights")
    model = _read_model(header)
    say("mending the tokenizer")
    tokenizer = _read_tokenizer(header)
    tokenizer.model_max_length = model.config.max_position_embeddings
    end_of_turn = header.metadata.get("tokenizer.ggml.eot_token_id")
    if end_of_turn is not None:  # transformers reads only the end of text
        ends = {model.generation_config.eos_token_id, end_of_turn} - {None}
        model.generation_config.eos_token_id = sorted(ends)
    say("writing")
    with quiet():
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)


def _read_model(header: Header) -> Any:
    """The model in float32, no longer marked as quantised."""
    import torch
    import transformers

    path = header.path
    auto: Any = transformers.AutoModelForCausalLM  # its types do not know output_loading_info
    try:
        # The progress bar of the dequantisation asks no switch, only where standard error leads.
        with quiet(), contextlib.redirect_stderr(io.StringIO()):
            model, loading = auto.from_pretrained(
                str(path.parent), gguf_file=path.name, dtype=torch.float32, output_loading_info=True
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


def _read_tokenizer(header: Header) -> Any:
    """The tokenizer, split as its pre-tokenizer's name says; transformers knows only some of the names."""
    from tokenizers import pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    path, metadata = header.path, header.metadata
    try:
        with quiet():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(path.parent), gguf_file=path.name)
    except Exception as error:  # as above
        kind = metadata.get("tokenizer.ggml.model")
        raise BadModel(
            f"{str(path)!r} has a tokenizer (of kind {kind!r}) that transformers does not read: {error}"
        ) from error
    rust, pre = tokenizer.backend_tokenizer, metadata.get("tokenizer.ggml.pre")
    if metadata.get("tokenizer.ggml.model") != "gpt2":
        return tokenizer  # only byte-level vocabularies are split before their merges
    if pre in DIGITS_FIRST:
        gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
        rust.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    elif pre in WHOLE_WORDS_FIRST:
        rust.model.ignore_merges = True
    elif pre not in GGUF_PRE_TOKENIZER_SPLITS and pre not in PLAIN_GPT2:
        print(
            f"{path.name}: its tokenizer splits text by a rule named {pre!r}, which is not known here; GPT-2's rule is "
            "used, and some texts will be split otherwise than in training. The model's own folder does not have this",
            file=sys.stderr,
        )
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


def _flush(folder: Path) -> None:
    """Write every file of the folder, and the folder, through to the disk."""
    for file in folder.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    _flush_entries(folder)


def _flush_entries(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_disk_full(error: Exception) -> bool:
    """Whether the disk, a quota or a file-size limit was reached; safetensors only tells by the error's text."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, OSError):
        return error.errno in numbers
    return any(f"os error {number}" in str(error) for number in numbers)


def _no_room(path: Path, home: Path, needed: int, free: int) -> UserError:
    return UserError(
        f"no room to convert {str(path)!r}: it needs {needed / 1e6:.0f} MB in {str(home)!r} and {free / 1e6:.0f} MB "
        "are free there; free some, or set PLUMBLINE_CACHE to a folder on another disk"
    )
