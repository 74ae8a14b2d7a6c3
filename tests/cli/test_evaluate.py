"""`plumb evaluate`: figures with their intervals, kept answers, a version's record, and what cannot be done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

import tiny
from cli.conftest import Mortal, read_lines, write_script
from plumbline.evaluate.contrast import contrast_pairs
from plumbline.feedback.queue import Queue
from plumbline.feedback.store import Store, Submission
from plumbline.project import Project
from plumbline.promotion import hold_against
from second import SECOND

Plumb = Callable[..., Result]
NO, YES = "I'm sorry, but I can't help with that.", "Sure. First take a bowl, then add the flour and stir."


def model(path: Path, harmful: str, harmless: str) -> str:
    pairs = contrast_pairs()
    answers = {pair.harmful: [harmful] for pair in pairs} | {pair.harmless: [harmless] for pair in pairs}
    return write_script(path, answers)


@pytest.fixture
def careful(tmp_path: Path) -> str:
    return model(tmp_path / "careful.jsonl", NO, YES)


@pytest.fixture
def careless(tmp_path: Path) -> str:
    return model(tmp_path / "careless.jsonl", YES, YES)


def test_a_table_a_page_and_kept_answers(
    plumb: Plumb, careful: str, careless: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    command = (
        "evaluate",
        careful,
        "--against",
        careless,
        "--tasks",
        "refusal,toxicity",
        "--limit",
        "24",
        "--second",
        SECOND,
    )
    result = plumb(*command, "--html", "report.html")
    assert result.exit_code == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[1] == ["refusal"]
    assert rows[2] == [*"refused harmful 100.0% 86.2% to 100.0% 24 0.0% +100.0% (+100.0% to +100.0%) better".split()]
    assert rows[3][-1] == "unclear"  # neither declines what is harmless
    assert "Evaluation of" in (tmp_path / "report.html").read_text()
    kept = list((tmp_path / "evaluations").glob("*/bench/answers.jsonl"))
    assert len(kept) == 2 and all(len(path.read_text().splitlines()) == 48 for path in kept)
    before = {path: path.read_bytes() for path in kept}
    assert plumb(*command).exit_code == 0
    assert {path: path.read_bytes() for path in kept} == before  # nothing was asked again


def test_json_holds_every_figure_with_its_change(plumb: Plumb, careful: str, careless: str) -> None:
    result = plumb(
        "evaluate", careful, "--against", careless, "--tasks", "refusal", "--limit", "20", "--second", SECOND, "--json"
    )
    found = json.loads(result.stdout)
    by_name = {each["metric"]: each for each in found["measured"]}
    assert by_name["told_apart"]["value"] == 1 and by_name["told_apart"]["n"] == 20
    assert by_name["refused_harmful"]["change"]["value"] == 1
    assert by_name["over_refusal"]["change"]["low"] == 0 == by_name["over_refusal"]["change"]["high"]
    assert len(found["data"]["plumbline:contrast_pairs.jsonl"]) == 64


def test_a_version_keeps_what_was_measured_of_it(plumb: Plumb, tiny_llama: Path, tmp_path: Path) -> None:
    import shutil

    project = Project.create(tmp_path)
    version = project.record_version("policy", lambda folder: shutil.copytree(tiny_llama, folder, dirs_exist_ok=True))
    result = plumb("evaluate", "policy", "--tasks", "perplexity", "--limit", "3")
    assert result.exit_code == 0, result.stderr
    assert "recorded: evaluations/policy/1/1.json" in result.stderr
    (found,) = project.evaluations(version.ref)
    assert found.version == "policy@1" and {each.metric for each in found.measured} == {"bits_per_byte", "perplexity"}
    assert found.measured[0].items == "evaluations/policy/1/bench/tasks/perplexity.jsonl"
    assert (tmp_path / found.measured[0].items).is_file()
    assert plumb("evaluate", "policy@1", "--tasks", "perplexity", "--limit", "2").exit_code == 0
    assert len(project.evaluations("policy")) == 2


def test_what_was_measured_is_what_promotion_asks_for(plumb: Plumb, tmp_path: Path) -> None:
    project = Project.create(tmp_path)
    for seed in (0, 1):
        project.record_version("policy", lambda folder, seed=seed: tiny.write_model("llama", folder, seed))
    (tmp_path / "plumb.toml").write_text('guarded = ["perplexity:bits_per_byte"]\n')
    one, other = project.versions()
    project.promote(one.ref)
    assert [each.state for each in hold_against(project, other, one.ref)] == ["unmeasured"]
    result = plumb("evaluate", other.ref, "--against", one.ref, "--tasks", "perplexity", "--limit", "5")
    assert result.exit_code == 0, result.stderr
    (found,) = hold_against(Project(tmp_path), other, one.ref)
    (kept,) = project.evaluations(other.ref)
    assert found.metric == "bits_per_byte" and found.state == kept.measured[0].verdict


def test_an_endpoint_that_dies_at_item_700_of_1000_is_asked_for_the_other_300(
    plumb: Plumb, mortal: Mortal, tmp_path: Path
) -> None:
    lines = [{"prompt": f"question {number:03}", "reference": "yes"} for number in range(1000)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ("evaluate", f"openai:m@{mortal.url}", "--tasks", "exact_match", "--data", "exact_match=items.jsonl")
    result = plumb(*command)
    assert result.exit_code == 2 and "your credit is used up" in result.stderr
    (kept,) = tmp_path.glob("evaluations/*/bench/answers.jsonl")
    assert sorted(line["prompt"] for line in read_lines(kept)) == [line["prompt"] for line in lines[:700]]
    mortal.dead = False
    result = plumb(*command, "--json")
    assert result.exit_code == 0, result.stderr
    assert {each["n"] for each in json.loads(result.stdout)["measured"]} == {1000}
    assert sorted(mortal.answered()) == [line["prompt"] for line in lines]  # all of them, and none twice


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--tasks", "refusl"), "there is no task 'refusl': is 'refusal' meant?"),
        (("--tasks", "bleu"), "give a file with --data bleu=FILE"),
        (("--tasks", "refusal", "--data", "bleu"), "--data is 'bleu': write TASK=FILE"),
        (("--tasks", "refusal", "--data", "bleu=x.jsonl"), "--data gives items for 'bleu', which is not among"),
        (("--tasks", "bleu", "--data", "bleu=none.jsonl"), "there is no file 'none.jsonl'"),
        (("--tasks", "perplexity"), "does not run here"),
        (("--tasks", "refusal", "--second", "refusal"), "--second is 'refusal', which counts already"),
        (("--tasks", "pass_at_k", "--data", "pass_at_k=x.jsonl"), "give --runner FILE.py:FUNCTION"),
        (("--runner", "sandbox"), "--runner is 'sandbox': name a function"),
        (("--people",), "--people compares two models: name the other with --against"),
        (("--people", "--tasks", "refusal"), "--people asks people and does no task: leave out --tasks and --html"),
        (("--against", "SELF"), "which is the model itself"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_asked(
    plumb: Plumb, careful: str, tmp_path: Path, more: tuple[str, ...], sentence: str
) -> None:
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "references": ["b"], "tests": "assert True"}\n')
    result = plumb("evaluate", careful, *(careful if each == "SELF" else each for each in more))
    assert result.exit_code == 2 and sentence in result.stderr.replace("\n", " "), result.stderr
    assert not list(tmp_path.glob("evaluations/*/bench/answers.jsonl"))


def test_people_compare_two_models_without_knowing_which_is_which(plumb: Plumb, tmp_path: Path) -> None:
    project = Project.create(tmp_path)
    prompts = {f"Say {number}.": number for number in range(24)}
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": each}) + "\n" for each in prompts))
    old = write_script(tmp_path / "old.jsonl", {each: [f"old {number}"] for each, number in prompts.items()})
    new = write_script(tmp_path / "new.jsonl", {each: [f"new {number}"] for each, number in prompts.items()})
    command = ("evaluate", new, "--against", old, "--people", "--data", "people=prompts.jsonl")
    first = plumb(*command)
    assert first.exit_code == 0, first.stderr
    assert (
        "24 sets are in the ranking room, 24 of them new" in first.stderr and "0 of 24 sets are ranked" in first.stderr
    )
    orders = set()
    with Store.open(project) as store:
        ann = store.add_labeler("ann")
        while (claim := Queue(store).claim(ann.labeler_id)) is not None:
            assert "new" not in claim.instruction.criterion and "old" not in claim.instruction.criterion
            orders.add(claim.order)
            store.submit(
                Submission(
                    key=f"{claim.set.set_id:0>20}",
                    set_id=claim.set.set_id,
                    labeler_id=ann.labeler_id,
                    ranks=(1, 2),
                    flags=(False, False),
                    instruction_version=claim.instruction.version,
                )
            )
    assert orders == {(0, 1), (1, 0)}  # who stands first is shuffled
    second = plumb(*command, "--json")
    assert "24 sets are in the ranking room, 0 of them new" in second.stderr and "24 of 24 sets" in second.stderr
    (measured,) = json.loads(second.stdout)["measured"]
    assert (measured["task"], measured["value"], measured["n"]) == ("people", 1, 24)
