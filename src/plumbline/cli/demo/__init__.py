"""`plumb demo`: the whole circle in one go, each step a command that anybody can type."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plumbline.cli.terminal import note, screen


def demo(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder for it; plumb-demo unless named.", metavar="DIR", show_default=False)
    ] = None,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="A small slice in about 90 seconds: it shows how, not how well."),
    ] = False,
    serve: Annotated[
        bool, typer.Option("--serve/--no-serve", help="Serve the model and the ranking room at the end.")
    ] = True,
) -> None:
    """Go round the whole circle with the bundled model: rankings make it better, and you watch.

    Untuned answers, rankings, agreement, training, audit, evaluation, promotion, a server: about nine minutes on two
    cores, without a network. Every step is a command that is shown before it runs. Stopped at any time, the same
    command goes on.
    """
    from plumbline.cli.demo.ending import show_ending
    from plumbline.cli.demo.steps import FAST, FULL, steps
    from plumbline.cli.demo.story import Story

    size = FAST if fast else FULL
    folder = folder or Path("plumb-demo-fast" if fast else "plumb-demo")
    story = Story(folder, size)
    with story.told():
        everything = steps(size)
        for number, step in enumerate(everything, 1):
            story.tell(step, number, len(everything))
        show_ending(story)
        if serve:
            story.type_in("plumb serve")
        else:
            screen().print(
                f"\nNext: [bold]cd {story.folder.name} && plumb serve[/]   talk with it, and rank what it says"
            )
            note(f"to begin anew, remove {story.folder}")
