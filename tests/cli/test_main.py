"""The table of commands, what help imports, and what an error looks like from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

import plumbline
from cli.conftest import PLUMB
from plumbline.cli.main import COMMANDS, Entry, load_command

Plumb = Callable[..., Result]

HEAVY = {
    "httpx",
    "jinja2",
    "llguidance",
    "numpy",
    "openvino",
    "pydantic",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
}

MODULES_AFTER = """
import json, sys
from plumbline.cli.main import app
for args in {calls!r}:
    try:
        app(args, prog_name="plumb")
    except SystemExit as end:
        assert not end.code, (args, end.code)
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def modules_after(*calls: list[str]) -> set[str]:
    """The modules that a fresh process has imported after these command lines."""
    code = MODULES_AFTER.format(calls=calls)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr))


def test_the_table_says_what_the_commands_say() -> None:
    for name, entry in COMMANDS.items():
        command = load_command(name)
        assert command.help.partition("\n")[0] == entry.help, name
        assert command.name == name


def test_help_imports_no_command() -> None:
    loaded = modules_after(["--help"])
    commands = {entry.target.partition(":")[0] for entry in COMMANDS.values()}
    assert not loaded & (commands | HEAVY)
    assert "rich" not in loaded  # 60 ms that plain text does without


def test_the_help_of_every_command_imports_nothing_heavy() -> None:
    subcommands = [["models", name, "--help"] for name in ("list", "show", "parity", "pull", "push")]
    loaded = modules_after(*([name, "--help"] for name in COMMANDS), *subcommands)
    assert {"plumbline.cli.generate", "plumbline.cli.models"} <= loaded
    assert not loaded & (HEAVY - {"pydantic"})  # Typer itself reads the types of options with a part of pydantic
    assert not loaded & {"plumbline.models", "plumbline.project", "plumbline.records"}


def test_a_module_that_help_does_import_is_seen() -> None:
    """The negative control of the two tests above."""
    assert "plumbline.cli.chat" in modules_after(["chat", "--help"])


def test_version(plumb: Plumb) -> None:
    result = plumb("--version")
    assert (result.exit_code, result.stdout) == (0, f"plumb {plumbline.__version__}\n")


def test_without_arguments_the_help_appears(plumb: Plumb) -> None:
    result = plumb()
    assert result.exit_code == 0
    assert result.stdout == plumb("--help").stdout
    assert all(name in result.stdout for name in COMMANDS)


@pytest.mark.parametrize("columns", [60, 80])
def test_help_fits_the_terminal(columns: int) -> None:
    code = (
        "from plumbline.cli.main import *\nfor name in COMMANDS:\n try: app([name, '--help'])\n except SystemExit: pass"
    )
    environment = {**os.environ, "COLUMNS": str(columns)}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    widths = [len(line) for line in shown.stdout.splitlines()]
    assert columns - 10 < max(widths) <= columns


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["genrate"], "plumb: No such command 'genrate'. Did you mean 'generate'? See `plumb --help`.\n"),
        (["--colour"], "plumb: No such option: --colour. See `plumb --help`.\n"),
        (["sample"], "plumb: Missing argument 'PROMPTS'. See `plumb sample --help`.\n"),
        (
            ["generate", "--top-k", "many"],
            "plumb: Invalid value for '--top-k': Input should be a valid integer, unable to parse string as an "
            "integer. See `plumb generate --help`.\n",
        ),
    ],
)
def test_a_wrong_command_line_gets_one_line(plumb: Plumb, args: list[str], said: str) -> None:
    result = plumb(*args)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", said)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "fail", Entry("cli.failing:fail", "Fail.", "Tests"))


@pytest.mark.usefixtures("failing")
@pytest.mark.parametrize(
    ("way", "code", "said"),
    [
        ("user", 2, "plumb: the colour is 'plaid': choose one of red, green\n"),
        ("engine", 1, "plumb: the engine's process ended with status -9; ask again\n"),
        ("disk", 2, "plumb: 'out.jsonl': No space left on device\n"),
        ("interrupt", 130, ""),
    ],
)
def test_an_error_is_one_line_and_a_code(plumb: Plumb, way: str, code: int, said: str) -> None:
    result = plumb("fail", way)
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", said)


@pytest.mark.usefixtures("failing")
def test_debug_shows_where_an_error_comes_from(plumb: Plumb, monkeypatch: pytest.MonkeyPatch) -> None:
    for args in (["--debug", "fail", "user"], ["fail", "user"]):
        result = plumb(*args)
        assert result.exit_code == 2
        assert "Traceback (most recent call last)" in result.stderr
        assert "raise WAYS[way]" in result.stderr
        assert result.stderr.endswith("plumb: the colour is 'plaid': choose one of red, green\n")
        monkeypatch.setenv("PLUMBLINE_DEBUG", "1")


@pytest.mark.usefixtures("failing")
def test_a_fault_of_ours_is_not_hidden(plumb: Plumb) -> None:
    assert isinstance(plumb("fail", "bug").exception, KeyError)


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """The pipe closes after the first of many lines, so that the rest meets a closed pipe."""
    prompts, script = tmp_path / "prompts.txt", tmp_path / "script.jsonl"
    prompts.write_text("".join(f"prompt {number}\n" for number in range(300)))
    script.write_text("".join(json.dumps({"completion": "word " * 200}) + "\n" for _ in range(300)))
    writer = subprocess.Popen(
        [*PLUMB, "generate", "--prompts", str(prompts), "--model", f"scripted:{script}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None and writer.stderr is not None
    assert json.loads(writer.stdout.readline())["prompt"] == "prompt 0"
    writer.stdout.close()
    said = writer.stderr.read()
    writer.stderr.close()
    assert said == ""
    assert writer.wait() != 0


def test_colours_only_at_a_terminal_and_never_against_no_color(
    terminal: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    red = "\x1b[1;31m"
    assert red not in subprocess.run([*PLUMB, "nonsense"], capture_output=True, text=True, check=False).stderr
    assert red in terminal("nonsense").read_rest()  # type: ignore[attr-defined]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "31m" not in terminal("nonsense").read_rest()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("plumb ro", {"rollback"}),
        ("plumb models p", {"parity", "pull", "push"}),
        ("plumb sample --temp", {"--temperature"}),
    ],
)
def test_a_shell_can_complete_what_is_typed(typed: str, offered: set[str]) -> None:
    words = typed.split(" ")
    shell = {"_PLUMB_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(PLUMB, env={**os.environ, **shell}, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == offered
