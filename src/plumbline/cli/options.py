"""The fields of a settings dataclass as options of a command.

A dataclass says it all once: the field's name, type and default, and the string below it, its help. We read that
from the source and import nothing, so that help stays quick when the module needs torch, and cannot drift.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

TYPES: dict[str, tuple[Any, str | None]] = {
    "bool": (bool, None),
    "int": (int, "N"),
    "float": (float, "X"),
    "str": (str, "TEXT"),
    "int | None": (int | None, "N"),
    "float | None": (float | None, "X"),
    "str | None": (str | None, "TEXT"),
    "tuple[str, ...]": (list[str], "TEXT"),
}
"""What an annotation means to Typer, and how the value is called in the help."""

EMPTY_TABLE = "field(default_factory=dict)"
"""The default of a field that is a table, which no option can give."""


@dataclass(frozen=True)
class Field:
    """One field of a settings dataclass, as its source says it."""

    name: str
    type: str
    default: Any
    help: str

    @property
    def flag(self) -> str:
        """The option; what is on unless told can be turned off."""
        name = self.name.replace("_", "-")
        return f"--{name}/--no-{name}" if self.default is True else f"--{name}"


@cache
def fields(module: str, name: str) -> dict[str, Field]:
    """The fields of class `name` in `module`, those it inherits first. Ones without a docstring are not for people."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None, module
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    imported = {
        each.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for each in node.names
    }
    inherited: dict[str, Field] = {}
    for base in found.bases:
        if isinstance(base, ast.Name) and base.id in imported:
            inherited |= fields(imported[base.id], base.id)
    return inherited | {field.name: field for field in _documented(found.body)}


def _documented(body: list[ast.stmt]) -> Iterator[Field]:
    for statement, below in zip(body, body[1:], strict=False):
        match statement, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                default: Any = {} if ast.unparse(value) == EMPTY_TABLE else ast.literal_eval(value)
                yield Field(name, ast.unparse(annotation), default, inspect.cleandoc(text))


def parameter(field: Field, *, panel: str | None = None) -> inspect.Parameter:
    """The field as a keyword parameter that Typer turns into an option."""
    assert field.type in TYPES, f"{field.name} has the type {field.type}, which no option has yet"
    kind, metavar = TYPES[field.type]
    option = typer.Option(field.flag, help=field.help, metavar=metavar, rich_help_panel=panel)
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, option],
    )
