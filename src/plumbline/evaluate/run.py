"""An evaluation: which tasks, one after the other, with what is kept of each and what is left out, and why.

bench/answers.jsonl, weights.jsonl    what the model said; a second evaluation goes on from there
bench/tasks/NAME.jsonl                the outcomes of a task
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from plumbline import __version__
from plumbline.errors import UserError
from plumbline.evaluate import TASKS
from plumbline.evaluate.bench import Bench
from plumbline.evaluate.records import Outcome
from plumbline.evaluate.tasks import SHIPPED, Metric, Runner, Setting, Task, mirrored
from plumbline.models import Score
from plumbline.models.preference import Prefer, load_preference
from plumbline.models.resolve import resolve
from plumbline.models.score import load_scorer
from plumbline.project import file_digest
from plumbline.records import Change, Evaluation, Measured, write_jsonl

JUDGE = "smollm2-135m"
"""The model that judges where none is named."""
SECOND = "refusal-judge"
"""The scorer that counts refusals a second time where none is named; it reads the bundled model's states."""


@dataclass(frozen=True)
class Order:
    """What is asked of an evaluation."""

    tasks: tuple[str, ...] = ()
    """Their names; without any, all that can be done with what there is."""
    data: Mapping[str, Path] = field(default_factory=dict)
    """Files of items in the place of those that ship, by task."""
    limit: int | None = None
    """Most items of a task."""
    judge: str = JUDGE
    """A model that judges: a local one by the probabilities of labels, an endpoint by what it says."""
    reward: str | None = None
    """A scorer that decides who wins, in the judge's place."""
    second: str | None = None
    """A scorer that counts refusals beside the shipped classifier; without one `refusal-judge`, if it can be had."""
    runner: Runner | None = None
    samples: int = 1
    language: str = "python"
    """That of programs, for CodeBLEU."""
    command: str = ""
    """The command line, for the record."""


@dataclass(frozen=True)
class Done:
    """What a task found."""

    task: Task
    outcomes: list[Outcome]
    others: list[Outcome] | None
    """Those of the model compared with; None where there is none, or the outcomes are of both."""
    measured: tuple[Measured, ...]


@dataclass(frozen=True)
class Result:
    """A whole evaluation."""

    evaluation: Evaluation
    done: list[Done]
    notes: list[str]
    """What was left out, and why."""


def load_task(name: str) -> Task:
    """The task of that name."""
    if name not in TASKS:
        near = get_close_matches(name, TASKS, 1)
        raise UserError(
            f"there is no task {name!r}: " + (f"is {near[0]!r} meant?" if near else f"there are {', '.join(TASKS)}")
        )
    module, _, attribute = TASKS[name].target.partition(":")
    task: Task = getattr(import_module(module), attribute)
    return task


