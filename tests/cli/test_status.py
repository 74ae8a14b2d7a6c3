"""`plumb status` and `plumb lineage`: the story of a project on one screen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from plumbline.feedback.store import Store
from plumbline.project import Project
from plumbline.records import Change, ComparisonSet, Evaluation, Measured, Ranking, Rating, write_jsonl

Plumb = Callable[..., Result]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path)


def fill(project: Project) -> None:
    """Two sets ranked by two people, a version of it that was evaluated and promoted, and thumbs before and after."""
    sets = [
        ComparisonSet.model_validate(
            {"set_id": f"s{n}", "prompt": f"Hi {n}", "completions": [{"text": "a"}, {"text": "b"}, {"text": "c"}]}
        )
        for n in range(2)
    ]
    with Store.open(project) as store:
        store.add_criterion("helpful", "Which helps more?")
        store.add_sets(sets)
        rankings = [
            Ranking(
                set_id=each.set_id,
                prompt_id=each.prompt_id,
                prompt=each.prompt,
                completions=("a", "b", "c"),
                ranks=(1, 2, 3),
                flags=(False,) * 3,
                labeler_id=labeler,
                instruction_version="1",
            )
            for each in sets
            for labeler in ("ann", "bob")
        ]
        store.add_rankings(rankings, source="elsewhere")
        store.add_rating(Rating.model_validate({"prompt": "Hi", "completion": "a", "label": False}), "u1")
    write_jsonl(project.folder / "r.jsonl", [sets[0]])
    project.record_version("bot", lambda folder: (folder / "w").write_text("1"), data=[project.folder / "r.jsonl"])
    change = Change(other=0.2, value=-0.1, low=-0.2, high=-0.05)
    figure = Measured(task="toxicity", metric="rate", value=0.1, n=40, low=0.0, high=0.2, better="lower", change=change)
    project.record_evaluation(
        "bot@1", Evaluation(version="bot@1", against="base", measured=(figure,), created="2026-01-02T03:04:05+00:00")
    )
    (project.runs / "judge").mkdir()
    accuracy = {"pairs": 30, "right": [0.7, 0.5, 0.84, 25]}
    (project.runs / "judge" / "accuracy.json").write_text(json.dumps(accuracy))
    project.promote("bot@1", by="ann")


def test_a_new_project_says_that_nothing_is_there_and_makes_no_database(plumb: Plumb, project: Project) -> None:
    result = plumb("status")
    assert result.exit_code == 0, result.stderr
    assert "not measured" in result.stdout and "nothing" in result.stdout
    assert not (project.folder / "plumb.db").exists()
    told = json.loads(plumb("status", "--json").stdout)
    assert (told["prompts"], told["versions"], told["served"]) == (0, 0, None)


def test_the_circle_is_drawn_with_its_counts_on_one_screen(plumb: Plumb, project: Project) -> None:
    fill(project)
    told = json.loads(plumb("status", "--json").stdout)
    assert {name: told[name] for name in ("prompts", "sets", "answers", "rankings", "labelers", "versions")} == {
        "prompts": 2,
        "sets": 2,
        "answers": 6,
        "rankings": 4,
        "labelers": 2,
        "versions": 1,
    }
    assert (told["agreement"]["value"], told["reward"]["value"], told["served"]) == (1.0, 0.7, "bot@1")
    assert told["evaluation"]["measured"][0]["verdict"] == "better"
    assert told["thumbs"] == {"up": 0, "down": 1}
    shown = plumb("status").stdout
    for part in ("6 in 2 sets", "4 by 2", "100%", "70%", "50% to 84%, n 25", "bot@1", "toxicity: rate", "better"):
        assert part in shown
    assert len(shown.splitlines()) <= 24 and max(map(len, shown.splitlines())) <= 80


def test_feedback_is_counted_since_the_promotion(plumb: Plumb, project: Project) -> None:
    fill(project)
    history = json.loads((project.folder / "promoted.json").read_text())
    for at, down in (("2000-01-01T00:00:00+00:00", 1), ("2999-01-01T00:00:00+00:00", 0)):
        history["history"][0]["at"] = at
        (project.folder / "promoted.json").write_text(json.dumps(history))
        since = json.loads(plumb("status", "--json").stdout)["since"]
        assert since == {"up": 0, "down": down, "rankings": 4 * down, "exchanges": 0}


def test_a_forced_promotion_is_told(plumb: Plumb, project: Project) -> None:
    fill(project)
    project.record_version("bot", lambda folder: (folder / "w").write_text("2"))
    project.promote("bot@2", by="bob", why="a demo", overrode=["toxicity is worse"])
    assert "bot@2 was forced by bob: a demo; against it: toxicity is worse" in plumb("status").stderr
    project.rollback(by="eve")
    assert "bot@1 is served since bot@2 was undone by eve" in plumb("status").stderr


def test_lineage_is_drawn_down_to_the_ids(plumb: Plumb, project: Project) -> None:
    fill(project)
    shown = plumb("lineage", "bot", "--ids").stdout
    assert "bot@1" in shown and "r.jsonl" in shown and "1 row (1 set, 1 prompt)" in shown and "set_id s0" in shown
    told = json.loads(plumb("lineage", "bot", "--json").stdout)
    assert told["data"][0]["ids"][0]["set_id"] == "s0"
    (project.folder / "r.jsonl").write_text("")
    assert "CHANGED SINCE" in plumb("lineage", "bot").stdout
