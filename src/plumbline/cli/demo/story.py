"""The demo as it goes: which steps are done, and how a command is typed into this very process."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.cli.terminal import note, screen
from plumbline.errors import UserError
from plumbline.files import replaced

if TYPE_CHECKING:
    from plumbline.cli.demo.steps import Size

STATE, LOCK = "demo.json", "demo.lock"


def nothing(folder: Path) -> None:
    """What a step does beside its commands, mostly."""


@dataclass(frozen=True)
class Step:
    """A part of the circle."""

    name: str
    title: str
    why: str
    commands: tuple[str, ...]
    before: Callable[[Path], None] = nothing
    """Writes the files that the commands read."""
    after: Callable[[Path], None] = nothing
    """Shows what came of it."""
    may_refuse: str = ""
    """What is said where the last command refuses, if that is a fair end of the step."""


class Story:
    """One going round in one folder; `demo.json` keeps how far it came."""

    def __init__(self, folder: Path, size: Size) -> None:
        self.folder = folder.resolve()
        self.size = size
        self.seconds: dict[str, float] = {}
        """How long each step took that is done."""

    @contextmanager
    def told(self) -> Iterator[None]:
        """Inside, the working folder is the demo's, and nobody else tells it there."""
        there = {each.name for each in self.folder.iterdir()} if self.folder.exists() else set()
        if there - {LOCK} and STATE not in there:
            raise UserError(f"{str(self.folder)!r} holds other things: name a folder that is new or empty")
        self.folder.mkdir(parents=True, exist_ok=True)
        before = Path.cwd()
        with (self.folder / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"a demo is running in {str(self.folder)!r}: wait for it, or name another folder"
                ) from None
            self.read()
            os.chdir(self.folder)
            try:
                yield
            except KeyboardInterrupt:
                note(f"stopped; the same command goes on where it was, in {self.folder}")
                raise
            finally:
                os.chdir(before)

    def read(self) -> None:
        """What was done before, if anything; a folder that was begun otherwise is refused."""
        if (self.folder / STATE).exists():
            kept = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
            if kept["size"] != asdict(self.size):
                raise UserError(f"{str(self.folder)!r} was begun with other sizes: name another folder, or remove it")
            self.seconds = kept["seconds"]
        else:
            self.keep()

    def keep(self) -> None:
        with replaced(self.folder / STATE) as file:
            file.write(json.dumps({"size": asdict(self.size), "seconds": self.seconds}, indent=1).encode() + b"\n")

    def tell(self, step: Step, number: int, of: int) -> None:
        """Does the step, unless it is done; shows what came of it in either case."""
        from rich.padding import Padding
        from rich.rule import Rule

        console = screen()
        console.print()
        console.print(Rule(f"[bold]{number} of {of}  {step.title}", align="left", style="dim"))
        console.print(Padding(step.why, (0, 0, 1, 0)))
        if step.name in self.seconds:
            for command in step.commands:
                show_command(command)
            note(f"done before, in {self.seconds[step.name]:.0f} s")
        else:
            begin = time.monotonic()
            step.before(self.folder)
            self.run(step)
            self.seconds[step.name] = time.monotonic() - begin
            self.keep()
        step.after(self.folder)

    def run(self, step: Step) -> None:
        from rich.text import Text

        for command in step.commands:
            try:
                self.type_in(command)
            except UserError as refusal:
                if not (step.may_refuse and command == step.commands[-1]):
                    raise
                screen().print(Text(f"{refusal}\n{step.may_refuse}", "yellow"))

    def type_in(self, command: str) -> None:
        """Runs the command as if it had been typed here; a training run that was cut off goes on."""
        from plumbline.cli.main import load_command

        words = shlex.split(command)
        if words[1] == "train" and (Path(words[words.index("--out") + 1]) / "config.json").exists():
            words, command = [*words, "--resume"], f"{command} --resume"
        show_command(command)
        target = load_command(words[1])
        # Not its `main`, which turns a Ctrl-C into a number that it returns: the step would count as done.
        with typed(words), target.make_context(" ".join(words[:2]), words[2:]) as context:
            target.invoke(context)
        sys.stdout.flush()


@contextmanager
def typed(words: list[str]) -> Iterator[None]:
    """Inside, these are the words that this process was started with: records say how they came about."""
    before, sys.argv = sys.argv, words
    try:
        yield
    finally:
        sys.argv = before


def show_command(command: str) -> None:
    from rich.text import Text

    screen().print(Text.assemble(("$ ", "dim"), (command, "cyan")), soft_wrap=True)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The objects in a file of JSON Lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
