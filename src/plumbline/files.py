"""Files that hold through a kill and a power cut: JSON Lines in and out, and a file that is replaced whole.

A file of records is UTF-8, one JSON object a line. Which fields an object has is its pydantic model's matter
(`plumbline.records`); this module reads, writes, and says in a sentence what is wrong with which line.
"""

from __future__ import annotations

import codecs
import fcntl
import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from reprlib import Repr
from secrets import token_hex
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from plumbline.errors import BadRecord, UserError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

R = TypeVar("R", bound="BaseModel")
BAD_LINES_SHOWN = 5

SHORT = Repr()
SHORT.maxstring = SHORT.maxother = 60
shown = SHORT.repr
"""The value as a message shows it, cut where it is long."""


# ---- reading


class BadLine(NamedTuple):
    """A line that is not a record, and why."""

    path: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


NEEDED = {
    "string_type": "it must be text",
    "string_unicode": "it is not text that a file can hold",
    "string_too_short": "it must not be empty",
    "int_type": "it must be a whole number",
    "int_parsing": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "float_type": "it must be a number",
    "float_parsing": "it must be a number",
    "finite_number": "it must be a finite number",
    "bool_type": "it must be true or false",
    "bool_parsing": "it must be true or false",
    "tuple_type": "it must be a list",
    "dict_type": "it must be an object",
    "model_type": "it must be an object",
    "greater_than_equal": "it must be at least {ge}",
    "literal_error": "it must be {expected}",
}
"""What pydantic calls a fault, and what we say about it."""


def parse(kind: type[R], data: object) -> R:
    """The record in raw data, or `BadRecord` with a sentence for each fault."""
    from pydantic import ValidationError

    if not isinstance(data, Mapping):
        raise BadRecord(f"is {shown(data)}: a record is one JSON object, {{...}}, on one line")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        faults = [reason(fault, data, kind) for fault in error.errors(include_url=False)]
        raise BadRecord("; ".join(faults)) from None


def reason(fault: ErrorDetails, data: Mapping[str, Any], kind: type[BaseModel]) -> str:
    *above, last = fault["loc"] or ("",)
    where = ", ".join(
        f"`{part}`" if isinstance(part, str) else f"entry {part + 1}" for part in (*above, last) if part != ""
    )
    context = fault.get("ctx", {})
    if fault["type"] == "missing":
        given = [str(key) for key in (fault["input"] if above else data)]
        near = get_close_matches(str(last), [key for key in given if above or key not in kind.model_fields], 1)
        there = ", ".join(f"`{key}`" for key in given) or "nothing"
        return f"{where} is missing" + (f": is `{near[0]}` meant to be it?" if near else f" (there is {there})")
    if fault["type"] == "value_error":
        return f"{where} {context['error']}".strip()
    needed = NEEDED.get(fault["type"], fault["msg"]).format(**context)
    return f"{where} is {shown(fault['input'])}: {needed}"


def parse_line(raw: bytes, kind: type[R], offset: int) -> R:
    """The record in one line, which begins at byte `offset` of its file."""
    from pydantic_core import from_json

    try:
        text = raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise BadRecord(
            f"is not UTF-8: byte {raw[error.start]:#04x} at offset {offset + error.start} of the file"
        ) from None
    try:
        data = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        if number := re.search(r"-?\b(NaN|Infinity)\b", text):
            raise BadRecord(f"holds {number[0]}, which JSON has no word for: leave the field out or put null") from None
        if not raw.endswith(b"\n") and text.startswith("{") and "EOF" in str(error):
            raise BadRecord("is cut off: the file ends in the middle of it") from None
        raise BadRecord(f"is not JSON: {str(error).replace(' at line 1 column ', ' at character ')}") from None
    return parse(kind, data)


