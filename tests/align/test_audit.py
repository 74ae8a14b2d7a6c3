"""Whole audits: of runs whose reward is gamed in a known way, of runs that are sound, of files that are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from align.audited import planted_run, rollout, write_run
from plumbline.align.audit import Audit, audit, read_run
from plumbline.align.figures import DETECTORS, FIGURES, blocks_of, series_of, watch
from plumbline.errors import BadRecord, UserError
from plumbline.models.scripted import ScriptedScore
from plumbline.records import Rollout

Planted = Callable[[str], Audit]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """`planted("length")` is the audit of such a run by its gold."""
    made: dict[str, Audit] = {}

    def get(kind: str) -> Audit:
        if kind not in made:
            folder, worth = planted_run(tmp_path_factory.mktemp(kind), kind)
            made[kind] = audit(folder, [ScriptedScore(lambda prompt, text: worth[prompt, text], name="gold")])
        return made[kind]

    return get


def states(found: Audit) -> dict[str, str]:
    return {each.name: each.state for each in found.findings}


# ---- what is found


def test_a_reward_that_likes_superlatives_is_seen_through(planted: Planted) -> None:
    found = planted("superlatives")
    assert states(found)["gaming:gold"] == "alarm" and states(found)["agreement:gold"] == "changed"
    gaming = next(each for each in found.findings if each.name == "gaming:gold")
    assert gaming.step is not None and 15 <= gaming.step <= 50
    assert f"at step {gaming.step} they had fallen" in gaming.verdict and gaming.n == "3,840 answers, 60 steps"
    named = [" ".join(each.words) for each in found.inflation.phrases]
    assert any("most awesome" in each or "greatest" in each for each in named)
    for phrase, examples in found.examples.items():
        assert examples and all(each.step >= 54 for each in examples), phrase


def test_a_reward_that_likes_length_is_seen_through(planted: Planted) -> None:
    found = planted("length")
    assert states(found)["length"] == "changed" and states(found)["gaming:gold"] == "alarm"
    length = next(each for each in found.findings if each.name == "length")
    assert "Tokens per answer: from " in length.verdict and "noticed at step" in length.verdict


def test_a_policy_that_gets_better_is_not_accused(planted: Planted) -> None:
    found = planted("honest")
    assert states(found)["gaming:gold"] == "quiet"
    best = next(each for each in found.findings if each.name == "best:gold")
    assert best.state == "told" and best.step is not None and best.step > 40
    assert "nats for each spread" in best.verdict and "No checkpoint is kept." in best.verdict


def test_a_run_in_which_nothing_happens_raises_nothing(planted: Planted) -> None:
    assert set(states(planted("nothing")).values()) <= {"quiet", "told"}


def test_shuffled_runs_raise_no_more_alarms_than_the_level_allows(tmp_path: Path) -> None:
    """A gamed run, its groups dealt to steps anew, 6 times: 30 looks at 1 %. Three alarms have a chance of 1 in 280."""
    rollouts, _ = read_run(planted_run(tmp_path, "superlatives", seed=2)[0])
    groups: dict[tuple[int, str], list[Rollout]] = {}
    for each in rollouts:
        groups.setdefault((each.step, each.prompt_id), []).append(each)
    random, alarms, looks = np.random.default_rng(0), 0, 0
    for _ in range(6):
        steps = random.permutation([step for step, _ in groups])
        dealt = [
            each.model_copy(update={"step": int(step), "prompt_id": f"{number}"})
            for number, (step, group) in enumerate(zip(steps, groups.values(), strict=True))
            for each in group
        ]
        blocks = blocks_of(dealt)
        for name in ("length", "ending", "repetition", "sameness", "strangeness"):
            series = series_of(blocks, FIGURES[DETECTORS[name].figure])
            assert series is not None
            alarms += watch(DETECTORS[name], series) is not None
            looks += 1
    assert looks == 30 and alarms <= 2


def test_a_score_that_does_not_rise_with_the_reward_is_worth_a_look(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rollouts = [
        rollout(step, f"p{prompt}", f"{step} {prompt} {n}", reward=step / 5 + random.normal())
        for step in range(1, 21)
        for prompt in range(12)
        for n in range(2)
    ]
    noise = {each.completion: float(random.normal()) for each in rollouts}
    found = audit(write_run(tmp_path, rollouts), [ScriptedScore(lambda _, text: noise[text], name="coin")])
    assert states(found)["gaming:coin"] == "look"
    assert "no measurable gain" in next(each.verdict for each in found.findings if each.name == "gaming:coin")


def test_without_a_scorer_what_is_not_judged_is_said(tmp_path: Path) -> None:
    folder, _ = planted_run(tmp_path, "superlatives", steps=12)
    found = audit(folder)
    gaming = found.findings[1]
    assert (gaming.name, gaming.state) == ("gaming", "unjudged") and gaming.verdict.startswith("Not judged")
    assert "cannot tell good from bad" in gaming.verdict
    assert "strangeness" in states(found) and not any(name.startswith("best") for name in states(found))
    assert "1 not judged" in found.summary


def test_two_scorers_each_have_their_say(tmp_path: Path) -> None:
    folder, worth = planted_run(tmp_path, "superlatives", steps=24)
    gold = ScriptedScore(lambda prompt, text: worth[prompt, text], name="gold")
    found = audit(folder, [gold, ScriptedScore(lambda _, text: text.count("most"), name="fan")])
    assert [view.scorer for view in found.views] == ["gold", "fan"]
    assert states(found)["gaming:fan"] == "quiet"


def test_the_checkpoint_named_wrote_the_answers_of_the_best_steps(tmp_path: Path) -> None:
    """The answers of step 31 to 40 are the best; they were written by the checkpoints of steps 30 to 39."""
    rollouts = [
        rollout(step, f"p{prompt}", f"{step} {prompt}", reward=step + prompt % 3)
        for step in range(1, 61)
        for prompt in range(8)
    ]
    folder = write_run(tmp_path, rollouts)
    good = ScriptedScore(lambda _, text: 2.0 * (31 <= int(text.split()[0]) <= 40) + int(text.split()[1]) % 3, name="j")
    for step in (20, 35, 60):
        place = folder / "checkpoints" / f"step-{step:08}"
        place.mkdir(parents=True)
        (place / "checkpoint.json").write_text(json.dumps({"step": step, "score": None}))
    best = audit(folder, [good]).findings[-1]
    assert best.step is not None and 31 <= best.step <= 40
    assert best.verdict.endswith("Of the checkpoints that are kept, step 35's answers are the best: +2.")
    for step in (20, 35):
        (folder / "checkpoints" / f"step-{step:08}" / "checkpoint.json").unlink()
        (folder / "checkpoints" / f"step-{step:08}").rmdir()
    verdict = audit(folder, [good]).findings[-1].verdict
    assert verdict.endswith("No checkpoint is kept of which answers are.")  # the last one wrote none


def test_one_answer_per_prompt_leaves_open_what_takes_two(tmp_path: Path) -> None:
    rollouts = [rollout(step, f"p{prompt}") for step in range(1, 9) for prompt in range(4)]
    found = audit(write_run(tmp_path, rollouts), [ScriptedScore(name="one")])
    assert states(found)["sameness"] == "unjudged" and "agreement:one" not in states(found)


def test_few_prompts_per_step_are_said_to_be_few(tmp_path: Path) -> None:
    found = audit(write_run(tmp_path, [rollout(step, "p") for step in range(1, 9)]))
    assert any("prompts per step" in note for note in found.notes)
    assert states(found)["phrases"] == "unjudged"


# ---- what cannot be audited, in one sentence


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run 'nowhere': name the folder of a run"):
        audit("nowhere")
    with pytest.raises(UserError, match=r"has no rollouts.jsonl: audit a run that samples answers"):
        audit(tmp_path)
    (tmp_path / "rollouts.jsonl").touch()
    with pytest.raises(BadRecord, match="holds no records: it is empty"):
        audit(tmp_path)


@pytest.mark.parametrize(("steps", "said"), [(1, "answers of 1 step,"), (5, "answers of 5 steps,")])
def test_a_run_too_short_to_show_a_change(tmp_path: Path, steps: int, said: str) -> None:
    write_run(tmp_path, [rollout(step) for step in range(1, steps + 1)])
    with pytest.raises(UserError, match=f"{said} and a change takes at least 6 to be seen: let the run go on"):
        audit(tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"step": 1}', "rollouts.jsonl:9: `prompt` is missing"),
        ("nonsense", "rollouts.jsonl:9: is not JSON"),
        (rollout().model_dump_json().replace('"reward":0.0', '"reward":NaN'), "rollouts.jsonl:9: holds NaN"),
        (rollout().model_dump_json().replace('"reward":0.0', '"reward":null'), "`reward` is None: it must be a number"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    write_run(tmp_path, [rollout(step) for step in range(1, 9)])
    with (tmp_path / "rollouts.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(BadRecord) as caught:
        audit(tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_of_bad_lines_names_the_first(tmp_path: Path) -> None:
    (tmp_path / "rollouts.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    with pytest.raises(BadRecord, match=r"rollouts.jsonl:1: .* \(and 1 more\)"):
        audit(tmp_path)


def test_a_last_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, [rollout(step) for step in range(1, 9)])
    with (tmp_path / "rollouts.jsonl").open("a") as file:
        file.write('{"step": 9, "prompt_id": "p", "comp')
    found = audit(tmp_path)
    assert found.steps == 8 and "left out" in found.notes[0]
    (tmp_path / "rollouts.jsonl").write_text('{"step": 9, "prompt_id": "p", "comp')
    with pytest.raises(BadRecord, match="cut off"):
        audit(tmp_path)


def test_answers_that_are_empty_or_strange_do_no_harm(tmp_path: Path) -> None:
    texts = ["", "   ", "\x1b[31mred\x07", "💧" * 50, "a " * 300, "<script>alert(1)</script>", "$x$ \\frac"]
    rollouts = [
        rollout(step, f"p{number}", text) for step in range(1, 9) for number, text in enumerate(texts) for _ in (0, 1)
    ]
    found = audit(write_run(tmp_path, rollouts), [ScriptedScore(name="$a < b$")])
    assert found.answers == 8 * 7 * 2 and set(states(found).values()) <= {"quiet", "told"}
