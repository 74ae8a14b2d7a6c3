"""`plumb label`: sets in, links out, a room that runs until Ctrl-C."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from typer.testing import Result

from cli.conftest import Terminal
from plumbline.feedback.store import Store
from plumbline.project import Project
from plumbline.records import ComparisonSet, write_jsonl

Open = Callable[..., Terminal]
LINK = re.compile(r"(\w+)  (http://127\.0\.0\.1:\d+)(/sign-in/[\w-]+)")
END = "what was ranked is kept"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path)


def write_sets(path: Path, *names: str) -> None:
    given = [{"set_id": name, "prompt": f"{name}?", "completions": [{"text": "a"}, {"text": "b"}]} for name in names]
    write_jsonl(path, [ComparisonSet.model_validate(each) for each in given])


def links(shown: str) -> dict[str, tuple[str, str]]:
    return {name: (address, path) for name, address, path in LINK.findall(shown)}


def test_a_room_for_a_file_of_sets(project: Project, tmp_path: Path, terminal: Open) -> None:
    write_sets(tmp_path / "sets.jsonl", "hot", "cold")
    with (tmp_path / "sets.jsonl").open("a") as file:
        file.write('{"set_id": "bad"}\n')
    room = terminal(
        "label", "--data", "sets.jsonl", "--labelers", "ann, ben", "--overlap", "2", "--again", "0.1", "--port", "0"
    )
    shown = room.read_until(END)
    assert "sets.jsonl:3: " in shown
    assert "new sets 2, known ones 0" in shown
    found = links(shown)
    assert list(found) == ["manager", "ann", "ben"]
    address, path = found["ann"]
    with httpx.Client(base_url=address, follow_redirects=True) as ann:
        page = ann.post(path)
        assert (page.status_code, page.url.path) == (200, "/label")
        assert ann.post(path).status_code == 403  # once
    room.interrupt()
    room.read_rest()
    assert room.process.returncode == 0
    with Store.open(project) as store:
        assert (store.overlap().each, store.overlap().again_share) == (2, 0.1)
        assert store.criteria() == ["helpful"]
        assert "are a tie" in store.instruction("helpful").text


def test_the_next_day_everybody_is_there_and_nothing_is_added_twice(
    project: Project, tmp_path: Path, terminal: Open
) -> None:
    write_sets(tmp_path / "sets.jsonl", "hot")
    for known, labelers in ((0, "ann"), (1, "ann,ben")):
        room = terminal("label", "--data", "sets.jsonl", "--labelers", labelers, "--port", "0")
        shown = room.read_until(END)
        assert f"new sets {1 - known}, known ones {known}" in shown
        assert list(links(shown)) == ["manager", *labelers.split(",")]
        room.interrupt()
        room.read_rest()


def test_the_projects_criterion_begins_the_instructions(project: Project, tmp_path: Path, terminal: Open) -> None:
    (tmp_path / "plumb.toml").write_text('criterion = "Prefer answers that rhyme."\n')
    write_sets(tmp_path / "sets.jsonl", "hot")
    room = terminal("label", "--data", "sets.jsonl", "--port", "0")
    assert "add people with --labelers" in room.read_until(END)
    with Store.open(project) as store:
        assert store.instruction("helpful").text.startswith("Prefer answers that rhyme.\n\n")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--data", "none.jsonl"], "there is no file 'none.jsonl'"),
        (["--data", "bad.jsonl"], "'bad.jsonl' holds no records: all its 1 lines are bad"),
        (["--port", "65536"], "the port is 65536: it must lie between 0 and 65535"),
        (["--overlap", "0"], "Invalid value for '--overlap'"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    project: Project, tmp_path: Path, plumb: Callable[..., Result], args: list[str], said: str
) -> None:
    (tmp_path / "bad.jsonl").write_text("{}\n")
    result = plumb("label", *args)
    assert result.exit_code == 2
    assert said in result.stderr and "Traceback" not in result.stderr


def test_outside_a_project_it_says_how_to_make_one(plumb: Callable[..., Result]) -> None:
    result = plumb("label")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "lies in no project" in result.stderr
