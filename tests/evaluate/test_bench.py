"""What a bench keeps: nothing is asked twice, a stopped run goes on where it was, and another model is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer, Handler, Request, chat, send

from plumbline.errors import EndpointError, UserError
from plumbline.evaluate.bench import ANSWERS, VERDICTS, Bench
from plumbline.evaluate.likelihood import Case
from plumbline.models import Generate, Sampling, load
from plumbline.models.preference import Case as Pair
from plumbline.models.preference import Criterion, Scored, Spoken
from plumbline.models.scripted import Scripted, ScriptedScore

GREEDY = Sampling(temperature=0.0)


def script(folder: Path, text: str = "yes") -> str:
    path = folder / "script.jsonl"
    path.write_text(json.dumps({"prompt": "unused", "completion": text}) + "\n")
    return f"scripted:{path}"


def bench(folder: Path, model: Generate, **more: Any) -> Bench:
    return Bench(script(folder), folder / "bench", open_model=lambda _: model, **more)


def test_what_was_asked_is_not_asked_again(tmp_path: Path) -> None:
    model = Scripted(lambda prompt: f"said {prompt}")
    first = bench(tmp_path, model)
    assert first.answer(["a", "b", "a"], GREEDY) == ["said a", "said b", "said a"]
    assert [call.prompts for call in model.calls] == [("a", "b")]  # the same prompt once
    later = bench(tmp_path, model)
    assert later.answer(["b", "c"], GREEDY) == ["said b", "said c"]
    assert [call.prompts for call in model.calls[1:]] == [("c",)]


def test_another_way_to_draw_is_another_answer(tmp_path: Path) -> None:
    model = Scripted(lambda prompt: ["one", "two", "three"])
    mine = bench(tmp_path, model)
    assert mine.samples(["a"], Sampling(n=3, seed=0)) == [["one", "two", "three"]]
    assert mine.answer(["a"], GREEDY) == ["one"]
    assert len(model.calls) == 2
    assert bench(tmp_path, model).samples(["a"], Sampling(n=3, seed=0)) == [["one", "two", "three"]]
    assert len(model.calls) == 2


def test_a_run_that_breaks_off_goes_on_where_it_was(tmp_path: Path) -> None:
    def breaks(prompt: str) -> str | Exception:
        return RuntimeError("out of memory") if prompt == "p70" else f"said {prompt}"

    prompts = [f"p{number}" for number in range(100)]
    with pytest.raises(RuntimeError, match="out of memory"):
        bench(tmp_path, Scripted(breaks)).answer(prompts, GREEDY)
    model = Scripted(lambda prompt: f"said {prompt}")
    assert bench(tmp_path, model).answer(prompts, GREEDY) == [f"said {prompt}" for prompt in prompts]
    asked = [prompt for call in model.calls for prompt in call.prompts]
    assert asked == prompts[64:]  # two whole batches of 32 were kept


def test_a_line_that_a_kill_tore_is_asked_again(tmp_path: Path) -> None:
    bench(tmp_path, Scripted(lambda prompt: f"said {prompt}")).answer(["a", "b"], GREEDY)
    path = tmp_path / "bench" / ANSWERS
    path.write_bytes(path.read_bytes()[:-9])
    model = Scripted(lambda prompt: f"said {prompt}")
    assert bench(tmp_path, model).answer(["a", "b"], GREEDY) == ["said a", "said b"]
    assert [call.prompts for call in model.calls] == [("b",)]


def test_answers_of_a_model_that_has_changed_are_refused(tmp_path: Path) -> None:
    bench(tmp_path, Scripted(lambda prompt: "old")).answer(["a"], GREEDY)
    name = script(tmp_path, "something else")
    with pytest.raises(UserError, match="the model has changed: begin again with --again"):
        Bench(name, tmp_path / "bench")
    afresh = Bench(name, tmp_path / "bench", again=True, open_model=lambda _: Scripted(lambda prompt: "new"))
    assert afresh.answer(["a"], GREEDY) == ["new"]


def test_a_model_trained_anew_is_known_by_any_of_its_weights(tmp_path: Path, tiny_llama: Path) -> None:
    """Adapters on the top layers change neither the beginning nor the end of a file of weights."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    Bench(str(folder), tmp_path / "bench")
    weights = folder / "model.safetensors"
    held = bytearray(weights.read_bytes())
    assert len(held) > 4 << 16
    held[len(held) // 2] ^= 1
    weights.write_bytes(held)
    with pytest.raises(UserError, match="the model has changed"):
        Bench(str(folder), tmp_path / "bench")


def test_weights_are_kept_too(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [Case("Hi", ("there", "you"))]
    found = Bench(str(tiny_llama), tmp_path / "bench").weigh(cases)
    assert [weight.tokens > 0 and weight.logprob < 0 for weight in found[0]] == [True, True]
    later = Bench(str(tiny_llama), tmp_path / "bench")
    monkeypatch.setattr(Bench, "likelihood", property(lambda self: pytest.fail("the model was asked again")))
    assert later.weigh(cases) == found


def test_an_endpoint_gives_no_probabilities(tmp_path: Path) -> None:
    remote = Bench("openai:m@http://127.0.0.1:9/v1", tmp_path)
    with pytest.raises(UserError, match="gives no probabilities of given texts"):
        remote.weigh([Case("Hi", ("there",))])


# ---- an endpoint that dies at item 700 of 1,000


@pytest.fixture
def dying() -> Iterator[FakeServer]:
    """Answers 700 requests, and refuses all after that until it is healed."""
    answered: list[str] = []

    def behave(handler: Handler, request: Request) -> None:
        prompt = request.body["messages"][-1]["content"]
        with handler.server.lock:
            alive = len(answered) < 700 or server.healed
            if alive:
                answered.append(prompt)
        send(chat(f"said {prompt}") if alive else {"error": {"message": "gone"}}, 200 if alive else 401)(
            handler, request
        )

    with FakeServer(behave) as server:
        server.healed = False  # type: ignore[attr-defined]
        server.answered = answered  # type: ignore[attr-defined]
        yield server


def test_an_endpoint_that_dies_at_item_700_is_asked_for_the_other_300(tmp_path: Path, dying: Any) -> None:
    name, prompts = f"openai:m@{dying.url}", [f"p{number}" for number in range(1000)]
    with pytest.raises(EndpointError, match="gone"):
        Bench(name, tmp_path).answer(prompts, GREEDY)
    kept = (tmp_path / ANSWERS).read_text().splitlines()
    assert len(kept) == 700  # every answer that came is kept
    dying.healed = True
    found = Bench(name, tmp_path).answer(prompts, GREEDY)
    assert found == [f"said {prompt}" for prompt in prompts]
    assert len(dying.answered) == 1000 and set(dying.answered) == set(prompts)  # nothing was asked twice


def number_in(text: str) -> int:
    """That of the request in a judge's prompt."""
    return int(re.search(r"Request: p(\d+)", text)[1])  # type: ignore[index]


def test_a_judge_that_dies_at_verdict_350_of_500_is_asked_for_the_other_150(tmp_path: Path) -> None:
    """Each verdict takes two requests, one for each order."""
    asked: list[str] = []

    def behave(handler: Handler, request: Request) -> None:
        text = request.body["messages"][-1]["content"]
        alive = number_in(text) < 350 or revived
        if alive:
            asked.append(text)
        first_is_mine = text.index("mine") < text.index("theirs")
        reply = chat("A" if first_is_mine else "B") if alive else {"error": {"message": "gone"}}
        send(reply, 200 if alive else 401)(handler, request)

    cases = [Pair(f"p{number}", "mine", "theirs") for number in range(500)]
    revived = False
    with FakeServer(behave) as server:
        judge = Spoken(load(f"openai:m@{server.url}"))
        with pytest.raises(EndpointError, match="gone"):
            bench(tmp_path, Scripted([])).judge(judge, cases, Criterion("Which is better?"))
        assert len((tmp_path / "bench" / VERDICTS).read_text().splitlines()) == 350
        revived = True
        found = bench(tmp_path, Scripted([])).judge(judge, cases, Criterion("Which is better?"))
        assert len(set(asked)) == 1000
        # Nothing that was kept is asked again. What was on its way when the judge died may arrive after its revival.
        assert all(number_in(text) >= 350 for text, times in Counter(asked).items() if times > 1)
        before = len(asked)
        bench(tmp_path, Scripted([])).judge(judge, cases[:1], Criterion("Which is shorter?"))
    assert [verdict.winner for verdict in found] == ["first"] * 500
    assert len(asked) == before + 2  # another question is another verdict


def test_a_judge_that_runs_here_is_asked_again_since_it_may_have_changed(tmp_path: Path) -> None:
    score = ScriptedScore(lambda prompt, text: float(len(text)))
    for _ in range(2):
        (verdict,) = bench(tmp_path, Scripted([])).judge(Scored(score), [Pair("p", "long", "no")], Criterion("?"))
        assert verdict.winner == "first"
    assert not (tmp_path / "bench" / VERDICTS).exists()
