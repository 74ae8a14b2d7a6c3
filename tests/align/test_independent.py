"""Scores by others: on a sample that is always the same, kept, asked for once, and sound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from align.audited import rollout
from plumbline.align.figures import blocks_of
from plumbline.align.independent import FILE, OF_A_PROMPT, chosen, key_of, refuse_own, score_answers, see
from plumbline.errors import UserError
from plumbline.models import Prompt
from plumbline.models.scripted import ScriptedScore
from plumbline.records import Rollout


class Counting:
    """A scorer that counts what it was asked, and can be told to break."""

    name = "counting"

    def __init__(self, answer: Callable[[Sequence[str]], list[float]] | None = None) -> None:
        self.asked: list[str] = []
        self.answer = answer or (lambda texts: [float(len(text)) for text in texts])

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        self.asked += completions
        return self.answer(completions)


def answers(count: int) -> list[Rollout]:
    return [rollout(1, f"p{place % 10}", f"answer {place}") for place in range(count)]


def test_whole_prompts_are_drawn_with_a_few_answers_each_and_always_the_same() -> None:
    groups = blocks_of(answers(100))[0].groups  # ten prompts, ten answers each
    drawn = chosen(groups, 12, step=3)
    assert [len(group) for group in drawn] == [OF_A_PROMPT] * 3
    assert drawn == chosen(list(reversed(groups)), 12, step=3)
    assert {group[0].prompt_id for group in drawn} != {group[0].prompt_id for group in chosen(groups, 12, step=4)}
    assert sum(map(len, chosen(groups, 10**6, step=3))) == 10 * OF_A_PROMPT
    assert [len(group) for group in chosen(groups, 5, step=3)] == [4, 1]


def test_an_answer_is_asked_for_once(tmp_path: Path) -> None:
    first = Counting()
    found = score_answers(first, answers(100), tmp_path)
    assert found[key_of(rollout(1, "p7", "answer 7"))] == 8.0 and len(first.asked) == 100
    again = Counting()
    assert (
        score_answers(again, [*answers(101), rollout(9, "p0", "answer 0")], tmp_path)[key_of(answers(101)[100])] == 10
    )
    assert again.asked == ["answer 100"]
    anew = Counting(lambda texts: [0.5] * len(texts))
    assert set(score_answers(anew, answers(3), tmp_path, again=True).values()) == {0.5}
    assert set(score_answers(Counting(), answers(3), tmp_path).values()) == {0.5}  # the later score counts


def test_the_same_text_to_another_prompt_is_another_answer(tmp_path: Path) -> None:
    found = score_answers(ScriptedScore(lambda prompt, _: len(prompt)), [rollout(1, "a"), rollout(1, "bb")], tmp_path)
    assert sorted(found.values()) == [2.0, 3.0]


def test_scorers_do_not_share_scores(tmp_path: Path) -> None:
    score_answers(ScriptedScore(1.0, name="one"), answers(2), tmp_path)
    assert set(score_answers(ScriptedScore(2.0, name="two"), answers(2), tmp_path).values()) == {2.0}


def test_a_scorer_that_breaks_halfway_loses_nothing(tmp_path: Path) -> None:
    calls = iter([None, ValueError("no more")])

    def breaking(texts: Sequence[str]) -> list[float]:
        if error := next(calls):
            raise error
        return [1.0] * len(texts)

    with pytest.raises(UserError, match=r"'counting' failed \(ValueError: no more\): mend it and audit again"):
        score_answers(Counting(breaking), answers(100), tmp_path)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"scorer": "counting", "answ')  # and the disk was full
    mended = Counting()
    score_answers(mended, answers(100), tmp_path)
    assert len(mended.asked) == 36


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([1.0], "gave 1 numbers for 2 answers: it must give one for each"),
        ([], "gave 0 numbers for 2 answers"),
        ([1.0, float("nan")], "gave nan for the answer 'answer 1': it must give a finite number"),
        ([float("inf"), 1.0], "gave inf for the answer 'answer 0'"),
    ],
)
def test_what_is_no_score_is_refused(tmp_path: Path, given: list[float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        score_answers(Counting(lambda _: given), answers(2), tmp_path)
    assert not (tmp_path / FILE).exists()


def test_progress_counts_each_answer_once(tmp_path: Path) -> None:
    steps: list[int] = []
    score_answers(Counting(), answers(100), tmp_path, advance=steps.append)
    assert sum(steps) == 100 and max(steps) == 64
    steps.clear()
    score_answers(Counting(), answers(100), tmp_path, advance=steps.append)
    assert steps == [100]


def test_a_runs_own_reward_is_no_judge_of_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"reward": "reward@1"}')
    with pytest.raises(
        UserError, match="'reward@1' is the reward that the run was trained with, and no judge of itself"
    ):
        refuse_own(tmp_path, [ScriptedScore(name="other"), ScriptedScore(name="reward@1")])
    refuse_own(tmp_path, [ScriptedScore(name="reward@2")])
    with pytest.raises(UserError, match="two scorers are called 'a'"):
        refuse_own(tmp_path, [ScriptedScore(name="a"), ScriptedScore(name="a")])


def test_the_extremes_are_what_the_reward_likes_and_the_scorer_does_not(tmp_path: Path) -> None:
    rollouts = [rollout(step, f"p{place}", f"{place}", reward=place) for step in range(1, 9) for place in range(8)]
    seen = see(tmp_path, blocks_of(rollouts), ScriptedScore(lambda _, text: -float(text), name="against"))
    assert seen.extremes[0].rollout.completion == "7" and len(seen.extremes) == 8  # each text once
    assert seen.extremes[0].trained > 0.9 and seen.extremes[0].independent < 0.2
    assert seen.agreement is None  # one answer to a prompt
    with pytest.raises(UserError, match="answers is 0"):
        see(tmp_path, blocks_of(rollouts), ScriptedScore(), answers=0)
