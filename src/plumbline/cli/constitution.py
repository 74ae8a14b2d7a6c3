"""`plumb constitution`: a model that criticises, revises and compares answers by principles that people wrote down."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from plumbline.cli.help import STYLE, Command, Group
from plumbline.cli.loading import Engine, Mode, ModelName, named, open_model, open_scorer
from plumbline.cli.options import fields, parameter
from plumbline.cli.prompts import check_fit, read_prompts, tokenizer_of
from plumbline.cli.terminal import AsJson, note, print_json, printable, progress, screen, table, waiting
from plumbline.errors import UserError

if TYPE_CHECKING:
    from plumbline.align.constitutional import Config
    from plumbline.align.trail import Step
    from plumbline.models import Generate, Score
    from plumbline.models.preference import Prefer, Way
    from plumbline.records import PromptRecord

STAGES = {"revise": ("harmless", "critic", "keep"), "rank": ("judge", "way")}
"""Each with the options that are its own."""

app = typer.Typer(cls=Group, add_completion=False, no_args_is_help=True, **STYLE)

Law = Annotated[
    str,
    typer.Option("--constitution", help="YAML file of principles; without it the one that ships.", metavar="FILE"),
]


@app.callback()
def constitution() -> None:
    """Let a model criticise, revise and compare answers by written principles."""


def takes_config(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the fields of `Config` as options, and hands them to it as its parameter `settings`."""
    known = fields("plumbline.align.constitutional", "Config")
    options = [parameter(field, panel="Settings") for field in known.values()]
    own = [each for each in inspect.signature(command, eval_str=True).parameters.values() if each.name != "settings"]

    def run(**values: Any) -> None:
        chosen = {option.name: values.pop(option.name) for option in options}
        command(**values, settings=chosen)

    together = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own] + options
    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
    run.__signature__ = inspect.Signature(together)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in together}
    return run


