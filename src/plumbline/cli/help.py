"""What `--help` looks like: plain text under a few headings, commands first, nothing drawn around it."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

STYLE: dict[str, Any] = {
    "context_settings": {"help_option_names": ["-h", "--help"]},
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
}
"""What every Typer of ours is made with."""


class Command(TyperCommand):
    """A command whose options stand under the headings that they name."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        options: list[Any] = self.get_params(ctx)
        arguments = [each for each in options if each.param_type_name == "argument" and not each.hidden]
        return [
            "[OPTIONS]",
            *(called(argument) if argument.required else f"[{called(argument)}]" for argument in arguments),
        ]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_options(self, ctx, formatter)


class Group(TyperGroup):
    """A group whose commands stand under the headings that they name, above the options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        headings: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            heading = getattr(command, "rich_help_panel", None) or "Commands"
            headings.setdefault(heading, []).append((name, command.help.partition("\n")[0]))
        write_sections(formatter, headings)
        write_options(self, ctx, formatter)


def write_options(command: Any, ctx: Any, formatter: Any) -> None:
    headings: dict[str, list[tuple[str, str]]] = {}
    for option in command.get_params(ctx):
        record: Any = option.get_help_record(ctx)
        if record is not None:
            argument = option.param_type_name == "argument"
            kind = "Arguments" if argument else "Options"
            record = (called(option), record[1]) if argument else record
            headings.setdefault(getattr(option, "rich_help_panel", None) or kind, []).append(record)
    write_sections(formatter, headings)


def called(argument: Any) -> str:
    """What the help calls an argument."""
    return str(argument.metavar or argument.name.upper())


def write_sections(formatter: Any, headings: dict[str, list[tuple[str, str]]]) -> None:
    for heading, rows in headings.items():
        with formatter.section(heading):
            formatter.write_dl(rows)
