"""The sampling options: the same for every command, and `Sampling` itself judges them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from plumbline.cli.options import fields
from plumbline.cli.sampling import FOR_MEASURING, SamplingOptions, as_settings
from plumbline.errors import UserError
from plumbline.models import Sampling

Plumb = Callable[..., Result]

LEFT_OUT = {"generate": set(), "sample": {"n"}, "chat": {"n", "truncate"}}


@pytest.mark.parametrize("command", LEFT_OUT)
def test_every_field_is_an_option_with_its_own_help(plumb: Plumb, command: str) -> None:
    shown = " ".join(plumb(command, "--help").stdout.split())
    for name, field in fields("plumbline.models", "Sampling").items():
        wanted = name not in FOR_MEASURING | LEFT_OUT[command]
        assert (f" {field.flag} " in shown) == wanted, name
        assert (" ".join(field.help.split()) in shown) == wanted, name


def test_what_is_said_on_the_command_line_reaches_the_record(plumb: Plumb, script: str, tmp_path: Path) -> None:
    (tmp_path / "shape.json").write_text('{"type": "string"}')
    said = "--max-new-tokens 9 --temperature 0 --top-k 4 --top-p 0.5 --seed 1 --stop END --stop ; --schema shape.json"
    result = plumb("generate", "--prompt", "Hi", "--model", script, "--json", *said.split())
    (record,) = json.loads(result.stdout)
    assert record["seed"] == 1
    assert record["sampling"] == {
        "max_new_tokens": 9,
        "temperature": 0.0,
        "top_k": 4,
        "top_p": 0.5,
        "stop": ["END", ";"],
        "schema": {"type": "string"},
    }


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--temperature", "-1"], "temperature is -1.0"),
        (["--top-p", "1.5"], "top_p is 1.5"),
        (["--top-p", "0"], "top_p is 0.0"),
        (["--top-k", "-3"], "top_k is -3"),
        (["--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--n", "0"], "n is 0"),
        (["--stop", ""], "stop is ('',)"),
        (["--schema", "nowhere.json"], "'nowhere.json': No such file"),
        (["--schema", "broken.json"], "'broken.json' is not JSON: Expecting value in line 2"),
        (["--schema", "list.json"], "'list.json' holds list, not a JSON schema"),
        (["--grammar", "latin.lark"], "'latin.lark' is not UTF-8 text (byte 3)"),
        (["--schema", "shape.json", "--grammar", "rule.lark"], "schema and grammar were both given"),
    ],
)
def test_a_bad_value_is_named(plumb: Plumb, tmp_path: Path, args: list[str], said: str) -> None:
    (tmp_path / "broken.json").write_text('{"type":\n}')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "shape.json").write_text("{}")
    (tmp_path / "rule.lark").write_text('start: "yes"')
    (tmp_path / "latin.lark").write_bytes("caf\xe9".encode("latin-1"))
    result = plumb("generate", "--prompt", "Hi", "--model", "no such model", *args)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"plumb: {said}")
    assert result.stderr.count("\n") == 1


def test_a_record_tells_what_shapes_the_text_and_no_more() -> None:
    def told(**values: Any) -> dict[str, Any]:
        return as_settings(Sampling(**values))

    assert told() == {"max_new_tokens": 256, "temperature": 0.7, "top_k": 0, "top_p": 1.0}
    assert told(n=5, seed=3, truncate=True) == told()
    assert told(temperature=0.0)["temperature"] == 0.0
    assert as_settings(Sampling(), raw=True) == {**told(), "raw": True}


def test_more_can_be_said_by_the_command() -> None:
    said = SamplingOptions(temperature=0.1, stop=None, schema=None, grammar=None)
    assert said.resolve(n=4) == Sampling(n=4, temperature=0.1)
    with pytest.raises(UserError, match="n is 0"):
        said.resolve(n=0)
