"""`plumb keys`: who may ask the served model, and how much."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from plumbline.cli.agreement import DatabaseUrl, opened
from plumbline.cli.help import STYLE, Command, Group
from plumbline.cli.terminal import AsJson, note, print_json, screen, table

if TYPE_CHECKING:
    from datetime import datetime

    from plumbline.feedback.store import ApiKey

app = typer.Typer(cls=Group, add_completion=False, no_args_is_help=True, **STYLE)


@app.callback()
def keys() -> None:
    """Make, list and revoke the keys by which applications ask the served model."""


@app.command(cls=Command)
def add(
    name: Annotated[str, typer.Argument(help="Whose key it is. A second one of the same name can take its place.")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="What it may: chat, feedback, label, manage or admin. May be given again."),
    ] = None,
    days: Annotated[float | None, typer.Option("--days", help="How long it works; for good unless given.")] = None,
    requests: Annotated[int | None, typer.Option("--requests", help="Requests a minute.")] = None,
    tokens: Annotated[int | None, typer.Option("--tokens", help="Tokens a minute, read and written.")] = None,
    at_once: Annotated[int | None, typer.Option("--at-once", help="Requests under way at a time.")] = None,
    no_content: Annotated[
        bool, typer.Option("--no-content", help="Keep neither its prompts nor the answers to them.")
    ] = False,
    database: DatabaseUrl = None,
) -> None:
    """Make a key and print it, once; what is stored is its hash."""
    with opened(database) as store:
        secret, key = store.add_key(
            name,
            scope or ("chat", "feedback"),
            until=None if days is None else store.clock() + timedelta(days=days),
            requests_a_minute=requests,
            tokens_a_minute=tokens,
            at_once=at_once,
            keeps_content=not no_content,
        )
    typer.echo(secret)
    note(f"this is the key of {key.name!r}, and it is not shown again; `plumb keys revoke {key.key_id}` ends it")


@app.command("list", cls=Command)
def list_(database: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """List the keys, also those that work no longer. Neither keys nor hashes are shown."""
    with opened(database) as store:
        now, found = store.clock(), store.keys()
    if as_json:
        print_json([{**shown(key), "state": state(key, now)} for key in found])
        return
    rows = table("id", "name", "may", "state", ">a minute", ">tokens", ">at once", "content")
    for key in found:
        limits = [str(each or "–") for each in (key.requests_a_minute, key.tokens_a_minute, key.at_once)]
        kept = "kept" if key.keeps_content else "not kept"
        rows.add_row(key.key_id, key.name, ", ".join(sorted(key.scopes)), state(key, now), *limits, kept)
    screen().print(rows)


@app.command(cls=Command)
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `plumb keys list` shows it.", metavar="ID")],
    database: DatabaseUrl = None,
) -> None:
    """Make a key useless; a server that runs knows it within two seconds."""
    with opened(database) as store:
        key = store.revoke_key(key_id)
    note(f"the key {key.key_id} of {key.name!r} works no longer")


def state(key: ApiKey, now: datetime) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.until is None:
        return "works"
    return f"works until {key.until:%Y-%m-%d}" if key.until > now else "too old"


def shown(key: ApiKey) -> dict[str, object]:
    """The key without its hash."""
    values: dict[str, object] = {}
    for name, value in vars(key).items():
        if name == "scopes":
            values[name] = sorted(key.scopes)
        elif name != "key_hash":
            values[name] = value if value is None or isinstance(value, int | str) else str(value)
    return values
