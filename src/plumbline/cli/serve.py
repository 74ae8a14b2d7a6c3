"""`plumb serve`: the model at work, with OpenAI's API and a playground, until Ctrl-C."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from plumbline.cli.agreement import DatabaseUrl
from plumbline.cli.loading import Engine, Mode, ModelName, named
from plumbline.cli.terminal import note, waiting

if TYPE_CHECKING:
    from plumbline.feedback.store import Store
    from plumbline.serve.app import Serving

MORE, BOUNDS = "Beside the model", "Bounds"


def serve(
    model: ModelName = None,
    host: Annotated[
        str, typer.Option("--host", help="The address to listen at. Others than this machine need a key.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option("--port", help="The port; 7586 or, where that is taken, any free one.")
    ] = None,
    keys: Annotated[bool, typer.Option("--keys", help="Ask for a key on this machine, too.")] = False,
    rail: Annotated[
        list[str] | None,
        typer.Option(
            "--rail",
            help="A rail around the model: personal-data, secrets, length=N, blocklist=FILE or toxicity=X. "
            "May be given again.",
            metavar="NAME",
            rich_help_panel=MORE,
        ),
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option("--embedder", help="What embeds; the project's.", metavar="NAME", rich_help_panel=MORE),
    ] = None,
    canary: Annotated[
        str | None,
        typer.Option(
            "--canary", help="A second version, for a share of the users.", metavar="NAME", rich_help_panel=MORE
        ),
    ] = None,
    share: Annotated[
        float, typer.Option("--share", help="The canary's share of the users.", metavar="X", rich_help_panel=MORE)
    ] = 0.0,
    keep_days: Annotated[
        float,
        typer.Option("--keep-days", help="Remove exchanges after so many days; 0 keeps them.", rich_help_panel=BOUNDS),
    ] = 0.0,
    cache: Annotated[
        bool,
        typer.Option("--cache/--no-cache", help="Give the same answer to the same request at temperature 0."),
    ] = True,
    at_once: Annotated[
        int, typer.Option("--at-once", help="Answers that are written at a time.", min=1, rich_help_panel=BOUNDS)
    ] = 32,
    max_waiting: Annotated[
        int, typer.Option("--waiting", help="Requests that wait at most.", min=0, rich_help_panel=BOUNDS)
    ] = 256,
    max_tokens: Annotated[
        int,
        typer.Option("--max-tokens", help="Tokens of an answer that asks for no limit.", min=1, rich_help_panel=BOUNDS),
    ] = 512,
    engine: Engine = "auto",
    mode: Mode = None,
    database: DatabaseUrl = None,
) -> None:
    """Serve a model with OpenAI's API, and a playground in the browser.

    Serves the promoted version and follows promotions; before the first one, the project's model. With --model, that
    model and no other. Every exchange is stored in the project's database before its answer is out; what people say of
    an answer is in `plumb feedback export` a moment later.
    """
    from plumbline.feedback.store import Store
    from plumbline.project import Project
    from plumbline.serve.app import Serving, check_public, run, run_here
    from plumbline.serve.keys import HERE
    from plumbline.serve.settings import Settings
    from plumbline.web.server import address, listen

    project = Project.require()
    settings = Settings(
        model=model,
        engine=engine,
        mode=mode,
        embedder=embedder or project.config.embedder,
        canary=canary,
        share=share,
        rails=tuple(rail or ()),
        keys=keys,
        at_once=at_once,
        waiting=max_waiting,
        max_tokens=max_tokens,
        keep_days=keep_days,
        cache=cache,
    )
    with Store.open(project, url=database) as store, listen(host, port) as listener:
        needed = check_public(host, store, keys=keys)
        with ExitStack() as spinner:
            spinner.enter_context(waiting(f"loading {named(model)}"))

            def ready(here: Serving) -> None:
                spinner.close()
                tell(here, address(listener, host), store)
                if host not in HERE:
                    note(f"whoever reads the traffic to {host} reads everything: put a server with HTTPS before it")

            def make() -> Serving:
                return Serving(store, project, settings, default=named(model), keys_needed=needed)

            run_here(run(make, listener, ready))


def tell(here: Serving, address: str, store: Store) -> None:
    """Where it is, and what one can do there."""
    from plumbline.cli.label import new_link, present

    people = [each for each in present(store, "") if each.role == "manager"]
    typer.echo(f"{here.versions.primary.name}  {address}/v1")
    typer.echo(f"playground  {address}/sign-in/{new_link(store, people[0])}")
    note("the API takes the calls of any OpenAI client: only its base URL changes")
    note("Ctrl-C ends it when what runs has ended; what was asked and answered is kept")
