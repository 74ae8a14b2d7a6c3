"""Which model a command asks, and the wait until it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from plumbline.cli.options import fields
from plumbline.cli.terminal import waiting

if TYPE_CHECKING:
    from plumbline.models import EngineName, Generate, Score
    from plumbline.models import score as scorers

PANEL = "Model"
DEFAULT = fields("plumbline.project", "Config")["model"].default

ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="A bundled model, a version of the project (name@n), a folder, a GGUF file, a hub id, "
        "openai:MODEL@URL, anthropic:MODEL or scripted:FILE.",
        metavar="NAME",
        show_default=f"the project's, else {DEFAULT}",
        rich_help_panel=PANEL,
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        help="What runs a local model: transformers, openvino, or auto for the fastest that is installed and exact.",
        metavar="NAME",
        rich_help_panel=PANEL,
    ),
]
Mode = Annotated[
    str | None,
    typer.Option(
        "--mode",
        help="The engine's precision; `plumb models parity` shows what each costs. Without it: exact.",
        metavar="NAME",
        rich_help_panel=PANEL,
    ),
]
Label = Annotated[
    str | None,
    typer.Option("--label", help="The class of the scorer whose log-odds are the score.", metavar="NAME"),
]
Reads = Annotated[
    str | None,
    typer.Option("--reads", help="What the scorer was trained on: completion, or pair.", metavar="WHAT"),
]


def named(given: str | None) -> str:
    """The model that was named, else the project's, else the bundled one."""
    from plumbline.project import Project

    project = None if given else Project.find()
    return given or (project.config.model if project else DEFAULT)


def open_model(name: str, engine: str, mode: str | None) -> Generate:
    """The model, with a sign of life on the terminal while it loads."""
    from plumbline.models import load

    with waiting(f"loading {name}"):
        return load(name, engine=cast("EngineName", engine), mode=mode)  # `load` names the engines it has


def open_scorer(name: str, label: str | None, reads: str | None) -> Score:
    """The classifier or reward model, in the same way."""
    from plumbline.models.score import load_scorer

    with waiting(f"loading {name}"):
        return load_scorer(name, label, reads=cast("scorers.Reads | None", reads))  # which names what it knows
