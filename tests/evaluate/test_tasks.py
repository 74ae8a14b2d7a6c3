"""Every task in the table has the shape that the command, the report and a reader rely on, and says what is true."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plumbline.errors import BadRecord, UserError
from plumbline.evaluate import TASKS
from plumbline.evaluate.bench import Bench
from plumbline.evaluate.harmless import GROUPS, NEUTRAL, gap
from plumbline.evaluate.honest import choose, letter_case, rotations, shares
from plumbline.evaluate.records import Asked, Choice, Comparison, Outcome, Programming
from plumbline.evaluate.run import Order, evaluate, load_task, run_task, select
from plumbline.evaluate.tasks import SHIPPED, Setting, Task, read_items
from plumbline.models import load
from plumbline.models.preference import Scored, Spoken, Verdict
from plumbline.models.scripted import Scripted, ScriptedScore
from recoded import recode
from second import SECOND

ALL = {name: load_task(name) for name in TASKS}


def bench_of(folder: Path, answers: Callable[[Any], str], name: str = "model") -> Bench:
    script = folder / f"{name}.jsonl"
    script.write_text('{"prompt": "unused", "completion": "unused"}\n')
    return Bench(f"scripted:{script}", folder / name, open_model=lambda _: Scripted(answers, name))


def run(task: Task, bench: Bench, items: Any, other: Bench | None = None, **setting: Any) -> Any:
    return run_task(task, items, bench, other, Setting(other=other, **setting), "plumb evaluate", [])


# ---- the table


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_complete(name: str) -> None:
    task = ALL[name]
    assert task.name == name and TASKS[name].help.endswith("?")
    assert ("data" in task.needs) == (not task.file), "a task has items of its own, or asks for them"
    assert len({metric.name for metric in task.metrics}) == len(task.metrics) > 0
    for metric in task.metrics:
        assert re.fullmatch(r"[a-z0-9_@L]+", metric.name) and format(0.5, metric.form)
        assert metric.about == metric.about.rstrip(".")
    assert any(metric.better for metric in task.metrics) or name == "kl"


@pytest.mark.parametrize("name", [name for name in TASKS if ALL[name].file])
def test_the_items_that_ship_are_sound(name: str) -> None:
    items = ALL[name].items()
    assert len(items) >= 24
    assert len({item.item_id for item in items}) == len(items)
    texts = [json.dumps(item.model_dump(exclude={"item_id"}), sort_keys=True) for item in items]
    assert len(set(texts)) == len(texts)


def test_every_aim_has_a_task() -> None:
    assert {task.aim for task in ALL.values()} == {"helpful", "honest", "harmless", "capable", "near"}


def test_true_choices_are_not_known_by_their_looks() -> None:
    """No rule that looks at the words alone may pass for truthfulness."""
    items = read_items(SHIPPED / "truthfulness.jsonl", Choice)
    longest = np.mean([item.choices[0] == max(item.choices, key=len) for item in items])  # type: ignore[attr-defined]
    first_no = np.mean([next((c for c in i.choices if c[:2] == "No"), "") == i.choices[0] for i in items])  # type: ignore[attr-defined]
    assert longest < 0.65 and first_no < 0.5


def test_fewer_items_are_spread_over_all() -> None:
    few = ALL["refusal"].items(limit=16)
    assert len(few) == 16 and len({item.about for item in few}) > 8
    assert len(ALL["bias"].items(limit=1000)) == 24


# ---- items of others


@pytest.mark.parametrize(
    ("line", "prompt", "reference"),
    [
        ({"question": "2 + 2?", "answer": "4"}, "2 + 2?", "4"),
        ({"instruction": "Translate.", "input": "Haus", "output": "house"}, "Translate.\n\nHaus", "house"),
        ({"nl": "add", "code": "a + b"}, "add", "a + b"),
        ({"prompt": "Hi", "completion": "Hello"}, "Hi", "Hello"),
        ({"buggy": "a", "fixed": "b"}, "a", "b"),
    ],
)
def test_common_shapes_are_read(tmp_path: Path, line: dict[str, str], prompt: str, reference: str) -> None:
    (tmp_path / "data.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line) + "\n")
    first, second = read_items(tmp_path / "data.jsonl", Asked)
    assert (first.prompt, first.references) == (prompt, (reference,))  # type: ignore[attr-defined]
    assert second.item_id == f"{first.item_id}#2"  # the same line twice is two items


def test_tests_of_humaneval_and_mbpp_are_one_program(tmp_path: Path) -> None:
    lines = [
        {"task_id": "HumanEval/0", "prompt": "def f():", "test": "def check(g): assert g()", "entry_point": "f"},
        {"task_id": 601, "text": "Add.", "test_list": ["assert f() == 1", "assert f()"], "test_setup_code": ""},
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    one, other = read_items(tmp_path / "data.jsonl", Programming)
    assert one.tests == "def check(g): assert g()\ncheck(f)"  # type: ignore[attr-defined]
    assert other.tests == "assert f() == 1\nassert f()" and other.item_id == "601"  # type: ignore[attr-defined]


def test_pairs_may_come_as_transcripts(tmp_path: Path) -> None:
    line = {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.", "rejected": "\n\nHuman: Hi\n\nAssistant: Go away."}
    (tmp_path / "hh.jsonl").write_text(json.dumps(line) + "\n")
    (found,) = read_items(tmp_path / "hh.jsonl", Comparison)
    assert (found.chosen, found.rejected) == ("Hello.", "Go away.")  # type: ignore[attr-defined]


def test_a_template_without_a_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "bias.jsonl").write_text('{"prompt": "Who are you?"}\n')
    with pytest.raises(BadRecord, match="it needs {group} where groups are named"):
        ALL["bias"].items(tmp_path / "bias.jsonl")


# ---- what solvers say


def test_each_choice_stands_once_at_each_place() -> None:
    item = Choice(item_id="i", prompt="Q?", choices=("a", "b", "c"))
    orders = rotations(item)
    assert [sorted(order) for order in zip(*orders, strict=True)] == [[0, 1, 2]] * 3
    case = letter_case(item, orders[1])
    assert case.prompt == "Q?\nA) b\nB) c\nC) a\nAnswer with the letter of the right answer."
    assert case.completions == ("A", "B", "C") and not case.ends


def test_a_liking_for_a_letter_falls_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that says A with 80 % whatever stands there is sure of nothing."""
    from plumbline.evaluate.likelihood import Weight

    def weigh(self: Bench, cases: Any) -> list[list[Weight]]:
        return [[Weight(-0.22 if text == "A" else -2.7, 1) for text in case.completions] for case in cases]

    monkeypatch.setattr(Bench, "weigh", weigh)
    items = [Choice(item_id="i", prompt="Q?", choices=("a", "b", "c", "d"))]
    (outcome,) = choose(bench_of(tmp_path, str), items, Setting())
    assert outcome.values["confidence"] == pytest.approx(0.25) == outcome.values["truth"]
    assert outcome.values["right"] == 0.25 == outcome.values["right_by_text"]  # the right one stands first in the item
    assert shares([0.0, 0.0]) == [0.5, 0.5] and sum(shares([-900.0, 0.0, 3.0])) == pytest.approx(1)


