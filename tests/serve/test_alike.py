"""Which questions get each other's answer: the second check word by word, and the cache through a server."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_server import FakeServer, Handler, Request, embeddings, send, speak

from plumbline.models.scripted import Scripted
from plumbline.serve.alike import agree, is_question, nearest
from serving import PATIENCE, Running, message_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What's the capital of France?", "What is the capital of France?"),
        ("What are the best places to eat?", "What is the best place to eat?"),
        ("How can't I see it?", "How can not I see it ?"),
        ("Is a juice fast really safe?", "Are juice fasts safe?"),
        ("WHO’S THERE NOW?", "who is there now?"),
    ],
)
def test_questions_that_ask_the_same(one: str, other: str) -> None:
    assert is_question(one) and is_question(other)
    assert agree(one, other) and agree(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Why do Poles dislike Russians?", "Why do Russians dislike Poles?"),  # order
        ("Will he win in 2015?", "Will he win in 2016?"),  # numbers
        ("What is 5 kg in lb?", "What is 5 g in lb?"),  # units
        ("What is -5 + 3?", "What is 5 + 3?"),  # signs
        ("What is C++?", "What is C#?"),
        ("What is 1.5 times 2?", "What is 15 times 2?"),
        ("Should I enable it?", "Should I disable it?"),
        ("Why can I go?", "Why can't I go?"),  # negation
        ("Is it never safe?", "Is it safe?"),
        ("How far is Paris?", "How far is Rome?"),  # names
        ("Who is the president?", "Who was the president?"),  # time
        ("What is the difference between a and an?", "What is the difference between the and an?"),
        ("Where is it?", "When is it?"),
        ("Do I like it?", "Did I like it?"),
        ("Is it?", "Are the?"),  # nothing left to agree in
    ],
)
def test_questions_that_do_not(one: str, other: str) -> None:
    assert not agree(one, other) and not agree(other, one)


@pytest.mark.parametrize(
    "text",
    [
        "Tell me of Paris.",
        'What does "the" mean?',
        "Why does 'a' come first?",
        "Translate into French: where is it?",
        "Who? And why?",
        "Is it\nso?",
        "Why `x`?",
        "Why is it so" + " so" * 100 + "?",
    ],
)
def test_what_is_no_plain_question_is_never_alike(text: str) -> None:
    assert not is_question(text)


def test_the_nearest_are_near_enough_and_of_the_same_embedder() -> None:
    def packed(*row: float) -> bytes:
        return struct.pack(f"<{len(row)}f", *row)

    known = [packed(1, 0), packed(0.6, 0.8), packed(1, 0, 0), packed(0.96, 0.28), packed(0, 1)]
    assert nearest(packed(1, 0), known, 0.9) == [0, 3]
    assert nearest(packed(1, 0), known, -1) == [0, 3, 1]
    assert nearest(packed(1, 0, 0), known, 0.9) == [2]
    assert nearest(packed(1, 0), [], 0.9) == []


# ---- through a server

VECTORS = {"Paris": [1.0, 0.0], "paris": [1.0, 0.1], "Rome": [1.0, 0.05]}
FAR = [0.0, 1.0]


class Elsewhere:
    """A model that says how many it has answered, and an embedder that knows a few words."""

    def __init__(self) -> None:
        self.answered = 0
        self.broken = False

    def answer(self, prompt: Any) -> str:
        self.answered += 1
        return f"Answer {self.answered}"

    def behave(self, handler: Handler, request: Request) -> None:
        if request.path != "/v1/embeddings":
            speak(Scripted(self.answer))(handler, request)
        elif self.broken:
            send({"error": {"message": "broken"}}, 400)(handler, request)
        else:
            texts = request.body["input"]
            rows = [next((row for word, row in VECTORS.items() if word in text), FAR) for text in texts]
            send(embeddings(rows))(handler, request)


@pytest.fixture
def elsewhere() -> Elsewhere:
    return Elsewhere()


@pytest.fixture
def alike(serve: Callable[..., Running], elsewhere: Elsewhere) -> Iterator[Callable[..., Running]]:
    with FakeServer(elsewhere.behave) as fake:

        def start(*, patience: float = PATIENCE, **more: Any) -> Running:
            given = {"similar": 0.95, **more}
            server = serve(f"openai:m@{fake.url}", embedder=f"openai:e@{fake.url}", **given)
            if (alike := server.serving.service.alike) is not None:
                alike.patience = patience
            return server

        yield start


FIRST, ALIKE, OTHER = "How far is Paris?", "How far is paris?", "How far is Rome?"


def ask(server: Running, question: str, **more: Any) -> tuple[str, str | None]:
    answered = server.ask(question, **{"temperature": 0, **more})
    return message_of(answered), answered.headers.get("x-cache")


def test_a_question_that_is_alike_gets_the_answer_and_its_own_row(alike: Callable[..., Running]) -> None:
    server = alike()
    assert ask(server, FIRST) == ("Answer 1", None)
    assert ask(server, ALIKE) == ("Answer 1", "hit")
    assert ask(server, OTHER) == ("Answer 2", None)  # near, and another place
    assert ask(server, "How far is it to Berlin?") == ("Answer 3", None)
    first, second, *_ = rows = server.stored()
    assert second.settings["cached"] == first.exchange_id and second.answers == first.answers
    assert second.prompt["messages"][0]["content"] == ALIKE
    assert [row.vector is None for row in rows] == [False, True, False, False]
    assert 'plumbline_cache_total{hit="alike"} 1' in server.http.get(f"{server.address}/metrics").text


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": 0.5},
        {"max_tokens": 7},
        {"stop": ["x"]},
        {"n": 2},
        {"logprobs": False, "response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ALIKE}]},
        {"messages": [{"role": "user", "content": ALIKE}, {"role": "assistant", "content": ALIKE}]},
    ],
    ids=str,
)
def test_whatever_else_differs_is_asked_anew(
    alike: Callable[..., Running], elsewhere: Elsewhere, more: dict[str, Any]
) -> None:
    server = alike()
    ask(server, FIRST)
    server.ask(ALIKE, **{"temperature": 0, **more})
    assert elsewhere.answered > 1


def test_nobody_gets_an_answer_of_another_tenant_or_of_one_who_was_erased(
    alike: Callable[..., Running], elsewhere: Elsewhere
) -> None:
    server = alike(keys=True)
    (shop, _), (bank, _) = server.store.add_key("shop"), server.store.add_key("bank")
    ask(server, FIRST, key=shop, user="ann")
    assert ask(server, ALIKE, key=bank) == ("Answer 2", None)
    server.store.erase("shop/ann")
    assert ask(server, ALIKE, key=shop) == ("Answer 3", None)


def test_it_is_off_unless_it_is_asked_for(alike: Callable[..., Running]) -> None:
    server = alike(similar=0.0)
    ask(server, FIRST)
    assert ask(server, ALIKE) == ("Answer 2", None)
    assert [row.vector for row in server.stored()] == [None, None]


def test_an_embedder_that_fails_costs_the_cache_and_no_answer(
    alike: Callable[..., Running], elsewhere: Elsewhere
) -> None:
    server = alike()
    ask(server, FIRST)
    elsewhere.broken = True
    assert ask(server, ALIKE) == ("Answer 2", None)
    assert server.stored()[-1].vector is None


def test_so_does_one_that_takes_too_long(alike: Callable[..., Running]) -> None:
    server = alike(patience=0.0)
    ask(server, FIRST)
    assert ask(server, ALIKE) == ("Answer 2", None)
