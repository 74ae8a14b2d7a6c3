"""The project folder: found, read, never written over; its versions whole and numbered apart, whoever is killed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from plumbline import __version__
from plumbline.errors import BadProject
from plumbline.project import Config, Project, Version, cache_folder, folder_digest


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "bot")


def write_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "parts").mkdir()
    (folder / "parts" / "config.json").write_text("{}")


def record(project: Project, name: str, count: int = 1) -> Version:
    return [project.record_version(name, write_weights) for _ in range(count)][-1]


# ---- the folder


def test_a_new_project_has_its_folders_and_the_settings_that_are_the_defaults(project: Project) -> None:
    assert sorted(each.name for each in project.folder.iterdir()) == ["models", "plumb.toml", "runs"]
    assert (project.models, project.runs) == (project.folder / "models", project.folder / "runs")
    assert project.config == Config()
    assert project.versions() == [] and project.promoted() is None


def test_making_a_project_again_changes_nothing_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "plumb.toml").write_text('model = "mine"\n')
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("keep")
    project = Project.create(tmp_path)
    assert project.config == Config(model="mine")
    assert (tmp_path / "runs" / "notes.txt").read_text() == "keep" and project.models.is_dir()


def test_a_project_cannot_be_made_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadProject, match=r"cannot make a project in '.*file': Not a directory"):
        Project.create(tmp_path / "file")


def test_a_project_is_found_from_any_folder_below(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = project.runs / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    for found in (Project.find(), Project.find(project.folder), Project.require(deep)):
        assert found is not None and found.folder == project.folder
    inner = Project.create(deep / "inner")
    assert Project.require(inner.models).folder == inner.folder


def test_no_project_is_said(tmp_path: Path) -> None:
    assert Project.find(tmp_path) is None
    with pytest.raises(BadProject, match=rf"{str(tmp_path)!r} lies in no project: .*`plumb init .`"):
        Project.require(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'modle = "m"', "has `modle`, which is no setting: is `model` meant?"),
        (
            b"[serve]\nport = 1",
            "has `serve`, which is no setting: there are `model`, `embedder`, `criterion`, `database`, `cache`, "
            "`traces`, `similar`, `guarded`, `route`, `prices`",
        ),
        (b"model = 5", "sets `model` to 5: it must be text in quotes"),
        (b"similar = true", "sets `similar` to True: it must be a number"),
        (b"route = 5", "sets `route` to 5: it must be a table, which begins with [route]"),
        (b"model = ", "is not TOML: Invalid value (at end of document)"),
        (b'criterion = "caf\xe9"', "is not UTF-8 (byte 16): save it as UTF-8"),
    ],
)
def test_bad_settings_are_named(project: Project, content: bytes, sentence: str) -> None:
    path = project.folder / "plumb.toml"
    path.write_bytes(content)
    with pytest.raises(BadProject) as caught:
        _ = Project.require(project.models).config
    assert str(caught.value) == f"{str(path)!r} {sentence}"


def test_the_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("PLUMBLINE_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "home" / "mine"
    monkeypatch.setenv("PLUMBLINE_CACHE", "")
    assert cache_folder() == tmp_path / "xdg" / "plumbline"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cache_folder() == tmp_path / "home" / ".cache" / "plumbline"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / "home" / ".cache" / "plumbline"


# ---- versions


def test_a_version_tells_what_it_was_made_of(project: Project, tmp_path: Path) -> None:
    inside, outside = project.folder / "pairs.jsonl", tmp_path / "demos.jsonl"
    inside.write_bytes(b"pairs")
    outside.write_bytes(b"demos")
    record(project, "sft")
    made = project.record_version(
        "policy",
        write_weights,
        base="smollm2-135m",
        parents=["sft"],
        data=[inside, outside],
        config={"beta": 0.1, "out": Path("x")},
        engine_mode="openvino:f16",
    )
    assert made == project.version("policy@1") == Project.require(project.folder).versions()[0]
    assert (made.ref, made.folder) == ("policy@1", project.models / "policy" / "1")
    assert (made.base, made.parents, made.engine_mode) == ("smollm2-135m", ("sft@1",), "openvino:f16")
    assert made.data == {
        "pairs.jsonl": hashlib.sha256(b"pairs").hexdigest(),
        str(outside): hashlib.sha256(b"demos").hexdigest(),
    }
    assert made.config == {"beta": 0.1, "out": "x"} and made.code_version == __version__
    assert made.created.endswith("+00:00")
    assert (made.folder / "parts" / "config.json").read_text() == "{}"
    with pytest.raises(FrozenInstanceError):
        made.number = 2  # type: ignore[misc]


def test_the_digest_is_that_of_names_and_contents(project: Project) -> None:
    weights, config = hashlib.sha256(b"weights").hexdigest(), hashlib.sha256(b"{}").hexdigest()
    expected = hashlib.sha256(f"model.safetensors\0{weights}\nparts/config.json\0{config}\n".encode()).hexdigest()
    first, second = record(project, "a"), record(project, "b")
    assert first.digest == second.digest == folder_digest(first.folder) == expected
    (first.folder / "model.safetensors").write_bytes(b"weightz")
    assert folder_digest(first.folder) != first.digest
    (second.folder / "parts" / "config.json").rename(second.folder / "config.json")
    assert folder_digest(second.folder) != second.digest


def test_versions_are_listed_by_name_and_number_and_the_name_alone_is_the_newest(project: Project) -> None:
    record(project, "policy", 11)
    record(project, "judge")
    refs = [version.ref for version in project.versions()]
    assert refs == ["judge@1", *(f"policy@{number}" for number in range(1, 12))]
    assert project.version("policy").ref == "policy@11"


def test_other_folders_among_the_models_are_no_versions(project: Project) -> None:
    for name in ("plain", "policy/7", "policy/old", "policy/.new"):
        (project.models / name).mkdir(parents=True)
        (project.models / name / "config.json").write_text("{}")
    (project.models / "policy" / "old" / "version.json").write_text("{}")
    assert project.versions() == []
    assert record(project, "policy").ref == "policy@8"
    assert (project.models / "policy" / "7" / "config.json").exists()


def test_the_number_of_a_removed_version_is_not_given_again(project: Project) -> None:
    shutil.rmtree(record(project, "policy", 3).folder)
    assert record(project, "policy").ref == "policy@4"


def test_an_unknown_version_is_answered_with_the_nearest(project: Project) -> None:
    with pytest.raises(BadProject, match=r"there is no version 'policy': '.*models' holds none yet"):
        project.version("policy")
    record(project, "policy", 2)
    with pytest.raises(BadProject, match=r"there is no version 'polcy@2': is 'policy@2' meant\?"):
        project.version("polcy@2")
    with pytest.raises(BadProject, match=r"there is no version 'xyz': `plumb versions` lists them"):
        project.promote("xyz")
    with pytest.raises(BadProject, match=r"there is no version 'polic': is 'policy' meant\?"):
        project.record_version("next", write_weights, parents=["polic"])
    assert not (project.models / "next").exists()


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a@1", ".hidden", "a b", "x" * 101])
def test_a_name_that_cannot_be_a_folder_is_refused(project: Project, name: str) -> None:
    with pytest.raises(BadProject, match="cannot name a model: take letters"):
        project.record_version(name, write_weights)
    assert list(project.models.iterdir()) == []


def test_a_version_that_fails_leaves_nothing(project: Project) -> None:
    def full_disk(folder: Path) -> None:
        write_weights(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        project.record_version("policy", full_disk)
    with pytest.raises(BadProject, match="no file was written for a version of 'policy'"):
        project.record_version("policy", lambda folder: None)
    assert project.versions() == []
    assert [each.name for each in (project.models / "policy").iterdir()] == [".last"]


@pytest.mark.parametrize("content", ["", "[]", '{"base": ""}', '{"base": '])
def test_a_damaged_record_is_named(project: Project, content: str) -> None:
    path = record(project, "policy").folder / "version.json"
    path.write_text(content)
    with pytest.raises(BadProject, match=r"policy/1/version.json' is damaged \(.*\): put it back from a backup"):
        project.versions()


RECORDER = """
import os, sys
from pathlib import Path
from plumbline.project import Project

