"""The output file of a long command: continued by running the command again after any stop, even a kill -9.

What is in the file is never lost by accident: a file that this command did not write is refused, and so is one that
was made with other settings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plumbline.cli.terminal import note
from plumbline.errors import UserError

if TYPE_CHECKING:
    from plumbline.records import ComparisonSet, Generated, PromptRecord, Record

Force = Annotated[bool, typer.Option("--force", help="Begin again and write over an output file that is there.")]


Settings = dict[str, Any]


class Output:
    """Where a command's records go: appended to a file as soon as they are made, or printed when there is none."""

    def __init__(self, path: Path | None, *, force: bool = False) -> None:
        self.path = path
        self._replace = force
        """Whether the first records take the place of what is there."""
        if path is not None and path.is_dir():
            raise UserError(f"{str(path)!r} is a folder: name a file")

    def write(self, records: Sequence[Record]) -> None:
        from plumbline.records import write_jsonl

        if self.path is None:
            for record in records:
                typer.echo(record.model_dump_json())
            return
        try:
            write_jsonl(self.path, records, append=not self._replace)
        except OSError as error:  # a full disk, most often, and the system does not say where
            raise UserError(f"cannot write to {str(self.path)!r}: {error.strerror}") from error
        self._replace = False

    def tell(self, done: int, total: int, unit: str) -> None:
        """Says how much is in the file, and how to go on where that is not all."""
        if self.path is not None and done:
            rest = "" if done == total else ": run the same command again to go on"
            note(f"{done} of {total} {unit} are in {self.path}{rest}")

    def missing(
        self, prompts: Sequence[PromptRecord], kind: type[Generated | ComparisonSet], *, lines: int, settings: Settings
    ) -> list[PromptRecord]:
        """The prompts that the file does not hold yet; a prompt is there when all its `lines` are.

        What a stopped run left half-written is taken out. Raises where the file was made from other prompts of the
        same ids or with other settings.
        """
        from plumbline.records import read_jsonl, write_jsonl

        if not self.begun():
            return list(prompts)
        assert self.path is not None
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
            write_jsonl(self.path, (each for each in read_jsonl(self.path, kind) if each.prompt_id in whole))
        return [prompt for prompt in prompts if prompt.prompt_id not in whole]

    def begun(self) -> bool:
        """Whether there are lines from a run that was stopped. The last one is mended, should it be torn."""
        from plumbline.records import write_jsonl

        if self.path is None or not self.path.is_file() or self._replace:
            return False
        write_jsonl(self.path, [], append=True)
        return self.path.stat().st_size > 0

    def _compare(self, before: Settings, now: Settings) -> None:
        for name in {**before, **now}:
            if before.get(name) != now.get(name):
                raise UserError(
                    f"{str(self.path)!r} was made with {name} {before.get(name)!r} and this run has {now.get(name)!r}: "
                    "give the same to go on, name another --out, or begin again with --force"
                )


def made_with(record: Generated | ComparisonSet) -> Settings:
    """The settings that a record tells of; the answers of a set share theirs."""
    from plumbline.records import Generated

    if isinstance(record, Generated):
        return {"model": record.model, **record.sampling}
    first = record.completions[0]
    return {"model": first.model, "per_prompt": len(record.completions), **first.sampling}
