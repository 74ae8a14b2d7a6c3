"""What the labeler's page asks for over HTTP: forged links, two tabs, replays, late leases, other people's sets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from collecting import Clock
from plumbline.feedback.queue import Queue
from plumbline.feedback.room.app import create_app
from plumbline.feedback.store import Overlap, Store
from plumbline.records import ComparisonSet
from plumbline.web.limits import Limit

KEY = "0123456789abcdef"
HOT = ("Heat is energy.", "Open the windows at night.", "Buy an air conditioner.")


class Labeler:
    """Somebody who is signed in, and asks as the page's script does."""

    def __init__(self, client: TestClient, labeler_id: str) -> None:
        self.client, self.labeler_id = client, labeler_id
        found = re.search(r'name="csrf" content="(\w+)"', client.get("/label", headers={"Accept": "text/html"}).text)
        assert found is not None
        self.token = {"X-CSRF-Token": found[1]}

    def post(self, what: str, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
        answer = self.client.post(f"/label/api/{what}", json=body, headers=self.token)
        assert answer.status_code == status, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def claim(self, *have: str) -> dict[str, Any]:
        claim: dict[str, Any] = self.post("claim", {"have": list(have)})["claim"]
        return claim

    def said(self, claim: dict[str, Any], ranks: list[int | None], **other: Any) -> dict[str, Any]:
        """The body of a submission."""
        return {
            "key": KEY,
            "set_id": claim["set_id"],
            "ranks": ranks,
            "flags": [rank is None for rank in ranks],
            "instruction_version": claim["instruction"]["version"],
            "shown_order": [answer["place"] for answer in claim["answers"]],
            "seconds": 1.5,
            "client_time": "1970-01-01T00:00:00.000Z",
            **other,
        }


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with Store.open(tmp_path / "plumb.db", clock=clock) as store:
        for name in ("hot", "cold", "wet"):
            given = {
                "prompt_id": name,
                "prompt": f"{name}?",
                "completions": [{"text": each, "model": "m"} for each in HOT],
            }
            store.add_sets([ComparisonSet.model_validate({"set_id": name, **given})])
        yield store


@pytest.fixture
def app(store: Store) -> Any:
    queue = Queue(store, Overlap(each=1, gold_share=0.0))
    return create_app(store, queue, writes=Limit(1000, 1000, "Slowly."))


def enter(app: Any, store: Store, name: str, role: Any = "labeler") -> Labeler:
    """Signs somebody new in."""
    labeler = store.add_labeler(name, role)
    client = TestClient(app)
    assert client.post(f"/sign-in/{store.new_link(labeler.labeler_id, timedelta(days=1))}").status_code == 200
    return Labeler(client, labeler.labeler_id)


@pytest.fixture
def ann(app: Any, store: Store) -> Labeler:
    return enter(app, store, "Ann")


def test_a_claim_shows_the_answers_in_this_labelers_order_and_nothing_of_their_makers(ann: Labeler) -> None:
    claim = ann.claim()
    assert claim["prompt"] == [{"role": "user", "content": "hot?"}]
    assert {answer["place"]: answer["text"] for answer in claim["answers"]} == dict(enumerate(HOT))
    assert all(set(answer) == {"place", "text"} for answer in claim["answers"])
    assert claim["answers"] == ann.claim()["answers"]
    assert '"m"' not in str(claim)


def test_the_next_claim_is_one_that_the_browser_does_not_have(ann: Labeler) -> None:
    assert [ann.claim()["set_id"], ann.claim("hot")["set_id"], ann.claim("hot", "cold")["set_id"]] == [
        "hot",
        "cold",
        "wet",
    ]
    assert ann.claim("hot", "cold", "wet") is None
    assert ann.claim("cold")["set_id"] == "hot"


def test_two_labelers_never_hold_the_same_place(app: Any, store: Store, ann: Labeler) -> None:
    ben = enter(app, store, "Ben")
    assert {ann.claim()["set_id"], ben.claim()["set_id"], ann.claim("hot")["set_id"]} == {"hot", "cold", "wet"}
    assert ben.claim("cold") is None


def test_a_submission_is_stored_once_however_often_it_comes(store: Store, ann: Labeler) -> None:
    body = ann.said(ann.claim(), [2, 1, 3])
    assert [ann.post("submit", body)["replayed"] for _ in range(3)] == [False, True, True]
    [said] = store.rankings(current=False)
    assert (said.ranks, said.completions) == ((2, 1, 3), HOT)
    assert said.model_extra is not None and said.model_extra["seconds"] == 1.5


def test_a_key_with_another_body_is_refused(store: Store, ann: Labeler) -> None:
    claim = ann.claim()
    ann.post("submit", ann.said(claim, [2, 1, 3]))
    assert "make a new one" in ann.post("submit", ann.said(claim, [1, 2, 3]), 400)["error"]
    assert [each.ranks for each in store.rankings(current=False)] == [(2, 1, 3)]


def test_two_tabs_with_their_own_keys_revise_one_answer(store: Store, ann: Labeler) -> None:
    one, other = ann.claim(), ann.claim()
    assert one == other
    ann.post("submit", ann.said(one, [1, 2, 3]))
    ann.post("submit", ann.said(other, [3, 2, 1], key=KEY[::-1]))
    assert [each.ranks for each in store.rankings()] == [(3, 2, 1)]
    assert len(list(store.rankings(current=False))) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ranks": [1, 2, None]}, "no rank and is not flagged"),
        ({"flags": [True, False, False]}, "a flagged one has rank null"),
        ({"ranks": [0, 1, 2]}, "the best rank is 1"),
        ({"ranks": [1, 2]}, "2 entries for 3 completions"),
        ({"set_id": "unknown"}, "'unknown'"),
        ({"set_id": "wet"}, "'wet'"),
        ({"instruction_version": 9}, "no version '9'"),
        ({"shown_order": [0, 0, 1]}, "`shown_order`"),
        ({"texts": [{"place": 7, "text": "x"}]}, "no answer"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_stored(
    store: Store, ann: Labeler, change: dict[str, Any], said: str
) -> None:
    body = ann.said(ann.claim(), [1, 2, 3]) | change
    assert said in ann.post("submit", body, 400)["error"]
    assert list(store.rankings(current=False)) == []


NO_RANKS = ("123", [1.5, 1, 1], [True, 2, 3], ["1", 2, 3])


@pytest.mark.parametrize("change", [{"key": ""}, {"seconds": -1}, *({"ranks": ranks} for ranks in NO_RANKS)])
def test_what_is_not_even_a_submission_is_refused(ann: Labeler, change: dict[str, Any]) -> None:
    assert ann.post("submit", ann.said(ann.claim(), [1, 2, 3]) | change, 422)["error"].startswith("The request is not")


def test_what_comes_after_the_lease_is_stored_all_the_same(app: Any, store: Store, ann: Labeler, clock: Clock) -> None:
    claim = ann.claim()
    clock.pass_(timedelta(hours=2)) if hasattr(clock, "pass_") else None
    ann.post("submit", ann.said(claim, [2, 1, 3]))
    assert [each.ranks for each in store.rankings()] == [(2, 1, 3)]


def test_a_draft_comes_back_with_the_claim_and_keeps_the_lease(store: Store, ann: Labeler) -> None:
    draft = {
        "ranks": [1, None, None],
        "flags": [False, False, True],
        "texts": [{"place": None, "text": "own"}],
        "seconds": 2,
    }
    set_id = ann.claim()["set_id"]
    assert ann.post("draft", {"set_id": set_id, "draft": draft})["lease_until"]
    assert ann.claim()["draft"] == draft


def test_nobody_writes_drafts_for_sets_that_they_were_not_given(ann: Labeler) -> None:
    draft = {"ranks": [], "flags": []}
    for set_id in ("wet", "unknown"):
        assert set_id in ann.post("draft", {"set_id": set_id, "draft": draft}, 400)["error"]


def test_a_skipped_set_does_not_come_again_and_can_be_reopened(store: Store, ann: Labeler) -> None:
    claim = ann.claim()
    ann.post("skip", {"key": KEY, "set_id": claim["set_id"], "reason": "It is disturbing"})
    assert ann.claim()["set_id"] != claim["set_id"]
    [item] = ann.client.get("/label/api/history").json()["items"]
    assert (item["state"], item["reason"], item["prompt"]) == ("skipped", "It is disturbing", "hot?")
    reopened = ann.post("reopen", {"set_id": claim["set_id"]})["claim"]
    assert reopened["answers"] == claim["answers"]
    ann.post("submit", ann.said(reopened, [1, 1, None]))
    assert [each.flags for each in store.rankings()] == [(False, False, True)]


def test_only_ones_own_last_ten_can_be_reopened(app: Any, store: Store, ann: Labeler) -> None:
    ann.post("submit", ann.said(ann.claim(), [2, 1, 3], texts=[{"place": 0, "text": "better"}]))
    kept = ann.post("reopen", {"set_id": "hot"})["kept"]
    assert (kept["ranks"], kept["texts"]) == ([2, 1, 3], [{"text": "better", "place": 0}])
    ben = enter(app, store, "Ben")
    assert "not among your last ten" in ben.post("reopen", {"set_id": "hot"}, 404)["error"]


def test_what_changed_in_the_instructions_is_told(store: Store, ann: Labeler) -> None:
    criterion = ann.claim()["instruction"]["criterion"]
    before = store.instruction(criterion).text
    store.revise(criterion, before + "\nTies are fine.", "mia")
    parts = ann.post("changes", {"criterion": criterion, "since": 1, "until": 2})["parts"]
    assert "".join(each["text"] for each in parts if each["kind"] == "new").strip() == "Ties are fine."
    assert ann.claim()["instruction"]["version"] == 2


def test_every_write_needs_the_token_and_every_question_a_session(app: Any, ann: Labeler) -> None:
    for what in ("claim", "draft", "submit", "skip", "reopen", "changes"):
        assert ann.client.post(f"/label/api/{what}", json={}).status_code == 403
        assert TestClient(app).post(f"/label/api/{what}", json={}).status_code == 401
    assert TestClient(app).get("/label/api/history").status_code == 401
    assert TestClient(app).get("/label", headers={"Accept": "text/html"}).status_code == 401


def test_a_labeler_is_sent_to_their_page_and_a_manager_to_theirs(app: Any, store: Store, ann: Labeler) -> None:
    assert ann.client.get("/", follow_redirects=False).headers["location"] == "/label"
    mia = enter(app, store, "Mia", "manager")
    assert mia.client.get("/", follow_redirects=False).headers["location"] == "/manager"
    assert mia.claim()["set_id"] == "hot"  # and ranks too, where they like


def test_a_conversation_is_shown_turn_by_turn(store: Store, ann: Labeler) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "search"}}]}
    prompt = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who?"}, call]
    completions = [{"text": "a"}, {"text": "b"}]
    given = {"set_id": "talk", "prompt_id": "talk", "prompt": prompt, "completions": completions}
    store.add_sets([ComparisonSet.model_validate(given)])
    claim = ann.claim("hot", "cold", "wet")
    assert [(turn["role"], turn["content"]) for turn in claim["prompt"]] == [
        ("system", "Be kind."),
        ("user", "Who?"),
        ("assistant", "(calls search)"),
    ]


def test_an_answer_of_a_megabyte_goes_through_and_five_do_not(store: Store, ann: Labeler) -> None:
    long = {"place": None, "text": "ω" * 500_000}
    body = ann.said(ann.claim(), [1, 1, 1], texts=[long])
    ann.post("submit", body)
    assert store.history(ann.labeler_id)[0].texts[0].text == long["text"]
    body = ann.said(ann.claim(), [1, 1, 1], key=KEY[::-1], texts=[long] * 5)
    assert ann.post("submit", body, 413)["error"] == "The request is larger than 4 MiB: send less at once."