project = Project.require(sys.argv[1])

def write(folder):
    for part in range(3):
        (folder / f"part-{part}").write_bytes(os.urandom(50_000))

print("ready", flush=True)
sys.stdin.readline()
for _ in range(10):
    print(project.record_version("policy", write).ref, flush=True)
"""


def start(program: str, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_processes_that_record_at_once_get_numbers_of_their_own(project: Project) -> None:
    recorders = [start(RECORDER, project.folder) for _ in range(3)]
    for recorder in recorders:  # all are loaded and wait: now they go off together
        assert recorder.stdin is not None
        recorder.stdin.write("\n")
        recorder.stdin.flush()
    refs = [ref for recorder in recorders for ref in recorder.communicate()[0].split()]
    assert [recorder.returncode for recorder in recorders] == [0, 0, 0]
    assert sorted(refs) == sorted(f"policy@{number}" for number in range(1, 31))
    assert all(folder_digest(version.folder) == version.digest for version in project.versions())


SLOW_RECORDER = """
import sys
from pathlib import Path
from plumbline.project import Project

def write(folder):
    (folder / "model.safetensors").write_bytes(b"half of the weights")
    (folder / "version.json").write_text("{}")
    print("ready", flush=True)
    sys.stdin.readline()

Project.require(sys.argv[1]).record_version("policy", write)
"""


def test_a_process_killed_while_it_writes_leaves_no_version_and_no_lock(project: Project) -> None:
    record(project, "policy")
    with start(SLOW_RECORDER, project.folder) as recorder:
        recorder.kill()
    assert recorder.returncode == -9
    assert (project.models / "policy" / ".new" / "model.safetensors").exists()
    assert [version.ref for version in project.versions()] == ["policy@1"]
    assert record(project, "policy").ref == "policy@3"  # the second number went to the one that was killed
    assert not (project.models / "policy" / ".new").exists()


def test_a_process_killed_at_any_moment_leaves_only_whole_versions(project: Project) -> None:
    for wait_for in (1, 2, 4):
        with start(RECORDER, project.folder) as recorder:
            assert recorder.stdin is not None and recorder.stdout is not None
            recorder.stdin.write("\n")
            recorder.stdin.flush()
            said = [recorder.stdout.readline().strip() for _ in range(wait_for)]
            recorder.kill()
            said += recorder.stdout.read().split()
        versions = project.versions()
        assert set(said) <= {version.ref for version in versions}
        assert all(folder_digest(version.folder) == version.digest for version in versions)


# ---- the promoted one


def test_promotions_can_be_undone_one_by_one(project: Project) -> None:
    record(project, "policy", 3)
    assert project.promote("policy@1").ref == "policy@1"
    assert project.promote("policy").ref == "policy@3"
    assert project.promote("policy@3").ref == "policy@3"  # again: nothing to undo twice
    assert project.promote("policy@2").ref == "policy@2"
    in_force = []
    for _ in range(3):
        before = project.rollback()
        assert before == project.promoted() == Project.require(project.folder).promoted()
        in_force.append(before and before.ref)
    assert in_force == ["policy@3", "policy@1", None]
    with pytest.raises(BadProject, match="nothing is promoted, so there is nothing to go back from"):
        project.rollback()


def test_every_promotion_and_every_rollback_is_kept_with_who_and_why(project: Project) -> None:
    record(project, "policy", 2)
    project.promote("policy@1", by="ann")
    project.promote("policy@2", by="bob", why="a demo", overrode=["toxicity is worse"])
    project.rollback(by="eve", why="it swears")
    project.rollback()
    told = [(each.version, each.by, each.why, each.overrode, each.undoes) for each in project.promotions()]
    assert told == [
        ("policy@1", "ann", "", (), ""),
        ("policy@2", "bob", "a demo", ("toxicity is worse",), ""),
        ("policy@1", "eve", "it swears", (), "policy@2"),
        ("", "", "", (), "policy@1"),
    ]
    assert project.promoted() is None
    assert project.promote("policy@2") == project.promoted()
    assert project.rollback() is None


def test_of_two_who_promote_at_once_one_is_told(project: Project) -> None:
    record(project, "policy", 3)
    project.promote("policy@1")
    project.promote("policy@2", instead_of="policy@1")
    with pytest.raises(BadProject, match="'policy@3' is not promoted: .* meanwhile 'policy@2' is in force"):
        project.promote("policy@3", instead_of="policy@1")
    with pytest.raises(BadProject, match="held against 'nothing'"):
        project.promote("policy@3", instead_of="")
    assert project.promoted() == project.version("policy@2")


def test_a_pointer_of_an_earlier_version_is_read(project: Project) -> None:
    record(project, "policy")
    (project.folder / "promoted.json").write_text('{"history": [{"version": "policy@1", "at": "2026-01-01"}]}')
    assert project.promoted() == project.version("policy@1")


def test_a_promotion_that_fails_changes_nothing(project: Project) -> None:
    record(project, "policy")
    project.promote("policy@1")
    before = (project.folder / "promoted.json").read_bytes()
    with pytest.raises(BadProject, match="is 'policy@1' meant"):
        project.promote("policy@7")
    assert (project.folder / "promoted.json").read_bytes() == before


def test_a_promoted_version_that_was_removed_is_named_and_another_can_be_promoted(project: Project) -> None:
    record(project, "policy", 3)
    for number in (1, 2, 3):
        project.promote(f"policy@{number}")
    shutil.rmtree(project.version("policy@2").folder)
    with pytest.raises(
        BadProject, match=r"'policy@2' was promoted and is gone from '.*models': put it back or promote"
    ):
        project.rollback()
    assert project.promoted() == project.version("policy@3")
    shutil.rmtree(project.version("policy@3").folder)
    with pytest.raises(BadProject, match=r"'policy@3' was promoted and is gone"):
        project.promoted()
    assert project.promote("policy@1") == project.promoted()


@pytest.mark.parametrize("content", ["", "[]", '{"history": [1]}', '{"history": [{"version": "a@1"}]}'])
def test_a_damaged_pointer_is_named(project: Project, content: str) -> None:
    (project.folder / "promoted.json").write_text(content)
    with pytest.raises(BadProject, match=r"promoted.json' is damaged \(.*\): mend it, or remove it"):
        project.promoted()


PROMOTER = """
import sys
from plumbline.project import Project