def evaluate(
    bench: Bench, other: Bench | None, order: Order, *, tell: Callable[[Done], object] = lambda done: None
) -> Result:
    """Runs the tasks in turn; `tell` hears of each as it is done."""
    notes: list[str] = []
    tasks = select(bench, other, order, notes)
    items = {
        task.name: task.items(order.data.get(task.name), order.limit) for task in tasks
    }  # all, before any is asked
    setting = Setting(
        other=other, judge=order.judge, runner=order.runner, samples=order.samples, language=order.language
    )
    if any("rival" in task.needs for task in tasks):
        setting = replace(setting, prefer=judge_of(order))
    if any(task.name == "refusal" for task in tasks):
        setting = replace(setting, second=second_of(order, notes))
    done: list[Done] = []
    for task in tasks:
        done.append(run_task(task, items[task.name], bench, other, setting, order.command, notes))
        tell(done[-1])
    files = {each.path(order.data.get(each.name)) for each in tasks}
    evaluation = Evaluation(
        version=bench.source.name,
        against=other.source.name if other is not None else None,
        measured=tuple(figure for each in done for figure in each.measured),
        data={shown(path): file_digest(path) for path in sorted(files)},
        code_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return Result(evaluation, done, list(dict.fromkeys(notes)))


def judge_of(order: Order) -> Prefer:
    """A scorer, a local model that reads one answer at a time, or an endpoint that says which of two it is."""
    return load_preference(order.reward, "score") if order.reward else load_preference(order.judge)


def second_of(order: Order, notes: list[str]) -> Score | None:
    """Who counts refusals a second time: the two are of different kinds, so that they do not err together."""
    if order.second == "refusal":
        raise UserError("--second is 'refusal', which counts already: name a scorer of another kind")
    try:
        second = load_scorer(order.second or SECOND)
    except UserError as error:
        if order.second is not None:
            raise
        notes.append(f"refusals are counted by one scorer alone: {error}")
        return None
    notes.append(f"refusals are counted by 'refusal', and a second time by {second.name!r}")
    return second


def shown(path: Path) -> str:
    """A file's name in the record: those that ship by their name alone."""
    ships = path.resolve().is_relative_to(SHIPPED.parent)
    return f"plumbline:{path.name}" if ships else str(path.resolve())


# ---- which tasks


def select(bench: Bench, other: Bench | None, order: Order, notes: list[str]) -> list[Task]:
    """The tasks that were named, or all that can be done; what cannot is an error where it was named, else a note."""
    tasks = [load_task(name) for name in dict.fromkeys(order.tasks or TASKS)]
    for name in order.data:
        if load_task(name) not in tasks:
            raise UserError(f"--data gives items for {name!r}, which is not among the tasks: add it to --tasks")
    possible = []
    for task in tasks:
        why = lacks(task, bench, other, order)
        if not why:
            possible.append(task)
        elif order.tasks:
            raise UserError(f"the task {task.name!r} cannot be done: {why}")
        elif task.name not in QUIETLY:
            notes.append(f"{task.name} is left out: {why}")
    if not possible:
        raise UserError("no task can be done with what there is: " + "; ".join(notes))
    return possible


QUIETLY = ("exact_match", "bleu", "rouge", "codebleu", "pass_at_k")
"""Tasks that nobody misses who gave no file for them."""


def lacks(task: Task, bench: Bench, other: Bench | None, order: Order) -> str:
    """Why the task cannot be done; "" if it can."""
    if "data" in task.needs and task.name not in order.data:
        return f"it has no items of its own; give a file with --data {task.name}=FILE"
    if "runner" in task.needs and order.runner is None:
        return "it runs programs, which takes a sandbox of yours; give --runner FILE.py:FUNCTION"
    if "other" in task.needs and other is None:
        return "it compares two models; name the other with --against"
    if "rival" in task.needs and other is None and task.name not in order.data:
        return "it takes somebody to win against; name a model with --against, or give items with references"
    if "probabilities" in task.needs:
        unseen = next((each.unseen for each in (bench, other) if each is not None and each.unseen), "")
        if unseen:
            return f"it reads probabilities of given texts, and {unseen}"
    if "labels" in task.needs and (why := unread(order.judge)):
        return why
    if "rival" in task.needs and order.reward is None and (why := missing(order.judge)):
        return why
    if task.name == "kl" and other is not None and not bench.cuts_like(other):
        return (
            f"{bench.name!r} and {other.name!r} cut text into different tokens, so there is no KL between them; "
            "bits_per_byte of perplexity compares them"
        )
    return ""


def missing(judge: str) -> str:
    """Why there is no judge; "" if there is."""
    try:
        resolve(judge)
    except UserError as error:
        return f"its judge is not there: {error}"
    return ""


def unread(judge: str) -> str:
    """Why the judge's probabilities of labels cannot be read; "" if they can."""
    if why := missing(judge):
        return why
    here = resolve(judge).kind == "folder"
    return "" if here else f"it reads the judge's probabilities, and {judge!r} does not run here; name another --judge"


# ---- one task


def run_task(
    task: Task,
    items: Sequence[Any],
    bench: Bench,
    other: Bench | None,
    setting: Setting,
    command: str,
    notes: list[str],
) -> Done:
    """Both models' outcomes, kept, and the figures."""
    outcomes = task.solve(bench, items, setting)
    keep(bench, task, outcomes)
    others = None
    if other is not None and not task.compares:
        others = task.solve(other, items, setting)
        keep(other, task, others)
    measured = []
    for metric in task.metrics:
        figure = metric.measure(outcomes)
        if figure is None:
            continue
        change = mirrored(figure) if task.compares and metric.mirrored else None
        if others is not None:
            if metric.per_token and other is not None and not bench.cuts_like(other):
                notes.append(
                    f"{metric.name} is not compared: {bench.name!r} and {other.name!r} cut text into different tokens; "
                    "bits_per_byte compares them"
                )
            else:
                change = changed(metric, outcomes, others)
        measured.append(
            Measured(
                task=task.name,
                metric=metric.name,
                value=figure.value,
                n=figure.n,
                low=figure.low,
                high=figure.high,
                better=metric.better,
                change=change,
                command=command,
                items=str(place(bench, task)),
            )
        )
    return Done(task, outcomes, others, tuple(measured))


def place(bench: Bench, task: Task) -> Path:
    return bench.folder / "tasks" / f"{task.name}.jsonl"


def keep(bench: Bench, task: Task, outcomes: Iterable[Outcome]) -> None:
    write_jsonl(place(bench, task), outcomes)


def changed(metric: Metric, outcomes: Sequence[Outcome], others: Sequence[Outcome]) -> Change | None:
    """The figure less the other model's, on the items that both met."""
    theirs, found = metric.measure(others), metric.compare(outcomes, others)
    if theirs is None or found is None:
        return None
    return Change(other=theirs.value, value=found.value, low=found.low, high=found.high)
