"""`plumb sample`: comparison sets, and a run that can be killed at any moment."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from cli.conftest import PLUMB, Terminal, read_lines
from models.fake_server import FakeServer, Handler, Request, speak
from plumbline.models.scripted import Scripted, prompt_text
from plumbline.project import Project
from plumbline.records import ComparisonSet, read_jsonl

Plumb = Callable[..., Result]


def test_each_line_is_a_prompt_with_its_answers(plumb: Plumb, script: str, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt_id": "a", "prompt": "Hi", "criterion": "kind"}\n{"prompt": "Bye"}\n')
    result = plumb("sample", "p.jsonl", "--per-prompt", 3, "--out", "sets.jsonl", "--model", script, "--seed", 1)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "2 of 2 prompts are in sets.jsonl\n")
    first, second = read_jsonl("sets.jsonl", ComparisonSet)
    assert (first.prompt_id, first.prompt, first.criterion) == ("a", "Hi", "kind")
    assert [answer.text for answer in first.completions] == ["Hey you there.", "Hello.", "Hey you there."]
    assert {(answer.model, answer.seed, answer.sampling["temperature"]) for answer in first.completions} == {
        (script, 1, 0.7)
    }
    assert (second.prompt, second.criterion) == ("Bye", None)


def test_a_sets_id_is_that_of_its_content(plumb: Plumb, script: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("Hi\nBye\n")
    ids = {}
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        plumb("sample", "p.txt", "--out", f"{name}.jsonl", "--model", script, "--seed", seed)
        ids[name] = [each["set_id"] for each in read_lines(tmp_path / f"{name}.jsonl")]
    assert ids["one"] == ids["same"]
    assert len({*ids["one"], *ids["other"]}) == 4


def test_the_projects_criterion_and_model_stand_in(plumb: Plumb, script: str, tmp_path: Path) -> None:
    project = Project.create(tmp_path)
    (project.folder / "plumb.toml").write_text(f'model = "{script}"\ncriterion = "true and kind"\n')
    (tmp_path / "p.jsonl").write_text('{"prompt": "Hi", "criterion": "short"}\n{"prompt": "Bye"}\n')
    assert plumb("sample", "p.jsonl", "--out", "sets.jsonl").exit_code == 0
    assert [each["criterion"] for each in read_lines(tmp_path / "sets.jsonl")] == ["short", "true and kind"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--per-prompt", "1"], "--per-prompt is 1: comparing takes at least 2 answers"),
        (["--temperature", "0"], "--temperature is 0, so all answers to a prompt would be the same: raise it"),
    ],
)
def test_sets_that_nobody_could_rank_are_refused(
    plumb: Plumb, script: str, tmp_path: Path, args: list[str], said: str
) -> None:
    (tmp_path / "p.txt").write_text("Hi\n")
    result = plumb("sample", "p.txt", "--out", "sets.jsonl", "--model", script, *args)
    assert (result.exit_code, result.stderr) == (2, f"plumb: {said}\n")
    assert not (tmp_path / "sets.jsonl").exists()


def test_another_number_of_answers_is_another_file(plumb: Plumb, script: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("Hi\n")
    args = ["sample", "p.txt", "--out", "sets.jsonl", "--model", script, "--per-prompt"]
    plumb(*args, 2)
    result = plumb(*args, 3)
    assert result.exit_code == 2
    assert "was made with per_prompt 2 and this run has 3" in result.stderr


# ---- stopped in the middle

PROMPTS = [f"question {number}" for number in range(40)]
HELD = PROMPTS[20]
"""Where the model falls silent: in the second batch, which holds prompts 16 to 31 (32 answers, 2 each)."""


class Silent(FakeServer):
    """A server that answers every prompt but one, until it is released."""

    def __init__(self) -> None:
        super().__init__(self.behave)
        self.reached, self.released = threading.Event(), threading.Event()
        self._speak = speak(Scripted(lambda prompt: [f"{prompt_text(prompt)}: yes", f"{prompt_text(prompt)}: no"]))

    def behave(self, handler: Handler, request: Request) -> None:
        if request.body["messages"][-1]["content"] == HELD and not self.released.is_set():
            self.reached.set()
            self.over.wait(60)
            handler.close_connection = True
        else:
            self._speak(handler, request)


@pytest.fixture
def server() -> Iterator[Silent]:
    with Silent() as server:
        yield server


@pytest.fixture
def args(server: Silent, tmp_path: Path) -> list[str]:
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS))
    return ["sample", "p.txt", "--per-prompt", "2", "--seed", "5", "--model", f"openai:m@{server.url}", "--out"]


@pytest.mark.parametrize(("way", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_killed_and_run_again_is_as_if_never_stopped(
    plumb: Plumb, server: Silent, args: list[str], tmp_path: Path, way: signal.Signals, code: int
) -> None:
    with subprocess.Popen(
        [*PLUMB, *args, "sets.jsonl"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        reached = server.reached.wait(30)
        run.send_signal(way)
        said = run.communicate(timeout=30)
    assert reached
    assert run.returncode == code
    assert [each["prompt"] for each in read_lines(tmp_path / "sets.jsonl")] == PROMPTS[:16]
    if way == signal.SIGINT:
        assert said == ("", "16 of 40 prompts are in sets.jsonl: run the same command again to go on\n")

    server.released.set()
    server.requests.clear()
    assert plumb(*args, "sets.jsonl").exit_code == 0
    asked_again = [request.body["messages"][-1]["content"] for request in server.requests]
    assert sorted(asked_again) == sorted(PROMPTS[16:])
    assert plumb(*args, "whole.jsonl").exit_code == 0
    assert read_lines(tmp_path / "sets.jsonl") == read_lines(tmp_path / "whole.jsonl")


def test_a_bar_with_the_time_left_at_a_terminal(
    server: Silent, args: list[str], terminal: Callable[..., Terminal]
) -> None:
    run = terminal(*args, "sets.jsonl")
    run.read_until("16/40")
    server.released.set()
    run.interrupt()
    assert "16 of 40 prompts are in sets.jsonl: run the same command again to go on" in run.read_rest()
    assert run.process.returncode == 130
