"""Servers for tests: of a script, of a model of one's own, and of one whose answers wait until they may come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer, speak

from plumbline.models.scripted import Scripted
from serving import PATIENCE, Running, write_script


@pytest.fixture
def script(tmp_path: Path) -> str:
    """The name of a model with a few answers."""
    return write_script(tmp_path)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """`serve(model, **settings)` is a server over the test's folder."""
    opened: list[Running] = []

    def start(model: str | None, **settings: Any) -> Running:
        opened.append(Running(tmp_path, model, **settings))
        return opened[-1]

    yield start
    for each in opened:
        each.__exit__()


@pytest.fixture
def server(serve: Callable[..., Running], script: str) -> Running:
    """A server of a script."""
    return serve(script)


class Gate:
    """A model elsewhere that answers when it may. `asked` holds the prompts that came."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.came = threading.Semaphore(0)
        self.open = threading.Event()
        self.url = ""

    def answer(self, prompt: Any) -> str:
        text = str(prompt.messages[-1]["content"] if hasattr(prompt, "messages") else prompt)
        self.asked.append(text)
        self.came.release()
        assert self.open.wait(PATIENCE), "nobody opened the gate"
        return f"You said: {text}"

    def wait_for(self, requests: int) -> None:
        """Until that many more requests have come to the model."""
        for _ in range(requests):
            assert self.came.acquire(timeout=PATIENCE), "the model was not asked"

    @property
    def model(self) -> str:
        return f"openai:gated@{self.url}"


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    with FakeServer(speak(Scripted(gate.answer))) as fake:
        gate.url = fake.url
        yield gate
        gate.open.set()
