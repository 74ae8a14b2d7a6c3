"""The options that say how an answer is drawn, the same for every command: the fields of `Sampling`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plumbline.cli.options import fields, parameter
from plumbline.cli.prompts import read_text
from plumbline.errors import UserError

if TYPE_CHECKING:
    from plumbline.models import Sampling

PANEL = "Sampling"
FOR_MEASURING = {"ignore_eos"}
FROM_FILES = {"schema", "grammar"}
IN_PLACE = {"n", "seed", "truncate"}
"""Not part of a record's sampling: the seed has its own field, the others change no text that fits."""


class SamplingOptions(dict[str, Any]):
    """What was said on the command line. `resolve` checks it; until then nothing heavy is imported."""

    def resolve(self, **more: Any) -> Sampling:
        from plumbline.models import Sampling

        values = {**self, **more}
        values["stop"] = tuple(values["stop"] or ())
        if values["schema"] is not None:
            values["schema"] = _read_schema(values["schema"])
        if values["grammar"] is not None:
            values["grammar"] = read_text(values["grammar"])
        return Sampling(**values)


def as_settings(sampling: Sampling, *, raw: bool = False) -> dict[str, Any]:
    """How an answer is drawn, as a record carries it; what was not asked for is left out."""
    from dataclasses import asdict

    said = {**asdict(sampling), "raw": raw}
    return {
        name: value
        for name, value in said.items()
        if name not in IN_PLACE and value is not None and value is not False and value != ()
    }


def takes_sampling(*, without: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the sampling options, and hands them to it as its parameter `sampling`."""
    known = fields("plumbline.models", "Sampling")
    options = []
    for field in known.values():
        if field.name in FROM_FILES:
            annotation = Annotated[
                Path | None, typer.Option(field.flag, help=field.help, rich_help_panel=PANEL, metavar="FILE")
            ]
            options.append(
                inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            )
        elif field.name not in FOR_MEASURING and field.name not in without:
            options.append(parameter(field, panel=PANEL))

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "sampling"]

        def run(**values: Any) -> None:
            chosen = SamplingOptions({option.name: values.pop(option.name) for option in options})
            command(**values, sampling=chosen)

        together = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + options
        run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
        run.__signature__ = inspect.Signature(together)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in together}
        return run

    return decorate


def _read_schema(path: Path) -> dict[str, Any]:
    import json

    try:
        schema = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{str(path)!r} is not JSON: {error.msg} in line {error.lineno}") from error
    if not isinstance(schema, dict):
        raise UserError(f"{str(path)!r} holds {type(schema).__name__}, not a JSON schema: it must be an object")
    return schema
