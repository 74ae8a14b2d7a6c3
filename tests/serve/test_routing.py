"""Easy requests stay with the small model and hard ones go to the larger one; what fails there is answered here."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer, error, hang, piece, send, send_pieces, speak, sse
from typer.testing import CliRunner

from plumbline.cli.main import app
from plumbline.errors import UserError
from plumbline.models.scripted import Scripted
from plumbline.serve.engine import Engine
from plumbline.serve.route import Route
from serving import KNOCK, WHO, Running, message_of, sign_in

Serve = Callable[..., Running]
LAW, ADVICE = "May I break my contract?", "Ask a lawyer first."


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    """The larger model: an endpoint on this machine."""
    with FakeServer(speak(Scripted(lambda prompt: ADVICE))) as fake:
        yield fake


def by_words(fake: FakeServer, **more: Any) -> Route:
    return Route(f"openai:large@{fake.url}", words=("contract",), **more)


def routed(server: Running, text: str, **more: Any) -> tuple[str, str]:
    """Who answered, by the header, and what."""
    answered = server.ask(text, model="route", **more)
    assert answered.status_code == 200, answered.text
    if more.get("stream"):
        events = [json.loads(line[6:]) for line in answered.text.splitlines() if line[:7] == "data: {"]
        assert {event["model"] for event in events} == {"route"}
        return answered.headers["X-Route"], "".join(
            event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"]
        )
    assert answered.json()["model"] == "route"
    return answered.headers["X-Route"], message_of(answered)


@pytest.mark.parametrize("stream", [False, True])
def test_hard_requests_go_to_the_larger_model_and_the_rest_do_not(
    serve: Serve, script: str, fake: FakeServer, stream: bool
) -> None:
    route = by_words(fake)
    server = serve(script, route=route, prices={route.large: (1000.0, 10_000.0)})
    assert routed(server, KNOCK, stream=stream) == ("small", WHO)
    assert fake.requests == []
    assert routed(server, LAW, stream=stream) == ("large", ADVICE)
    small, large = server.stored()
    assert (small.version, small.route, small.cost, (small.settings or {}).get("routed")) == (
        script,
        "small",
        None,
        None,
    )
    assert (large.version, large.route) == (route.large, "large")
    assert large.settings is not None and large.settings["routed"] == "it speaks of 'contract'"
    assert large.cost == pytest.approx((1000 * large.prompt_tokens + 10_000 * large.completion_tokens) / 1_000_000)
    assert large.completion_tokens > 0
    text = server.http.get(f"{server.address}/metrics").text
    assert 'plumbline_routes_total{to="large"} 1' in text and 'plumbline_routes_total{to="small"} 1' in text


def test_only_who_asks_for_the_route_is_routed(serve: Serve, script: str, fake: FakeServer) -> None:
    server = serve(script, route=by_words(fake, name="best"))
    listed = [each["id"] for each in server.http.get(f"{server.address}/v1/models").json()["data"]]
    assert listed == ["plumbline", "best", script]
    plain = server.ask(KNOCK)
    assert "X-Route" not in plain.headers and plain.json()["model"] == script
    assert server.ask(LAW, model="best").json()["model"] == "best"
    assert server.ask(LAW, model="route").status_code == 404
    assert server.ask(LAW, model=f"openai:large@{fake.url}").status_code == 404
    assert [row.route for row in server.settled(4)] == [None, "large", None, None]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("behaviour", [send(error("no such model"), 404), hang])
def test_where_the_larger_model_fails_the_small_one_answers_and_says_so(
    serve: Serve, script: str, behaviour: Any, stream: bool
) -> None:
    with FakeServer(behaviour) as fake:
        route = Route(f"openai:large@{fake.url}", words=("knock",), patience=1.0)
        server = serve(script, route=route)
        assert routed(server, KNOCK, stream=stream, temperature=0) == ("fallback", WHO)
        assert server.ask(KNOCK, model="route", temperature=0).headers["X-Route"] == "fallback"  # not from the cache
    row = server.stored()[0]
    assert (row.version, row.route, row.status) == (script, "fallback", "answered")
    assert row.settings is not None and row.settings["routed"] == "it speaks of 'knock'"
    assert row.settings["fault"].startswith(("EndpointError", "TimeoutError"))


def test_a_stream_that_breaks_after_its_first_words_is_not_begun_again(serve: Serve, script: str) -> None:
    cut = send_pieces(sse(piece({"role": "assistant", "content": ""}), piece({"content": "Ask a"})), cut=True)
    with FakeServer(cut) as fake:
        server = serve(script, route=Route(f"openai:large@{fake.url}", words=("contract",)))
        broken = server.ask(LAW, model="route", stream=True)
    assert broken.headers["X-Route"] == "large"
    assert '"content":"Ask a"' in broken.text and "upstream_error" in broken.text and "[DONE]" not in broken.text
    (row,) = server.settled(1)
    assert (row.status, row.answers, row.route) == ("failed", [{"text": "Ask a"}], "large")


def test_what_the_larger_model_cannot_do_the_small_one_does(serve: Serve, script: str, fake: FakeServer) -> None:
    """A call of a tool that is required is enforced here alone."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    server = serve(script, route=Route(f"openai:large@{fake.url}", tools=True))
    refused = server.ask(KNOCK, model="route", tools=[tool], tool_choice="required")
    assert refused.status_code == 400 and fake.requests == []  # nor does this script: the refusal is the small model's
    assert routed(server, KNOCK, tools=[tool], tool_choice="none") == ("small", WHO)


