"""Rows into files: JSON Lines, packed or not, Parquet, and a folder as the `datasets` library reads it.

Rows are written as they come, so memory does not grow with their number. What was there before stays until the last
row is on the disk.
"""

from __future__ import annotations

import gzip
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from secrets import token_hex
from typing import IO, Any, Literal

from plumbline.errors import UserError
from plumbline.files import replaced, shown, sync

Row = dict[str, Any]
Column = Literal["text", "texts", "int", "ints", "float", "bool", "bools", "messages", "turn", "turns"]

ROWS_OF_A_GROUP = 5_000
"""Rows that a Parquet file holds together, and that are in memory until they are written."""
ROWS_OF_A_SHARD = 500_000
"""Rows of one file of a folder."""


def written(rows: Iterable[Row], out: Path, columns: Mapping[str, Column], format: str, *, force: bool) -> list[Path]:
    """Writes the rows into the container that the name of `out` stands for; returns its files."""
    if out.exists() and not force and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{str(out)!r} is there already: name another, or replace it with --force")
    kind = container(out)
    if kind != "lines" and not columns:
        raise UserError(f"{str(out)!r}: trees have no columns, so name a .jsonl or .jsonl.gz file")
    out.parent.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        return write_folder(rows, out, columns, format)
    with replaced(out) as file:
        count = write_parquet(rows, file, columns) if kind == "parquet" else write_lines(rows, file, out)
        if not count:
            raise UserError(f"there is nothing to write to {str(out)!r}: no record has what {format} needs")
    return [out]


def container(out: Path) -> Literal["lines", "parquet", "folder"]:
    if out.name.endswith((".jsonl", ".jsonl.gz")):
        return "lines"
    if out.suffix == ".parquet":
        return "parquet"
    if out.suffix or out.is_file():
        raise UserError(
            f"{str(out)!r} ends with {out.suffix!r}: take .jsonl, .jsonl.gz, .parquet, or none for a folder"
        )
    return "folder"


# ---- JSON Lines


def write_lines(rows: Iterable[Row], file: IO[bytes], out: Path) -> int:
    from pydantic_core import to_json

    count = 0
    with ExitStack() as stack:
        into: IO[bytes] | gzip.GzipFile = file
        if out.suffix == ".gz":  # without a name and a time, so that the same rows are the same bytes
            into = stack.enter_context(gzip.GzipFile("", "wb", fileobj=file, mtime=0))
        for row in rows:
            into.write(to_json(row) + b"\n")
            count += 1
    return count


# ---- Parquet


def schema(columns: Mapping[str, Column]) -> Any:
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    turn = pa.struct([("from", pa.string()), ("value", pa.string())])
    kinds = {
        "text": pa.string(),
        "texts": pa.list_(pa.string()),
        "int": pa.int64(),
        "ints": pa.list_(pa.int64()),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "bools": pa.list_(pa.bool_()),
        "messages": pa.list_(message),
        "turn": turn,
        "turns": pa.list_(turn),
    }
    return pa.schema([(name, kinds[kind]) for name, kind in columns.items()])


class Table:
    """A Parquet file that grows by groups of rows."""

    def __init__(self, file: IO[bytes], columns: Mapping[str, Column]) -> None:
        from pyarrow import parquet

        self._schema = schema(columns)
        self._messages = [name for name, kind in columns.items() if kind == "messages"]
        self._writer = parquet.ParquetWriter(file, self._schema)
        self._waiting: list[Row] = []
        self.count = 0

    def add(self, row: Row) -> None:
        for name in self._messages:
            for turn in row[name]:
                self._check(name, turn)
        self._waiting.append(row)
        self.count += 1
        if len(self._waiting) == ROWS_OF_A_GROUP:
            self._flush()

    def __enter__(self) -> Table:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def _check(self, name: str, turn: Mapping[str, Any]) -> None:
        for key, value in turn.items():
            if key not in ("role", "content") and value is not None:
                raise UserError(
                    f"a message in `{name}` has `{key}`, {shown(value)}, and a column of a Parquet file holds role and "
                    "content alone: name a .jsonl file"
                )

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            self._writer.write_table(pa.Table.from_pylist(self._waiting, self._schema))
            self._waiting = []


