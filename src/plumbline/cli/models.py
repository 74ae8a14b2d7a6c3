"""`plumb models`: what there is to ask, how exact it runs, and how it comes and goes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plumbline.cli.help import STYLE, Command, Group
from plumbline.cli.loading import DEFAULT
from plumbline.cli.terminal import AsJson, note, print_json, screen, table, waiting

if TYPE_CHECKING:
    pass

Name = Annotated[str, typer.Argument(metavar="NAME", help="A model, as --model takes it.")]

app = typer.Typer(cls=Group, add_completion=False, **STYLE)


@app.callback(invoke_without_command=True)
def models(ctx: typer.Context) -> None:
    """List, inspect, fetch and share models."""
    if ctx.invoked_subcommand is None:
        list_models(as_json=False)


@app.command("list", cls=Command)
def list_models(as_json: AsJson = False) -> None:
    """List the models that a name alone reaches."""
    from rich.markup import escape

    from plumbline.models import resolve

    places = resolve.list_models()
    found = [resolve.describe(place.name) for place in places]
    if as_json:
        print_json([asdict(each) for each in found])
        return
    rows = table("name", "family", ">parameters", ">window", "from")
    for each in found:
        rows.add_row(
            escape(each.name), each.family or "–", count(each.parameters), count(each.window), escape(each.origin)
        )
    screen().print(rows)


@app.command(cls=Command)
def show(name: Name, as_json: AsJson = False) -> None:
    """Show what is known of a model, without loading it."""
    from rich.markup import escape

    from plumbline.models.resolve import describe

    facts = asdict(describe(name))
    if as_json:
        print_json(facts)
        return
    rows = table("", "")
    for key, value in facts.items():
        if value is not None:
            rows.add_row(f"[dim]{key}", f"{value:,}" if isinstance(value, int) else escape(str(value)))
    screen().print(rows)


@app.command(cls=Command)
def parity(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A local model.")] = DEFAULT,
    mode: Annotated[
        list[str] | None, typer.Option("--mode", metavar="NAME", help="Measure this mode only; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how far each mode of the fast engine is from the reference.

    KL is the divergence of the next-token distribution from the reference's, in nats per token. A mode whose mean lies
    above its bound is never taken by itself; --mode takes it all the same.
    """
    from plumbline.models.parity import measure

    with waiting(f"comparing {name} with the reference, token by token"):
        found = measure(name, modes=mode or None)
    if as_json:
        print_json([asdict(each) for each in found])
        return
    rows = table("mode", ">mean KL", ">worst KL", ">same next token", ">same greedy text", ">bound", "")
    for each in found:
        rows.add_row(
            each.mode,
            f"{each.mean_kl:.1e}",
            f"{each.worst_kl:.1e}",
            f"{each.top1_agreement:.1%}",
            f"{each.greedy_agreement:.1%}",
            f"{each.bound:g}",
            "[green]accepted" if each.accepted else "[yellow]over its bound",
        )
    screen().print(rows)
    note(f"{found[0].tokens} tokens each, against transformers in float32")


@app.command(cls=Command)
def pull(
    name: Name,
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Copy it into this folder as well.")] = None,
) -> None:
    """Fetch a model from the hub, or copy one that is here."""
    from plumbline.models.hub import pull as fetch

    with waiting(f"fetching {name}"):
        folder = fetch(name, to)
    typer.echo(folder)


@app.command(cls=Command)
def push(
    name: Name,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A folder, or hub:organisation/name.")],
) -> None:
    """Put a model into a folder, or onto the hub."""
    from plumbline.models.hub import push as send

    with waiting(f"sending {name} to {target}"):
        place = send(name, target)
    typer.echo(place)


def count(number: int | None) -> str:
    """A number as people say it: 135M, 8,192."""
    if number is None:
        return "–"
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:,}"
