"""The output file of a long command: continued by running the command again after any stop, even a kill -9.

What is in the file is never lost by accident: a file that this command did not write is refused, and so is one that
was made with other settings.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plumbline.errors import UserError

if TYPE_CHECKING:
    from plumbline.records import ComparisonSet, Generated, PromptRecord

    Record = Generated | ComparisonSet

Force = Annotated[bool, typer.Option("--force", help="Begin again and write over an output file that is there.")]


class Output:
    """Where a command's records go: appended to a file as soon as they are made, or printed when there is none."""

    def __init__(self, path: Path | None, *, force: bool = False) -> None:
        self.path = path
        if path is None:
            return
        if path.is_dir():
            raise UserError(f"{str(path)!r} is a folder: name a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        if force:
            path.unlink(missing_ok=True)

    def write(self, records: Sequence[Record]) -> None:
        from plumbline.records import write_jsonl

        if self.path is None:
            for record in records:
                typer.echo(record.model_dump_json(exclude_none=True))
        else:
            write_jsonl(self.path, records, append=True)

    def missing(
        self, prompts: Sequence[PromptRecord], kind: type[Record], *, lines: int, settings: dict[str, Any]
    ) -> list[PromptRecord]:
        """The prompts that the file does not hold yet; a prompt is there when all its `lines` are.

        What a stopped run left half-written is cut off. Raises where the file was made from other prompts of the
        same ids or with other settings.
        """
        from plumbline.records import read_jsonl, write_jsonl

        if self.path is None or not self.path.exists():
            return list(prompts)
        cut_torn_line(self.path, kind)
        asked = {prompt.prompt_id: prompt.prompt for prompt in prompts}
        there: Counter[str] = Counter()
        for record in read_jsonl(self.path, kind):
            self._compare(
                {"prompt": record.prompt, **made_with(record)},
                {"prompt": asked.get(record.prompt_id, record.prompt), **settings},
            )
            there[record.prompt_id] += 1
        whole = {prompt for prompt, count in there.items() if count >= lines}
        if len(whole) < len(there):
            new = self.path.with_name(self.path.name + ".new")
            write_jsonl(new, (record for record in read_jsonl(self.path, kind) if record.prompt_id in whole))
            new.replace(self.path)
        return [prompt for prompt in prompts if prompt.prompt_id not in whole]

    def _compare(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        for name in {**before, **now}:
            if before.get(name) != now.get(name):
                raise UserError(
                    f"{str(self.path)!r} was made with {name} {before.get(name)!r} and this run has {now.get(name)!r}: "
                    "give the same to go on, name another --out, or begin again with --force"
                )


def made_with(record: Record) -> dict[str, Any]:
    """The settings that a record tells of; a set's answers share theirs."""
    made: Any = getattr(record, "completions", [record])[0]
    return {"model": made.model, **made.sampling}


def cut_torn_line(path: Path, kind: type[Record]) -> None:
    """Cuts off a last line without its end, if it is one of ours: a run was killed, or the disk full, in writing it."""
    with path.open("r+b") as file:
        size = end = file.seek(0, os.SEEK_END)
        tail = b""
        while end > 0 and b"\n" not in tail:
            begin = max(0, end - 65536)
            file.seek(begin)
            tail = file.read(end - begin) + tail
            end = begin
        torn = tail.rpartition(b"\n")[2]
        first_field = next(iter(kind.model_fields))
        if torn and f'{{"{first_field}'.startswith(torn.decode(errors="replace")[: len(first_field) + 2]):
            file.truncate(size - len(torn))