def test_rails_stand_before_and_behind_the_larger_model(serve: Serve, script: str, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("lawyer\n")
    with FakeServer(speak(Scripted(lambda prompt: ADVICE))) as fake:
        server = serve(script, route=by_words(fake), rails=("personal-data", f"blocklist={words}"))
        stopped = server.ask(f"{LAW} I am ann@example.com", model="route").json()["choices"][0]
        assert (stopped["message"]["content"], stopped["finish_reason"]) == ("", "content_filter")
        assert "[EMAIL]" in str(fake.requests[0].body) and "ann@example.com" not in str(fake.requests[0].body)


def test_routed_answers_are_given_again_as_what_they_are(serve: Serve, script: str, fake: FakeServer) -> None:
    route = by_words(fake)
    server = serve(script, route=route, prices={route.large: (1.0, 1.0)})
    first, second = (server.ask(LAW, model="route", temperature=0) for _ in range(2))
    assert (first.headers["X-Route"], second.headers["X-Cache"]) == ("large", "hit")
    assert second.json()["model"] == "route" and message_of(second) == ADVICE and len(fake.requests) == 1
    assert [(row.route, bool(row.cost)) for row in server.stored()] == [("large", True), (None, False)]


# ---- rules that look at the small model's answer


async def unsure(message: dict[str, Any], deadline: float) -> AsyncGenerator[dict[str, Any], None]:
    """A local engine, which is sure of what it knows by heart."""
    sure = message["prompt"]["messages"][-1]["content"] == KNOCK
    text = WHO if sure else "Perhaps."
    done = {"text": text, "finish_reason": "stop", "tool_calls": [], "prompt_tokens": 4, "tokens": 2, "seed": 0}
    if message["logprobs"] is not None:
        numbers = (-0.1, -0.3) if sure else (-2.0, -1.0)
        done["logprobs"] = [{"token": "x", "logprob": number, "top": []} for number in numbers]
    yield {"done": [done]}


@pytest.fixture
def local(script: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A script that tells how sure it is, as a model that runs here does."""
    start = Engine.start

    async def start_local(self: Engine) -> None:
        await start(self)
        if self.spec.name == script:
            self.known["logprobs"], self.ask = True, unsure  # type: ignore[method-assign]

    monkeypatch.setattr(Engine, "start", start_local)
    return script


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_small_model_is_unsure_of_is_asked_again(
    serve: Serve, local: str, fake: FakeServer, stream: bool
) -> None:
    route = Route(f"openai:large@{fake.url}", "confidence", below=-0.5)
    server = serve(local, route=route, prices={local: (1.0, 1.0)})
    assert routed(server, KNOCK, stream=stream) == ("small", WHO)
    assert routed(server, LAW, stream=stream) == ("large", ADVICE)
    small, large = server.stored()
    assert (small.route, small.cost) == ("small", pytest.approx(6e-6))
    assert large.settings is not None
    assert large.settings["routed"] == "a mean log-probability of -1.5, below -0.5"
    assert large.cost == pytest.approx(6e-6)  # the try, which was not given


def test_who_asks_for_log_probabilities_gets_those_of_the_answer(serve: Serve, local: str, fake: FakeServer) -> None:
    server = serve(local, route=Route(f"openai:large@{fake.url}", "confidence", below=-0.5))
    told = server.ask(KNOCK, model="route", logprobs=True).json()["choices"][0]["logprobs"]
    assert [each["logprob"] for each in told["content"]] == [-0.1, -0.3]
    assert server.ask(KNOCK, model="route").json()["choices"][0]["logprobs"] is None


def test_a_model_that_says_nothing_of_its_confidence_is_refused_at_the_start(
    serve: Serve, script: str, fake: FakeServer
) -> None:
    with pytest.raises(UserError, match="tells no log-probabilities, and .route. goes by its confidence"):
        serve(script, route=Route(f"openai:large@{fake.url}", "confidence", below=-0.5))


def test_a_scorer_judges_the_small_models_answer(serve: Serve, script: str, fake: FakeServer, tmp_path: Path) -> None:
    judge = tmp_path / "judge.py"
    judge.write_text(
        "def words(prompts, completions):\n"
        "    return [float('nan') if 'nothing' in each else float(len(each.split())) for each in completions]\n"
    )
    server = serve(script, route=Route(f"openai:large@{fake.url}", "score", below=6.0, scorer=f"{judge}:words"))
    assert routed(server, KNOCK) == ("small", WHO)
    assert routed(server, "My house is too hot. What can I do?", seed=0) == ("large", ADVICE)
    assert routed(server, "") == ("large", ADVICE)
    told = [(row.settings or {}).get("routed") for row in server.stored()]
    assert told == [None, "a score of 5, below 6", f"'{judge}:words' gives no number"]


# ---- what a manager sees, and what the small model learns


def test_the_page_shows_shares_costs_and_thumbs(serve: Serve, script: str, fake: FakeServer) -> None:
    route = by_words(fake)
    server = serve(script, route=route, prices={route.large: (1000.0, 10_000.0)})
    for text, thumb in ((KNOCK, "up"), (KNOCK, "down"), (KNOCK, "up"), (LAW, "up")):
        answered = server.ask(text, model="route", user=f"{text}{thumb}").json()
        server.post("/v1/feedback", {"id": answered["id"], "thumb": thumb})
    rows = server.stored()
    dear = sum((1000 * row.prompt_tokens + 10_000 * row.completion_tokens) / 1_000_000 for row in rows)
    paid = rows[-1].cost
    assert paid is not None and 0 < paid < dear
    with closing(sign_in(server, "mia", "manager")) as mia:
        page = " ".join(mia.get("/traffic").text.split())
    assert '<td class="number">75%</td>' in page and '<td class="number">25%</td>' in page
    assert f"Paid in all: {paid:,.4f}." in page
    assert f"{dear:,.4f}, so {dear - paid:,.4f} were saved." in page
    assert "67% of 3</td>" in page and "100% of 1</td>" in page


def test_answers_are_demonstrations_where_users_and_the_licence_allow_it(
    serve: Serve, script: str, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(script, route=by_words(fake))
    agree = {"metadata": {"consent": "yes"}}
    for text, more in (
        (LAW, {"user": "ann", **agree}),
        (LAW, {"user": "ann", **agree}),
        (f"{LAW} Quickly!", {"user": "ann", **agree, "max_tokens": 2}),  # cut
        (f"{LAW} I am ben@example.com.", {"user": "ben", **agree}),
        (f"{LAW} Please!", {"user": "cleo"}),  # did not agree
        (KNOCK, {"user": "dan", **agree}),  # answered by the small model
    ):
        server.ask(text, model="route", **more)
    bad = server.ask(f"{LAW} Now!", model="route", user="eve", **agree).json()
    server.post("/v1/feedback", {"id": bad["id"], "thumb": "down"})
    monkeypatch.chdir(server.project.folder)
    settings = server.project.folder / "plumb.toml"
    before = settings.read_text()
    export = ["feedback", "prompts", "--answers", "--out", "d.jsonl", "--plain-ids"]
    none = CliRunner().invoke(app, export)
    assert none.exit_code == 2 and "plumb.toml names none: it has no [route]" in none.stderr
    table = f'\n[route]\nlarge = "openai:large@{fake.url}"\nwords = ["contract"]\n'
    settings.write_text(before + table)
    refused = CliRunner().invoke(app, export)
    assert refused.exit_code == 2 and "put `teaches = true` into [route]" in refused.stderr
    assert not Path("d.jsonl").exists()
    settings.write_text(before + table + "teaches = true\n")
    done = CliRunner().invoke(app, export)
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in Path("d.jsonl").read_text().splitlines()]
    assert [(line["user_id"], [turn["content"] for turn in line["messages"]]) for line in lines] == [
        ("local/ann", [LAW, ADVICE]),
        ("local/ben", [f"{LAW} I am [EMAIL].", ADVICE]),
    ]
    assert {line["teacher"] for line in lines} == {f"openai:large@{fake.url}"}
    assert "1 left out that got a thumb down" in done.stderr
