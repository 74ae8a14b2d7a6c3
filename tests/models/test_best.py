"""Best of n: which answer is kept, what is drawn for it, and how far the choice moves from the model."""

from __future__ import annotations

from collections import Counter
from itertools import product
from math import log, nan
from typing import Any

import pytest

from plumbline.errors import UserError
from plumbline.models import Completion, Prompt, Raw, Sampling, Score
from plumbline.models.best import Best, BestOf, highest
from plumbline.models.scripted import Scripted, ScriptedScore

LENGTH = ScriptedScore(lambda _, completion: len(completion), name="length")


def texts(answers: list[list[Completion]]) -> list[list[str]]:
    return [[completion.text for completion in samples] for samples in answers]


def test_the_highest_score_wins_and_the_first_of_equals() -> None:
    assert highest([0.0, 2.0, 2.0, -1.0]) == 1
    assert highest([-3.0]) == 0
    assert highest([-2.0, -1.0]) == 1


def test_each_prompt_gets_the_best_of_its_own_answers_in_order() -> None:
    model = Scripted({"one": ["a", "ccc", "bb", "ddd"], "two": ["eeee", "f", "g", "h"]}, name="m")
    best = BestOf(model, LENGTH, 4)
    answers = best(["two", "one"], Sampling(seed=0))
    assert texts(answers) == [["eeee"], ["ccc"]]
    assert [completion.score for (completion,) in answers if isinstance(completion, Best)] == [4.0, 3.0]


def test_the_rest_of_the_answer_stays_and_the_model_is_named() -> None:
    given = Completion("long answer", "stop", tokens=(4, 5), logprobs=(-0.1, -0.2), tool_calls=({"name": "f"},))
    model = Scripted(["no", given], name="m")
    ((kept,),) = BestOf(model, LENGTH, 2)(["Hi"], Sampling(seed=9))
    assert isinstance(kept, Best)
    assert (kept.text, kept.tokens, kept.logprobs, kept.tool_calls) == (
        "long answer",
        (4, 5),
        (-0.1, -0.2),
        ({"name": "f"},),
    )
    assert (kept.seed, kept.prompt_tokens, kept.finish_reason) == (9, 1, "stop")
    assert kept.model == "m, best of 2 by length"


def test_one_call_asks_for_all_answers_and_one_for_all_scores() -> None:
    """So a prompt is read once, and a reward model can put the answers to a prompt into one group."""
    asked: list[list[Any]] = []

    class Listening:
        name = "listening"

        def __call__(self, prompts: Any, completions: Any) -> list[float]:
            asked.append([list(prompts), list(completions)])
            return [float(len(completion)) for completion in completions]

    model = Scripted({"one": ["a", "bb"], "two": ["ccc", "d"]})
    score: Score = Listening()
    BestOf(model, score, 2)([Raw("one"), "two"], Sampling(temperature=1.5, seed=4))
    assert [call.sampling for call in model.calls] == [Sampling(n=2, temperature=1.5, seed=4)]
    assert asked == [[["one", "one", "two", "two"], ["a", "bb", "ccc", "d"]]]
    assert isinstance(asked[0][0][0], Raw)


def test_several_samples_are_chosen_each_among_answers_of_its_own() -> None:
    model = Scripted({"one": ["a", "bbb", "cc", "d"]})
    assert texts(BestOf(model, LENGTH, 2)(["one"], Sampling(n=2, seed=0))) == [["bbb", "cc"]]


def test_the_same_seed_makes_the_same_choice() -> None:
    model = Scripted({"one": ["a", "bb", "cccc", "ddd"]})
    best = BestOf(model, LENGTH, 2)
    by_seed = [texts(best(["one"], Sampling(seed=seed)))[0][0] for seed in (0, 1, 2, 3, 0)]
    assert by_seed == ["bb", "cccc", "cccc", "ddd", "bb"]


def test_best_of_one_is_the_model_with_a_score() -> None:
    ((kept,),) = BestOf(Scripted(["a"]), LENGTH, 1)(["Hi"])
    assert isinstance(kept, Best) and (kept.text, kept.score) == ("a", 1.0)


def test_a_stream_shows_nothing_before_the_choice() -> None:
    best = BestOf(Scripted({"Hi": ["a", "b b b"]}), LENGTH, 2)
    (only,) = best.stream("Hi", Sampling(seed=0))
    assert only.text == "b b b" and only.completion == best(["Hi"], Sampling(seed=0))[0][0]


def test_what_fails_below_is_not_hidden() -> None:
    """An answer that cannot be had fails the call as it does without a choice, and so does a scorer."""
    with pytest.raises(UserError, match="the endpoint is gone"):
        BestOf(Scripted(["a", UserError("the endpoint is gone")]), LENGTH, 2)(["Hi"])

    def fail(prompt: Prompt, completion: str) -> float:
        raise UserError("no such class")

    with pytest.raises(UserError, match="no such class"):
        BestOf(Scripted(["a"]), ScriptedScore(fail), 1)(["Hi"])


def test_a_score_that_is_no_number_chooses_nothing() -> None:
    """`max` would keep whatever stands first."""
    broken = ScriptedScore(lambda _, completion: nan if completion == "a" else 1.0, name="broken")
    with pytest.raises(UserError, match="'broken' scores 'a' with nan: only numbers can be compared"):
        BestOf(Scripted(["b", "a"]), broken, 2)(["Hi"])


def test_it_speeds_as_the_model_below_does() -> None:
    """An engine may put a new `Speed` in the place of its old one."""
    from plumbline.models import Speed

    model = Scripted(["a"])
    best = BestOf(model, LENGTH, 1)
    model.speed = Speed(new_tokens=7)
    assert best.speed.new_tokens == 7


def test_choosing_among_none_is_refused() -> None:
    with pytest.raises(UserError, match="best of 0: choose among at least 1 answer"):
        BestOf(Scripted(["a"]), LENGTH, 0)


def divergence(rewards: list[float], n: int) -> float:
    """KL(best of n ‖ π), over all draws from a π that gives every answer the same probability."""
    size = len(rewards)
    kept = Counter(draw[highest([rewards[each] for each in draw])] for draw in product(range(size), repeat=n))
    return sum(count / size**n * log(count / size**n * size) for count in kept.values())


def test_the_choice_moves_no_further_from_the_model_than_is_said() -> None:
    for n in (1, 2, 3):
        bound = log(n) - (n - 1) / n
        fine, coarse, tied = [divergence(rewards, n) for rewards in ([*range(60)], [*range(3)], [0.0] * 60)]
        assert bound * 0.9 <= fine <= bound
        assert coarse <= bound + 1e-12
        assert tied <= 1e-12
