"""Every method in the table has the shape that a reader, and the command line, rely on."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from plumbline.align import METHODS
from plumbline.align.online import Online
from plumbline.cli.train import settings_of
from plumbline.training.run import Settings


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_its_paper_its_settings_its_losses_and_its_loop(name: str) -> None:
    module = import_module(METHODS[name].module)
    assert re.search(r"arXiv \d{4}\.\d{4,5}", module.__doc__ or ""), "the docstring names the paper"
    assert is_dataclass(module.Config) and issubclass(module.Config, Settings)
    handed_in = ["score", "sampler"] if issubclass(module.Config, Online) else []
    assert list(inspect.signature(module.train).parameters) == ["config", "resume", *handed_in]
    assert list(inspect.signature(module.expect).parameters) == ["config"]
    assert module.Config() == module.Config(), "every setting has a default"


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_has_a_help_text_and_the_default_that_help_shows(name: str) -> None:
    module, known = import_module(METHODS[name].module), settings_of(name)
    assert list(known) == [field.name for field in fields(module.Config)]
    default: Any = module.Config()
    for field in known.values():
        assert field.help.endswith("."), f"{field.name}: {field.help!r}"
        assert getattr(default, field.name) == field.default


def test_a_method_is_found_under_its_name() -> None:
    for name, method in METHODS.items():
        assert method.module == f"plumbline.align.{name}"
        assert Path(inspect.getfile(import_module(method.module))).name == f"{name}.py"
