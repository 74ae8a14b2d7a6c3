"""`plumb`: the table of commands, the options they all share, and what an error looks like.

A command's module is imported when that command is called. `plumb --help` reads the table alone, so it stays quick
however heavy the commands become.
"""

from __future__ import annotations

import errno
import sys
import traceback
from importlib import import_module
from typing import Annotated, Any, NamedTuple, NoReturn

import typer

from plumbline.cli.help import STYLE, Command, Group
from plumbline.cli.terminal import complain
from plumbline.errors import PlumblineError, UserError

START, ASK, LEARN, WORK, KEEP = (
    "Start here",
    "Ask a model",
    "Make it better",
    "Put it to work",
    "Models and versions",
)


class Entry(NamedTuple):
    """Where a command lives, and the first line of its docstring."""

    target: str
    help: str
    panel: str


COMMANDS = {
    "demo": Entry(
        "plumbline.cli.demo:demo",
        "Go round the whole circle with the bundled model: rankings make it better, and you watch.",
        START,
    ),
    "init": Entry("plumbline.cli.init:init", "Make a project folder.", START),
    "generate": Entry("plumbline.cli.generate:generate", "Answer one prompt, or a file of them.", ASK),
    "chat": Entry("plumbline.cli.chat:chat", "Talk with a model.", ASK),
    "sample": Entry("plumbline.cli.sample:sample", "Draw several answers per prompt, ready to be ranked.", ASK),
    "score": Entry("plumbline.cli.score:score", "Give each answer in a file a score.", ASK),
    "label": Entry("plumbline.cli.label:label", "Open the ranking room: people rank answers in a browser.", LEARN),
    "feedback": Entry(
        "plumbline.cli.feedback:app", "Bring what people said in and out, and see how far they agree.", LEARN
    ),
    "train": Entry("plumbline.cli.train:app", "Train a model on what people said.", LEARN),
    "evaluate": Entry("plumbline.cli.evaluate:evaluate", "Measure a model, alone or beside another one.", LEARN),
    "constitution": Entry(
        "plumbline.cli.constitution:app",
        "Let a model criticise, revise and compare answers by written principles.",
        LEARN,
    ),
    "audit": Entry("plumbline.cli.audit:audit", "Look whether a run's reward is being gamed.", LEARN),
    "serve": Entry(
        "plumbline.cli.serve:serve", "Serve a model with OpenAI's API, and a playground in the browser.", WORK
    ),
    "keys": Entry(
        "plumbline.cli.keys:app",
        "Make, list and revoke the keys by which applications ask the served model.",
        WORK,
    ),
    "models": Entry("plumbline.cli.models:app", "List, inspect, fetch and share models.", KEEP),
    "status": Entry("plumbline.cli.status:status", "Show where the circle stands, with today's counts.", START),
    "versions": Entry("plumbline.cli.versions:versions", "List the project's model versions.", KEEP),
    "promote": Entry("plumbline.cli.versions:promote", "Make a version the one that is served.", KEEP),
    "rollback": Entry("plumbline.cli.versions:rollback", "Go back to the version promoted before.", KEEP),
    "lineage": Entry(
        "plumbline.cli.versions:lineage", "Show what a version was made of, down to the rows of its data.", KEEP
    ),
    "report": Entry("plumbline.cli.report:report", "Write a version's model card from what is on record.", KEEP),
    "backup": Entry(
        "plumbline.cli.backup:backup", "Copy all that people said into one file, also while they go on.", KEEP
    ),
    "restore": Entry(
        "plumbline.cli.backup:restore", "Put a copy in the place of all that the project's people said.", KEEP
    ),
}


def load_command(name: str) -> Any:
    """The command of that name, its module imported now."""
    module, _, attribute = COMMANDS[name].target.partition(":")
    target = getattr(import_module(module), attribute)
    if not isinstance(target, typer.Typer):
        function, target = target, typer.Typer(**STYLE, add_completion=False)
        target.command(name, cls=Command)(function)
    command = typer.main.get_command(target)
    command.name = name
    return command


class Plumb(Group):
    """The root group: lists commands by the table, imports the one that is called, answers for what it raises."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, entry in COMMANDS.items():
            self.add_command(Command(name, callback=None, help=entry.help, rich_help_panel=entry.panel))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name else command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a reader that has gone is noticed here, not while the interpreter shuts down
            return result
        except UserError as error:
            leave(error, code=2, debug=ctx.params["debug"])
        except PlumblineError as error:
            leave(error, code=1, debug=ctx.params["debug"])
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # Typer ends quietly
            leave(error, code=2, debug=ctx.params["debug"])

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        try:
            sys.exit(super().main(*args, **{**extra, "standalone_mode": False}) or 0)
        except typer.TyperException as error:  # an option that does not exist, a value that is missing
            context = getattr(error, "ctx", None)
            hint = f" See `{context.command_path} --help`." if context else ""
            message = error.format_message()
            complain(message + ("" if message.endswith((".", "?")) else ".") + hint)
            sys.exit(error.exit_code)
        except typer.Abort:
            sys.exit(130)


def leave(error: Exception, *, code: int, debug: bool) -> NoReturn:
    """Ends with one line about `error`; with its traceback before it when `debug`."""
    if debug:
        traceback.print_exception(error)
    complain(says(error))
    raise typer.Exit(code)


def says(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename!r}: {error.strerror}" if error.filename else error.strerror
    return str(error)


app = typer.Typer(cls=Plumb, **STYLE)


@app.callback(invoke_without_command=True)
def plumb(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="PLUMBLINE_DEBUG", help="Show where an error comes from.")
    ] = False,
) -> None:
    """Plumbline turns what people think of a model's answers into a measurably better model."""
    if version:
        from plumbline import __version__

        typer.echo(f"plumb {__version__}")
    elif ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def main() -> None:
    """The console script."""
    app(prog_name="plumb")
