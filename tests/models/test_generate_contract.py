"""One contract, every `Generate`. A new one is one more line in `SUBJECTS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import contract
import pytest
from contract import Subject
from fake_server import FakeServer, speak

from plumbline.models.best import BestOf
from plumbline.models.engines import open_local
from plumbline.models.remote import RemoteChat
from plumbline.models.scripted import Scripted, ScriptedScore, count_tokens, prompt_text


def _script() -> Scripted:
    """To each prompt three long answers, which tell what they answer to."""

    def answers(prompt: Any) -> list[str]:
        asked = prompt_text(prompt)
        return [f"{word}, you said “{asked}” and this is a longer answer to it." for word in ("Well", "Yes", "Hm")]

    return Scripted(answers)


def _chosen() -> BestOf:
    """The better of two of the script's answers, judged by what an answer cut short still has: its beginning."""
    return BestOf(_script(), ScriptedScore(lambda _, answer: ord(answer[0])), 2)


@contextmanager
def _remote(kind: Any, seeded: bool, several: bool = True) -> Iterator[Subject]:
    with FakeServer(speak(_script(), several=several)) as server:
        yield Subject(RemoteChat("m", server.url, kind), seeded=seeded, count=count_tokens)


@contextmanager
def _local(request: pytest.FixtureRequest, engine: Any) -> Iterator[Subject]:
    if engine == "openvino":
        pytest.importorskip("openvino_genai", reason="the extra `openvino` is not installed")
    folder = request.getfixturevalue("tiny_llama")
    yield Subject(open_local(folder, name="tiny", engine=engine), seeded=True)


SUBJECTS: dict[str, Callable[[pytest.FixtureRequest], AbstractContextManager[Subject]]] = {
    "scripted": lambda _: nullcontext(Subject(_script(), count=count_tokens)),
    "openai": lambda _: _remote("openai", seeded=True),
    "openai, one choice a request": lambda _: _remote("openai", seeded=True, several=False),
    "anthropic": lambda _: _remote("anthropic", seeded=False),
    "best of two": lambda _: nullcontext(Subject(_chosen(), count=count_tokens)),
    "transformers engine": lambda request: _local(request, "transformers"),
    "openvino engine": lambda request: _local(request, "openvino"),
}


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    with SUBJECTS[request.param](request) as made:
        yield made


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Callable[[Subject], None], subject: Subject) -> None:
    check(subject)