def write_parquet(rows: Iterable[Row], file: IO[bytes], columns: Mapping[str, Column]) -> int:
    with Table(file, columns) as table:
        for row in rows:
            table.add(row)
    return table.count


# ---- a folder for `datasets`


def write_folder(rows: Iterable[Row], out: Path, columns: Mapping[str, Column], format: str) -> list[Path]:
    """`data/train-00000-of-00002.parquet` and so on, and README.md; rows without a split are training's."""
    new = out.with_name(f".{out.name}.{token_hex(4)}.new")
    try:
        counts = write_shards(rows, new / "data", columns)
        if not counts:
            raise UserError(f"there is nothing to write to {str(out)!r}: no record has what {format} needs")
        (new / "README.md").write_text(card(new, out.name, counts, format, list(columns)), encoding="utf-8")
        for each in (*new.rglob("*"), new):
            sync(each)
        with moved_away(out):
            new.rename(out)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    sync(out.parent)
    return sorted(path for path in out.rglob("*") if path.is_file())


def write_shards(rows: Iterable[Row], folder: Path, columns: Mapping[str, Column]) -> dict[str, int]:
    """Rows of each split, in files of `ROWS_OF_A_SHARD` at most. Their names say how many there are of a split."""
    folder.mkdir(parents=True)
    counts: Counter[str] = Counter()
    shards: dict[str, list[Path]] = {}
    tables: dict[str, Table] = {}
    with ExitStack() as stack:
        for row in rows:
            part = row.get("split") or "train"
            if counts[part] % ROWS_OF_A_SHARD == 0:
                paths = shards.setdefault(part, [])
                paths.append(folder / f"{part}-{len(paths):05}")
                tables[part] = stack.enter_context(Table(stack.enter_context(paths[-1].open("xb")), columns))
            tables[part].add(row)
            counts[part] += 1
    for paths in shards.values():
        for path in paths:
            path.rename(path.with_name(f"{path.name}-of-{len(paths):05}.parquet"))
    return {part: counts[part] for part in ("train", "validation", "test") if part in counts}


@contextmanager
def moved_away(out: Path) -> Iterator[None]:
    """Makes room for a folder; what stood there comes back if its successor does not."""
    if not out.exists():
        yield
        return
    old = out.with_name(f".{out.name}.{token_hex(4)}.old")
    out.rename(old)
    with ExitStack() as undone:
        undone.callback(old.rename, out)
        yield
        undone.pop_all()
    shutil.rmtree(old)


SIZES = [
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
]
"""Names that the hub has for how large a data set is."""


def card(folder: Path, name: str, counts: Mapping[str, int], format: str, columns: list[str]) -> str:
    """README.md: what the hub reads, what the data is, and the hash of every file."""
    from plumbline.project import file_digest

    total = sum(counts.values())
    size = next((label for most, label in SIZES if total < most), "n>10M")
    files = "".join(f"      - split: {part}\n        path: data/{part}-*\n" for part in counts)
    splits = "".join(f"| {part} | {count:,} |\n" for part, count in counts.items())
    hashes = "".join(
        f"| `data/{path.name}` | `{file_digest(path)}` |\n" for path in sorted((folder / "data").iterdir())
    )
    return (
        f"---\nlicense: other\nlicense_name: to-be-chosen\nsize_categories:\n- {size}\n"
        f"tags:\n- human-feedback\n- {format}\nconfigs:\n  - config_name: default\n    data_files:\n{files}---\n\n"
        f"# {name}\n\nWhat people said about answers, as {format} rows. Written by Plumbline.\n\n"
        f"| split | rows |\n|---|---:|\n{splits}\n"
        f"Columns: {', '.join(f'`{column}`' for column in columns)}.\n\n"
        "## Licence\n\nTo be chosen by whoever shares this. Say also what people were told when they took part.\n\n"
        f"## Files\n\n| file | SHA-256 |\n|---|---|\n{hashes}"
    )