project = Project.require(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for turn in range(40):
    print(project.promote(f"policy@{1 + turn % 2}").ref, flush=True)
"""


def test_a_killed_promotion_leaves_the_pointer_whole(project: Project) -> None:
    record(project, "policy", 2)
    before = 0
    for wait_for in (1, 7, 15):
        with start(PROMOTER, project.folder) as promoter:
            assert promoter.stdin is not None and promoter.stdout is not None
            promoter.stdin.write("\n")
            promoter.stdin.flush()
            said = [promoter.stdout.readline() for _ in range(wait_for)]
            promoter.kill()
            said += promoter.stdout.read().splitlines()
        history = json.loads((project.folder / "promoted.json").read_text())["history"]
        # the first may have been in force already, the last may have been killed before it could say so
        assert before + len(said) - 1 <= len(history) <= before + len(said) + 1
        promoted, before = project.promoted(), len(history)
        assert promoted is not None and promoted.ref == history[-1]["version"]


def test_promotions_of_two_processes_are_all_kept(project: Project) -> None:
    record(project, "policy", 4)
    programs = [PROMOTER.replace("1 + turn % 2", f"{first} + turn % 2") for first in (1, 3)]
    promoters = [start(program, project.folder) for program in programs]
    for promoter in promoters:
        assert promoter.stdin is not None
        promoter.stdin.write("\n")
        promoter.stdin.flush()
    for promoter in promoters:
        promoter.communicate()
    history = [each["version"] for each in json.loads((project.folder / "promoted.json").read_text())["history"]]
    # each process alternates between two versions of its own, so none of the 80 promotions is a repetition
    assert sorted(history) == sorted(f"policy@{number}" for number in (1, 2, 3, 4) for _ in range(20))


def test_importing_it_loads_no_library(tmp_path: Path) -> None:
    program = "import plumbline.project, sys; print({'pydantic', 'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True, cwd=tmp_path) == "set()\n"
    assert os.listdir(tmp_path) == []
