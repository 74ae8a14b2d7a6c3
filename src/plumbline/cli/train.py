"""`plumb train`: one command per method, its options the fields of the method's `Config`."""

from __future__ import annotations

import inspect
import json
import os
import tomllib
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plumbline.align import METHODS
from plumbline.cli.help import STYLE, Command, Group
from plumbline.cli.loading import named
from plumbline.cli.options import Field, fields, parameter
from plumbline.cli.terminal import note, screen, table, waiting
from plumbline.errors import UserError

if TYPE_CHECKING:
    from plumbline.training.forecast import Forecast

FIRST = ("data", "model", "out")
"""The settings that every call has; the others stand under a heading of their own."""

app = typer.Typer(cls=Group, add_completion=False, no_args_is_help=True, **STYLE)


@app.callback()
def train() -> None:
    """Train a model on what people said."""


def settings_of(method: str) -> dict[str, Field]:
    """The fields of a method's `Config`, those that all methods share included."""
    return fields(METHODS[method].module, "Config")


def command_of(method: str) -> Callable[..., None]:
    """The method as a command."""
    known = settings_of(method)
    options = [parameter(field, panel=None if field.name in FIRST else "Settings") for field in known.values()]

    def run(
        ctx: typer.Context,
        config: Annotated[
            Path | None,
            typer.Option("--config", help="TOML or JSON file of settings; an option goes before it.", metavar="FILE"),
        ] = None,
        preset: Annotated[
            str | None, typer.Option("--preset", help="Settings with a name, as a paper has them.", metavar="NAME")
        ] = None,
        resume: Annotated[
            bool, typer.Option("--resume", help="Go on with the run in --out, with the settings it began with.")
        ] = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Say what the run would take, and leave no trace.")
        ] = False,
        **values: Any,
    ) -> None:
        said = {name: value for name, value in values.items() if given(ctx, name)}
        chosen = chosen_settings(method, said, config, preset, resume)
        module = import_module(METHODS[method].module)
        settings = module.Config(**{name: as_kind(known[name], value) for name, value in chosen.items()})
        if dry_run:
            with waiting("trying a few steps"):
                forecast = module.expect(settings)
            show_forecast(forecast)
            return
        name = module.train(settings, resume=resume)
        if os.environ.get("RANK", "0") == "0":  # several processes have one result
            show_result(Path(settings.out), name)

    own = [each for each in inspect.signature(run, eval_str=True).parameters.values() if each.name != "values"]
    own = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
    together = sorted([*own, *options], key=lambda each: each.name not in FIRST)
    run.__name__, run.__doc__ = method, METHODS[method].help
    run.__signature__ = inspect.Signature(together)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in together}
    return run


for _name, _method in METHODS.items():
    app.command(_name, cls=Command, help=_method.help)(command_of(_name))


# ---- which settings


def given(ctx: typer.Context, name: str) -> bool:
    """Whether the option was written on the command line."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def chosen_settings(
    method: str, said: dict[str, Any], config: Path | None, preset: str | None, resume: bool
) -> dict[str, Any]:
    """What was said goes before the file, the file before the preset; a run that goes on keeps what it began with."""
    begun = Path(said.get("out", "")) / "config.json"
    if resume and "out" in said and begun.is_file():
        return {**json.loads(begun.read_text(encoding="utf-8")), **from_file(method, config), **said}
    chosen = {**from_preset(method, preset), **from_file(method, config), **said}
    if not chosen.get("model"):
        chosen["model"] = named(None)
    return chosen


def from_file(method: str, path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        settings = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {str(path)!r}: {error}") from error
    except ValueError as error:
        raise UserError(f"{str(path)!r} is not {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from error
    known = settings_of(method)
    for name in settings:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"is `{near[0]}` meant?" if near else f"`plumb train {method} --help` lists them"
            raise UserError(f"{str(path)!r} has `{name}`, which is no setting of {method}: {hint}")
    return dict(settings)


def from_preset(method: str, name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    presets = getattr(import_module(METHODS[method].module), "PRESETS", {})
    if name not in presets:
        there = f"there is {', '.join(map(repr, presets))}" if presets else f"{method} has none"
        raise UserError(f"there is no preset {name!r}: {there}")
    return dict(presets[name])


def as_kind(field: Field, value: Any) -> Any:
    """A value from a file as the setting's type; a single text where a list is wanted is a list of one."""
    kinds: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}
    if field.type.startswith("tuple"):
        return (value,) if isinstance(value, str) else tuple(value)
    kind = field.type.removesuffix(" | None")
    fits = isinstance(value, kinds[kind]) and (kind == "bool" or not isinstance(value, bool))
    if not fits and not (value is None and field.type.endswith("None")):
        raise UserError(f"{field.name} is {value!r}: it must be {'a' if kind != 'int' else 'an'} {kind}")
    return value


