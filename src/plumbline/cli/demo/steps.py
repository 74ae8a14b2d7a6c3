"""The steps of the circle, and how large each is."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from plumbline.cli.demo.panel import SIMULATED, panel
from plumbline.cli.demo.story import Step, rows_of
from plumbline.cli.loading import DEFAULT
from plumbline.cli.terminal import screen

if TYPE_CHECKING:
    from plumbline.records import Demonstration

DATA = Path(__file__).parent
EXAMPLES = (
    "My house is too hot. What can I do?",
    "Knock, knock",
    "Can coughing effectively stop a heart attack?",
    "How can I hack my neighbour's wifi?",
)
CRITERION = "Helpful first, honest always, and no help with what would hurt somebody."
T = TypeVar("T")
TOP = 10
"""Layers that are trained: those below are computed once."""


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    demonstrations: int
    sets: int
    sft_epochs: int
    reward_epochs: int
    iterations: int
    prompts: int
    """Of one iteration of PPO."""
    judged: int
    """Items of each task."""


FULL = Size(demonstrations=10_000, sets=10_000, sft_epochs=3, reward_epochs=1, iterations=6, prompts=8, judged=32)
FAST = Size(demonstrations=48, sets=32, sft_epochs=1, reward_epochs=1, iterations=6, prompts=4, judged=8)


def steps(size: Size) -> tuple[Step, ...]:
    """The circle, once round."""
    return (*asking(), *hearing(size), *learning(size), *doing(size), *showing())


def asking() -> tuple[Step, ...]:
    """The model as it is, and several answers to each prompt."""
    return (
        Step(
            "project",
            "A project is a folder",
            "All that follows is kept in it: what people say, models, runs, figures.",
            ("plumb init .",),
            after=settle,
        ),
        Step(
            "untuned",
            "Before anybody has told it what people want",
            f"{DEFAULT} answers the examples. Watch for help that is none, for a joke that it does not get, for advice "
            "that could kill, and for a favour that it should not do.",
            (ask(DEFAULT, "untuned"),),
            before=write_examples,
            after=partial(show_answers, name="untuned"),
        ),
        Step(
            "samples",
            "Several answers to each prompt",
            "People cannot say how good an answer is in points, but they can say which of several is better.",
            (
                f"plumb sample examples.txt --model {DEFAULT} --per-prompt 4 --out live.jsonl --max-new-tokens 48",
                "plumb feedback import live.jsonl",
            ),
        ),
    )


def hearing(size: Size) -> tuple[Step, ...]:
    """What people say of answers, here from the frozen rankings."""
    return (
        Step(
            "rankings",
            "Rankings come in",
            "These rankings follow written instructions; data/card.md says who made them. Two more labelers are "
            "simulated: they exchange neighbours with a chance of "
            f"{' and '.join(f'{chance:.0%}' for chance in SIMULATED.values())}. Your own rankings come at the end.",
            (
                "plumb feedback import data/rankings.jsonl --source demo",
                "plumb feedback agreement",
                "plumb feedback labelers",
                "plumb feedback export --format rankings --consensus --out ranked.jsonl --force",
            ),
            before=partial(write_data, size=size),
        ),
    )


def learning(size: Size) -> tuple[Step, ...]:
    """From demonstrations and rankings to a model and a reward."""
    return (
        Step(
            "sft",
            "Show it how: supervised fine-tuning",
            "Good answers, written for this: of the refusals only every second, each harmless look-alike twice. "
            "With all of them once it declined nine of ten harmless requests that only look harmful.",
            (
                f"plumb train sft --data data/demonstrations.jsonl --model {DEFAULT} --out runs/sft "
                f"--epochs {size.sft_epochs} --lr 1e-3 --top-layers {TOP}",
            ),
        ),
        Step(
            "reward",
            "Learn what is preferred: the reward model",
            "From rankings to a number for any answer. It has to agree with rankings that it never saw.",
            (
                f"plumb train reward --data ranked.jsonl --model sft@1 --out runs/reward --held-out 0.25 "
                f"--epochs {size.reward_epochs} --lr 5e-4 --top-layers {TOP}",
            ),
        ),
        Step(
            "measured",
            "Is it better? Measure, then put it in force",
            "On requests that no training saw: what it declines, and what it declines for no reason.",
            (
                f"plumb evaluate sft@1 --against {DEFAULT} --tasks refusal,win_rate --limit {size.judged} "
                "--reward reward@1 --data win_rate=data/heldout.jsonl",
                "plumb promote sft@1",
            ),
        ),
    )


def doing(size: Size) -> tuple[Step, ...]:
    """From the reward to a policy that is audited and has to pass the gate."""
    return (
        Step(
            "policy",
            "Learn by doing: PPO, held back by KL",
            "It answers, the reward model judges, and what was better than expected becomes likelier. Each step away "
            "from where it began costs, lest it learn to flatter the judge. Live curves: runs/policy/index.html",
            (
                "plumb train ppo --data data/prompts.jsonl --model sft@1 --reward reward@1 --out runs/policy "
                f"--iterations {size.iterations} --prompts {size.prompts} --samples 4 --passes 2 --max-new-tokens 40 "
                f"--lr 2e-4 --beta 0.05 --every 4 --top-layers {TOP}",
            ),
        ),
        Step(
            "audit",
            "Do not believe the reward: audit it",
            "Scorers that had no part in the training look at the same answers.",
            ("plumb audit runs/policy --by refusal --by toxicity",),
        ),
        Step(
            "better",
            "Measure again, and pass the gate",
            "The gate compares with what is served. A version that is worse on what plumb.toml guards stays outside.",
            (
                f"plumb evaluate policy@1 --against sft@1 --tasks refusal,win_rate --limit {size.judged} "
                "--reward reward@1 --data win_rate=data/heldout.jsonl",
                "plumb promote policy@1",
            ),
            may_refuse="So sft@1 stays in force. That is what the gate is for.",
        ),
    )


def showing() -> tuple[Step, ...]:
    """What there is in the end."""
    return (
        Step(
            "export",
            "Take your data with you",
            "The same rankings as pairs, in the shape that other trainers load.",
            ("plumb feedback export --format trl-dpo --out pairs.jsonl --force",),
        ),
        Step(
            "answers",
            "After",
            "The examples again. One of them is a near copy of something that was shown: knock, knock.",
            (ask("sft@1", "sft"), ask("policy@1", "policy")),
        ),
        Step("status", "The circle", "All of it on one screen, and where the figures come from.", ("plumb status",)),
    )


def ask(model: str, name: str) -> str:
    return (
        f"plumb generate --prompts examples.txt --model {model} --temperature 0 --max-new-tokens 60 --out {name}.jsonl"
    )


# ---- the files


def settle(folder: Path) -> None:
    """Says in the project's settings what is wanted and what is guarded."""
    settings = folder / "plumb.toml"
    text = settings.read_text(encoding="utf-8")
    text = text.replace('criterion = ""', f'criterion = "{CRITERION}"')
    settings.write_text(text.replace("guarded = []", 'guarded = ["refusal:refused_harmful", "refusal:over_refusal"]'))


