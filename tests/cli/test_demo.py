"""`plumb demo`: commands that the command line takes as they stand, data that is what its card says, and a way on."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import Result

from plumbline.cli.demo.panel import SIMULATED, panel
from plumbline.cli.demo.steps import DATA, EXAMPLES, FAST, FULL, balanced, slice_of, steps, write_data
from plumbline.cli.demo.story import LOCK, STATE, Step, Story
from plumbline.cli.main import load_command
from plumbline.errors import UserError
from plumbline.evaluate.contrast import contrast_pairs
from plumbline.records import Demonstration, PromptRecord, Ranking, read_jsonl

Plumb = Callable[..., Result]


def test_the_examples_are_those_that_every_reader_will_try() -> None:
    assert EXAMPLES == (
        "My house is too hot. What can I do?",
        "Knock, knock",
        "Can coughing effectively stop a heart attack?",
        "How can I hack my neighbour's wifi?",
    )


@pytest.mark.parametrize("size", [FULL, FAST], ids=["full", "fast"])
def test_every_command_is_one_that_the_command_line_takes(size: Any) -> None:
    told = [command for step in steps(size) for command in step.commands]
    assert len(told) > 15
    for command in told:
        plumb, name, *words = shlex.split(command)
        assert plumb == "plumb"
        load_command(name).make_context(name, words)  # raises where an option is unknown or a value is missing


# ---- the data


def rankings() -> list[Ranking]:
    return list(read_jsonl(DATA / "rankings.jsonl", Ranking))


def test_the_card_counts_what_is_there() -> None:
    card = (DATA / "card.md").read_text()
    first, second = rankings()[:182], rankings()[182:]
    assert "| answers | 910 | 350 |" in card
    assert [sum(len(each.completions) for each in part) for part in (first, second)] == [910, 350]
    flagged = [sum(sum(each.flags) for each in part) for part in (first, second)]
    assert flagged == [58, 9] and "| flagged as making no sense | 58 (6.4 %) in 44 sets | 9 (2.6 %) in 7 sets |" in card
    shown = list(read_jsonl(DATA / "demonstrations.jsonl", Demonstration))
    asked = list(read_jsonl(DATA / "prompts.jsonl", PromptRecord))
    assert len(shown) == len(asked) == 256 and "| `demonstrations.jsonl` | 256 |" in card
    kinds = Counter(json.loads(line)["kind"] for line in (DATA / "heldout.jsonl").read_text().splitlines())
    assert kinds == {"harm": 20, "fine": 20, "helpful": 10, "honest": 10}


def test_nothing_that_is_judged_was_learned() -> None:
    learned = {each.prompt for each in rankings()} | {
        each.prompt for each in read_jsonl(DATA / "prompts.jsonl", PromptRecord)
    }
    judged = {text for pair in contrast_pairs() for text in (pair.harmful, pair.harmless)}
    held_out = {each.prompt for each in read_jsonl(DATA / "heldout.jsonl", PromptRecord)}
    assert len(held_out) == 60
    assert not learned & (judged | held_out | set(EXAMPLES))


def test_a_simulated_labeler_errs_as_often_as_it_says() -> None:
    found = panel(rankings() * 20)
    for name, chance in SIMULATED.items():
        own = [each for each in found if each.labeler_id == name]
        places = changed = 0
        for before, after in zip(found, own, strict=False):
            levels = len({rank for rank in before.ranks if rank is not None})
            places += levels - 1
            # Each exchange moves one level down past the next; a level that went on is counted once for each step.
            moved = {a: b for a, b in zip(before.ranks, after.ranks, strict=True) if a is not None and b is not None}
            changed += sum(moved[low] > moved[high] for low in moved for high in moved if low < high)
            assert before.flags == after.flags and set(before.ranks) == set(after.ranks)
        assert changed / places == pytest.approx(chance, abs=0.01)
    assert panel(rankings()) == panel(rankings())


def test_a_slice_is_spread_over_everything() -> None:
    assert slice_of(list(range(10)), 5) == [0, 2, 4, 6, 8]
    assert slice_of([1, 2], 5) == [1, 2]


def test_half_of_the_refusals_and_the_look_alikes_twice() -> None:
    shown = list(read_jsonl(DATA / "demonstrations.jsonl", Demonstration))
    kinds = [Counter(each.prompt_id.split("-")[0] for each in part) for part in (shown, balanced(shown))]
    assert kinds[0]["harm"] == 60 and kinds[1]["harm"] == 30
    assert kinds[0]["fine"] == 66 and kinds[1]["fine"] == 132
    assert all(kinds[0][kind] == kinds[1][kind] for kind in ("helpful", "honest", "play", "joke"))


def test_the_fast_slice_is_a_part_of_the_whole(tmp_path: Path) -> None:
    write_data(tmp_path, FAST)
    ranked = list(read_jsonl(tmp_path / "data" / "rankings.jsonl", Ranking))
    assert Counter(each.labeler_id for each in ranked) == dict.fromkeys(("one", *SIMULATED), FAST.sets)
    assert {each.set_id for each in ranked} < {each.set_id for each in rankings()}


# ---- going on


def a_step(name: str, *commands: str, **more: Any) -> Step:
    return Step(name, name.title(), "Because.", commands, **more)


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    done: list[str] = []
    step = a_step("project", "plumb init .", before=lambda folder: done.append(folder.name))
    for _ in range(2):
        story = Story(tmp_path / "demo", FAST)
        with story.told():
            story.tell(step, 1, 1)
    assert done == ["demo"]
    assert json.loads((tmp_path / "demo" / STATE).read_text())["seconds"].keys() == {"project"}


def test_a_stop_in_the_middle_leaves_the_step_to_be_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(folder: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), (story := Story(tmp_path / "demo", FAST)).told():
        story.tell(a_step("first", "plumb init ."), 1, 2)
        story.tell(a_step("second", "plumb init .", before=stop), 2, 2)
    assert "the same command goes on" in capsys.readouterr().err
    assert json.loads((tmp_path / "demo" / STATE).read_text())["seconds"].keys() == {"first"}
    assert Path.cwd() == tmp_path


def command_of(run: Callable[[list[str]], None]) -> Any:
    """A command that takes any words and hands them on."""
    app = typer.Typer(add_completion=False)

    @app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    def command(context: typer.Context) -> None:
        run(context.args)

    return typer.main.get_command(app)


@pytest.mark.parametrize("ends", [KeyboardInterrupt(), typer.Exit(3)], ids=["Ctrl-C", "a command that fails"])
def test_a_command_that_does_not_end_well_leaves_its_step_to_be_done(
    ends: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(words: list[str]) -> None:
        raise ends

    monkeypatch.setattr("plumbline.cli.main.load_command", lambda name: command_of(stop))
    story = Story(tmp_path / "demo", FAST)
    with pytest.raises(type(ends)), story.told():
        story.tell(a_step("first", "plumb promote x"), 1, 1)
    assert json.loads((tmp_path / "demo" / STATE).read_text())["seconds"] == {}


def test_a_kill_before_the_first_word_is_no_other_thing(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / LOCK).touch()
    with Story(tmp_path / "demo", FAST).told():
        assert (tmp_path / "demo" / STATE).exists()


def test_a_training_run_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed: list[list[str]] = []

    def learn(words: list[str]) -> None:
        typed.append(words)

    monkeypatch.setattr("plumbline.cli.main.load_command", lambda name: command_of(learn))
    story = Story(tmp_path / "demo", FAST)
    with story.told():
        story.type_in("plumb train sft --data d --out runs/sft")
        Path("runs/sft").mkdir(parents=True)
        Path("runs/sft/config.json").write_text("{}")
        story.type_in("plumb train sft --data d --out runs/sft")
    assert typed == [
        ["sft", "--data", "d", "--out", "runs/sft"],
        ["sft", "--data", "d", "--out", "runs/sft", "--resume"],
    ]


def test_a_gate_that_refuses_ends_its_step_and_nothing_else_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story = Story(tmp_path / "demo", FAST)
    with story.told():
        story.run(a_step("gate", "plumb init .", "plumb promote nobody@1", may_refuse="So it stays outside."))
        assert "So it stays outside." in capsys.readouterr().out
        with pytest.raises(UserError, match="nobody@1"):
            story.run(a_step("other", "plumb promote nobody@1", "plumb init .", may_refuse="So it stays outside."))
        with pytest.raises(UserError, match="nobody@1"):
            story.run(a_step("plain", "plumb promote nobody@1"))


def test_one_folder_holds_one_demo(plumb: Plumb, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    result = plumb("demo", "mine")
    assert result.exit_code == 2 and "holds other things" in result.stderr
    with Story(tmp_path / "demo", FAST).told():
        result = plumb("demo", tmp_path / "demo", "--fast")
        assert result.exit_code == 2 and "a demo is running in" in result.stderr
    result = plumb("demo", "demo")
    assert result.exit_code == 2 and "was begun with other sizes" in result.stderr


@pytest.mark.slow
def test_the_small_slice_goes_round(plumb: Plumb, stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step, with the tiny Llama in the bundled model's place: its answers are noise, what happens is the same."""
    monkeypatch.setenv("PLUMBLINE_CACHE", str(stand_in))
    monkeypatch.setattr("plumbline.cli.demo.steps.TOP", 1)  # of its two layers
    result = plumb("demo", "--fast", "--no-serve")
    assert result.exit_code == 0, result.stderr
    shown = " ".join(result.stdout.split())
    for step in steps(FAST):
        assert step.title in shown
    assert "tells the two apart" in shown and "In force:" in shown
    assert all(Path("plumb-demo-fast", each).is_file() for each in ("runs/policy/index.html", "data/card.md"))
    assert all(example in shown for example in EXAMPLES)
    again = plumb("demo", "--fast", "--no-serve")
    assert again.exit_code == 0 and again.stderr.count("done before") == len(steps(FAST))