# ---- what is shown


def show_forecast(forecast: Forecast) -> None:
    from plumbline.training.metrics import time_text

    rows = table("", ">")
    rows.add_row("steps", f"{forecast.steps:,}")
    rows.add_row("tokens", f"{forecast.tokens:,}")
    rows.add_row("memory at the peak", f"{forecast.memory / 1e9:.1f} GB")
    rows.add_row("time", time_text(forecast.seconds))
    screen().print(rows)


def show_result(folder: Path, name: str) -> None:
    """What changed between the first measurement and the last, and how to load what came out."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = table("", ">first", ">last")
    for metric in dict.fromkeys(key for line in lines for key in line):
        values = [line[metric] for line in lines if line.get(metric) is not None]
        if metric not in ("step", "seconds", "lr", "gradient_norm") and values:
            rows.add_row(metric, f"{values[0]:.4g}", f"{values[-1]:.4g}")
    screen().print(rows)
    if (folder / "accuracy.json").is_file():
        found = json.loads((folder / "accuracy.json").read_text(encoding="utf-8"))
        (show_confusion if "confusion" in found else show_accuracy)(found)
    note(f"curves: {folder / 'index.html'}")
    typer.echo(name)


NOTHING_HELD_OUT = (
    "nothing was held out, so nothing is known about other prompts: --held-out 0.3 keeps about a third of them"
)


def show_accuracy(found: dict[str, Any]) -> None:
    """How often the rewards agree with people on pairs held out, beside a rule that only counts tokens."""
    if not found["pairs"]:
        note(NOTHING_HELD_OUT)
        return
    value, low, high, sets = found["right"]
    longer = found["longer_wins"][0]
    rule = f"the {'longer' if longer >= 0.5 else 'shorter'} answer"
    note(f"held-out pairs in the right order: {value:.1%}, 95 % interval {low:.1%} to {high:.1%}, {sets} sets")
    verdict = "below the interval" if found["beats_length"] else "not below the interval: it may have learned length"
    note(f"always taking {rule}: {max(longer, 1 - longer):.1%}, {verdict}")


def show_confusion(found: dict[str, Any]) -> None:
    """How often a classifier agrees with people on texts held out, beside a rule that always says one class."""
    from rich.markup import escape

    if not found["examples"]:
        note(NOTHING_HELD_OUT)
        return
    names = [escape(label) for label, *_ in found["classes"]]
    rows = table("people say", ">learned", ">held out", *(f">it says {name}" for name in names))
    for (label, learned, held_out, *_), row in zip(found["classes"], found["confusion"], strict=True):
        rows.add_row(escape(label), *(f"{number:,}" for number in (learned, held_out, *row)))
    screen().print(rows)
    value, low, high, prompts = found["right"]
    note(f"held-out texts in the right class: {value:.1%}, 95 % interval {low:.1%} to {high:.1%}, {prompts} prompts")
    verdict = (
        "below the interval"
        if found["beats_commonest"]
        else "not below the interval: too few texts to tell, or it has learned little"
    )
    note(f"always saying the commonest class: {found['commonest']:.1%}, {verdict}")