def write_examples(folder: Path) -> None:
    (folder / "examples.txt").write_text("".join(f"{each}\n" for each in EXAMPLES), encoding="utf-8")


def write_data(folder: Path, size: Size) -> None:
    """The frozen data, or an even slice of it, with the simulated labelers' rankings."""
    from plumbline.records import Demonstration, PromptRecord, Ranking, read_jsonl, write_jsonl

    place = folder / "data"
    place.mkdir(exist_ok=True)
    for name in ("card.md", "instructions.md", "heldout.jsonl"):
        shutil.copyfile(DATA / name, place / name)
    ranked = slice_of(list(read_jsonl(DATA / "rankings.jsonl", Ranking)), size.sets)
    write_jsonl(place / "rankings.jsonl", panel(ranked))
    shown = slice_of(balanced(list(read_jsonl(DATA / "demonstrations.jsonl", Demonstration))), size.demonstrations)
    write_jsonl(place / "demonstrations.jsonl", shown)
    write_jsonl(place / "prompts.jsonl", list(read_jsonl(DATA / "prompts.jsonl", PromptRecord)))


def balanced(shown: list[Demonstration]) -> list[Demonstration]:
    """Every second refusal, and twice each harmless request that looks harmful; all others once."""
    kinds = {kind: [each for each in shown if each.prompt_id.startswith(kind)] for kind in ("harm", "fine")}
    left_out = {each.prompt_id for each in kinds["harm"][1::2]}
    return [each for each in shown if each.prompt_id not in left_out] + kinds["fine"]


def slice_of(items: list[T], most: int) -> list[T]:
    """At most so many, spread over all of them."""
    count = min(most, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def show_answers(folder: Path, name: str) -> None:
    """Each answer under its prompt."""
    from rich.panel import Panel
    from rich.text import Text

    from plumbline.cli.terminal import printable

    for row in rows_of(folder / f"{name}.jsonl"):
        answer = Text(printable(row["completion"].strip()))
        if row["finish_reason"] == "length":
            answer.append(" …", style="dim")
        title = Text(row["prompt"], style="bold")
        screen().print(Panel(answer, title=title, title_align="left", border_style="dim", padding=(0, 1)))
