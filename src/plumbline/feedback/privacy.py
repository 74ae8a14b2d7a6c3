"""Personal data found and replaced in records, and people's ids replaced by names that mean nothing elsewhere.

What counts as personal data is said in `plumbline.personal_data`: shapes and checksums, so every hit can be wrong and
every hit is kept for a person to look at. Another finder fits in its place: `Replacer(find=...)` takes any function
that gives `Finding`s for a text, `personal_data.presidio()` say.

Ids of labelers and users become HMAC-SHA256 with a salt that stays in the project folder: the same person has the same
name in every file that a project writes, and nobody without the salt can try ids out.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from plumbline import personal_data
from plumbline.errors import UserError
from plumbline.personal_data import Finder
from plumbline.records import Record

R = TypeVar("R", bound=Record)

TEXTS = ("prompt", "messages", "completions", "chosen", "rejected", "completion")
"""The fields of records that people or models wrote."""
STRUCTURE = {"role", "type", "id", "tool_call_id", "model"}
"""What a message or an answer says of itself and not in words."""
PEOPLE = ("labeler_id", "user_id")
TEXTS_KEPT = 4096
"""The rankings of a set repeat its texts: each is searched once."""


class Hit(BaseModel):
    """A stretch that was taken for personal data: `text[start:end]` of a field, and what stands there now."""

    model_config = ConfigDict(frozen=True)

    record: str
    """The id of the set, else of the prompt."""
    field: str
    """Where it was: `prompt`, `completions, 2`, `messages, 1, content`."""
    start: int
    end: int
    kind: str
    text: str
    replacement: str


class Replacer:
    """Gives records back without the personal data that `find` finds in them, and keeps every hit, once each."""

    def __init__(self, find: Finder = personal_data.find) -> None:
        self._find = lru_cache(TEXTS_KEPT)(lambda text: tuple(find(text)))
        self._hits: dict[Hit, None] = {}

    @property
    def hits(self) -> list[Hit]:
        return list(self._hits)

    def kinds(self) -> Counter[str]:
        """How many hits there are of each kind."""
        return Counter(hit.kind for hit in self._hits)

    def __call__(self, record: R) -> R:
        """The record, with placeholders such as `[EMAIL]`. Its ids stay, also one that was made from its prompt."""
        name = str(getattr(record, "set_id", None) or getattr(record, "prompt_id", ""))
        texts = {field: getattr(record, field) for field in TEXTS if field in type(record).model_fields}
        clean = {field: self._clean(value, name, (field,)) for field, value in texts.items()}
        changed = {field: value for field, value in clean.items() if value != texts[field]}
        return record.model_copy(update=changed) if changed else record

    def _clean(self, value: Any, name: str, where: tuple[str, ...]) -> Any:
        if isinstance(value, str):
            return self._replace(value, name, where)
        if isinstance(value, Mapping):
            return {
                key: each if key in STRUCTURE else self._clean(each, name, (*where, key)) for key, each in value.items()
            }
        if isinstance(value, list | tuple):
            return type(value)(self._clean(each, name, (*where, str(place))) for place, each in enumerate(value, 1))
        if isinstance(value, BaseModel):  # an answer of a set
            return value.model_copy(update={"text": self._clean(getattr(value, "text", ""), name, where)})
        return value

    def _replace(self, text: str, name: str, where: tuple[str, ...]) -> str:
        found = self._find(text)
        for each in found:
            hit = Hit(
                record=name,
                field=", ".join(where),
                start=each.start,
                end=each.end,
                kind=each.kind,
                text=each.text,
                replacement=f"[{each.kind.upper()}]",
            )
            self._hits[hit] = None
        return personal_data.replace(text, found) if found else text


# ---- who people are


SALT = "salt"


class Aliases:
    """Names in the place of ids: `labeler-` or `user-` and twelve digits, from the salt and the id."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt

    def __call__(self, record: R) -> R:
        named = {field: self.of(field, getattr(record, field)) for field in PEOPLE if getattr(record, field, None)}
        return record.model_copy(update=named) if named else record

    def of(self, field: str, name: str) -> str:
        """The alias of the person whom `field` of a record calls `name`."""
        digest = hmac.digest(self._salt, f"{field}\0{name}".encode(), hashlib.sha256)
        return f"{field.removesuffix('_id')}-{digest.hex()[:12]}"


def salt_of(folder: Path) -> bytes:
    """The salt of a project, made at the first call. Only its owner may read the file."""
    path = folder / SALT
    if not path.exists():
        new = folder / f".{SALT}.{secrets.token_hex(4)}"
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(new, path)  # whole, or not at all where another process was first
        except FileExistsError:
            pass
        finally:
            new.unlink()
    return read_salt(path)


def read_salt(path: Path) -> bytes:
    try:
        salt = bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the salt in {str(path)!r} ({error}): put it back from a backup") from error
    if len(salt) < 16:
        raise UserError(f"the salt in {str(path)!r} is cut off: put it back, or remove it and people get new aliases")
    return salt
