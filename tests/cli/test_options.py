"""Options read from a dataclass's source: they are what the dataclass says, and nothing is imported for it."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path

import pytest

from plumbline.cli.options import Field, fields, parameter
from plumbline.models import Sampling

SETTINGS = '''
"""Settings of a method that needs a heavy library."""
import a_library_that_nobody_has
from dataclasses import dataclass, field

@dataclass(frozen=True)
class Config:
    """Not a field."""

    steps: int = 20_000
    """Most steps.

    Stops earlier at the threshold."""
    beta: float = 0.02
    """How strongly it is held back."""
    hidden: int = 3
    names: tuple[str, ...] = ("a", "b")
    """Which ones."""
    prices: dict[str, float] = field(default_factory=dict)
    """What each costs."""
'''


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "settings_of_a_method.py").write_text(SETTINGS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "settings_of_a_method"


def test_fields_are_read_without_importing_the_module(settings: str) -> None:
    assert list(fields(settings, "Config").values()) == [
        Field("steps", "int", 20_000, "Most steps.\n\nStops earlier at the threshold."),
        Field("beta", "float", 0.02, "How strongly it is held back."),
        Field("names", "tuple[str, ...]", ("a", "b"), "Which ones."),
        Field("prices", "dict[str, float]", {}, "What each costs."),
    ]
    assert settings not in sys.modules


def test_the_fields_of_sampling_are_those_of_the_class() -> None:
    read = fields("plumbline.models", "Sampling")
    real = {field.name: field for field in dataclasses.fields(Sampling)}
    assert list(read) == list(real)
    assert {name: field.default for name, field in read.items()} == {
        name: field.default for name, field in real.items()
    }
    assert {name: field.type for name, field in read.items()} == {name: field.type for name, field in real.items()}
    assert all(field.help for field in read.values())


def test_a_field_becomes_a_parameter_that_typer_reads() -> None:
    made = parameter(Field("top_k", "int", 0, "Keep the k likeliest."), panel="Sampling")
    option = made.annotation.__metadata__[0]
    assert (made.name, made.default, made.annotation.__origin__) == ("top_k", 0, int)
    assert (option.default, option.help, option.rich_help_panel) == ("--top-k", "Keep the k likeliest.", "Sampling")
    assert made.kind is inspect.Parameter.KEYWORD_ONLY
    assert parameter(Field("stop", "tuple[str, ...]", (), "Ends before.")).default == []


@pytest.mark.parametrize(("default", "flag"), [(True, "--scale/--no-scale"), (False, "--scale")])
def test_what_is_on_unless_told_can_be_turned_off(default: bool, flag: str) -> None:
    assert Field("scale", "bool", default, "Divide by the spread.").flag == flag


def test_a_type_without_an_option_is_our_own_bug() -> None:
    with pytest.raises(AssertionError, match="shape has the type dict"):
        parameter(Field("shape", "dict[str, int]", None, "A shape."))