Prompts = Annotated[
    Path | None,
    typer.Argument(
        help="A file of red-team prompts: JSON Lines, or .txt with one a line; without it those that ship, and the "
        "harmless ones that look like them.",
        metavar="PROMPTS",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder of the run, for example runs/principles.", metavar="FOLDER")]
Stage = Annotated[
    str,
    typer.Option(
        "--stage",
        help="revise: answer, critique, revision, for `plumb train sft`. rank: several answers and a judge's verdicts, "
        "for `plumb train reward` or dpo.",
        metavar="STAGE",
    ),
]
Harmless = Annotated[
    Path | None,
    typer.Option(
        "--harmless", help="A file of prompts that are fine: their answers are learned as they are.", metavar="FILE"
    ),
]
Critic = Annotated[
    str | None,
    typer.Option("--critic", help="Model that criticises and revises; without it the model itself.", metavar="NAME"),
]
Judge = Annotated[
    str | None,
    typer.Option("--judge", help="Model that compares answers; without it the model itself.", metavar="NAME"),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        "--keep",
        help="A scorer of refusals, such as refusal or refusal-judge: learn only revisions that it takes for one, and "
        "only harmless answers that it does not. May be given again; then all must agree.",
        metavar="SCORER",
    ),
]
AskedBy = Annotated[
    str | None, typer.Option("--way", help="How the judge is asked: spoken, pair, alone, or score.", metavar="WAY")
]


@app.command(cls=Command)
@takes_config
def run(
    *,
    settings: dict[str, Any],
    prompts: Prompts = None,
    out: Out,
    stage: Stage = "revise",
    harmless: Harmless = None,
    constitution: Law = "",
    critic: Critic = None,
    keep: Keep = None,
    judge: Judge = None,
    way: AskedBy = None,
    model: ModelName = None,
    engine: Engine = "auto",
    mode: Mode = None,
    as_json: AsJson = False,
) -> None:
    """Make demonstrations or rankings by the principles of a constitution.

    Every step is kept in OUT/trail.jsonl with its principle, its prompt, its model and its seed. Stopped in between,
    the same command goes on.
    """
    from plumbline.align.constitutional import Config
    from plumbline.align.red_team import LOOK_ALIKES, RED_TEAM

    refuse_of_other_stage(stage, harmless=harmless, critic=critic, keep=keep, judge=judge, way=way)
    config = Config(**settings)
    if prompts is None:
        prompts, harmless = RED_TEAM, harmless or (LOOK_ALIKES if stage == "revise" else None)
    asked, fine = read_prompts(prompts), read_prompts(harmless) if harmless else []
    model = named(model)
    tokenizer = tokenizer_of(model)
    check_fit(tokenizer, asked, config.drawing(), prompts)
    check_fit(tokenizer, fine, config.drawing(), harmless)
    assistant = open_model(model, engine, mode)
    if stage == "revise":
        name = critic or model
        speaker = assistant if name == model else open_model(name, engine, mode)
        scorers = [open_scorer(each, None, None) for each in keep or ()]
        summary = revised(out, asked, fine, assistant, speaker, scorers, held(name), constitution, config)
    else:
        summary = ranked(out, asked, assistant, open_judge(judge or model, way), constitution, config)
    if as_json:
        print_json(summary)
    else:
        print_summary(summary)
    note(f"every step: {out / 'trail.jsonl'}")
    note(NEXT[stage].format(out=out))


def refuse_of_other_stage(stage: str, **given: object) -> None:
    """UserError for a stage that there is not, and for an option that would do nothing in this one."""
    if stage not in STAGES:
        raise UserError(f"--stage is {stage!r}: it is one of {', '.join(STAGES)}")
    for other, options in STAGES.items():
        for name in options:
            if other != stage and given[name]:
                raise UserError(f"--{name} is of the stage {other}, and --stage is {stage!r}: leave it out")


NEXT = {
    "revise": "next: plumb train sft --data {out}/demonstrations.jsonl --out RUN",
    "rank": "next: plumb train reward --data {out}/rankings.jsonl --out RUN, or plumb train dpo with the same data",
}


def revised(
    out: Path,
    asked: list[PromptRecord],
    fine: list[PromptRecord],
    assistant: Generate,
    critic: Generate,
    keep: list[Score],
    holds: bool,
    law: str,
    config: Config,
) -> dict[str, Any]:
    """Stage one, with a bar."""
    from plumbline.align.constitutional import revise, steps_of
    from plumbline.align.principles import read_constitution
    from plumbline.models.score import load_scorer

    total = steps_of(config, "revise", len(asked), len(fine))
    with progress("revising", total=total, unit="steps") as advance:
        return revise(
            out,
            asked,
            assistant,
            critic,
            read_constitution(law),
            config,
            harmless=fine,
            refusal=load_scorer("refusal"),
            keep=keep,
            held=holds,
            advance=advance,
        )


def ranked(
    out: Path, asked: list[PromptRecord], assistant: Generate, judge: Prefer, law: str, config: Config
) -> dict[str, Any]:
    """Stage two, with a bar."""
    from plumbline.align.constitutional import rank, steps_of
    from plumbline.align.principles import read_constitution

    with progress("ranking", total=steps_of(config, "rank", len(asked)), unit="steps") as advance:
        return rank(out, asked, assistant, judge, read_constitution(law), config, advance=advance)


def held(name: str) -> bool:
    """Whether the model can be held to a grammar: a local one, run by an engine of ours."""
    from plumbline.models.resolve import resolve

    return resolve(name).kind == "folder"


def open_judge(name: str, way: str | None) -> Prefer:
    from plumbline.models.preference import load_preference

    with waiting(f"loading {name}"):
        return load_preference(name, cast("Way | None", way))  # which names the ways it has


def print_summary(summary: dict[str, Any]) -> None:
    """What came of a run, in a table; shares with their n."""
    rows = table("", ">")
    for name, value in summary.items():
        if not name.startswith("refused"):
            rows.add_row(name, f"{value:,}")
    for name, label, of in REFUSED:
        if name in summary and summary[of]:
            rows.add_row(label, f"{summary[name]:,} of {summary[of]:,} ({summary[name] / summary[of]:.0%})")
    screen().print(rows)


REFUSED = (
    ("refused_before", "refused before revision", "prompts"),
    ("refused_after", "refused after revision", "prompts"),
    ("refused_harmless", "refused though harmless", "harmless"),
)


@app.command(cls=Command)
def show(
    what: Annotated[
        str, typer.Argument(help="A constitution's file or a run's folder; without it the one that ships.")
    ] = "",
    prompt_id: Annotated[
        str | None, typer.Option("--prompt-id", help="Show the steps of this prompt of the run.", metavar="ID")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a constitution's principles, or every step of a prompt in a run."""
    if what and Path(what).is_dir():
        show_run(Path(what), prompt_id, as_json)
        return
    from plumbline.align.principles import read_constitution

    found = read_constitution(what)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    from rich.markup import escape

    rows = table("", "")
    for each in found.principles:
        rows.add_row(f"{escape(each.id)}\n[dim]{escape(each.domain)}", escape(each.critique))
        rows.add_row("", escape(each.revision))
        rows.add_row("", escape(each.comparison) + "\n")
    screen().print(rows)
    note(f"{found.name}, version {found.version}: {len(found.principles)} principles, {len(found.examples)} examples")


def show_run(folder: Path, prompt_id: str | None, as_json: bool) -> None:
    """The steps of one prompt, the first whose steps are all there unless it is named, and the run's summary."""
    steps = steps_in(folder)
    ids = list(dict.fromkeys(step.prompt_id for step in steps if step.kind != "answer"))
    chosen = prompt_id or (ids or [steps[0].prompt_id])[0]
    mine = [step for step in steps if step.prompt_id == chosen]
    if not mine:
        raise UserError(f"{str(folder)!r} has no step of the prompt {chosen!r}: its trail.jsonl lists them")
    if as_json:
        print_json([step.model_dump(mode="json", exclude_none=True) for step in mine])
        return
    from rich.text import Text

    from plumbline.models.score import plain_text

    rows = table("", "")
    rows.add_row("prompt", Text(printable(plain_text(mine[0].prompt))))
    for step in mine:
        rows.add_row(Text(" ".join([step.kind, str(step.turn)])), Text(told(step)))
    screen().print(rows)
    summary = folder / "summary.json"
    if summary.is_file():
        print_summary(json.loads(summary.read_text(encoding="utf-8")))
    note(f"prompt {chosen}, one of {len({step.prompt_id for step in steps})}; --prompt-id shows another")


def told(step: Step) -> str:
    """A step in words: what was said, and where it comes from."""
    by = ", ".join(part for part in (step.principle, step.model, step.seed and f"seed {step.seed}") if part)
    if step.kind != "judgement":
        return f"{printable(step.text)}\n({by})"
    odds = " and ".join("neither" if each is None else f"{each:+.2f}" for each in step.odds or ())
    return f"answers {' and '.join(map(str, step.between or ()))}: {step.winner}, log-odds {odds}\n({by})"


def steps_in(folder: Path) -> list[Step]:
    from plumbline.align.trail import Step
    from plumbline.records import read_jsonl

    path = folder / "trail.jsonl"
    if not path.is_file():
        raise UserError(f"{str(folder)!r} has no trail.jsonl: give the --out folder of `plumb constitution run`")
    return list(read_jsonl(path, Step))


@app.command(cls=Command)
def expand(
    seeds: Annotated[
        Path,
        typer.Argument(help="A file of prompts to begin with: JSON Lines, or .txt with one a line.", metavar="SEEDS"),
    ],
    out: Annotated[Path, typer.Option("--out", help="Add the new prompts to this file.", metavar="FILE")],
    count: Annotated[int, typer.Option("--count", help="How many new prompts.", metavar="N")] = 100,
    seed: Annotated[
        int, typer.Option("--seed", help="Decides which seeds are shown, and the prompts.", metavar="N")
    ] = 0,
    model: ModelName = None,
    engine: Engine = "auto",
    mode: Mode = None,
) -> None:
    """Write more red-team prompts of the kind of a few.

    Each is added to --out as soon as it is found; near copies are left out. Stopped in between, the same command goes
    on. Read them before use: a small model strays.
    """
    from plumbline.align.red_team import expand as write

    if count < 1:
        raise UserError(f"--count is {count}: ask for at least 1")
    given = read_prompts(seeds)
    writer = open_model(named(model), engine, mode)
    with progress(writer.name, total=count, unit="prompts") as advance:
        found = write(given, writer, out, count, seed=seed, advance=advance)
    note(f"{len(found)} prompts are in {out}")
