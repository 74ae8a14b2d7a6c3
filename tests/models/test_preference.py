"""Preferences: what replies name, what two orders make of a case, and the questions that local judges are asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from plumbline.errors import UserError
from plumbline.models.judge import Judge
from plumbline.models.preference import (
    Alone,
    Case,
    Criterion,
    Paired,
    Prefer,
    Scored,
    SolvedCase,
    Spoken,
    Verdict,
    alone_question,
    load_preference,
    named_letter,
    pair_question,
)
from plumbline.models.scripted import Scripted, ScriptedScore

SOLVED = (
    SolvedCase("Why?", "It's me.", "Move."),
    SolvedCase("Knock, knock", "Who is there?", "Go {away}."),
)
CRITERION = Criterion("Which is {kinder}?", ("kind", "late"), SOLVED)
LETTERS = ("hot", "late")
"""Two words that the tiny model's tokenizer knows."""
CASES = [Case("My house is too hot.", "Open the windows.", "Move."), Case("Why?", "Because I say so.", "I'll wait.")]


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("A", "A"),
        ("B.", "B"),
        ("(B)", "B"),
        ("**A**", "A"),
        ("Answer B", "B"),
        ("The better answer is A, since it is polite.", "A"),
        ("I would take B here.", "B"),
        ("A is better than B.", "A"),
        ("a matter of taste", None),
        ("A and B are equally good.", None),
        ("Both A and B have their merits.", None),
        ("Neither.", None),
        ("", None),
    ],
)
def test_a_reply_names_a_letter_or_none(reply: str, letter: str | None) -> None:
    assert named_letter(reply) == letter


@pytest.mark.parametrize(
    ("forward", "backward", "winner"),
    [(2.0, 0.1, "first"), (-2.0, -0.1, "second"), (2.0, -0.1, "tie"), (0.0, 1.0, "tie"), (None, 1.0, "tie")],
)
def test_both_orders_must_agree(forward: float | None, backward: float | None, winner: str) -> None:
    verdict = Verdict(forward, backward)
    assert verdict.winner == winner
    assert verdict.answered == (forward is not None)


def test_a_spoken_judge_is_asked_in_both_orders() -> None:
    model = Scripted(lambda prompt: "A" if prompt.index("Open the windows.") < prompt.index("Move.") else "B")
    judge = Spoken(model, name="sage")
    assert isinstance(judge, Prefer)
    (verdict,) = judge(CASES[:1], CRITERION)
    assert (verdict, verdict.winner) == (Verdict(1.0, 1.0, ("A", "B")), "first")
    asked = model.calls[0].prompts
    assert len(asked) == 2 and all(CRITERION.question in str(prompt) for prompt in asked)
    assert judge([], CRITERION) == []


def test_a_judge_that_always_takes_the_first_place_ties_everything() -> None:
    verdicts = Spoken(Scripted(lambda prompt: "A"))(CASES, CRITERION)
    assert [(each.forward, each.backward, each.winner) for each in verdicts] == [(1.0, -1.0, "tie")] * 2


def test_a_judge_that_names_neither_has_not_answered() -> None:
    (verdict,) = Spoken(Scripted(["It depends.", "B"]))(CASES[:1], CRITERION)
    assert verdict == Verdict(None, 1.0, ("It depends.", "B"))
    assert not verdict.answered and verdict.winner == "tie"


def test_the_question_about_two_answers_puts_the_better_one_first_and_second_in_turn() -> None:
    opening = pair_question(CRITERION).opening(swapped=False)
    assert "Request: Why?\nAnswer A: It's me.\nAnswer B: Move.\nWhich is {kinder}? Answer A\n" in opening
    assert "Answer A: Go {away}.\nAnswer B: Who is there?\nWhich is {kinder}? Answer B\n" in opening


def test_the_question_about_one_answer_shows_both_of_each_solved_case() -> None:
    question = alone_question(CRITERION)
    assert [example.label for example in question.examples] == [0, 1, 1, 0]
    assert question.labels == ("kind", "late")


def test_a_pair_is_read_in_both_orders(tiny_llama: Path) -> None:
    verdicts = Paired(tiny_llama, letters=LETTERS, device="cpu")(CASES, CRITERION)
    judge = Judge(tiny_llama, pair_question(CRITERION, LETTERS), device="cpu")
    for case, verdict in zip(CASES, verdicts, strict=True):
        fields = {"prompt": case.prompt, "one": case.first, "two": case.second}
        turned = {"prompt": case.prompt, "one": case.second, "two": case.first}
        assert (verdict.forward, verdict.backward) == pytest.approx(
            (judge.ask([fields])[0], -judge.ask([turned])[0]), abs=1e-4
        )
    turned_cases = [Case(case.prompt, case.second, case.first) for case in CASES]
    for one, other in zip(
        verdicts, Paired(tiny_llama, letters=LETTERS, device="cpu")(turned_cases, CRITERION), strict=True
    ):
        assert (one.forward, one.backward) == pytest.approx((-(other.backward or 0), -(other.forward or 0)), abs=1e-4)


def test_an_answer_read_alone_has_no_place(tiny_llama: Path) -> None:
    verdicts = Alone(tiny_llama, device="cpu")(CASES, CRITERION)
    judge = Judge(tiny_llama, alone_question(CRITERION), device="cpu")
    for case, verdict in zip(CASES, verdicts, strict=True):
        first, second = judge([case.prompt] * 2, [case.first, case.second])
        assert verdict.forward == verdict.backward == pytest.approx(first - second, abs=1e-4)
        assert verdict.winner == ("first" if first > second else "second")


def test_a_judge_is_loaded_by_its_name(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text('{"completion": "A"}\n{"completion": "B"}\n')
    script = f"scripted:{tmp_path / 's.jsonl'}"
    assert load_preference(script)(CASES[:1], CRITERION)[0].winner == "first"
    assert isinstance(load_preference(str(tiny_llama), device="cpu"), Alone)
    with pytest.raises(UserError, match="labels are .'A', 'B'., which begin with the same token"):
        load_preference(str(tiny_llama), "pair", device="cpu")  # this tokenizer knows no word " A"
    with pytest.raises(UserError, match="gives no probabilities of labels, which 'pair' needs"):
        load_preference(script, "pair")
    with pytest.raises(
        UserError, match="way is 'loud': a judge is asked in one of the ways spoken, pair, alone, score"
    ):
        load_preference(str(tiny_llama), "loud")  # type: ignore[arg-type]


def test_a_scorer_decides_by_itself() -> None:
    by_length = Scored(ScriptedScore(lambda prompt, completion: -len(completion), name="brevity"))
    verdicts = by_length([Case("Hi", "Hello.", "Hello to you."), Case("Hi", "Same.", "Same.")], CRITERION)
    assert [(each.forward, each.winner) for each in verdicts] == [(7.0, "first"), (0.0, "tie")]
    assert load_preference("refusal", "score")([Case("Hi", "I won't help with that.", "Sure.")], CRITERION)[0].forward


def test_a_criterion_without_solved_cases_can_be_asked(tiny_llama: Path) -> None:
    bare = replace(CRITERION, solved=())
    for judge in (Paired(tiny_llama, letters=LETTERS, device="cpu"), Alone(tiny_llama, device="cpu")):
        assert len(judge(CASES, bare)) == 2
