"""The command `plumb` as a person or a script runs it: in this process, in one of its own, or at a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from models.fake_server import FakeServer, Handler, Request, speak
from plumbline.cli.main import app
from plumbline.models.scripted import Scripted, prompt_text

PATIENCE = 30
"""Seconds after which a command at a terminal is taken to hang."""

PLUMB = [sys.executable, "-c", "from plumbline.cli.main import main; main()"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in an empty folder that lies in no project, at a terminal of 80 columns without colours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("PLUMBLINE_DEBUG", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def plumb() -> Callable[..., Result]:
    """`plumb("models", "list")` runs the command in this process."""

    def run(*args: str | Path, typed: str | None = None) -> Result:
        return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="plumb", input=typed)

    return run


@pytest.fixture
def script(tmp_path: Path) -> str:
    """A model with an answer to each of a few prompts."""
    return write_script(
        tmp_path / "script.jsonl",
        {
            "Knock, knock": ["Who is there?", "Come in!"],
            "Hi": ["Hello.", "Hey you there."],
            "Bye": ["Au revoir.", "Ciao."],
        },
    )


class Mortal(FakeServer):
    """An endpoint that refuses every prompt from "question 700" on, until it is revived."""

    def __init__(self) -> None:
        super().__init__(self.behave)
        self.dead = True
        self._speak = speak(Scripted(lambda prompt: f"On {prompt_text(prompt)[:20]}: yes."))

    def behave(self, handler: Handler, request: Request) -> None:
        if self.dead and asked(request) >= "question 700":
            handler.send(403, b'{"error": {"message": "your credit is used up"}}', {})
        else:
            request.body["answered"] = True
            self._speak(handler, request)

    def answered(self) -> list[str]:
        """The prompts that were answered so far."""
        return [asked(request) for request in self.requests if request.body.get("answered")]


def asked(request: Request) -> str:
    return str(request.body["messages"][-1]["content"])


@pytest.fixture
def mortal() -> Iterator[Mortal]:
    with Mortal() as server:
        yield server


def write_script(path: Path, answers: dict[str, list[str]]) -> str:
    lines = [{"prompt": prompt, "completion": text} for prompt, texts in answers.items() for text in texts]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"scripted:{path}"


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Terminal:
    """A terminal of 80 columns with a command in it. `read_until` waits for what shall appear, `type` types."""

    def __init__(self, *args: str) -> None:
        self._here, there = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
        self.process = subprocess.Popen(
            [*PLUMB, *args], stdin=there, stdout=there, stderr=there, env=environment, start_new_session=True
        )
        os.close(there)
        self.seen = ""

    def read_until(self, text: str) -> str:
        """All that has appeared since the last call, up to and with `text`."""
        end = time.monotonic() + PATIENCE
        while text not in self.seen:
            new = self._read(end)
            assert new, f"the command ended without {text!r}; it showed {self.seen[-500:]!r}"
            self.seen += new
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def type(self, text: str) -> None:
        os.write(self._here, text.encode())

    def interrupt(self) -> None:
        """What Ctrl-C does to the program in front."""
        os.killpg(self.process.pid, signal.SIGINT)

    def read_rest(self) -> str:
        end = time.monotonic() + PATIENCE
        while new := self._read(end):
            self.seen += new
        self.process.wait(PATIENCE)
        return self.seen

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._here)

    def _read(self, end: float) -> str:
        left = end - time.monotonic()
        ready = left > 0 and select.select([self._here], [], [], left)[0]
        assert ready, f"nothing more within {PATIENCE} s after {self.seen[-500:]!r}"
        try:
            return os.read(self._here, 4096).decode(errors="replace")
        except OSError:  # the other end is closed
            return ""


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """`terminal("chat")` runs the command at a terminal."""
    opened: list[Terminal] = []

    def run(*args: str) -> Terminal:
        opened.append(Terminal(*args))
        return opened[-1]

    yield run
    for each in opened:
        each.close()
