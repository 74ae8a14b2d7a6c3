"""Lineage: what went into a version, what went into that, and which rows, also of files that moved or changed."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from plumbline.errors import BadProject
from plumbline.lineage import DataFile, lineage
from plumbline.project import Project
from plumbline.records import Demonstration, Ranking, write_jsonl


def write(folder: Path) -> None:
    (folder / "weights").write_text(str(folder))


def rankings(count: int) -> list[Ranking]:
    return [
        Ranking(
            set_id=f"s{number}",
            prompt_id=f"p{number}",
            prompt="Hi",
            completions=("Hello.", "Go."),
            ranks=(1, 2),
            flags=(False, False),
            labeler_id="ann",
            instruction_version="1",
        )
        for number in range(count)
    ]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project.create(tmp_path / "bot")
    shown = Demonstration.model_validate(
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    )
    write_jsonl(project.folder / "shown.jsonl", [shown])
    write_jsonl(project.folder / "ranked.jsonl", rankings(3))
    data = project.folder / "shown.jsonl"
    project.record_version("sft", write, base="smollm2-135m", data=[data])
    ranked = project.folder / "ranked.jsonl"
    project.record_version("judge", write, base="sft@1", parents=["sft@1"], data=[ranked])
    config = {"reward": "judge@1", "reference": "sft@1", "lr": 0.1, "trackers": ["judge@7"], "model": "sft@1"}
    project.record_version("policy", write, base="sft@1", parents=["sft@1"], config=config)
    return project


def test_a_version_is_followed_to_the_rows_of_its_data(project: Project) -> None:
    found = lineage(project, "policy")
    assert (found.name, found.role, found.data) == ("policy@1", "", ())
    assert [(each.name, each.role) for each in found.parents] == [("sft@1", "model"), ("judge@1", "reward")]
    judge = found.parents[1]
    assert [file.path for file in judge.data] == ["ranked.jsonl"]
    assert judge.data[0].ids == tuple(
        {"set_id": f"s{number}", "prompt_id": f"p{number}", "labeler_id": "ann"} for number in range(3)
    )
    names = [node.name for node in found.walk()]
    assert names == ["policy@1", "sft@1", "smollm2-135m", "judge@1", "sft@1", "smollm2-135m"]
    assert found.parents[0].parents[0].version is None


def data_of(project: Project) -> DataFile:
    (file,) = lineage(project, "judge@1").data
    return file


def test_a_file_that_moved_is_found_by_its_content(project: Project) -> None:
    digest = data_of(project).digest
    (project.folder / "old").mkdir()
    (project.folder / "ranked.jsonl").rename(project.folder / "old" / "r.jsonl")
    found = data_of(project)
    assert (found.state, found.path, found.digest, found.rows) == ("moved", "old/r.jsonl", digest, 3)


def test_a_file_that_changed_gives_no_ids_that_would_be_others(project: Project) -> None:
    write_jsonl(project.folder / "ranked.jsonl", rankings(1), append=True)
    found = data_of(project)
    assert (found.state, found.rows, found.ids) == ("changed", None, ())
    (project.folder / "ranked.jsonl").unlink()
    assert data_of(project).state == "gone"


def test_packed_files_are_read_and_others_only_named(project: Project) -> None:
    packed, table = project.folder / "r.jsonl.gz", project.folder / "r.parquet"
    packed.write_bytes(gzip.compress((project.folder / "ranked.jsonl").read_bytes()))
    table.write_bytes(b"PAR1")
    project.record_version("other", write, data=[packed, table])
    one, other = lineage(project, "other").data
    assert (one.rows, other.state, other.rows) == (3, "there", None)


def test_lines_that_are_no_records_have_no_ids(project: Project) -> None:
    """Training says which lines it leaves out, and goes on; so does who asks later what it learned from."""
    bad = project.folder / "bad.jsonl"
    bad.write_text('{"prompt_id": "p"}\n{"prompt_id": "q\n["p"]\n\xff\n', encoding="latin-1")
    project.record_version("other", write, data=[bad])
    (file,) = lineage(project, "other").data
    assert (file.rows, file.ids) == (4, ({"prompt_id": "p"}, {}, {}, {}))


def test_an_unknown_version_is_named(project: Project) -> None:
    with pytest.raises(BadProject, match="is 'policy' meant"):
        lineage(project, "polcy")
