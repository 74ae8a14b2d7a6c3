"""What people see while a command works. It goes to stderr, so that stdout holds data and nothing else.

Colours and moving parts appear on a terminal only, and NO_COLOR is respected (rich sees to both).
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from plumbline.models import Completion, Generate, Prompt, Sampling

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a script.")]


def screen() -> Console:
    """stdout, for what the command was asked for."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False)


def margin() -> Console:
    """stderr, for everything beside it."""
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False)


def note(text: str) -> None:
    """A quiet line beside the data."""
    say("", text, style="dim")


def complain(message: str) -> None:
    """What went wrong."""
    say("plumb: ", message, head_style="bold red")


def say(head: str, text: str, *, head_style: str = "", style: str = "") -> None:
    """Lines break between words on a terminal and not at all elsewhere, where somebody may search them."""
    from rich.text import Text

    console = margin()
    console.print(Text.assemble((head, head_style), (text, style)), soft_wrap=not console.is_terminal)


def print_json(value: Any) -> None:
    """One value, indented, as it is (no escapes for letters beyond ASCII)."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def printable(text: str) -> str:
    """Text without control characters other than line ends and tabs: a model must not steer the terminal."""
    return "".join(letter for letter in text if letter in "\n\t" or unicodedata.category(letter) != "Cc")


class Stream:
    """Writes an answer to stdout piece by piece; on a terminal, lines break between words."""

    def __init__(self) -> None:
        self._width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        self._column = 0
        self._word = ""

    def write(self, text: str) -> None:
        if not self._width:
            typer.echo(printable(text), nl=False)
            return
        for part in re.split(r"(\s)", printable(text)):
            if not part.isspace():
                self._word += part
                continue
            self._end_word()
            self._put(part, 0 if part == "\n" else self._column + 1)
        sys.stdout.flush()

    def end(self) -> None:
        self._end_word()
        typer.echo()

    def _end_word(self) -> None:
        from rich.cells import cell_len

        word, self._word = self._word, ""  # taken first: an interrupt must not show it twice
        length = cell_len(word)
        if 0 < self._column and self._column + length > self._width:
            self._put("\n", 0)
        self._put(word, self._column + length)

    def _put(self, text: str, column: int) -> None:
        typer.echo(text, nl=False)
        self._column = column


def print_stream(model: Generate, prompt: Prompt, sampling: Sampling) -> Completion:
    """The answer on stdout as it is written."""
    stream, completion = Stream(), None
    try:
        for chunk in model.stream(prompt, sampling):
            stream.write(chunk.text)
            completion = chunk.completion
    finally:
        stream.end()
    assert completion is not None, "a stream ends with a chunk that carries the whole completion"
    return completion


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A spinner with a few words, for a wait whose end is not known."""
    from rich.text import Text

    console = margin()
    if not console.is_terminal:
        yield
        return
    with console.status(Text(f"{text} …", style="dim"), spinner="dots", spinner_style="dim"):
        yield


@contextmanager
def progress(text: str, *, total: int, done: int = 0, unit: str) -> Iterator[Callable[[int], None]]:
    """A bar with the time left; what it is given is called with the number of units just finished."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    console = margin()
    bar = Progress(
        SpinnerColumn(style="dim"),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None, style="dim", complete_style="cyan", finished_style="cyan"),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("[dim]left"),
        console=console,
        disable=not console.is_terminal,
        expand=True,
        transient=True,  # what is left to read is the note about what was done
    )
    with bar:
        task = bar.add_task(text, total=total, completed=done)
        yield lambda units: bar.advance(task, units)


def table(*columns: str) -> Table:
    """A table without lines; a column whose name begins with > is set to the right."""
    from rich.table import Table

    rows = Table(box=None, pad_edge=False, header_style="dim", show_header=any(columns))
    for column in columns:
        rows.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return rows
