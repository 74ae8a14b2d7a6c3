"""The playground: what people do there is stored as theirs; and the page as Chromium shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from looks import CONTRASTS, OVER_THE_EDGE
from plumbline.feedback.store import Labeler
from plumbline.guard.rails import Blocklist
from serving import HOT, HOT_ANSWERS, KNOCK, WHO, Running, sign_in, write_script

Serve = Callable[..., Running]
ATTACK = "Show me."
SCRIPTED = "<img src=x onerror=alert(1)><script>alert(2)</script> & done."


class Visit:
    """Somebody who is signed in."""

    def __init__(self, server: Running, name: str = "ann") -> None:
        self.server = server
        self.http = sign_in(server, name)
        self.who: Labeler = server.store.person(name)

    @property
    def link(self) -> str:
        return f"/sign-in/{self.server.store.new_link(self.who.labeler_id, timedelta(hours=1))}"

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return self.http.post(f"/playground/api/{path}", json=body)

    def ask(self, text: str, **more: Any) -> httpx.Response:
        return self.post("chat", {"messages": [{"role": "user", "content": text}], **more})


@pytest.fixture
def visit(serve: Serve, tmp_path: Path) -> Iterator[Callable[..., Visit]]:
    (tmp_path / "other").mkdir()
    model, other = write_script(tmp_path, {ATTACK: [SCRIPTED]}), write_script(tmp_path / "other", {KNOCK: ["Go away."]})
    server = serve(model, canary=other)
    visits: list[Visit] = []

    def enter(name: str = "ann") -> Visit:
        visits.append(Visit(server, name))
        return visits[-1]

    yield enter
    for each in visits:
        each.http.close()


def test_nobody_plays_without_a_sign_in(server: Running) -> None:
    page = server.http.get(f"{server.address}/playground", headers={"Accept": "text/html"})
    assert page.status_code == 401 and "You are not signed in here" in page.text
    refused = server.post("/playground/api/chat", {"messages": [{"role": "user", "content": "Hi"}]})
    assert refused.status_code == 401 and server.stored() == []


def test_a_write_without_the_pages_token_is_refused(visit: Callable[..., Visit]) -> None:
    ann = visit()
    del ann.http.headers["X-CSRF-Token"]
    assert ann.ask(KNOCK).status_code == 403


def test_what_is_asked_and_said_there_is_the_visitors(visit: Callable[..., Visit]) -> None:
    ann = visit()
    streamed = ann.ask(KNOCK, consent=True)
    assert streamed.headers["content-type"].startswith("text/event-stream") and "[DONE]" in streamed.text
    (row,) = ann.server.stored()
    assert (row.tenant, row.user_id) == ("playground", f"playground/{ann.who.labeler_id}")
    assert row.settings is not None and row.settings["consent"] is True
    assert ann.post("feedback", {"id": row.exchange_id, "thumb": "up"}).status_code == 200
    (rating,) = ann.server.store.ratings()
    assert (rating.completion, rating.label) == (WHO, True)


def test_drafts_are_ranked_by_the_labeler_they_are(visit: Callable[..., Visit]) -> None:
    ann = visit()
    drafts = ann.ask(HOT, drafts=3, sampling={"seed": 0}).json()
    assert [choice["message"]["content"] for choice in drafts["choices"]] == list(HOT_ANSWERS)
    assert ann.post("feedback", {"id": drafts["id"], "ranks": [2, 1, 3]}).status_code == 200
    (ranking,) = ann.server.store.rankings()
    assert (ranking.ranks, ranking.labeler_id) == ((2, 1, 3), ann.who.labeler_id)


def test_two_versions_are_compared_blind(visit: Callable[..., Visit]) -> None:
    ann, ben = visit(), visit("ben")
    versions = [engine.name for engine in ann.server.serving.versions.engines()]
    answers = ann.post("compare", {"messages": [{"role": "user", "content": KNOCK}]}).json()["answers"]
    assert {each["text"] for each in answers} == {WHO, "Go away."}
    assert all(set(each) == {"id", "text"} for each in answers)
    said = {"ids": [each["id"] for each in answers], "ranks": [1, 2]}
    assert ben.post("prefer", said).status_code == 404
    told = ann.post("prefer", said).json()["versions"]
    assert sorted(told) == sorted(versions)
    assert dict(zip(told, (each["text"] for each in answers), strict=True)) == {
        versions[0]: WHO,
        versions[1]: "Go away.",
    }
    (kept,) = ann.server.store.sets()
    (ranking,) = ann.server.store.rankings()
    best = ranking.completions[ranking.ranks.index(1)]
    assert best == answers[0]["text"]
    assert {answer.text: answer.model for answer in kept.completions}[best] == told[0]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat", {"messages": []}),
        ("chat", {"messages": [{"role": "tool", "content": "x"}]}),
        ("chat", {"messages": [{"role": "user", "content": "x"}], "drafts": 9}),
        ("look", {"messages": [{"role": "user", "content": "x"}], "sampling": {"temperature": 9}}),
        ("prefer", {"ids": ["a"], "ranks": [1, 2]}),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(
    visit: Callable[..., Visit], path: str, body: dict[str, Any]
) -> None:
    refused = visit().post(path, body)
    assert refused.status_code == 422 and refused.json()["error"].startswith("The request is not understood.")


def test_a_visitor_speaks_of_their_own_answers_and_as_nobody_else(visit: Callable[..., Visit]) -> None:
    ann, ben = visit(), visit("ben")
    ann.ask(KNOCK)
    (row,) = ann.server.stored()
    thumb = {"id": row.exchange_id, "thumb": "down"}
    assert ben.post("feedback", thumb).status_code == 404
    assert ann.post("feedback", {**thumb, "user": ben.who.labeler_id}).status_code == 200
    assert [rating.user_id for rating in ann.server.store.ratings()] == [f"playground/{ann.who.labeler_id}"]


def test_an_answer_is_not_compared_with_itself(visit: Callable[..., Visit]) -> None:
    ann = visit()
    ann.ask(KNOCK)
    (row,) = ann.server.stored()
    assert ann.post("prefer", {"ids": [row.exchange_id] * 2, "ranks": [1, 2]}).status_code == 404
    assert list(ann.server.store.sets()) == []


def test_a_look_at_what_comes_next_goes_the_way_of_every_request(visit: Callable[..., Visit]) -> None:
    ann = visit()
    service = ann.server.serving.service
    service.guards = (Blocklist(["the war"]),)
    refused = ann.post("look", {"messages": [{"role": "user", "content": "the war"}]})
    assert refused.status_code == 400 and "stopped by the rail" in refused.json()["error"]
    service.settings = replace(service.settings, longest_prompt=10)
    assert ann.post("look", {"messages": [{"role": "user", "content": "much too long"}]}).status_code == 413
    assert service.line.free == service.line.places


def test_a_second_version_that_tells_no_probabilities_answers_without(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    server = serve(write_script(tmp_path), canary=write_script(tmp_path / "other", {KNOCK: ["Go away."]}), share=1.0)
    server.serving.versions.primary.known["logprobs"] = True  # as a local model beside one that runs elsewhere
    visit = Visit(server)
    streamed = visit.ask(KNOCK)
    visit.http.close()
    assert (streamed.status_code, "Go" in streamed.text) == (200, True)


def test_the_picture_is_the_samplers_own(serve: Serve, tiny_llama: Path) -> None:
    import numpy as np

    from plumbline.models import Sampling
    from plumbline.models.generate import Reference
    from plumbline.models.sampling import distribution

    ann = Visit(serve(str(tiny_llama), engine="transformers"))
    drawn = {"temperature": 0.6, "top_k": 8, "top_p": 0.7}
    asked = [{"role": "user", "content": "Hi"}]
    found = ann.post("look", {"messages": asked, "sampling": drawn}).json()
    ann.http.close()
    reference = Reference.open(tiny_llama, device="cpu")
    prompt = reference.rows(asked, Sampling(seed=0), "")[0].prompt
    logits = reference.logits(prompt, 1)[0]
    kept = distribution(logits, Sampling(**drawn))
    assert found["kept"] == np.count_nonzero(kept)
    assert [each["kept"] for each in found["tokens"]] == pytest.approx(np.sort(kept)[::-1][:24].tolist(), abs=1e-4)
    assert sum(each["kept"] for each in found["tokens"]) == pytest.approx(1.0, abs=1e-4)


# ---- in Chromium


@pytest.fixture
def enter(chromium: Any, visit: Callable[..., Visit]) -> Iterator[Callable[..., Any]]:
    """`enter()` is the page as Ann sees it. When the test ends, no page may have complained or asked anybody else."""
    contexts: list[Any] = []
    heard: list[str] = []
    expects: list[str] = []
    ann = visit()

    def open_page(*, expected: tuple[str, ...] = (), **settings: Any) -> Any:
        expects.extend(expected)
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 860}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: heard.append(f"an exception: {error}"))
        page.on("console", lambda line: heard.append(line.text) if line.type in ("error", "warning") else None)
        page.on("request", lambda sent: None if sent.url.startswith(ann.server.address) else heard.append(sent.url))
        page.goto(ann.server.address + ann.link)
        page.get_by_role("button", name="Sign in").click()
        page.locator("#words").wait_for()
        page.server = ann.server
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in heard if not any(word in line for word in expects)] == []


def write(page: Any, text: str, way: str = "1") -> None:
    page.locator("#way").select_option(way)
    page.locator("#words").fill(text)
    page.locator("#words").press("Enter")


@pytest.mark.browser
def test_a_thumb_and_a_better_answer_pressed_in_the_browser_are_kept(enter: Callable[..., Any]) -> None:
    page = enter()
    write(page, KNOCK)
    good = page.get_by_role("button", name="Good")
    good.click()
    page.locator('[aria-pressed="true"]', has_text="Good").wait_for()
    assert page.locator(".answer .text").inner_text() == WHO
    page.get_by_role("button", name="Edit").click()
    page.locator(".rewrite textarea").fill("Who’s there?")
    page.get_by_role("button", name="Keep the better answer").click()
    page.get_by_text("Better answer kept").first.wait_for()
    (rating,) = page.server.store.ratings()
    (edit,) = page.server.store.edits()
    assert (rating.label, edit.original, edit.edited) == (True, WHO, "Who’s there?")


@pytest.mark.browser
def test_drafts_and_versions_are_ranked_in_the_browser(enter: Callable[..., Any]) -> None:
    page = enter()
    write(page, HOT, "3")
    page.locator(".ranks").nth(2).wait_for()
    for place, rank in enumerate(("2", "1", "No sense")):
        page.locator(".ranks").nth(place).get_by_role("button", name=rank, exact=True).click()
    page.get_by_role("button", name="Keep the ranking").click()
    page.get_by_text("Ranking kept").first.wait_for()
    write(page, KNOCK, "compare")
    page.locator(".ranks").nth(4).wait_for()
    assert page.locator(".answers").nth(1).locator(".badge").count() == 0
    for place, rank in ((3, "1"), (4, "2")):
        page.locator(".ranks").nth(place).get_by_role("button", name=rank, exact=True).click()
    page.get_by_role("button", name="Keep the ranking").click()
    page.locator(".answers").nth(1).locator(".badge").nth(1).wait_for()
    assert sorted(ranking.ranks for ranking in page.server.store.rankings()) in (
        [(1, 2), (2, 1, None)],
        [(2, 1), (2, 1, None)],
    )


@pytest.mark.browser
def test_what_a_model_writes_stays_text(enter: Callable[..., Any]) -> None:
    page = enter()
    write(page, ATTACK)
    page.get_by_role("button", name="Good").wait_for()
    assert page.locator(".answer .text").inner_text() == SCRIPTED
    assert page.locator(".answer img, .answer script").count() == 0


@pytest.mark.browser
def test_a_refusal_is_shown_and_the_words_come_back(enter: Callable[..., Any]) -> None:
    page = enter(expected=("status of 400",))
    write(page, "What nobody knows")
    page.get_by_text("has no answer to").wait_for()
    assert page.locator("#words").input_value() == "What nobody knows"
    assert page.locator(".answer").count() == 0


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_and_nothing_reaches_over_the_edge(enter: Callable[..., Any], scheme: str) -> None:
    page = enter(color_scheme=scheme, viewport={"width": 360, "height": 740})
    write(page, HOT, "3")
    page.locator(".ranks").nth(2).wait_for()
    page.locator(".ranks").nth(0).get_by_role("button", name="1").click()
    write(page, KNOCK)
    page.get_by_role("button", name="Bad").click()
    page.locator('[aria-pressed="true"]', has_text="Bad").wait_for()
    page.get_by_role("button", name="Edit").click()
    assert [each for each in page.evaluate(CONTRASTS) if each[1] < 4.5] == []
    assert page.evaluate(OVER_THE_EDGE) == []
