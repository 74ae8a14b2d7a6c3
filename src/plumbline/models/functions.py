"""A Python function as a `Score`: what a few lines of one's own can judge, named `file.py:function`.

The function takes a prompt and a completion and gives a number, or takes lists of both and gives a list where it is
marked so by its parameters' names, `prompts` and `completions`.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from plumbline.errors import UserError
from plumbline.models import Prompt


class FunctionScore:
    """`function` as a `Score`."""

    def __init__(self, function: Callable[..., Any], name: str = "") -> None:
        self.name = name or getattr(function, "__name__", type(function).__name__)
        self._function = function
        try:
            takes = list(inspect.signature(function).parameters)
        except ValueError:  # a function of C has none to show
            takes = []
        self._all_at_once = takes[:2] == ["prompts", "completions"]

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """One number per pair of prompt and completion, in the order given."""
        if self._all_at_once:
            return [float(each) for each in self._function(list(prompts), list(completions))]
        return [float(self._function(*each)) for each in zip(prompts, completions, strict=True)]


def is_function(name: str) -> bool:
    """Whether the name is one of a function in a file."""
    file, colon, function = name.rpartition(":")
    return bool(colon) and file.endswith(".py") and function.isidentifier()


def load_function(name: str) -> FunctionScore:
    """The function `file.py:function`. The file is run, as importing it would."""
    file, _, function = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise UserError(f"{name!r}: there is no file {file!r}; a function is named FILE.py:FUNCTION")
    module_name = f"plumbline_function_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file does wrong is told in its own words
        raise UserError(f"{file!r} cannot be run ({type(error).__name__}: {error})") from error
    found = getattr(module, function, None)
    if not callable(found):
        there = ", ".join(each for each, value in vars(module).items() if inspect.isfunction(value)) or "none"
        raise UserError(f"{file!r} has no function {function!r}: it has {there}")
    return FunctionScore(found, name=name)
