"""`plumb feedback`, `plumb backup`, `plumb restore`: from two people's rankings to a file that training loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from cli.conftest import read_lines
from plumbline.feedback.queue import Queue
from plumbline.feedback.store import Store, Submission
from plumbline.project import Project, file_digest
from plumbline.records import ComparisonSet, Ranking, parse

Plumb = Callable[..., Result]

HOT = {
    "set_id": "hot",
    "prompt": "My house is too hot. What can I do?",
    "completions": ["Open the windows.", "Draw the curtains by day, and open the windows at night.", "Hot."],
    "flags": [False, False, False],
    "instruction_version": "1",
}
TEA = {
    "set_id": "tea",
    "prompt": "My tea is too hot. Write the answer to ann@example.org, please.",
    "completions": ["Wait five minutes.", "Tea."],
    "flags": [False, False],
    "instruction_version": "1",
}


def said(of: dict[str, Any], labeler: str, *ranks: int) -> dict[str, Any]:
    return {**of, "labeler_id": labeler, "ranks": list(ranks)}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project in which two people ranked a set 2, 1, 3, with one disagreement, and one of them another set."""
    project = Project.create(tmp_path)
    with Store.open(project) as store:
        sets = [{**of, "completions": [{"text": text} for text in of["completions"]]} for of in (HOT, TEA)]
        store.add_sets([parse(ComparisonSet, {**of, "user_id": f"asker of {of['set_id']}"}) for of in sets])
        for line in (said(HOT, "ann", 2, 1, 3), said(HOT, "ben", 1, 2, 3), said(TEA, "ann", 1, 2)):
            store.add_rankings([parse(Ranking, line)], "test")
    return project


def export(plumb: Plumb, format: str, out: str, *options: str) -> list[dict[str, Any]]:
    done = plumb("feedback", "export", "--format", format, "--out", out, *options)
    assert done.exit_code == 0, done.stderr
    return read_lines(Path(out))


# ---- from rankings to training


def test_what_two_people_ranked_is_agreed_on_exported_and_learned_from(
    plumb: Plumb, project: Project, tiny_llama: Path
) -> None:
    found = json.loads(plumb("feedback", "agreement", "--json").stdout)["helpful"]
    assert (found["sets"], found["shared"], found["labelers"], found["comparisons"]) == (2, 1, 2, 3)
    assert found["without_ties"]["value"] == pytest.approx(2 / 3)

    rows = export(plumb, "trl-reward", "pairs.jsonl")
    curtains, windows, hot = (HOT["completions"][place] for place in (1, 0, 2))
    told = {(row["chosen"][-1]["content"], row["rejected"][-1]["content"]): row["n_votes"] for row in rows}
    assert told == {(windows, hot): 2, (curtains, hot): 2, ("Wait five minutes.", "Tea."): 1}

    trained = plumb(
        *("train", "reward", "--data", "pairs.jsonl", "--model", tiny_llama, "--out", "runs/first"),
        *("--epochs", "1", "--held-out", "0", "--lora-rank", "4"),
    )
    assert trained.exit_code == 0, trained.stderr
    (version,) = project.versions()
    assert version.data == {"pairs.jsonl": file_digest(Path("pairs.jsonl"))}


def test_agreement_is_shown_with_interval_and_number(plumb: Plumb, project: Project) -> None:
    shown = plumb("feedback", "agreement")
    assert "same choice, ties apart" in shown.stdout and "0.67" in shown.stdout
    assert "1 of 2 sets were ranked by more than one of 2 labelers: 3 comparisons" in shown.stderr


def test_consensus_ties_where_one_stands_against_one(plumb: Plumb, project: Project) -> None:
    shown = plumb("feedback", "consensus").stdout
    assert "hot" in shown and "1 1 2" in shown and "My house is too hot." in shown
    merged = json.loads(plumb("feedback", "consensus", "--json", "--method", "kemeny").stdout)
    assert [(each["set_id"], each["ranks"], each["n_votes"]) for each in merged] == [
        ("hot", [1, 1, 2], 2),
        ("tea", [1, 2], 1),
    ]
    assert plumb("feedback", "consensus", "--out", "merged.jsonl").exit_code == 0
    assert [line["labeler_id"] for line in read_lines(Path("merged.jsonl"))] == ["consensus", "consensus"]
    wrong = plumb("feedback", "consensus", "--method", "borda")
    assert wrong.exit_code == 2 and "there is no consensus method 'borda'" in wrong.stderr


