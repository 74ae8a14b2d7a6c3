"""`plumb evaluate`: what a model can do, tells and refuses, in figures with their intervals."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plumbline.cli.loading import DEFAULT, Engine, Mode, open_model
from plumbline.cli.terminal import AsJson, note, print_json, progress, screen, table
from plumbline.errors import UserError

if TYPE_CHECKING:
    from plumbline.evaluate.bench import Bench
    from plumbline.evaluate.run import Order
    from plumbline.evaluate.tasks import Runner
    from plumbline.models import Generate
    from plumbline.project import Project
    from plumbline.records import Evaluation, Measured

HOME = "evaluations"
STYLES = {"better": "green", "worse": "bold red", "same": "dim", "unknown": "dim"}
WORDS = {"better": "better", "worse": "worse", "same": "unclear", "unknown": ""}
"""A difference whose interval holds 0 is unclear: it may be none, or one that so few items do not show."""


Against = Annotated[
    str | None, typer.Option("--against", help="Another model that meets the same items.", metavar="MODEL")
]
Tasks = Annotated[
    str, typer.Option("--tasks", help="Which, with commas between; without it, all that can be done.", metavar="A,B")
]
Data = Annotated[
    list[str] | None,
    typer.Option("--data", help="A file of items for a task. May be given again.", metavar="TASK=FILE"),
]
Limit = Annotated[int | None, typer.Option("--limit", help="At most N items of each task.", metavar="N", min=1)]
JudgeName = Annotated[
    str,
    typer.Option(
        "--judge", help="The model that judges: one that runs here by the probabilities of labels, another by its word."
    ),
]
Reward = Annotated[
    str | None,
    typer.Option("--reward", help="A reward model or scorer that decides who wins, in its place.", metavar="SCORER"),
]
Second = Annotated[
    str | None,
    typer.Option(
        "--second",
        help="A scorer that counts refusals beside the shipped classifier; without it refusal-judge.",
        metavar="SCORER",
    ),
]
RunnerName = Annotated[
    str | None,
    typer.Option(
        "--runner",
        help="Runs a program and its tests, and says whether it passes: it answers for the sandbox.",
        metavar="FILE.py:FUNCTION",
    ),
]
Samples = Annotated[int, typer.Option("--samples", help="Programs for each task of pass_at_k.", metavar="N", min=1)]
LanguageName = Annotated[
    str, typer.Option("--language", help="That of programs, for codebleu: python, java or c_sharp.", metavar="NAME")
]
People = Annotated[
    bool, typer.Option("--people", help="Let people compare both, blind, in the ranking room; no task is done.")
]
Page = Annotated[Path | None, typer.Option("--html", help="Write the report page here.", metavar="FILE")]
Out = Annotated[
    Path | None, typer.Option("--out", help=f"Keep answers below this folder, not in {HOME}/.", metavar="FOLDER")
]
Again = Annotated[bool, typer.Option("--again", help="Ask everything anew, also what is kept.")]


def evaluate(
    model: Annotated[str, typer.Argument(help="The model, as `--model` of `plumb generate` names it.")],
    against: Against = None,
    tasks: Tasks = "",
    data: Data = None,
    limit: Limit = None,
    judge: JudgeName = DEFAULT,
    reward: Reward = None,
    second: Second = None,
    runner: RunnerName = None,
    samples: Samples = 1,
    language: LanguageName = "python",
    people: People = False,
    html: Page = None,
    out: Out = None,
    again: Again = False,
    as_json: AsJson = False,
    engine: Engine = "auto",
    mode: Mode = None,
) -> None:
    """Measure a model, alone or beside another one.

    Every figure has its n and a 95 % interval; beside another model, the difference on the same items has one too.
    Answers are kept as they come, so that the same command goes on after a stop, and another evaluation of the same
    model asks only what is new. A version's evaluation is recorded in the project.
    """
    from plumbline.evaluate.report import write_report
    from plumbline.evaluate.run import Order
    from plumbline.evaluate.run import evaluate as measure
    from plumbline.project import Project

    project, files = Project.find(), files_of(data or [])
    run, command = (open_runner(runner) if runner else None), shlex.join(["plumb", *sys.argv[1:]])
    names = tuple(name.strip() for name in tasks.split(",") if name.strip())
    order = Order(names, files, limit, judge, reward, second, run, samples, language, command)
    root = out or (project.folder if project else Path()) / HOME
    bench = open_bench(model, root, again, engine, mode)
    other = open_bench(against, root, again, engine, mode) if against is not None else None
    if other is not None and other.folder == bench.folder:
        raise UserError(f"--against is {against!r}, which is the model itself: name another one")
    if people and (names or html is not None):
        raise UserError("--people asks people and does no task: leave out --tasks and --html")
    if people:
        show(record(project, by_people(bench, other, order)), as_json)
    else:
        result = measure(bench, other, order)
        show(record(project, result.evaluation), as_json)
        for line in result.notes:
            note(line)
        if html is not None:
            write_report(result, html)
            note(f"page: {html}")
    note(f"answers and outcomes: {bench.folder}")


def show(evaluation: Evaluation, as_json: bool) -> None:
    if as_json:
        print_json(evaluation.model_dump(mode="json"))
    elif evaluation.measured:
        print_figures(evaluation)


def by_people(bench: Bench, other: Bench | None, order: Order) -> Evaluation:
    """Queues both models' answers for people; gives what they said so far."""
    from plumbline.cli.blind import ask_people
    from plumbline.evaluate.run import load_task

    if other is None:
        raise UserError("--people compares two models: name the other with --against")
    if unknown := set(order.data) - {"people"}:
        raise UserError(f"--data gives items for {unknown.pop()!r}, and --people asks people alone: write people=FILE")
    items = load_task("win_rate").items(order.data.get("people"), order.limit)
    return ask_people(bench, other, items, order.command)