@pytest.mark.parametrize("count", [3, 7, 26])
def test_a_model_that_takes_none_rather_than_another_is_right_by_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Whatever letter it likes: the mean over the places is the same for every choice, but for rounding."""
    from plumbline.evaluate.likelihood import Weight

    for liked in "ABC":

        def weigh(self: Bench, cases: Any, liked: str = liked) -> list[list[Weight]]:
            return [[Weight(-0.3 if text == liked else -1.7, 1) for text in case.completions] for case in cases]

        monkeypatch.setattr(Bench, "weigh", weigh)
        item = Choice(item_id="i", prompt="Q?", choices=tuple(f"choice {number}" for number in range(count)))
        (outcome,) = choose(bench_of(tmp_path, str), [item], Setting())
        assert outcome.values["right"] == pytest.approx(1 / count)


def test_items_that_cannot_be_asked_are_named(tmp_path: Path) -> None:
    for task, line, said in (
        (
            "truthfulness",
            {"prompt": "Q?", "choices": [str(n) for n in range(27)]},
            "holds 27 answers: there are letters",
        ),
        ("perplexity", {"text": ""}, "`text` is '': it must not be empty"),
        ("refusal", {"harmful": "", "harmless": "a"}, "`harmful` is '': it must not be empty"),
    ):
        (tmp_path / "data.jsonl").write_text(json.dumps(line) + "\n")
        with pytest.raises(BadRecord, match=re.escape(said)):
            ALL[task].items(tmp_path / "data.jsonl")


def test_two_scorers_count_side_by_side_and_how_far_they_agree_is_said(tmp_path: Path) -> None:
    items = ALL["refusal"].items(limit=8)
    harmful = {item.harmful for item in items}
    first_two = {items[0].harmful, items[1].harmful}

    def answer(prompt: str) -> str:
        return "I'm sorry, but I can't help with that." if prompt in harmful else "Sure. Take a bowl, add the flour."

    # The second scorer misses two of the eight refusals, and agrees on all else.
    second = ScriptedScore(lambda prompt, text: 1.0 if text.startswith("I'm") and prompt not in first_two else -1.0)
    done = run(ALL["refusal"], bench_of(tmp_path, answer), items, second=second)
    figures = {each.metric: (each.value, each.n) for each in done.measured}
    assert figures == {
        "refused_harmful": (1, 8),
        "over_refusal": (0, 8),
        "told_apart": (1, 8),
        "refused_harmful_by_second": (0.75, 8),
        "over_refusal_by_second": (0, 8),
        "told_apart_by_second": (0.75, 8),
        "scorers_agree": (14 / 16, 16),
        # by chance 8/16 · 6/16 + 8/16 · 10/16 = 1/2
        "scorers_kappa": (pytest.approx((14 / 16 - 1 / 2) / (1 - 1 / 2)), 16),
    }
    assert done.outcomes[0].note.startswith("declines (") and done.outcomes[0].note.endswith(
        "; does not decline (-1.0)"
    )


def test_a_second_scorer_is_of_another_kind_or_left_out_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bench_of(tmp_path, lambda prompt: "Sure. Take a bowl, add the flour.")

    def found(second: str | None) -> Any:
        return evaluate(model, None, Order(tasks=("refusal",), limit=5, second=second))

    with pytest.raises(UserError, match="--second is 'refusal', which counts already"):
        found("refusal")
    with pytest.raises(UserError, match="there is no file 'none.py'"):
        found("none.py:f")
    assert found(SECOND).notes == [f"refusals are counted by 'refusal', and a second time by {SECOND!r}"]
    monkeypatch.setattr("plumbline.evaluate.run.SECOND", "nobody/nowhere@9")  # as where the bundled model is not there
    alone = found(None)
    assert alone.notes[0].startswith("refusals are counted by one scorer alone: ")
    assert {each.metric for each in alone.evaluation.measured} == {"refused_harmful", "over_refusal", "told_apart"}


def test_so_few_items_say_nothing_of_a_difference(tmp_path: Path) -> None:
    """Four numbers of one sign never give the other sign, however they are drawn; by chance one in eight does so."""
    mine, theirs = bench_of(tmp_path, lambda prompt: "long " * 9), bench_of(tmp_path, lambda prompt: "short", "other")
    longer = Scored(ScriptedScore(lambda _, text: float(len(text))))
    for count, verdict in ((1, "unknown"), (4, "unknown"), (5, "better")):
        items = [Asked(item_id=str(n), prompt=f"p{n}", references=("a",)) for n in range(count)]
        win = run(ALL["win_rate"], mine, items, theirs, prefer=longer).measured
        same = run(ALL["rouge"], bench_of(tmp_path, lambda _: "a", "good"), items, theirs).measured
        assert (
            {each.verdict for each in win[:2]}
            == {verdict}
            == {each.verdict for each in same if each.metric != "rouge2"}
        )


def test_refusing_all_is_not_telling_apart(tmp_path: Path) -> None:
    items = ALL["refusal"].items(limit=20)
    every = run(ALL["refusal"], bench_of(tmp_path, lambda prompt: "I'm sorry, but I can't help with that."), items)
    figures = {each.metric: each.value for each in every.measured}
    assert figures == {"refused_harmful": 1, "over_refusal": 1, "told_apart": 0}
    harmful = {item.harmful for item in items}

    def careful(prompt: str) -> str:
        return "I won't help with that." if prompt in harmful else "Sure. First take a bowl, then add the flour."

    done = run(ALL["refusal"], bench_of(tmp_path, careful, "careful"), items)
    assert {each.metric: each.value for each in done.measured} == {
        "refused_harmful": 1,
        "over_refusal": 0,
        "told_apart": 1,
    }
    assert [each.n for each in done.measured] == [20, 20, 20]


def test_neither_a_refusal_nor_help_is_toxic_and_abuse_is(tmp_path: Path) -> None:
    items = ALL["toxicity"].items(limit=3)
    found = {
        text: run(ALL["toxicity"], bench_of(tmp_path, lambda _, text=text: text, str(n)), items).measured[0].value
        for n, text in enumerate(
            (
                "I'm sorry, but I can't help with that. If you are in trouble, please talk to somebody you trust.",
                "Sure. First take a bowl, then add the flour and stir until it is smooth.",
                "You are a stupid, disgusting idiot and I hope you die.",
            )
        )
    }
    assert list(found.values()) == [0, 0, 1]


def test_a_model_that_treats_a_group_otherwise_has_a_gap_and_a_fickle_one_has_none(tmp_path: Path) -> None:
    items = ALL["bias"].items()

    def biased(prompt: str) -> str:
        return "I'm sorry, but I can't help with that." if "Muslim" in prompt else "Say hello and bring some bread."

    def fickle(prompt: str) -> str:
        return "I'm sorry, but I can't help with that." if hash_of(prompt) % 2 else "Say hello and bring some bread."

    done = run(ALL["bias"], bench_of(tmp_path, biased), items)
    refused = next(each for each in done.measured if each.metric == "refusal_gap")
    assert refused.value == 1 and refused.low > 0.9
    done = run(ALL["bias"], bench_of(tmp_path, fickle, "fickle"), items)
    refused = next(each for each in done.measured if each.metric == "refusal_gap")
    assert refused.low < 0 < refused.high


def hash_of(text: str) -> int:
    import zlib

    return zlib.crc32(text.encode())


def test_the_gap_by_hand() -> None:
    row = np.zeros((1, len(GROUPS) + len(NEUTRAL)))
    row[0, 2], row[0, len(GROUPS)] = 0.75, 0.25
    assert gap(row, np.ones((1, 1))) == [0.5]


def test_a_win_rate_is_against_a_model_or_a_reference(tmp_path: Path) -> None:
    mine, theirs = bench_of(tmp_path, lambda prompt: "long " * 9), bench_of(tmp_path, lambda prompt: "short", "other")
    items = [Asked(item_id=str(n), prompt=f"p{n}", references=("as long as this is",)) for n in range(8)]
    longer = Scored(ScriptedScore(lambda _, text: float(len(text))))
    done = run(ALL["win_rate"], mine, items, theirs, prefer=longer)
    (rate, *_) = done.measured
    assert (rate.value, rate.n) == (1, 8) and rate.change.other == 0 and rate.verdict == "better"
    assert [each.metric for each in done.measured] == ["win_rate", "at_equal_length"]  # it sees no order to agree in
    done = run(ALL["win_rate"], theirs, items, prefer=longer)
    assert done.measured[0].value == 0 and done.measured[0].verdict == "worse"
    done = run(ALL["win_rate"], mine, items, mine, prefer=longer)
    assert done.measured[0].value == 0.5 and done.measured[0].verdict == "same"


@pytest.mark.parametrize(
    ("forward", "backward", "points", "margin"),
    [
        (2.0, -2.0, 0.5, 0.0),  # it likes the first place, whatever stands there
        (3.0, 1.0, 1, 2.0),
        (3.0, -1.0, 1, 1.0),  # the orders disagree, and one is surer
        (-1.0, -1.0, 0, -1.0),
        (1.0, None, 0.5, 0.0),  # it named neither answer in one order
    ],
)
def test_both_orders_decide(forward: float, backward: float | None, points: float, margin: float) -> None:
    verdict = Verdict(forward, backward)
    assert (verdict.points, verdict.margin) == (points, margin)


def test_a_judge_that_goes_by_the_place_has_no_say(tmp_path: Path) -> None:
    """An endpoint that always says A: every item is a tie, and the agreement of its orders says why."""
    mine, theirs = bench_of(tmp_path, lambda prompt: "mine"), bench_of(tmp_path, lambda prompt: "theirs", "other")
    items = [Asked(item_id=str(n), prompt=f"p{n}") for n in range(5)]
    judge = Spoken(Scripted(lambda prompt: "A"))
    figures = {each.metric: each.value for each in run(ALL["win_rate"], mine, items, theirs, prefer=judge).measured}
    assert figures["win_rate"] == 0.5 and figures["order_agreement"] == 0

    def fair(prompt: str) -> str:
        return "A" if prompt.index("mine") < prompt.index("theirs") else "B"

    judge = Spoken(Scripted(fair, "fair"))
    figures = {each.metric: each.value for each in run(ALL["win_rate"], mine, items, theirs, prefer=judge).measured}
    assert figures["win_rate"] == 1 and figures["order_agreement"] == 1


def test_programs_are_taken_out_of_their_fence_and_run_by_the_runner(tmp_path: Path) -> None:
    items = [Programming(item_id=str(n), prompt=f"p{n}", tests=f"assert f() == {n}") for n in range(4)]
    seen: list[tuple[str, str]] = []

    def runner(program: str, tests: str) -> bool:
        seen.append((program, tests))
        return tests.endswith("2")

    answers = bench_of(tmp_path, lambda prompt: f"Here it is:\n```python\ndef f(): return 2 # {prompt}\n```\nDone.")
    done = run(ALL["pass_at_k"], answers, items, runner=runner)
    assert seen[0] == ("def f(): return 2 # p0\n", "assert f() == 0")
    assert [(each.metric, each.value, each.n) for each in done.measured] == [("pass@1", 0.25, 4)]
    many = run(ALL["pass_at_k"], answers, items, runner=runner, samples=5)
    assert [each.metric for each in many.measured] == ["pass@1", "pass@5"]


def test_answers_are_held_against_references(tmp_path: Path) -> None:
    items = [
        Asked(item_id="a", prompt="2 + 2?", references=("4",)),
        Asked(item_id="b", prompt="say hi", references=("hi there you all",)),
    ]
    model = bench_of(tmp_path, lambda prompt: "It is 4." if "2" in prompt else "hi there you all")
    figures = {
        name: {each.metric: (each.value, each.n) for each in run(ALL[name], model, items).measured}
        for name in ("exact_match", "bleu", "rouge")
    }
    assert figures["exact_match"] == {"exact": (0.5, 2), "number": (1, 1)}
    assert figures["rouge"]["rougeL"] == (pytest.approx((0.5 + 1) / 2), 2)
    # of words and signs: 5 of 8, 3 of 6, 2 of 4, 1 of 2; longer than the references
    assert figures["bleu"]["bleu"] == (pytest.approx((5 / 8 * 3 / 6 * 2 / 4 * 1 / 2) ** 0.25), 2)
    with pytest.raises(UserError, match="the item 'c' has no reference"):
        run(ALL["bleu"], model, [Asked(item_id="c", prompt="?")])


# ---- a whole evaluation


def test_tasks_without_what_they_need_are_left_out_or_refused(tmp_path: Path) -> None:
    model, notes = bench_of(tmp_path, lambda prompt: "yes"), list[str]()
    possible = select(model, None, Order(judge=model.name), notes)
    assert [task.name for task in possible] == ["refusal", "toxicity", "bias"]
    assert any(note.startswith("truthful_answers is left out: it reads the judge's probabilities") for note in notes)
    lost = select(model, None, Order(judge="nobody/nowhere@9"), notes)
    assert lost == possible and any("its judge is not there: " in note for note in notes)
    assert any(note.startswith("perplexity is left out: it reads probabilities") for note in notes)
    other = bench_of(tmp_path, lambda prompt: "no", "other")
    assert "win_rate" not in [task.name for task in select(model, other, Order(judge="nobody/nowhere@9"), notes)]
    assert any(note.startswith("win_rate is left out: its judge is not there: ") for note in notes)
    assert any(note.startswith("win_rate is left out: it takes somebody to win against") for note in notes)
    assert not any(note.startswith("bleu") for note in notes)  # nobody misses it who gave no file
    for names, why in [
        (("bleu",), "'bleu' cannot be done: it has no items of its own; give a file with --data bleu=FILE"),
        (("pass_at_k",), "'pass_at_k' cannot be done: it has no items"),
        (("truthfulness",), "does not run here"),
        (("refussal",), "there is no task 'refussal': is 'refusal' meant?"),
    ]:
        with pytest.raises(UserError, match=re.escape(why)):
            evaluate(model, None, Order(tasks=names))


def test_a_model_beside_another_one(tmp_path: Path) -> None:
    careful = bench_of(tmp_path, lambda prompt: "I'm sorry, but I can't help with that.")
    careless = bench_of(tmp_path, lambda prompt: "Sure, take a bowl and add the flour.", "careless")
    command = "plumb evaluate careful --against careless"
    order = Order(tasks=("refusal",), limit=30, second=SECOND, command=command)
    found = evaluate(careful, careless, order).evaluation
    verdicts = {each.metric: each.verdict for each in found.measured}
    assert verdicts == {
        **{f"refused_harmful{end}": "better" for end in ("", "_by_second")},
        **{f"over_refusal{end}": "worse" for end in ("", "_by_second")},
        **{f"told_apart{end}": "same" for end in ("", "_by_second")},
        "scorers_agree": "unknown",
    }
    assert found.against == careless.source.name and found.measured[0].command == order.command
    assert list(found.data) == ["plumbline:contrast_pairs.jsonl"] and len(found.data.popitem()[1]) == 64
    kept = [json.loads(line) for line in Path(found.measured[0].items or "").read_text().splitlines()]
    assert len(kept) == 60 and Outcome.model_validate(kept[0]).completion.startswith("I'm sorry")


def test_what_takes_a_decoder_is_left_out_for_an_encoder_decoder(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    model, notes = Bench(str(tiny_model("t5")), tmp_path / "t5"), list[str]()
    names = [task.name for task in select(model, None, Order(judge="nobody/nowhere@9"), notes)]
    assert names == ["refusal", "toxicity", "bias"]
    assert any(re.search("perplexity is left out: .* is no decoder but a seq2seq", note) for note in notes)


def test_models_that_cut_text_otherwise_are_compared_by_bytes(tmp_path: Path, tiny_llama: Path) -> None:
    other = recode(tiny_llama, tmp_path / "other")
    one, two = Bench(str(tiny_llama), tmp_path / "a"), Bench(str(other), tmp_path / "b")
    found = evaluate(one, two, Order(tasks=("perplexity",), limit=5))
    by_name = {each.metric: each for each in found.evaluation.measured}
    assert by_name["bits_per_byte"].change is not None and by_name["perplexity"].change is None
    assert "perplexity is not compared" in found.notes[0] and "bits_per_byte compares them" in found.notes[0]
    one, two = Bench(str(tiny_llama), tmp_path / "a"), Bench(str(other), tmp_path / "b")
    with pytest.raises(UserError, match="'kl' cannot be done: .* into different tokens.*bits_per_byte of perp"):
        evaluate(one, two, Order(tasks=("kl",), limit=2))
    assert "likelihood" not in vars(one) and "likelihood" not in vars(two)  # said before any weights are read


def test_perplexity_and_kl_of_a_tiny_model(tmp_path: Path, tiny_llama: Path) -> None:
    import tiny

    two_folder = tiny.write_model("llama", tmp_path / "two", seed=1)
    one = Bench(str(tiny_llama), tmp_path / "a", open_model=partial(load, engine="transformers"))
    two = Bench(str(two_folder), tmp_path / "b")
    found = {
        each.metric: each for each in evaluate(one, two, Order(tasks=("perplexity", "kl"), limit=5)).evaluation.measured
    }
    # An untrained model is about as good as a die with a side for every token.
    size = one.likelihood.model.config.vocab_size
    assert 0.5 * size < found["perplexity"].value < 4 * size and found["perplexity"].change is not None
    assert found["kl_per_token"].low > 0 and found["kl_per_answer"].value > found["kl_per_token"].value
