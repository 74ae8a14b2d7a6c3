"""The manager's pages over HTTP: who may see them, what they say, what they change, and what they let out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from plumbline.feedback.exchange import FORMATS
from plumbline.feedback.queue import Queue
from plumbline.feedback.room import downloads
from plumbline.feedback.room.app import create_app
from plumbline.feedback.room.desk import router
from plumbline.feedback.room.downloads import WORDS
from plumbline.feedback.store import Overlap, Store, Submission
from plumbline.records import ComparisonSet
from rooms import HOT, HOT_ANSWERS

PAGES = ("", "/labelers", "/differences", "/flags", "/instructions", "/export")
HTML = {"Accept": "text/html"}


class Desk:
    """A store with a room over it, and people who are signed in."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(folder)
        self.queue = Queue(self.store, Overlap(each=2, gold_share=0.0))
        self.store.add_criterion("helpful", "Prefer what helps.\n", "mia")
        self.app = create_app(self.store, self.queue)
        self.ids: dict[str, str] = {}
        self.mia = self.client("mia", "manager")

    def client(self, name: str, role: Any = "labeler") -> TestClient:
        """A browser in which that person is signed in, and sends no forged writes."""
        self.ids[name] = self.store.add_labeler(name, role).labeler_id
        browser = TestClient(self.app, headers=HTML)
        signed = browser.post(
            f"/sign-in/{self.store.new_link(self.ids[name], timedelta(hours=1))}", follow_redirects=False
        )
        assert signed.status_code == 303
        found = re.search(r'name="csrf" content="(\w+)"', browser.get("/label").text)
        assert found
        browser.headers["X-CSRF-Token"] = found[1]
        return browser

    def add(self, *set_ids: str, answers: Sequence[str] = HOT_ANSWERS) -> None:
        completions = [{"text": text, "model": "some-model"} for text in answers]
        rows = [{"set_id": each, "prompt_id": each, "prompt": HOT, "completions": completions} for each in set_ids]
        self.store.add_sets(ComparisonSet.model_validate(row) for row in rows)

    def rank(self, name: str, set_id: str, ranks: Sequence[int | None]) -> None:
        if name not in self.ids:
            self.ids[name] = self.store.add_labeler(name).labeler_id
        held = []
        while (claim := self.queue.claim(self.ids[name], ahead=len(held))) and claim.set.set_id != set_id:
            held.append(claim)
        assert claim, f"{name} is not given {set_id}"
        flags = tuple(rank is None for rank in ranks)
        self.store.submit(
            Submission(f"{name}-{set_id}-key", set_id, self.ids[name], tuple(ranks), flags, 1, claim.order, 12.0)
        )

    def page(self, path: str) -> str:
        """The words of a page, without its markup."""
        answer = self.mia.get(f"/manager{path}")
        assert answer.status_code == 200, answer.text
        text = re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<head>.*?</head>", "", answer.text))
        return re.sub(r"\s+", " ", unescape(text))

    def export(self, **chosen: Any) -> list[Any]:
        answer = self.mia.get("/manager/export/file", params=chosen)
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.store.close()


# ---- who may


@pytest.mark.parametrize("path", PAGES)
def test_a_labeler_is_refused_in_a_sentence(desk: Desk, path: str) -> None:
    answer = desk.client("ann").get(f"/manager{path}")
    assert answer.status_code == 403
    assert "This page is for a manager, and you are signed in as a labeler." in unescape(answer.text)


def test_every_route_of_the_desk_is_closed_to_labelers_and_strangers(desk: Desk) -> None:
    ann, stranger = desk.client("ann"), TestClient(desk.app)
    paths = [(method, route.path) for route in router.routes for method in route.methods]  # type: ignore[attr-defined]
    assert len(paths) >= 14
    for method, path in paths:
        address = path.replace("{labeler_id}", desk.ids["ann"])
        assert stranger.request(method, address).status_code == 401, path
        assert ann.request(method, address).status_code == 403, path


