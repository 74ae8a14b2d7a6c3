"""Which version answers: the promoted one, and what runs while it changes ends where it began."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import BadModel, UnknownModel
from plumbline.project import Project
from plumbline.serve import versions as versions_module
from plumbline.serve.engine import Engine
from plumbline.serve.requests import ApiError
from plumbline.serve.settings import Settings
from plumbline.serve.versions import Versions, draw
from serving import PATIENCE, Running, message_of, write_script

Serve = Callable[..., Running]


def record(folder: Path, tiny: Path, name: str = "tiny") -> str:
    """A version with the weights of the tiny model."""
    project = Project.create(folder)
    return project.record_version(name, lambda place: shutil.copytree(tiny, place, dirs_exist_ok=True)).ref


def switched(server: Running, ref: str) -> None:
    """Waits until a version is the one that answers; the server looks once a second."""
    end = time.monotonic() + PATIENCE
    while server.serving.versions.primary.name != ref:
        assert time.monotonic() < end, server.serving.versions.fault
        server.on_loop(server.serving.versions.look())


@pytest.fixture
def in_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Names of versions are looked up in the project that the process works in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_promotion_switches_and_drops_no_request(
    serve: Serve, in_project: Path, tiny_llama: Path, gate: object
) -> None:
    server = serve(None, default=gate.model, engine="transformers")  # type: ignore[attr-defined]
    with ThreadPoolExecutor(2) as pool:
        old = [pool.submit(server.ask, "Hi") for _ in range(2)]
        gate.wait_for(2)  # type: ignore[attr-defined]
        first = record(in_project, tiny_llama)
        server.project.promote(first)
        switched(server, first)
        new = server.ask("Hi", max_tokens=3)  # while the others still run on the first model
        assert (new.status_code, new.json()["model"]) == (200, first)
        gate.open.set()  # type: ignore[attr-defined]
        assert [message_of(each.result()) for each in old] == ["You said: Hi", "You said: Hi"]
    rows = [row.version for row in server.stored()]
    assert rows == [first, gate.model, gate.model]  # type: ignore[attr-defined]


class Fake(Engine):
    """An engine without a process; a name that holds "broken" cannot be loaded."""

    async def start(self) -> None:
        if "broken" in self.spec.name:
            raise BadModel(f"{self.spec.name!r} is broken")

    async def close(self) -> None:
        """There is nothing to end."""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with three versions, of which nobody looks at the weights."""
    project = Project.create(tmp_path)
    for name in ("tiny", "tiny", "broken"):
        project.record_version(name, lambda place: (place / "weights").write_text("none"))
    return project


def versions(project: Project, **settings: Any) -> Versions:
    return Versions(Settings(**settings), project, "smollm2-135m", make=Fake)


def test_a_version_that_cannot_be_loaded_changes_nothing(project: Project) -> None:
    project.promote("tiny@1")
    here = versions(project)

    async def scenario() -> None:
        await here.start()
        project.promote("broken@1")
        await here.look()
        assert here.primary.name == "tiny@1"
        assert here.fault == "the promotion changes nothing: 'broken@1' is broken"
        await here.look()  # nothing new: it is not tried every second
        project.promote("tiny@2")
        await here.look()
        assert (here.primary.name, here.fault, here.switches) == ("tiny@2", "", 1)
        await here.close()

    asyncio.run(scenario())


def test_before_the_first_promotion_the_model_that_was_named_answers(project: Project) -> None:
    here = versions(project)

    async def scenario() -> None:
        await here.start()
        assert here.primary.name == "smollm2-135m"
        project.promote("tiny@1")
        await here.look()
        assert here.primary.name == "tiny@1"
        project.rollback()
        await here.look()
        assert here.primary.name == "smollm2-135m"

    asyncio.run(scenario())


def test_a_model_that_was_asked_for_stays(project: Project) -> None:
    project.promote("tiny@1")
    here = Versions(Settings(model="tiny@2"), project, "tiny@2", make=Fake)

    async def scenario() -> None:
        await here.start()
        await asyncio.wait_for(here.watch(), 5)  # it has nothing to watch for
        assert here.primary.name == "tiny@2"

    asyncio.run(scenario())


def test_names_by_which_a_version_is_asked(project: Project) -> None:
    project.promote("tiny@1")
    here = versions(project)

    async def scenario() -> None:
        await here.start()
        for name in ("plumbline", "tiny", "tiny@1", ""):
            assert here.pick(name, "u").name == "tiny@1"
        with pytest.raises(ApiError, match="ask for 'plumbline' or 'tiny@1'") as refused:
            here.pick("tiny@2", "u")
        assert (refused.value.status, refused.value.code) == (404, "model_not_found")

    asyncio.run(scenario())


def test_a_canary_gets_its_share_and_a_user_stays_with_one_version(serve: Serve, tmp_path: Path, script: str) -> None:
    (tmp_path / "other").mkdir()
    other = write_script(tmp_path / "other")
    server = serve(script, canary=other, share=0.3)
    users = [f"u{number}" for number in range(60)]
    found = {user: {server.ask(user=user).json()["model"] for _ in range(2)} for user in users}
    assert all(len(models) == 1 for models in found.values())
    to_canary = {user for user, models in found.items() if models == {other}}
    assert to_canary == {user for user in users if draw(f"{other} local/{user}") < 0.3}
    assert 8 <= len(to_canary) <= 30
    assert server.ask(model=other, user="u0").json()["model"] == other
    assert server.ask(model=script, user="u0").json()["model"] == script


@pytest.mark.parametrize(
    ("model", "kind", "said"),
    [
        ("scripted:none.jsonl", UnknownModel, "there is no file 'none.jsonl'"),
        ("smollm3", UnknownModel, "'smollm3' is no model that is known here"),
    ],
)
def test_a_model_that_cannot_be_had_is_told_at_the_start(
    serve: Serve, model: str, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        serve(model)


def test_a_folder_that_is_no_model_is_told_at_the_start(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadModel):
        serve(str(tmp_path / "empty"))


def test_a_promotion_that_breaks_in_an_unforeseen_way_is_not_the_last_that_is_noticed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.promote("tiny@1")
    here = versions(project)
    monkeypatch.setattr(versions_module, "PAUSE", 0.0)
    start = Fake.start

    async def heavy(self: Fake) -> None:
        if self.spec.name == "broken@1":
            raise RuntimeError("not enough memory")
        await start(self)

    monkeypatch.setattr(Fake, "start", heavy)

    async def scenario() -> None:
        await here.start()
        watching = asyncio.create_task(here.watch())
        async with asyncio.timeout(PATIENCE):
            project.promote("broken@1")
            while not here.fault:
                await asyncio.sleep(0)
            assert here.fault == "the promotion changes nothing: not enough memory"
            project.promote("tiny@2")
            while here.primary.name != "tiny@2":
                await asyncio.sleep(0)
        watching.cancel()

    asyncio.run(scenario())