def read_jsonl(
    path: str | os.PathLike[str], kind: type[R], *, on_bad: Callable[[BadLine], None] | None = None
) -> Iterator[R]:
    """The records of a file, one after the other, however large it is. Blank lines and a byte order mark are skipped.

    A bad line goes to `on_bad` and the good ones go on. Without `on_bad` all the good ones are yielded too, and then
    `BadRecord` is raised with the number of bad lines and the first of them, so that one run shows every fault: use
    `list(...)` where nothing may begin before the whole file is known to be good. A file without any good record is an
    error in both cases.
    """
    path = Path(path)
    good, count, offset = 0, 0, 0
    first: list[BadLine] = []
    earliest = ""
    with open_to_read(path) as file:
        for number, raw in enumerate(lines_of(file, path), 1):
            line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and number == 1:
                raise BadRecord(f"{str(path)!r} is UTF-16 text: save it as UTF-8")
            start, offset = offset + len(raw) - len(line), offset + len(raw)
            if not line.strip():
                continue
            try:
                record = parse_line(line, kind, start)
            except BadRecord as error:
                bad = BadLine(path, number, str(error))
                count += 1
                earliest = earliest or f"; line {number} {error}"
                if on_bad is not None:
                    on_bad(bad)
                elif len(first) < BAD_LINES_SHOWN:
                    first.append(bad)
                continue
            good += 1
            yield record
    if first:
        more = [f"and {count - len(first)} more"] if count > len(first) else []
        lines = "one bad line" if count == 1 else f"{count} bad lines"
        raise BadRecord("\n  ".join([f"{str(path)!r} has {lines} beside {good} good:", *map(str, first), *more]))
    if not good:
        why = f"all its {count} lines are bad{earliest}" if count else "it is empty: put one JSON object on each line"
        raise BadRecord(f"{str(path)!r} holds no records: {why}")


def lines_of(file: IO[bytes], path: Path) -> Iterator[bytes]:
    try:
        yield from file
    except (EOFError, OSError, zlib.error) as error:
        raise BadRecord(f"{str(path)!r} is damaged: {error}") from error


def open_to_read(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked where its name ends in .gz."""
    try:
        return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")
    except FileNotFoundError:
        beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        near = get_close_matches(path.name, beside, 1)
        raise UserError(
            f"there is no file {str(path)!r}: " + (f"is {near[0]!r} meant?" if near else "check its name and folder")
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from error


# ---- writing


def write_jsonl(path: str | os.PathLike[str], records: Iterable[BaseModel], *, append: bool = False) -> int:
    """Writes the records, one line each, and returns how many. When it returns, they are on the disk.

    Without `append` the file is replaced whole: until the last record is written, what was there before stays. With
    `append` each record is in the file as soon as it comes, and a line that an earlier process was killed in the middle
    of is taken out first; `write_jsonl(path, [], append=True)` does only that. Two processes that append to one file
    take turns.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{str(path)!r} is a folder: name a file")
    if path.exists() and not path.is_file():  # a pipe or a terminal: nothing to replace, nothing to mend
        with path.open("wb") as file:
            return write_lines(file, records)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not append:
        with replaced(path) as file:
            return write_lines(file, records)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        mend_last_line(file, path)
        count = write_lines(file, records)
        os.fsync(file.fileno())
    sync(path.parent)
    return count


def write_lines(file: IO[bytes], records: Iterable[BaseModel]) -> int:
    count = 0
    for record in records:
        file.write(record.model_dump_json().encode() + b"\n")
        file.flush()
        count += 1
    return count


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` when the block ends well, and leaves no trace when it does not."""
    path = path.resolve()
    new = path.with_name(f".{path.name[:100]}.{token_hex(4)}.new")
    try:
        with new.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            new.chmod(path.stat().st_mode & 0o7777)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Makes what is in a file, or the names in a folder, last through a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def mend_last_line(file: IO[bytes], path: Path) -> None:
    """Ends the last line if only its end lacks, takes it out if it is the beginning of a record."""
    from pydantic_core import from_json

    size = begin = file.seek(0, os.SEEK_END)
    tail = b""
    while begin > 0 and b"\n" not in tail:
        step = min(begin, 1 << 16)
        begin -= step
        file.seek(begin)
        tail = file.read(step) + tail
    last = tail.rpartition(b"\n")[2]
    if not last:
        return
    if not last.removeprefix(codecs.BOM_UTF8).startswith(b"{"):
        raise BadRecord(f"{str(path)!r} ends with {shown(last)}, which is no record: name another file to add to")
    try:
        from_json(last.removeprefix(codecs.BOM_UTF8))
    except ValueError:
        file.truncate(size - len(last))
    else:
        file.write(b"\n")