def files_of(given: list[str]) -> dict[str, Path]:
    """TASK=FILE as a dict."""
    files = {}
    for each in given:
        task, equals, file = each.partition("=")
        if not (task and equals and file):
            raise UserError(f"--data is {each!r}: write TASK=FILE, such as bleu=pairs.jsonl")
        files[task] = Path(file)
    return files


def open_runner(name: str) -> Runner:
    """The function as what says whether a program passes its tests."""
    from plumbline.models.functions import is_function, load_function

    if not is_function(name):
        raise UserError(f"--runner is {name!r}: name a function of two texts, program and tests, as FILE.py:FUNCTION")
    function = load_function(name)
    return lambda program, tests: function([program], [tests])[0] > 0


def open_bench(name: str, root: Path, again: bool, engine: str, mode: str | None) -> Bench:
    """The model with the folder that keeps what it says; it is loaded when something is asked that is not kept."""
    from plumbline.evaluate.bench import Bench
    from plumbline.models.resolve import resolve

    def opened(name: str) -> Generate:
        return open_model(name, engine, mode)

    folder = root / folder_name(resolve(name).name) / "bench"
    return Bench(name, folder, again=again, open_model=opened, progress=progress)


def folder_name(name: str) -> Path:
    """A model's name as a path: a version's is NAME/N; of what no path holds, a digest is added."""
    from plumbline.evaluate.records import digest

    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    version = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)@([1-9][0-9]*)", name)
    if version:
        return Path(version[1], version[2])
    return Path(plain if plain == name else f"{plain[-60:]}-{digest(name)[:8]}")


def record(project: Project | None, evaluation: Evaluation) -> Evaluation:
    """Keeps a version's evaluation with it; files are named as seen from the project's folder."""
    if project is None:
        return evaluation

    def seen(measured: Measured) -> Measured:
        path = Path(measured.items or "").resolve()
        inside = path.is_relative_to(project.folder)
        return measured.model_copy(update={"items": str(path.relative_to(project.folder) if inside else path)})

    kept = (seen(each) if each.items else each for each in evaluation.measured)
    evaluation = evaluation.model_copy(update={"measured": tuple(kept)})
    if evaluation.measured and evaluation.version in {version.ref for version in project.versions()}:
        path = project.record_evaluation(evaluation.version, evaluation)
        note(f"recorded: {path.relative_to(project.folder)}")
    return evaluation


def print_figures(evaluation: Evaluation) -> None:
    """The table: a row for each figure, under its task."""
    from rich.text import Text

    beside = [">other", "difference", ""] if evaluation.against is not None else []
    rows = table("", ">value", ">95 %", ">n", *beside)
    last = ""
    for each in evaluation.measured:
        if each.task != last:
            rows.add_row(Text(each.task, "bold"))
        last, form = each.task, form_of(each)
        plus = form if form.startswith("+") else f"+{form}"
        cells = [
            f"  {each.metric.replace('_', ' ')}",
            format(each.value, form),
            f"{each.low:{form}} to {each.high:{form}}",
            f"{each.n:,}",
        ]
        if beside and each.change is not None:
            change = f"{each.change.low:{plus}} to {each.change.high:{plus}}"
            cells += [format(each.change.other, form), f"{each.change.value:{plus}} ({change})"]
            rows.add_row(*cells, Text(WORDS[each.verdict], STYLES[each.verdict]))
        else:
            rows.add_row(*cells)
    screen().print(rows)


def form_of(measured: Measured) -> str:
    """How the figure's task shows it."""
    from plumbline.evaluate import TASKS
    from plumbline.evaluate.run import load_task

    if measured.task not in TASKS:  # what people said
        return ".1%"
    return next(metric.form for metric in load_task(measured.task).metrics if metric.name == measured.metric)
