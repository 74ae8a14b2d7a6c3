"""Writes docs/reference/ from the code itself: each command's `--help`, all settings, the facts of PPO.

python docs/make_reference.py           writes the pages
python docs/make_reference.py --check   writes nothing; ends with 1 if a page no longer says what the code says
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

from plumbline.align import METHODS
from plumbline.cli.main import app
from plumbline.cli.options import Field, fields

FOLDER = Path(__file__).parent / "reference"
WIDTH = 96
NOTE = "<!-- Written by docs/make_reference.py from the code: change that, then `make fix`. -->\n\n"


def commands(command: Any, context: Any) -> Iterator[tuple[str, str]]:
    """The words that call each command and what it says of itself, the groups before what they hold."""
    yield context.command_path, command.get_help(context)
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            _, below, _ = command.resolve_command(context, [name])
            yield from commands(below, command_context(below, name, context))


def command_context(command: Any, name: str, parent: Any = None) -> Any:
    return command.make_context(name, [], parent, resilient_parsing=True, terminal_width=WIDTH)


def commands_page() -> str:
    plumb = typer.main.get_command(app)
    page = "# Commands\n\nEvery command answers `--help` with the text below.\n"
    for path, text in commands(plumb, command_context(plumb, "plumb")):
        page += f"\n## {path}\n\n```text\n{text.strip()}\n```\n"
    return page


def sampling_page() -> str:
    page = (
        "# Sampling\n\n"
        "How an answer is drawn: the fields of `plumbline.Sampling`. A command that asks a model has them as options; "
        "its `--schema` and `--grammar` take a file.\n\n"
    )
    return page + field_table(fields("plumbline.models", "Sampling").values())


def field_table(rows: Iterable[Field]) -> str:
    head = "* - Field\n  - Type\n  - Default\n  - Meaning\n"
    table = "```{list-table}\n:header-rows: 1\n:widths: 18 14 12 56\n\n" + head
    for field in rows:
        meaning = " ".join(field.help.split())
        table += f"* - `{field.name}`\n  - `{field.type}`\n  - `{field.default!r}`\n  - {meaning}\n"
    return table + "```\n"


def settings_page() -> str:
    every, online = fields("plumbline.training.run", "Settings"), fields("plumbline.align.online", "Online")
    page = (
        "# Settings\n\n"
        "A setting is the option of its name: `batch_size` is `--batch-size`. A file that is given by `--config` holds "
        "settings under the names below. A method has its own, those of all methods, and its own defaults of these.\n"
    )
    page += section("All methods", "Every method of `plumb train` takes these.", every)
    page += section("Methods that sample", "`ppo` and `grpo` take these, too.", online, beyond=every)
    for name, method in METHODS.items():
        its = fields(method.module, "Config")
        page += section(name, method.help, its, beyond=online if online.keys() <= its.keys() else every)
        page += presets(method.module)
    constitutional = fields("plumbline.align.constitutional", "Config")
    page += section("constitutional", "Both stages of `plumb constitution run` take these.", constitutional)
    return page + section("plumb.toml", "The settings of a project.", fields("plumbline.project", "Config"))


def section(title: str, about: str, its: Mapping[str, Field], beyond: Mapping[str, Field] | None = None) -> str:
    """The settings of one class; where others are known already, those that are new or have another default."""
    own = [field for name, field in its.items() if field != (beyond or {}).get(name)]
    return f"\n## {title}\n\n{about}\n\n{field_table(own)}"


def presets(module: str) -> str:
    lines = ""
    for name, settings in getattr(import_module(module), "PRESETS", {}).items():
        values = ", ".join(f"`{setting}` {value}" for setting, value in settings.items())
        lines += f"\n`--preset {name}`: {values}.\n"
    return lines


def facts_page() -> str:
    page = (
        "# What is held true of PPO\n\n"
        "Most of what makes PPO fail is not in its equations. Each line is a fact that published work or a public "
        "defect has taught, and the file whose test holds it. A test's name is the fact; the line is made from it.\n\n"
        "```{list-table}\n:header-rows: 1\n:widths: 6 62 32\n\n* - No.\n  - Fact\n  - Held in\n"
    )
    for number, name, file in sorted(facts()):
        page += f"* - {number}\n  - {sentence(name)}\n  - `{file}`\n"
    return page + "```\n"


def sentence(name: str) -> str:
    """A test's name as it would be written."""
    words = name.replace("_s_", "'s_").split("_")
    said = " ".join({"ppo": "PPO", "kl": "KL", "gae": "GAE", "adam": "Adam"}.get(word, word) for word in words)
    return said[0].upper() + said[1:]


def facts() -> Iterator[tuple[int, str, str]]:
    """Number, name and file of every test that is called after a fact."""
    tests = Path(__file__).parent.parent / "tests"
    for file in sorted(tests.rglob("test_*.py")):
        for number, name in re.findall(r"^def test_fact_(\d+)_(\w+)", file.read_text(encoding="utf-8"), re.MULTILINE):
            yield int(number), name, file.relative_to(tests.parent).as_posix()


PAGES = {
    "commands.md": commands_page,
    "settings.md": settings_page,
    "sampling.md": sampling_page,
    "facts.md": facts_page,
}


def main(check: bool) -> int:
    stale = []
    for name, write in PAGES.items():
        file, text = FOLDER / name, NOTE + write()
        if file.exists() and file.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            FOLDER.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
    if stale and check:
        print(f"docs/reference: {', '.join(stale)} no longer says what the code says: run `make fix`", file=sys.stderr)
    return int(bool(stale) and check)


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
