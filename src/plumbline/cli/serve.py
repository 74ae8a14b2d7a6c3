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
    from plumbline.serve.settings import Settings

BESIDE, BOUNDS = "Beside the model", "Bounds"

Host = Annotated[str, typer.Option("--host", help="The address to listen at. Others than this machine need a key.")]
Port = Annotated[int | None, typer.Option("--port", help="The port; 7586 or, where that is taken, any free one.")]
Keys = Annotated[bool, typer.Option("--keys", help="Ask for a key on this machine, too.")]
Cache = Annotated[
    bool, typer.Option("--cache/--no-cache", help="Give the same answer to the same request at temperature 0.")
]
RAILS = "A rail around the model: personal-data, secrets, length=N, blocklist=FILE or toxicity=X. May be given again."
Rails = Annotated[list[str] | None, typer.Option("--rail", help=RAILS, metavar="NAME", rich_help_panel=BESIDE)]
Embedder = Annotated[
    str | None, typer.Option("--embedder", help="What embeds; the project's.", metavar="NAME", rich_help_panel=BESIDE)
]
CANARY = "A second version, for a share of the users."
Canary = Annotated[str | None, typer.Option("--canary", help=CANARY, metavar="NAME", rich_help_panel=BESIDE)]
Share = Annotated[
    float, typer.Option("--share", help="The canary's share of the users.", metavar="X", rich_help_panel=BESIDE)
]
KEEP = "Remove exchanges after so many days; 0 keeps them."
KeepDays = Annotated[float, typer.Option("--keep-days", help=KEEP, metavar="X", rich_help_panel=BOUNDS)]
AtOnce = Annotated[
    int,
    typer.Option("--at-once", help="Answers that are written at a time.", min=1, metavar="N", rich_help_panel=BOUNDS),
]
MostWaiting = Annotated[
    int, typer.Option("--waiting", help="Requests that wait at most.", min=0, metavar="N", rich_help_panel=BOUNDS)
]
TOKENS = "Tokens of an answer that asks for no limit."
MaxTokens = Annotated[int, typer.Option("--max-tokens", help=TOKENS, min=1, metavar="N", rich_help_panel=BOUNDS)]


def serve(
    model: ModelName = None,
    host: Host = "127.0.0.1",
    port: Port = None,
    keys: Keys = False,
    cache: Cache = True,
    rail: Rails = None,
    embedder: Embedder = None,
    canary: Canary = None,
    share: Share = 0.0,
    keep_days: KeepDays = 0.0,
    at_once: AtOnce = 32,
    most_waiting: MostWaiting = 256,
    max_tokens: MaxTokens = 512,
    engine: Engine = "auto",
    mode: Mode = None,
    database: DatabaseUrl = None,
) -> None:
    """Serve a model with OpenAI's API, and a playground in the browser.

    Serves the promoted version and follows promotions; before the first one, the project's model. With --model, that
    model and no other. The tables [route] and [prices] in plumb.toml send hard requests to a larger model. Every
    exchange is stored in the project's database before its answer is out; what people say of an answer is in
    `plumb feedback export` a moment later.
    """
    from plumbline.project import Project
    from plumbline.serve.route import read_prices, read_route
    from plumbline.serve.settings import Settings

    config = Project.require().config
    settings = Settings(
        model=model,
        engine=engine,
        mode=mode,
        embedder=embedder or config.embedder,
        canary=canary,
        share=share,
        rails=tuple(rail or ()),
        keys=keys,
        at_once=at_once,
        waiting=most_waiting,
        max_tokens=max_tokens,
        keep_days=keep_days,
        cache=cache,
        similar=config.similar,
        cache_url=config.cache,
        traces=config.traces,
        route=read_route(config.route),
        prices=read_prices(config.prices),
    )
    start(settings, host, port, database)


def start(settings: Settings, host: str, port: int | None, database: str | None) -> None:
    """Serves until a signal comes."""
    from plumbline.feedback.store import Store
    from plumbline.project import Project
    from plumbline.serve.app import Serving, check_public, run, run_here
    from plumbline.serve.keys import HERE
    from plumbline.web.server import address, listen

    project = Project.require()
    with Store.open(project, url=database) as store, listen(host, port) as listener, ExitStack() as spinner:
        needed = check_public(host, store, keys=settings.keys)
        spinner.enter_context(waiting(f"loading {named(settings.model)}"))

        def ready(here: Serving) -> None:
            spinner.close()
            tell(here, address(listener, host), store)
            if host not in HERE:
                note(f"whoever reads the traffic to {host} reads everything: put a server with HTTPS before it")

        def make() -> Serving:
            return Serving(store, project, settings, default=named(settings.model), keys_needed=needed)

        run_here(run(make, listener, ready))


def tell(here: Serving, address: str, store: Store) -> None:
    """Where it is, and what one can do there."""
    from plumbline.cli.label import new_link, present

    people = [each for each in present(store, "") if each.role == "manager"]
    typer.echo(f"{here.versions.primary.name}  {address}/v1")
    typer.echo(f"playground  {address}/sign-in/{new_link(store, people[0])}")
    note("the API takes the calls of any OpenAI client: only its base URL changes")
    note("Ctrl-C ends it when what runs has ended; what was asked and answered is kept")