def test_a_write_without_the_token_changes_nothing(desk: Desk) -> None:
    desk.mia.headers.pop("X-CSRF-Token")
    desk.client("ann")
    answer = desk.mia.post(f"/manager/labelers/{desk.ids['ann']}/exclude")
    assert answer.status_code == 403
    assert desk.store.excluded() == {}


@pytest.mark.parametrize("path", PAGES)
def test_a_room_in_which_nothing_happened_yet_has_its_pages(tmp_path: Path, path: str) -> None:
    desk = Desk(tmp_path)
    assert desk.page(path)
    desk.store.close()


# ---- how it goes


def test_each_set_is_counted_once(desk: Desk) -> None:
    desk.add("a", "b", "c", "d")
    desk.rank("ann", "a", (2, 1, 3))
    desk.rank("ben", "a", (1, 2, 3))
    desk.rank("ann", "b", (2, 1, 3))
    text = desk.page("")
    assert "1 of 4 sets have the rankings they need" in text
    assert "Of 4: 1 done, 0 surplus, " in text  # what the chart says to those who do not see it
    assert sum(map(int, re.findall(r"(\d+) (?:done|surplus|partly|open|skipped|waiting|known)[,.]", text))) == 4


def test_agreement_has_its_n_or_says_why_it_is_undefined(desk: Desk) -> None:
    desk.add("a", "b")
    desk.rank("ann", "a", (2, 1, 3))
    assert "Undefined: nobody ranked the same set" in desk.page("")
    desk.rank("ben", "a", (1, 2, 3))
    text = desk.page("")
    assert "2 sets ranked" not in text and "1 set ranked by 2 people, 1 of them by more than one" in text
    assert re.search(r"Without ties .* 67\s% no interval: one set 1 ", text)


def test_the_stamp_changes_with_what_the_pages_show(desk: Desk) -> None:
    desk.add("a")

    def stamp() -> str:
        answer = desk.mia.get("/manager/stamp", headers={"Accept": "application/json"})
        assert re.search(f'data-stamp="{re.escape(answer.json()["stamp"])}"', desk.mia.get("/manager").text)
        return str(answer.json()["stamp"])

    before = stamp()
    assert stamp() == before
    desk.rank("ann", "a", (1, 2, 3))
    after = stamp()
    assert after != before
    desk.mia.post(f"/manager/labelers/{desk.ids['ann']}/exclude")
    assert stamp() != after


# ---- what people differ on


def test_one_disagreement_is_shown_with_each_persons_ranks(desk: Desk) -> None:
    desk.add("a", "b")
    desk.rank("ann", "a", (2, 1, 3))
    desk.rank("ben", "a", (1, 2, 3))
    text = desk.page("/differences")
    assert "1 set in which people contradict one another" in text
    assert "1 of 3 choices contradicted, 2 people" in text
    first = text.index(HOT_ANSWERS[0])
    assert re.search(r"ann 2 ben 1", text[first:])
    assert re.search(rf"{re.escape(HOT_ANSWERS[1])} Who Rank ann 1 ben 2", text)
    assert "1 set in which people contradict one another" in desk.page("")


def test_flags_say_who_flagged_what(desk: Desk) -> None:
    desk.add("a")
    desk.rank("ann", "a", (None, 1, 2))
    desk.rank("ben", "a", (None, 1, 2))
    text = desk.page("/flags")
    assert "ann and ben of 2 judges: makes no sense. Set a, written by some-model" in text
    assert HOT_ANSWERS[0] in text and HOT_ANSWERS[1] not in text


def test_a_set_that_is_erased_is_shown_no_more(desk: Desk) -> None:
    row = {"set_id": "a", "prompt_id": "a", "prompt": HOT, "user_id": "user-7"}
    desk.store.add_sets(
        [ComparisonSet.model_validate({**row, "completions": [{"text": text} for text in HOT_ANSWERS]})]
    )
    desk.rank("ann", "a", (2, 1, 3))
    desk.rank("ben", "a", (1, 2, None))
    assert HOT in desk.page("/differences") and HOT in desk.page("/flags")
    desk.store.erase("user-7")
    assert HOT not in desk.page("/differences") and HOT not in desk.page("/flags")


