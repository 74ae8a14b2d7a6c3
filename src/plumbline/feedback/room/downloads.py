"""What the manager downloads: JSON Lines that are made while they are sent, so that their number costs no memory."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbline.errors import BadRecord, UserError
from plumbline.feedback.exchange import FORMATS
from plumbline.feedback.privacy import Aliases, Replacer, salt_of
from plumbline.feedback.selection import Selection, read_splits
from plumbline.feedback.store import Store
from plumbline.records import Split

WORDS = {
    "rankings": ("Rankings", "what each labeler said, ties and flags included; `plumb train reward` takes them"),
    "trl-dpo": ("Pairs with a prompt", "for `plumb train dpo`, TRL's DPO, OpenRLHF"),
    "trl-reward": ("Pairs of conversations", "for TRL's reward trainer, with a margin"),
    "hh-rlhf": ("HH-RLHF", "pairs as two transcripts"),
    "llama-factory": ("LLaMA-Factory pairs", "in sharegpt's shape; `plumb feedback export` also registers the file"),
    "kto": ("Thumbs", "users' thumbs up and down, for KTO"),
    "llama-factory-kto": ("LLaMA-Factory thumbs", "in sharegpt's shape, for KTO"),
    "sft": ("Answers to learn", "written or edited by people, for SFT"),
    "oasst": ("OASST trees", "one for each set, with everybody's ranking"),
}
"""What each format is for, in a manager's words."""
A_PIECE = 1 << 16
"""Bytes that are sent together."""


@dataclass(frozen=True)
class Choice:
    """What to put into a download, and how."""

    format: str
    criterion: str | None = None
    merged: bool = False
    """One ranking a set, by ranked pairs, and not each labeler's."""
    part: Split | None = None
    clean: bool = False
    """Personal data replaced by its kind."""


def download(store: Store, choice: Choice) -> Iterator[bytes]:
    """The file in pieces. That there is nothing to send is told before the first."""
    if choice.format not in FORMATS:
        raise UserError(f"there is no format {choice.format!r}: take one of {', '.join(FORMATS)}")
    folder = folder_of(store)
    splits = read_splits(folder) if folder else None
    if choice.part and splits is None:
        raise UserError(f"there is no split {choice.part!r}: `plumb feedback split` makes them")
    salt = salt_of(folder) if folder else secrets.token_bytes(32)
    selection = Selection(
        store,
        splits=splits,
        part=choice.part,
        method="ranked-pairs" if choice.merged else None,
        criterion=choice.criterion,
        changes=(*([Replacer()] if choice.clean else []), Aliases(salt)),
    )
    sending = pieces(store, selection, choice.format)
    try:
        first = next(sending)
    except StopIteration:
        raise UserError(f"nothing that people said so far has what {choice.format} needs") from None
    return whole(first, sending)


def folder_of(store: Store) -> Path | None:
    """Where the salt and the split lie: in the project, or beside the file of the database."""
    if store.project is not None:
        return store.project.folder
    return store.file.parent if store.file else None


def whole(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def pieces(store: Store, selection: Selection, format: str) -> Iterator[bytes]:
    """Lines, gathered; when the last is out, the store notes which sets this file held."""
    digest, piece = hashlib.sha256(), b""
    for line in lines(selection, format):
        piece += line
        if len(piece) >= A_PIECE:
            digest.update(piece)
            yield piece
            piece = b""
    if piece:
        digest.update(piece)
        yield piece
    store.mark_seen(digest.hexdigest(), selection.seen)


def lines(selection: Selection, format: str) -> Iterator[bytes]:
    from pydantic_core import to_json

    shape: Any = FORMATS[format]
    for record in selection.records(shape.holds):
        try:
            row = shape.row(record)
        except BadRecord:
            continue  # what this format cannot carry; `plumb feedback export` says how many and why
        yield to_json(row) + b"\n"
