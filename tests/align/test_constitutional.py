"""Constitutional AI: what is asked, kept and made of it, and that a stopped run ends as an uninterrupted one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from plumbline.align.constitutional import Config, rank, revise
from plumbline.align.critic import stripped
from plumbline.align.principles import read_constitution
from plumbline.align.trail import Step
from plumbline.errors import EndpointError, UserError
from plumbline.models import Completion, Sampling, load
from plumbline.models.preference import Case, Criterion, Spoken, Verdict
from plumbline.models.scripted import Scripted, ScriptedScore, prompt_text
from plumbline.records import Demonstration, Pair, PromptRecord, Ranking, read_jsonl

LAW = read_constitution()
DOWN = EndpointError("the endpoint is gone")


def prompts(count: int, word: str = "question") -> list[PromptRecord]:
    return [PromptRecord.model_validate({"prompt": f"{word} {number}"}) for number in range(count)]


class Failing(Scripted):
    """Answers by what it is asked, and is down for good once it has given `calls` answers."""

    def __init__(self, calls: int, name: str) -> None:
        self.left = calls
        super().__init__(self.reply, name)

    def reply(self, prompt: Any) -> str | Exception:
        self.left -= 1
        return DOWN if self.left < 0 else f"{self.name} on {sum(map(ord, prompt_text(prompt)))} {len(prompt)}"

    def each(self, asked: Sequence[Any], sampling: Sampling) -> Iterator[list[Completion]]:
        """One after the other, as an endpoint does."""
        return (self([prompt], sampling)[0] for prompt in asked)


def models(calls: int = 10**9, critic_calls: int = 10**9) -> tuple[Failing, Failing]:
    return Failing(calls, "pupil"), Failing(critic_calls, "critic")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def steps(folder: Path) -> list[Step]:
    return list(read_jsonl(folder / "trail.jsonl", Step))


# ---- stage 1


def test_every_step_is_kept_with_its_principle_prompt_and_seed(tmp_path: Path) -> None:
    config = Config(rounds=2, seed=3)
    summary = revise(tmp_path / "run", prompts(2), *models(), LAW, config, harmless=prompts(1, "fine"))
    kept = steps(tmp_path / "run")
    assert Counter((step.kind, step.model) for step in kept) == {
        ("answer", "pupil"): 3,
        ("critique", "critic"): 4,
        ("revision", "critic"): 4,
    }
    for record in prompts(2):
        mine = {(step.kind, step.turn): step for step in kept if step.prompt_id == record.prompt_id}
        for turn in (1, 2):
            principle = LAW.choose(3, record.prompt_id, turn)
            critique, revision = mine["critique", turn], mine["revision", turn]
            assert critique.principle == revision.principle == principle.id
            assert critique.prompt == revision.prompt == record.prompt
            assert None not in (critique.seed, revision.seed) and critique.seed != revision.seed
    assert summary == {"prompts": 2, "harmless": 1, "demonstrations": 3, "changed": 2}


def test_a_critic_reads_the_answer_and_the_principle_and_a_second_round_reads_the_revision(tmp_path: Path) -> None:
    pupil, critic = models()
    (record,) = prompts(1)
    revise(tmp_path / "run", [record], pupil, critic, LAW, Config(rounds=2, shots=1))
    answer, critique, revision = (step.text for step in steps(tmp_path / "run")[:3])
    first, second, third = ([message["content"] for message in call.prompts[0]] for call in critic.calls[:3])
    principle = LAW.choose(0, record.prompt_id, 1)
    assert f"Request: question 0\n\nAnswer: {answer}\n\n{principle.critique}" in first[-1]
    assert second[-2] == critique and second[-1].startswith(principle.revision)
    assert f"Answer: {revision}\n" in third[-1]
    assert first[0].startswith("Request: ") and len(first) == 3  # one worked example before the case


def test_demonstrations_are_the_last_revisions_and_the_harmless_answers(tmp_path: Path) -> None:
    critic = Scripted(lambda talk: 'Sure, here is a revised answer:\n\n"I can\'t help with that."', "critic")
    pupil = Scripted(lambda prompt: f"Do {prompt}.", "pupil")
    revise(tmp_path / "run", prompts(1), pupil, critic, LAW, Config(), harmless=prompts(1, "fine"))
    shown = list(read_jsonl(tmp_path / "run" / "demonstrations.jsonl", Demonstration))
    assert [[message["content"] for message in each.messages] for each in shown] == [
        ["question 0", "I can't help with that."],
        ["fine 0", "Do fine 0."],
    ]


def test_an_answer_that_stays_empty_is_no_demonstration(tmp_path: Path) -> None:
    critic = Scripted(lambda talk: "Better." if "question 0" in str(talk) else " ", "critic")
    pupil = Scripted(lambda prompt: "", "pupil")
    summary = revise(tmp_path / "run", prompts(2), pupil, critic, LAW, Config(shots=0))
    assert (summary["prompts"], summary["demonstrations"]) == (2, 1)
    mute = Scripted(lambda talk: "", "critic")
    with pytest.raises(UserError, match="no answer is left to be learned"):
        revise(tmp_path / "mute", prompts(1), pupil, mute, LAW, Config(shots=0))


def test_a_held_critic_is_given_the_openings_of_its_principle_and_no_other(tmp_path: Path) -> None:
    for held in (True, False):
        _, critic = models()
        revise(tmp_path / str(held), prompts(30), models()[0], critic, LAW, Config(), held=held)
        asked = [(prompt, call.sampling.grammar) for call in critic.calls for prompt in call.prompts]
        grammars = {prompt_text(prompt): grammar for prompt, grammar in asked}
        for step in steps(tmp_path / str(held)):
            principle = next((each for each in LAW.principles if each.id == step.principle), None)
            if held and step.kind == "revision" and principle is not None:
                grammar = grammars[str(step.prompt)]  # a small critic is asked as if it had not answered yet
                assert (grammar is not None) == bool(principle.openings)
                assert all(json.dumps(f"{opening} ") in (grammar or "") for opening in principle.openings)
        assert held or not any(call.sampling.grammar for call in critic.calls)


def test_a_real_engine_begins_a_held_revision_with_an_opening(tmp_path: Path, tiny_llama: Path) -> None:
    model = load(str(tiny_llama), engine="transformers", device="cpu")
    config = Config(domains=("harmless",), shots=0, max_new_tokens=48)
    for name, held in (("held", True), ("free", False)):
        revise(tmp_path / name, prompts(4), model, model, LAW, config, held=held)
        revisions = [step for step in steps(tmp_path / name) if step.kind == "revision"]
        openings = {each.id: each.openings for each in LAW.principles}
        begun = [step.text.startswith(openings[step.principle or ""]) for step in revisions]
        assert begun == [held] * 4


def test_refusals_are_counted_before_after_and_where_they_are_wrong(tmp_path: Path) -> None:
    critic = Scripted(lambda talk: "No, never.", "critic")
    pupil = Scripted({"question 0": "No.", "question 1": "Yes.", "fine 0": "No.", "fine 1": "Yes.", "fine 2": "Yes."})
    refusal = ScriptedScore(lambda prompt, completion: 1.0 if completion.startswith("No") else -1.0, "refusal")
    summary = revise(
        tmp_path / "run", prompts(2), pupil, critic, LAW, Config(), harmless=prompts(3, "fine"), refusal=refusal
    )
    assert (
        summary | {"refused_by": "refusal", "refused_before": 1, "refused_after": 2, "refused_harmless": 1} == summary
    )


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Sure! Here is the revised answer: Ask her.", "Ask her."),
        ('"Ask her."', "Ask her."),
        ("Revised answer: Ask her.", "Ask her."),
        ("Ask her. Ask her. Then go. Ask her.", "Ask her. Then go."),
        ("Ask her. Then go and", "Ask her."),
        ("Then go and", "Then go and"),
        ("Do this:\n1. Ask.\n2. Go.", "Do this:\n1. Ask.\n2. Go."),
        ("Do this:\n1. Ask.\n2. Go and", "Do this:\n1. Ask."),
        ("How many? 42.", "How many? 42."),
        ("Surely she knows.", "Surely she knows."),
        ("", ""),
    ],
)
def test_a_critics_words_are_cleaned(said: str, kept: str) -> None:
    assert stripped(said) == kept


def yes_to(*prompts: str) -> ScriptedScore:
    return ScriptedScore(lambda prompt, completion: 1.0 if prompt in prompts else -1.0)


def test_what_is_learned_is_what_all_scorers_agree_on_chosen_anew_and_without_asking(tmp_path: Path) -> None:
    pupil, critic = models()
    given = (tmp_path / "run", prompts(6), pupil, critic, LAW, Config())
    assert revise(*given, harmless=prompts(3, "fine"))["demonstrations"] == 9
    asked = len(critic.calls)

    def learned(*keep: ScriptedScore) -> list[str]:
        revise(*given, harmless=prompts(3, "fine"), keep=keep)
        shown = read_jsonl(tmp_path / "run" / "demonstrations.jsonl", Demonstration)
        return [str(each.messages[0]["content"]) for each in shown]

    one, other = yes_to("question 1", "question 2", "fine 0"), yes_to("question 2", "question 3", "fine 1")
    assert learned(one) == ["question 1", "question 2", "fine 1", "fine 2"]
    assert learned(one, other) == ["question 2", "fine 2"]  # both say that it declines; neither says so
    assert len(critic.calls) == asked


def test_of_several_drafts_the_one_that_declines_most_clearly_is_taken(tmp_path: Path) -> None:
    said = ["I can't help with that. But a magnet opens it.", "I can't help with that. Ask your neighbour.", "Sure."]

    class Drafting(Scripted):
        def __call__(self, asked: Any, sampling: Any = None) -> list[list[Completion]]:
            return [[Completion(text, "stop") for text in said[: sampling.n]] for _ in asked]

    sure = ScriptedScore(lambda prompt, completion: 2.0 if "Ask" in completion else 1.0, "polite")
    law = LAW.within(("harmless",))
    run = (prompts(3), models()[0], Drafting({}, "critic"), law, Config(drafts=3))
    summary = revise(tmp_path / "held", *run, held=True, refusal=sure)
    revisions = [step for step in steps(tmp_path / "held") if step.kind == "revision"]
    assert {(step.text, step.model) for step in revisions} == {(said[1], "critic, best of 3 by polite")}
    assert {step.text for step in steps(tmp_path / "held") if step.kind == "critique"} == {said[0]}
    assert summary["refused_after"] == 3
    revise(tmp_path / "free", *run, held=False, refusal=sure)  # an endpoint writes one, and is taken at its word
    assert {step.text for step in steps(tmp_path / "free") if step.kind == "revision"} == {said[0]}
    with pytest.raises(UserError, match="held was True and is False"):
        revise(tmp_path / "held", *run, held=False, refusal=sure)


def test_a_principle_without_openings_has_no_drafts_to_choose_from(tmp_path: Path) -> None:
    """What declines most clearly is no better answer where the principle does not ask to decline."""
    _, critic = models()
    law = LAW.within(("helpful",))
    revise(tmp_path / "run", prompts(3), models()[0], critic, law, Config(), held=True, refusal=yes_to())
    assert {call.sampling.n for call in critic.calls} == {1}


def test_an_answer_that_was_cut_off_is_learned_without_its_stump(tmp_path: Path) -> None:
    class Cut(Scripted):
        def __call__(self, asked: Any, sampling: Any = None) -> list[list[Completion]]:
            ends = {"fine 0": "length", "fine 1": "stop"}
            return [[Completion("Hold the button. Then set a new", ends.get(str(p), "stop"))] for p in asked]

    revise(tmp_path / "run", prompts(1), Cut({}, "pupil"), models()[1], LAW, Config(), harmless=prompts(2, "fine"))
    shown = list(read_jsonl(tmp_path / "run" / "demonstrations.jsonl", Demonstration))
    assert [each.messages[-1]["content"] for each in shown[1:]] == [
        "Hold the button.",
        "Hold the button. Then set a new",
    ]


def test_two_runs_do_not_write_into_one_folder_at_once(tmp_path: Path) -> None:
    def meanwhile(prompt: Any) -> str:
        """While the first run asks, a second one, in a process of its own, wants the same folder."""
        code = "import sys; from pathlib import Path; from plumbline.project import alone_in\n"
        code += "with alone_in(Path(sys.argv[1]), wait=False): pass"
        told.append(subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True).stderr)
        with pytest.raises(UserError, match="another run is writing into .*: wait until it is done"):
            run_revise(out, *models())
        return "Do it."

    out, told = tmp_path / "run", list[str]()
    revise(out, prompts(1), Scripted(meanwhile, "pupil"), models()[1], LAW, Config(rounds=2))
    assert "UserError: another run is writing into" in told[0]
    kept = [step.key for step in steps(out)]
    assert len(kept) == len(set(kept)) == 5


# ---- stopped and gone on with


def run_revise(out: Path, pupil: Scripted, critic: Scripted) -> None:
    revise(out, prompts(20), pupil, critic, LAW, Config(rounds=2), harmless=prompts(4, "fine"))


@pytest.mark.parametrize(("calls", "critic_calls"), [(0, 999), (7, 999), (999, 21), (999, 47), (999, 79), (23, 40)])
def test_an_endpoint_that_dies_is_gone_on_with_to_the_bit(tmp_path: Path, calls: int, critic_calls: int) -> None:
    run_revise(tmp_path / "whole", *models())
    with pytest.raises(EndpointError, match="gone"):
        run_revise(tmp_path / "part", *models(calls, critic_calls))
    before = steps(tmp_path / "part") if calls else []
    pupil, critic = models()
    run_revise(tmp_path / "part", pupil, critic)
    assert files(tmp_path / "part") == files(tmp_path / "whole")
    asked_again = sum(len(call.prompts) for call in (*pupil.calls, *critic.calls))
    assert asked_again == 20 * 5 + 4 - len(before)  # nothing twice


def test_one_that_dies_at_item_700_of_1000_goes_on_at_700(tmp_path: Path) -> None:
    def run(pupil: Failing) -> None:
        rank(tmp_path / "run", prompts(500), pupil, Spoken(Scripted(lambda _: "A")), LAW, Config())

    with pytest.raises(EndpointError):
        run(Failing(700, "pupil"))
    assert sum(step.kind == "answer" for step in steps(tmp_path / "run")) == 700
    again = Failing(10**9, "pupil")
    run(again)
    assert sum(len(call.prompts) for call in again.calls) == 150  # of two answers each


def test_other_settings_do_not_go_on_with_a_run(tmp_path: Path) -> None:
    run_revise(tmp_path / "run", *models())
    with pytest.raises(UserError, match="cannot go on with other settings .seed was 0 and is 1"):
        revise(tmp_path / "run", prompts(20), *models(), LAW, Config(rounds=2, seed=1), harmless=prompts(4, "fine"))
    with pytest.raises(UserError, match="prompts was"):
        revise(tmp_path / "run", prompts(19), *models(), LAW, Config(rounds=2), harmless=prompts(4, "fine"))
    with pytest.raises(UserError, match="constitution was"):
        revise(tmp_path / "run", prompts(20), *models(), LAW.model_copy(update={"version": "9"}), Config(rounds=2))


def test_another_seed_gives_other_principles_and_seeds(tmp_path: Path) -> None:
    for seed in (0, 1):
        revise(tmp_path / str(seed), prompts(20), *models(), LAW, Config(seed=seed))
    one, other = (steps(tmp_path / str(seed)) for seed in (0, 1))
    assert [step.principle for step in one] != [step.principle for step in other]
    assert {step.seed for step in one}.isdisjoint({step.seed for step in other})


def test_what_cannot_be_run_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no prompt"):
        revise(tmp_path / "run", [], *models(), LAW, Config())
    with pytest.raises(UserError, match="the prompt 'question 0' is in both files"):
        revise(tmp_path / "run", prompts(1), *models(), LAW, Config(), harmless=prompts(1))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else: name a new folder"):
        revise(tmp_path, prompts(1), *models(), LAW, Config())
    for setting in ({"rounds": 0}, {"per_prompt": 1}, {"shots": -1}):
        with pytest.raises(UserError, match="it must be at least"):
            Config(**setting)


# ---- stage 2


class Numbered:
    """An assistant whose answers to a prompt are `answer 0`, `answer 1`, ..., or those of a table."""

    name = "pupil"

    def __init__(self, table: dict[str, list[str]] | None = None) -> None:
        self.table = table or {}

    def __call__(self, asked: Any, sampling: Sampling) -> list[list[Completion]]:
        texts = [self.table.get(str(prompt), [f"answer {n}" for n in range(sampling.n)]) for prompt in asked]
        return [[Completion(text, "stop") for text in each] for each in texts]


class Ordered:
    """A judge that prefers by a key, and is swayed by the place as told."""

    name = "sage"
    reads_both = True

    def __init__(self, key: Callable[[str], float], bias: float = 0.0) -> None:
        self.key, self.bias = key, bias
        self.asked: list[tuple[Case, Criterion]] = []

    def __call__(self, cases: Any, criterion: Criterion) -> list[Verdict]:
        self.asked += [(case, criterion) for case in cases]
        gaps = [self.key(case.first) - self.key(case.second) for case in cases]
        return [Verdict(gap + self.bias, gap - self.bias) for gap in gaps]


def last_digit(text: str) -> float:
    return float(text[-1])


def test_rankings_follow_the_verdicts(tmp_path: Path) -> None:
    judge = Ordered(last_digit)
    summary = rank(tmp_path / "run", prompts(3), Numbered(), judge, LAW, Config(per_prompt=3))
    for each in read_jsonl(tmp_path / "run" / "rankings.jsonl", Ranking):
        assert (each.completions, each.ranks) == (("answer 0", "answer 1", "answer 2"), (3, 2, 1))
        assert each.labeler_id == "sage"
        assert each.instruction_version == f"{LAW.name} 1: {LAW.choose(0, each.prompt_id).id}"
    pairs = list(read_jsonl(tmp_path / "run" / "pairs.jsonl", Pair))
    assert [(pair.chosen, pair.rejected) for pair in pairs[:3]] == [
        ("answer 2", "answer 1"),
        ("answer 2", "answer 0"),
        ("answer 1", "answer 0"),
    ]
    assert summary == {"prompts": 3, "answers": 9, "judged": 9, "ties": 0, "unanswered": 0, "pairs": 9}
    for case, criterion in judge.asked:
        record = next(each for each in prompts(3) if each.prompt == case.prompt)
        assert criterion.question == LAW.choose(0, record.prompt_id).comparison
        assert [solved.better for solved in criterion.solved][0] != ""


def test_a_judge_swayed_by_the_place_makes_ties_and_no_pair(tmp_path: Path) -> None:
    summary = rank(tmp_path / "run", prompts(2), Numbered(), Ordered(last_digit, bias=1.5), LAW, Config(per_prompt=3))
    (each, _) = read_jsonl(tmp_path / "run" / "rankings.jsonl", Ranking)
    # 0 against 2 differ by 2 and hold against the bias of 1.5; the neighbours differ by 1 and are ties
    assert each.ranks == (3, 2, 1)
    assert summary["ties"] == 4
    rank(tmp_path / "worse", prompts(2), Numbered(), Ordered(last_digit, bias=3.0), LAW, Config(per_prompt=3))
    assert {each.ranks for each in read_jsonl(tmp_path / "worse" / "rankings.jsonl", Ranking)} == {(1, 1, 1)}
    assert (tmp_path / "worse" / "pairs.jsonl").read_text() == ""


def test_equal_answers_are_tied_unasked_and_empty_ones_flagged(tmp_path: Path) -> None:
    table = {"question 0": ["answer 1", "answer 1", "answer 2"], "question 1": ["", "answer 2", "answer 1"]}
    judge = Ordered(last_digit)
    rank(tmp_path / "run", prompts(2), Numbered(table), judge, LAW, Config(per_prompt=3))
    one, other = read_jsonl(tmp_path / "run" / "rankings.jsonl", Ranking)
    assert (one.ranks, one.flags) == ((2, 2, 1), (False, False, False))
    assert (other.ranks, other.flags) == ((None, 1, 2), (True, False, False))
    assert all("" not in case[1:] and case.first != case.second for case, _ in judge.asked)


def test_a_judge_that_names_neither_answer_is_given_up(tmp_path: Path) -> None:
    judge = Spoken(Scripted(lambda _: "It depends on many things.", "sage"))
    with pytest.raises(UserError, match="'sage' named neither A nor B in 16 of 16 judgements .it said 'It depends on"):
        rank(tmp_path / "run", prompts(40), Numbered(), judge, LAW, Config())
    kept = [step for step in steps(tmp_path / "run") if step.kind == "judgement"]
    assert {(step.text, step.odds, step.winner) for step in kept} == {
        ("It depends on many things.\nIt depends on many things.", (None, None), "tie")
    }


def test_a_judge_that_seldom_names_neither_makes_ties(tmp_path: Path) -> None:
    judge = Spoken(Scripted(lambda prompt: "Hm." if "question 3" in prompt else "A", "sage"))
    assert rank(tmp_path / "run", prompts(20), Numbered(), judge, LAW, Config())["unanswered"] == 1


@pytest.mark.parametrize(("calls", "judge_calls"), [(9, 999), (999, 0), (999, 17), (999, 50), (999, 119)])
def test_ranking_is_gone_on_with_to_the_bit(tmp_path: Path, calls: int, judge_calls: int) -> None:
    config = Config(per_prompt=3)

    def run(out: Path, pupil: Scripted, judge: Failing) -> None:
        rank(out, prompts(20), pupil, Spoken(judge), LAW, config)

    def said(calls: int) -> Failing:
        judge = Failing(calls, "sage")
        judge.answers = lambda prompt: (
            reply if isinstance(reply := judge.reply(prompt), Exception) else "AB"[len(prompt) % 2]
        )
        return judge

    def speaker(calls: int) -> Scripted:
        left = iter(range(calls))
        return Scripted(
            lambda prompt: [DOWN] if next(left, None) is None else ["short", "long one", "a longer one"], "pupil"
        )

    run(tmp_path / "whole", speaker(10**9), said(10**9))
    with pytest.raises(EndpointError):
        run(tmp_path / "part", speaker(calls), said(judge_calls))
    run(tmp_path / "part", speaker(10**9), said(10**9))
    assert files(tmp_path / "part") == files(tmp_path / "whole")


def test_a_step_torn_by_a_kill_is_taken_again(tmp_path: Path) -> None:
    run_revise(tmp_path / "whole", *models())
    run_revise(tmp_path / "part", *models())
    trail = tmp_path / "part" / "trail.jsonl"
    trail.write_bytes(trail.read_bytes()[:5000])
    for made in ("demonstrations.jsonl", "summary.json"):
        (tmp_path / "part" / made).unlink()
    run_revise(tmp_path / "part", *models())
    assert files(tmp_path / "part") == files(tmp_path / "whole")
