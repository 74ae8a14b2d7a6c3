"""The trail: every step on the way to a demonstration or a ranking, kept as it was taken.

A step's place in the run (`Key`) decides its seed and its principle, so a run that was stopped asks for the steps that
the trail lacks, and ends with the bytes that it would have had. A file is only ever added to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, FiniteFloat

from plumbline.errors import UserError
from plumbline.files import replaced
from plumbline.models import Completion, Generate, Prompt, Sampling
from plumbline.project import alone_in
from plumbline.records import AnyAnswer, Id, PromptRecord, Record, StoredPrompt, read_jsonl, write_jsonl
from plumbline.training.run import refuse_changed

Kind = Literal["answer", "critique", "revision", "judgement"]


class Key(NamedTuple):
    """Which step of a run this is."""

    prompt_id: str
    kind: Kind
    turn: int = 0
    """The round of a critique and its revision; the number of an answer among several; that of a judgement."""


class Step(Record):
    """One step: who was asked what under which principle, and what came back."""

    prompt_id: Id
    kind: Kind
    turn: Annotated[int, Field(ge=0)] = 0
    prompt: StoredPrompt
    principle: str | None = None
    text: AnyAnswer = ""
    """The answer, the critique, the revision; of a judge that speaks, its two replies, a line each."""
    model: str
    seed: int | None = None
    finish_reason: str = ""
    between: tuple[int, int] | None = None
    """Of a judgement, the numbers of the two answers."""
    odds: tuple[FiniteFloat | None, FiniteFloat | None] | None = None
    """Of a judgement, the log-odds of the first of the two, asked in both orders; null where it named neither."""
    winner: Literal["first", "second", "tie"] | None = None

    @property
    def key(self) -> Key:
        return Key(self.prompt_id, self.kind, self.turn)


@dataclass(frozen=True)
class Wanted:
    """A step that is to be taken: what is asked, and how the answer is drawn."""

    record: PromptRecord
    kind: Kind
    turn: int
    asked: Prompt
    sampling: Sampling
    principle: str | None = None

    @property
    def keys(self) -> list[Key]:
        """One for each answer that is drawn."""
        return [Key(self.record.prompt_id, self.kind, self.turn + number) for number in range(self.sampling.n)]

    def steps(self, completions: Sequence[Completion], model: str) -> Iterator[Step]:
        for key, completion in zip(self.keys, completions, strict=True):
            yield Step(
                prompt_id=key.prompt_id,
                kind=key.kind,
                turn=key.turn,
                prompt=self.record.prompt,
                principle=self.principle,
                text=completion.text.strip(),
                model=model,
                seed=self.sampling.seed,
                finish_reason=completion.finish_reason,
            )


class Trail:
    """The steps in a file. What a killed process had half written is taken out when it is opened."""

    def __init__(self, path: Path, on_step: Callable[[int], object] = lambda steps: None) -> None:
        self.path = path
        self.on_step = on_step
        """Called with the number of steps just added."""
        write_jsonl(path, [], append=True)
        there = read_jsonl(path, Step) if path.stat().st_size else iter(())
        self._steps = {step.key: step for step in there}

    def __len__(self) -> int:
        return len(self._steps)

    def __contains__(self, key: Key) -> bool:
        return key in self._steps

    def __getitem__(self, key: Key) -> Step:
        return self._steps[key]

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps.values())

    def add(self, steps: Sequence[Step]) -> None:
        """Those that are not there yet; when it returns they are on the disk."""
        new = [step for step in steps if step.key not in self._steps]
        write_jsonl(self.path, new, append=True)
        self._steps |= {step.key: step for step in new}
        self.on_step(len(new))

    def ask(self, generate: Generate, wanted: Sequence[Wanted]) -> None:
        """Takes the steps that the trail lacks, those that are drawn alike in one call."""
        for _, group in groupby(sorted(wanted, key=how), key=how):  # which keeps the order of those asked alike
            lacking = [step for step in group if any(key not in self for key in step.keys)]
            if not lacking:
                continue
            # An endpoint gives answer after answer, and those before a failure are kept.
            each = getattr(generate, "each", generate)
            answers = each([step.asked for step in lacking], lacking[0].sampling)
            for step, drawn in zip(lacking, answers, strict=True):
                self.add(list(step.steps(drawn, generate.name)))


def how(wanted: Wanted) -> str:
    """What two steps must share to be asked in one call."""
    return repr(wanted.sampling)


# ---- the folder


@contextmanager
def open_folder(out: str | Path, settings: Mapping[str, Any]) -> Iterator[Path]:
    """The run's folder, marked with all that decides its outcome, or found again with the same; nobody else's
    meanwhile."""
    folder = Path(out)
    if folder.is_file():
        raise UserError(f"{str(out)!r} is a file: name a folder with --out")
    with alone_in(folder, wait=False):
        mark(folder, json.loads(json.dumps(settings)))
        yield folder


def mark(folder: Path, settings: dict[str, Any]) -> None:
    """Writes the settings into a new folder; refuses one that holds something else, or a run with other settings."""
    marked = folder / "config.json"
    if marked.exists():
        refuse_changed(json.loads(marked.read_text(encoding="utf-8")), settings, str(folder))
        return
    if any(folder.iterdir()):
        raise UserError(f"{str(folder)!r} holds something else: name a new folder with --out")
    with replaced(marked) as file:
        file.write(json.dumps(settings, indent=2).encode() + b"\n")


def write_summary(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Puts the summary into the folder, and hands it on."""
    with replaced(folder / "summary.json") as file:
        file.write(json.dumps(summary, indent=2).encode() + b"\n")
    return summary


def digest_of(records: Sequence[Record]) -> str:
    """The SHA-256 over the records, in order."""
    total = hashlib.sha256()
    for record in records:
        total.update(record.model_dump_json().encode() + b"\n")
    return total.hexdigest()