def test_a_labeler_who_is_erased_is_named_no_more(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.add("a")
    desk.rank("ann", "a", (1, 2, None))
    desk.rank("ben", "a", (2, 1, 3))
    assert "ann" in desk.page("/differences") and "ann of 2 judges: makes no sense." in desk.page("/flags")
    before = desk.app.state.reckoner.figures()
    desk.store.erase_labeler(desk.ids["ann"])
    for path in ("/labelers", "/differences", "/flags"):
        assert "ann" not in re.findall(r"\w+", desk.page(path)) and "erased-" in desk.page(path)
    monkeypatch.setattr(desk.app.state.reckoner, "figures", lambda: before)  # while new ones take their time
    assert "somebody of 2 judges: makes no sense." in desk.page("/flags") and "somebody" in desk.page("/differences")


@pytest.mark.parametrize("path", ["/differences", "/flags"])
def test_words_of_models_and_people_stay_text(desk: Desk, path: str) -> None:
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    desk.add("a", answers=(hostile, "Open the windows."))
    desk.rank("<b>ann</b>", "a", (None, 1) if path == "/flags" else (1, 2))
    desk.rank("ben", "a", (2, 1))
    raw = desk.mia.get(f"/manager{path}").text
    assert "&lt;script&gt;alert(1)" in raw and "&lt;b&gt;ann" in raw
    assert hostile not in raw and "<b>ann" not in raw


def test_many_differences_come_in_pages(desk: Desk) -> None:
    names = [f"set-{number:02}" for number in range(23)]
    desk.add(*names)
    for name in names:
        desk.rank("ann", name, (1, 2, 3))
        desk.rank("ben", name, (2, 1, 3))
    first, second = desk.page("/differences"), desk.page("/differences?page=2")
    assert "Page 1 of 2" in first and "Page 2 of 2" in second
    assert (first.count("choices contradicted"), second.count("choices contradicted")) == (20, 3)
    assert "Page 2 of 2" in desk.page("/differences?page=99")


# ---- the words people rank by


def test_a_revision_is_the_next_version_with_its_changes_marked(desk: Desk) -> None:
    given = {"criterion": "helpful", "text": "Prefer what helps most.\r\n", "former": 1}
    answer = desk.mia.post("/manager/instructions", data=given)
    assert answer.status_code == 200 and "Saved." in answer.text
    newest = desk.store.instruction("helpful")
    assert (newest.version, newest.text, newest.by) == (2, "Prefer what helps most.", "mia")
    assert "<ins> most</ins>" in answer.text


def test_the_same_words_again_are_no_new_version(desk: Desk) -> None:
    given = {"criterion": "helpful", "text": "  Prefer what helps.\r\n\r\n", "former": 1}
    assert desk.mia.post("/manager/instructions", data=given).status_code == 200
    assert desk.store.instruction("helpful").version == 1


def test_two_managers_at_once_lose_nothing(desk: Desk) -> None:
    desk.store.revise("helpful", "Prefer what is true.\n", "noa")
    answer = desk.mia.post(
        "/manager/instructions", data={"criterion": "helpful", "text": "Prefer my own words.", "former": 1}
    )
    assert answer.status_code == 409
    assert "noa saved version 2 while you wrote" in answer.text
    assert "Prefer my own words." in answer.text
    assert desk.store.instruction("helpful").version == 2


def test_an_unknown_criterion_is_a_sentence(desk: Desk) -> None:
    answer = desk.mia.get("/manager/instructions?criterion=nice")
    assert answer.status_code == 404 and "take one of helpful" in answer.text


# ---- who ranks


def test_an_invitation_is_a_link_that_works_once(desk: Desk) -> None:
    answer = desk.mia.post("/manager/invitations", data={"name": " Zoë ", "role": "labeler"})
    found = re.search(r"http://testserver(/sign-in/[\w-]+)", answer.text)
    assert found and answer.headers["cache-control"] == "no-store"
    zoe = TestClient(desk.app)
    assert zoe.post(found[1], follow_redirects=False).status_code == 303
    assert "Zoë" in zoe.get("/label", headers=HTML).text
    assert TestClient(desk.app).post(found[1]).status_code == 403
    assert found[1] not in desk.mia.get("/manager/labelers").text


def test_a_name_that_is_taken_or_empty_is_refused(desk: Desk) -> None:
    assert desk.mia.post("/manager/invitations", data={"name": "mia", "role": "labeler"}).status_code == 400
    assert desk.mia.post("/manager/invitations", data={"name": "  ", "role": "labeler"}).status_code == 422
    assert desk.mia.post("/manager/invitations", data={"name": "zoe", "role": "king"}).status_code == 422
    assert [each.name for each in desk.store.labelers()] == ["mia"]


def test_leaving_out_is_evidence_a_person_and_a_way_back(desk: Desk) -> None:
    desk.add("a")
    desk.rank("ann", "a", (2, 1, 3))
    desk.rank("ben", "a", (3, 2, 1))
    address = f"/manager/labelers/{desk.ids['ben']}"
    said = desk.mia.post(f"{address}/exclude", data={"note": "ranks upside down"}).text
    assert "ben is left out." in said and "ranks upside down" in said
    stored = desk.store.excluded()[desk.ids["ben"]]
    assert stored.by == "mia" and stored.evidence["rankings"] == 1 and stored.evidence["note"] == "ranks upside down"
    assert {row["labeler_id"] for row in desk.export(format="rankings")} != set() and len(
        desk.export(format="rankings")
    ) == 1
    assert "Left out: ben." in desk.page("/export")
    assert "ben left out" in desk.page("/labelers")
    assert "ben counts again." in desk.mia.post(f"{address}/include").text
    assert desk.store.excluded() == {}
    assert len(desk.export(format="rankings")) == 2


def test_somebody_who_ranks_upside_down_is_suggested_with_evidence(desk: Desk) -> None:
    names = [f"set-{number:02}" for number in range(30)]
    desk.store.set_overlap(Overlap(each=3, gold_share=0.0))
    desk.add(*names)
    for number, name in enumerate(names):
        for who in ("ann", "cem", "ben"):
            slip = number % (5 if who == "ann" else 6) == 0
            ranks = (2, 1, 3) if slip else (1, 2, 3)
            desk.rank(who, name, ranks[::-1] if who == "ben" else ranks)
    assert "1 labeler whose rankings may not help" in desk.page("")
    text = desk.page("/labelers")
    assert re.search(r"ben chooses as others or gold do \d+\s% of the time on 30 sets", text)
    assert "That looks as if best and worst were swapped." in text
    assert text.count("Look and decide") == 1
    assert desk.store.excluded() == {}  # a suggestion changes nothing


def test_who_is_shown_a_set_twice_is_held_against_themselves(desk: Desk) -> None:
    desk.add("a")
    ann = desk.client("ann")
    assert "never asked a set twice" in desk.page(f"/labelers/{desk.ids['ann']}")
    desk.rank("ann", "a", (2, 1, 3))
    claim = desk.queue.claim(desk.ids["ann"], again=True)
    assert claim is not None
    given = ann.post("/label/api/claim", json={}).json()["claim"]
    assert (given["set_id"], given["again"]) == ("a", True)
    assert [each["place"] for each in given["answers"]] == list(claim.order)
    body = {
        "key": "0123456789abcdef",
        "set_id": "a",
        "again": True,
        "ranks": [2, 1, 1],
        "flags": [False] * 3,
        "instruction_version": 1,
        "shown_order": list(claim.order),
    }
    assert ann.post("/label/api/submit", json=body).json() == {"replayed": False}
    # 2, 1, 3 and then 2, 1, 1: the first pair is lost both times, the second won and lost, the third won and tied
    text = desk.page(f"/labelers/{desk.ids['ann']}")
    assert re.search(
        r"The same again asked a set twice: same of first, tie, second.*? 33\s% no interval: one set 1 ", text
    )
    assert re.search(r"33\s% of 1", desk.page("/labelers"))
    assert len(desk.export(format="rankings")) == 1  # the second is no ranking of another person


def test_an_unknown_labeler_is_a_sentence(desk: Desk) -> None:
    answer = desk.mia.get("/manager/labelers/nobody")
    assert answer.status_code == 400 and "nobody" in answer.text


# ---- the way out


def test_every_format_has_its_words() -> None:
    assert set(WORDS) == set(FORMATS)


def test_a_download_is_a_file_that_training_loads(desk: Desk) -> None:
    desk.add("a")
    desk.rank("ann", "a", (2, 1, 3))
    answer = desk.mia.get("/manager/export/file?format=trl-dpo")
    assert answer.headers["content-disposition"] == 'attachment; filename="plumbline-trl-dpo.jsonl"'
    pairs = [json.loads(line) for line in answer.text.splitlines()]
    assert len(pairs) == 3
    assert {each["chosen"][0]["content"] for each in pairs} == {HOT_ANSWERS[0], HOT_ANSWERS[1]}
    assert all(each["prompt"] == [{"role": "user", "content": HOT}] for each in pairs)


def test_people_have_aliases_in_what_leaves(desk: Desk) -> None:
    desk.add("a")
    desk.rank("ann", "a", (2, 1, 3))
    [row] = desk.export(format="rankings")
    assert row["labeler_id"].startswith("labeler-") and row["labeler_id"] != desk.ids["ann"]


def test_labelers_together_are_one_ranking_a_set(desk: Desk) -> None:
    desk.add("a")
    desk.rank("ann", "a", (2, 1, 3))
    desk.rank("ben", "a", (1, 2, 3))
    [row] = desk.export(format="rankings", merged=1)
    assert row["ranks"] == [1, 1, 2] and row["n_votes"] == 2


def test_personal_data_is_replaced_where_asked(desk: Desk) -> None:
    desk.add("a", answers=("Write to jane.doe@example.com.", "Open the windows."))
    desk.rank("ann", "a", (1, 2))
    assert "jane.doe" in str(desk.export(format="trl-dpo"))
    assert "jane.doe" not in str(desk.export(format="trl-dpo", clean=1))


def test_what_was_let_out_is_known_to_an_erasure(desk: Desk) -> None:
    completions = [{"text": text} for text in HOT_ANSWERS]
    row = {"set_id": "a", "prompt_id": "a", "prompt": HOT, "completions": completions, "user_id": "user-7"}
    desk.store.add_sets([ComparisonSet.model_validate(row)])
    desk.rank("ann", "a", (2, 1, 3))
    sent = desk.mia.get("/manager/export/file?format=trl-dpo").content
    assert desk.store.erase("user-7").data_hashes == (hashlib.sha256(sent).hexdigest(),)


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ("format=kto", "nothing that people said so far has what kto needs"),
        ("format=csv", "there is no format 'csv'"),
        ("format=rankings&part=train", "`plumb feedback split` makes them"),
        ("format=rankings&part=all", "There is no split 'all'"),
    ],
)
def test_what_cannot_be_downloaded_is_a_sentence(desk: Desk, chosen: str, sentence: str) -> None:
    desk.add("a")
    desk.rank("ann", "a", (2, 1, 3))
    answer = desk.mia.get(f"/manager/export/file?{chosen}")
    assert answer.status_code in (400, 422)
    assert sentence in unescape(answer.text)


def test_a_download_is_made_while_it_is_sent(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "A_PIECE", 1)
    desk.add("a", "b", "c")
    for name in ("a", "b", "c"):
        desk.rank("ann", name, (2, 1, 3))
    taken: list[str] = []
    rankings = desk.store.rankings

    def watched(**which: Any) -> Iterator[Any]:
        for each in rankings(**which):
            taken.append(each.set_id)
            yield each

    monkeypatch.setattr(desk.store, "rankings", watched)
    sending = downloads.download(desk.store, downloads.Choice("rankings"))
    next(sending)
    assert len(taken) == 1
    sending.close()  # type: ignore[attr-defined]