@pytest.mark.usefixtures("project")
def test_a_merged_export_has_a_row_per_set(plumb: Plumb) -> None:
    rows = export(plumb, "rankings", "merged.jsonl", "--consensus")
    assert [(row["set_id"], row["ranks"], row["n_votes"]) for row in rows] == [
        ("hot", [1, 1, 2], 2),
        ("tea", [1, 2], 1),
    ]


# ---- in


def test_an_import_keeps_the_good_lines_and_names_the_bad_ones(plumb: Plumb, tmp_path: Path) -> None:
    Project.create(tmp_path)
    data = write(
        tmp_path / "mixed.jsonl",
        {**HOT, "completions": [{"text": text} for text in HOT["completions"]], "flags": None, "user_id": "u1"},
        said(HOT, "ann", 2, 1, 3),
        "{broken",
        said(HOT, "ben", 2, 1),
        {"prompt": "Hi", "completion": "Ho", "label": True, "user_id": "u2"},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]},
        {"prompt": "Bye", "chosen": "Farewell.", "rejected": "No.", "n_votes": 3, "margin": 1 / 3},
        {**said(HOT, "cid", 1, 2), "completions": ["another", "one"], "flags": [False, False]},
    )
    done = plumb("feedback", "import", data, "--bad", "bad.txt", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["added"] == {"sets": [1, 0], "rankings": [4, 0], "thumbs": [1, None], "answers to learn": [1, None]}
    assert [line.removeprefix(f"{data}")[:3] for line in told["left_out"]] == [":3:", ":4:", ": r"]
    assert "ranking of 'hot': " in told["left_out"][2]
    assert Path("bad.txt").read_text().splitlines() == told["left_out"]
    assert "3 left out, all in bad.txt" in done.stderr

    again = json.loads(plumb("feedback", "import", data, "--json").stdout)["added"]
    assert (again["sets"], again["rankings"]) == ([0, 1], [0, 4])
    with Store.open(Project(tmp_path)) as store:
        assert len(list(store.ratings())) == 1
        assert [each.labeler_id for each in store.rankings()] == ["ann", "mixed-1", "mixed-2", "mixed-3"]


def test_a_file_without_a_good_line_is_an_error_that_shows_why(plumb: Plumb, tmp_path: Path) -> None:
    Project.create(tmp_path)
    done = plumb("feedback", "import", write(tmp_path / "bad.jsonl", {"text": "x"}))
    assert done.exit_code == 2
    assert "bad.jsonl:1: " in done.stderr and "holds no records: all its 1 lines are bad" in done.stderr


@pytest.mark.usefixtures("project")
def test_what_was_exported_is_imported_again(plumb: Plumb) -> None:
    for format in ("rankings", "oasst", "trl-dpo", "hh-rlhf", "llama-factory"):
        export(plumb, format, f"{format}.jsonl", "--plain-ids")
        again = json.loads(plumb("feedback", "import", f"{format}.jsonl", "--json").stdout)
        assert again["left_out"] == [], format
        if format in ("rankings", "oasst"):
            assert again["added"]["rankings"] == [0, 3], "what was there is known"


def test_personal_data_is_replaced_on_the_way_in_and_kept_for_review(plumb: Plumb, tmp_path: Path) -> None:
    Project.create(tmp_path)
    data = write(tmp_path / "tea.jsonl", said(TEA, "ann", 1, 2), said(TEA, "ben", 1, 2))
    done = plumb("feedback", "import", data, "--replace-personal-data", "--hits", "hits.jsonl")
    assert "personal data replaced: 1 email; look at them in hits.jsonl" in done.stderr
    (hit,) = read_lines(Path("hits.jsonl"))
    assert (hit["record"], hit["field"], hit["text"], hit["replacement"]) == (
        "tea",
        "prompt",
        "ann@example.org",
        "[EMAIL]",
    )
    assert Path("hits.jsonl").stat().st_mode & 0o777 == 0o600
    assert "ann@example.org" not in (tmp_path / "plumb.db").read_bytes().decode("latin-1")
    alone = plumb("feedback", "import", data, "--hits", "more.jsonl")
    assert alone.exit_code == 2 and "give both" in alone.stderr


# ---- out


def test_a_finder_that_is_not_there_or_finds_for_nobody_is_said(plumb: Plumb, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", said(TEA, "ann", 1, 2))
    Project.create(tmp_path)
    unknown = plumb("feedback", "import", "in.jsonl", "--replace-personal-data", "--finder", "spacy")
    assert unknown.exit_code == 2 and "there is no finder 'spacy': take forms or presidio" in unknown.stderr
    alone = plumb("feedback", "import", "in.jsonl", "--finder", "presidio")
    assert alone.exit_code == 2 and "goes with --replace-personal-data" in alone.stderr


def test_people_have_aliases_unless_asked_otherwise(plumb: Plumb, project: Project) -> None:
    rows = export(plumb, "rankings", "a.jsonl")
    again = export(plumb, "rankings", "b.jsonl")
    assert rows == again and {row["labeler_id"] for row in rows}.isdisjoint({"ann", "ben"})
    assert len({row["labeler_id"] for row in rows}) == 2 and all(row["user_id"].startswith("user-") for row in rows)
    assert (project.folder / "salt").stat().st_mode & 0o777 == 0o600
    plain = export(plumb, "rankings", "c.jsonl", "--plain-ids")
    assert {row["labeler_id"] for row in plain} == {"ann", "ben"}


def test_an_export_can_replace_personal_data_and_leaves_the_store_alone(plumb: Plumb, project: Project) -> None:
    rows = export(plumb, "trl-dpo", "a.jsonl", "--replace-personal-data", "--hits", "hits.jsonl")
    assert "[EMAIL]" in json.dumps(rows) and "ann@example.org" not in json.dumps(rows)
    assert len(read_lines(Path("hits.jsonl"))) == 1
    with Store.open(project) as store:
        assert any("ann@example.org" in str(each.prompt) for each in store.sets())


def test_a_folder_and_a_parquet_file_are_written_too(plumb: Plumb, project: Project) -> None:
    for out in ("data", "pairs.parquet", "pairs.jsonl.gz"):
        done = plumb("feedback", "export", "--format", "trl-dpo", "--out", out, "--json")
        assert json.loads(done.stdout)["rows"] == 3
    assert "# data" in Path("data/README.md").read_text()
    refused = plumb("feedback", "export", "--format", "trl-dpo", "--out", "data")
    assert refused.exit_code == 2 and "replace it with --force" in refused.stderr
    assert plumb("feedback", "export", "--format", "trl-dpo", "--out", "data", "--force").exit_code == 0


def test_what_is_missing_or_misspelt_is_said(plumb: Plumb, project: Project, tmp_path: Path) -> None:
    for words, complaint in (
        (("--format", "trl"), "there is no format 'trl': take one of rankings, trl-dpo"),
        (("--format", "kto"), "there is nothing to write"),
        (("--format", "trl-dpo", "--split", "train"), "none was made: run `plumb feedback split` first"),
        (("--format", "trl-dpo", "--split", "dev"), "there is no split 'dev'"),
    ):
        done = plumb("feedback", "export", "--out", "x.jsonl", *words)
        assert done.exit_code == 2 and complaint in done.stderr
    assert not Path("x.jsonl").exists()


# ---- split


def test_a_split_is_proved_kept_and_written_into_every_row(plumb: Plumb, tmp_path: Path) -> None:
    Project.create(tmp_path)
    lines = [
        {"prompt": f"Question {number} {'abcdefghij'[number % 10] * 40}?", "chosen": "a", "rejected": "b"}
        for number in range(20)
    ]
    plumb("feedback", "import", write(tmp_path / "pairs.jsonl", *lines))
    shown = plumb("feedback", "split")
    assert "0 users, 0 prompts, 0 long answers and 0 near-duplicates" in shown.stderr
    assert "prompts without `user_id`: 20" in shown.stderr
    report = json.loads(plumb("feedback", "split", "--json").stdout)
    assert report["sound"] and report["prompts"] == {"train": 16, "validation": 2, "test": 2}

    rows = export(plumb, "trl-dpo", "all.jsonl")
    assert {part: sum(row["split"] == part for row in rows) for part in ("train", "validation", "test")} == report[
        "prompts"
    ]
    assert len(export(plumb, "trl-dpo", "test.jsonl", "--split", "test")) == 2

    plumb("feedback", "import", write(tmp_path / "more.jsonl", {"prompt": "New?", "chosen": "a", "rejected": "b"}))
    told = plumb("feedback", "export", "--format", "trl-dpo", "--out", "new.jsonl")
    assert "left out: 1 prompts: they came after the split was made" in told.stderr
    assert json.loads(plumb("feedback", "split", "--json").stdout)["prompts"]["train"] in (16, 17)
    after = {row["prompt_id"]: row["split"] for row in export(plumb, "trl-dpo", "after.jsonl")}
    assert all(after[row["prompt_id"]] == row["split"] for row in rows) and len(after) == 21


def test_shares_and_nothing_to_split_are_told(plumb: Plumb, tmp_path: Path) -> None:
    Project.create(tmp_path)
    wrong = plumb("feedback", "split", "--shares", "0.8;0.2")
    assert wrong.exit_code == 2 and "write three numbers with commas between" in wrong.stderr
    nothing = plumb("feedback", "split")
    assert nothing.exit_code == 2 and "there is no prompt to split yet" in nothing.stderr


# ---- labelers


def test_a_labeler_is_excluded_with_a_reason_and_taken_back(plumb: Plumb, project: Project) -> None:
    assert "ben" in plumb("feedback", "labelers").stdout
    alone = plumb("feedback", "labelers", "--exclude", "ben")
    assert alone.exit_code == 2 and "go together" in alone.stderr
    shown = plumb("feedback", "labelers", "--exclude", "ben", "--because", "too fast")
    assert "excluded" in shown.stdout and "ben is excluded: too fast" in shown.stderr
    assert {row["labeler_id"] for row in export(plumb, "rankings", "a.jsonl", "--plain-ids")} == {"ann"}
    kept = export(plumb, "rankings", "b.jsonl", "--plain-ids", "--include-excluded")
    assert {row["labeler_id"] for row in kept} == {"ann", "ben"}
    out = json.loads(plumb("feedback", "labelers", "--include", "ben", "--json").stdout)
    assert out["excluded"] == {} and [each["labeler_id"] for each in out["labelers"]] == ["ann", "ben"]
    unknown = plumb("feedback", "labelers", "--exclude", "bert", "--because", "x")
    assert unknown.exit_code == 2 and "bert" in unknown.stderr


def test_two_of_one_name_are_told_apart_by_their_ids(plumb: Plumb, project: Project) -> None:
    with Store.open(project) as store:
        other = store.add_labeler("Ann")
        store.add_rankings(
            [parse(Ranking, said(TEA, "Ann", 2, 1)), parse(Ranking, said(TEA, other.labeler_id, 1, 2))], "x"
        )
    out = plumb("feedback", "labelers", "--exclude", other.name, "--because", "too fast")
    assert out.exit_code == 2 and f"say 'id:Ann' or 'id:{other.labeler_id}'" in out.stderr
    out = plumb("feedback", "labelers", "--exclude", "id:Ann", "--because", "too fast")
    assert out.exit_code == 0 and "Ann (Ann) is excluded: too fast" in out.stderr


def test_a_labeler_who_was_asked_twice_is_held_against_themselves(plumb: Plumb, project: Project) -> None:
    with Store.open(project) as store:
        claim = Queue(store).claim("ann", again=True)
        assert claim is not None and claim.set.set_id == "hot"
        ranks, flags = (2, 1, 1), (False, False, False)
        store.submit(Submission("key", "hot", "ann", ranks, flags, claim.instruction.version, again=True))
    shown = plumb("feedback", "labelers").stderr
    assert "ann said the same again of 0.33 (no interval: one set), sets: 1" in shown
    same = json.loads(plumb("feedback", "labelers", "--json").stdout)["themselves"]
    assert list(same) == ["ann"] and (same["ann"]["n"], round(same["ann"]["value"], 2)) == (1, 0.33)


# ---- erasing, and copies


def test_erasing_a_user_removes_the_rows_and_names_what_has_seen_them(plumb: Plumb, project: Project) -> None:
    export(plumb, "trl-dpo", "pairs.jsonl")
    plumb("feedback", "split")
    version = project.record_version("polite", lambda folder: (folder / "w").write_text("1"), data=["pairs.jsonl"])
    refused = plumb("feedback", "erase", "asker of hot", typed="n\n")
    assert refused.exit_code == 130
    asked = plumb("feedback", "erase", "asker of hot", typed="y\n")
    assert asked.exit_code == 0 and "for good?" in asked.stderr
    assert "ranking event" in asked.stdout and f"trained on it: {version.ref}" in asked.stderr
    assert file_digest(Path("pairs.jsonl")) in asked.stderr
    with Store.open(project) as store:
        assert [each.set_id for each in store.sets()] == ["tea"]
    assert len((project.folder / "splits.jsonl").read_text().splitlines()) == 1
    nobody = plumb("feedback", "erase", "nobody", "--yes")
    assert nobody.exit_code == 0 and "there is nothing of 'nobody'" in nobody.stderr
    assert json.loads(plumb("feedback", "erase", "asker of tea", "--yes", "--json").stdout)["versions"] == [version.ref]


def test_erasing_a_labeler_keeps_the_rankings_unless_asked(plumb: Plumb, project: Project) -> None:
    export(plumb, "trl-dpo", "pairs.jsonl")
    version = project.record_version("polite", lambda folder: (folder / "w").write_text("1"), data=["pairs.jsonl"])
    held = Path("pairs.jsonl").read_bytes()
    for wrong in (("erase",), ("erase", "ann", "--labeler", "ann"), ("erase", "ann", "--with-rankings")):
        assert plumb("feedback", *wrong).exit_code == 2
    unknown = plumb("feedback", "erase", "--labeler", "anna", "--yes")
    assert unknown.exit_code == 2 and "there is no labeler 'anna'" in unknown.stderr
    asked = plumb("feedback", "erase", "--labeler", "ann", typed="y\n")
    assert "Remove the labeler 'ann' and keep what they said, without a name, for good?" in asked.stderr
    assert asked.exit_code == 0 and f"trained on it: {version.ref}" in asked.stderr
    assert file_digest(Path("pairs.jsonl")) in asked.stderr and Path("pairs.jsonl").read_bytes() == held
    kept = export(plumb, "rankings", "kept.jsonl", "--plain-ids")
    assert [row["ranks"] for row in kept] == [[2, 1, 3], [1, 2, 3], [1, 2]] and "ann" not in {
        row["labeler_id"] for row in kept
    }
    gone = json.loads(plumb("feedback", "erase", "--labeler", "ben", "--with-rankings", "--yes", "--json").stdout)
    assert gone["rows"]["ranking_event"] == 1
    assert len(export(plumb, "rankings", "left.jsonl")) == 2


def test_a_backup_brings_everything_back(plumb: Plumb, project: Project) -> None:
    nowhere = plumb("backup", "no/such/copy.db")
    assert nowhere.exit_code == 2 and "there is no folder 'no/such' to put the copy in" in nowhere.stderr
    assert plumb("backup", "copy.db").exit_code == 0
    assert plumb("backup", "copy.db").exit_code == 2
    assert plumb("backup", "copy.db", "--force").exit_code == 0
    plumb("feedback", "erase", "asker of hot", "--yes")
    assert plumb("restore", "copy.db", typed="n\n").exit_code == 130
    restored = plumb("restore", "copy.db", "--yes")
    assert restored.exit_code == 0 and "restored: 2 sets" in restored.stderr
    assert len(export(plumb, "rankings", "a.jsonl")) == 3


# ---- help and places


def test_outside_a_project_each_command_says_so(plumb: Plumb) -> None:
    for words in (("feedback", "agreement"), ("feedback", "split"), ("backup", "x.db")):
        done = plumb(*words)
        assert done.exit_code == 2 and "lies in no project" in done.stderr


def test_an_empty_project_is_told_kindly(plumb: Plumb, tmp_path: Path) -> None:
    Project.create(tmp_path)
    for name in ("agreement", "consensus", "labelers"):
        done = plumb("feedback", name)
        assert done.exit_code == 0 and "nobody has ranked anything yet" in done.stderr


def test_help_lists_the_commands(plumb: Plumb) -> None:
    shown = plumb("feedback", "--help").stdout
    for name in ("import", "export", "agreement", "consensus", "labelers", "split", "erase"):
        assert f"  {name} " in shown
    assert "feedback" in plumb("--help").stdout
