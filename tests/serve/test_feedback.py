"""What is said of an answer is in the export a moment later, once, with its source, and only from who asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from plumbline.cli.main import app
from serving import HOT, HOT_ANSWERS, KNOCK, WHO, Running, message_of, write_script


def export(server: Running, format: str, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.chdir(server.project.folder)
    out = server.project.folder / "out.jsonl"
    ran = CliRunner().invoke(
        app, ["feedback", "export", "--format", format, "--out", str(out), "--force", "--plain-ids"]
    )
    assert ran.exit_code == 0, ran.output
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_thumb_is_in_the_export_a_moment_later(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = server.ask(user="ann").json()
    thumb = {"id": answered["id"], "thumb": "down", "comment": "Rude."}
    assert server.post("/v1/feedback", thumb).json() == {
        "object": "feedback", "id": answered["id"], "kind": "thumb", "stored": True,
    }  # fmt: skip
    (row,) = export(server, "kto", monkeypatch)
    assert row["prompt"] == [{"role": "user", "content": KNOCK}]
    assert row["completion"] == [{"role": "assistant", "content": WHO}]
    assert (row["label"], row["source"], row["user_id"]) == (False, "serve", "local/ann")


def test_feedback_on_every_answer_right_after_it_is_taken(server: Running) -> None:
    for number in range(40):
        answered = server.ask(user=f"u{number}").json()
        assert server.post("/v1/feedback", {"id": answered["id"], "thumb": "up"}).status_code == 200
    assert len(list(server.store.ratings())) == 40


def test_an_edit_is_an_answer_to_learn_and_a_pair(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = server.ask().json()
    edit = {"id": answered["id"], "edit": "Who’s there? 🦊"}
    for _ in range(2):  # sent again, it adds nothing
        assert server.post("/v1/feedback", edit).status_code == 200
    (shown,) = export(server, "sft", monkeypatch)
    assert shown["messages"][-1]["content"] == "Who’s there? 🦊" and shown["source"] == "serve"
    (pair,) = export(server, "trl-dpo", monkeypatch)
    assert pair["rejected"][0]["content"] == WHO and pair["source"] == "serve"


def test_ranks_are_a_set_with_a_ranking(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = server.ask(HOT, n=3, seed=0, user="ann").json()
    said = {"id": answered["id"], "ranks": [2, 1, None], "user": "ben"}
    for _ in range(2):
        assert server.post("/v1/feedback", said).status_code == 200
    (row,) = export(server, "rankings", monkeypatch)
    assert row["completions"] == list(HOT_ANSWERS)
    assert (row["ranks"], row["flags"]) == ([2, 1, None], [False, False, True])
    assert (row["source"], row["labeler_id"], row["user_id"]) == ("serve", "user:local/ben", "local/ann")
    (kept,) = server.store.sets()
    assert kept.completions[0].model == server.settings.model and kept.completions[0].seed == 0
    (pair,) = export(server, "trl-dpo", monkeypatch)
    assert pair["chosen"][0]["content"] == HOT_ANSWERS[1]


def test_a_thumb_that_is_sent_again_adds_nothing_and_another_one_counts(server: Running) -> None:
    answered = server.ask().json()
    for thumb in ("up", "up", "down", "down", "up"):
        assert server.post("/v1/feedback", {"id": answered["id"], "thumb": thumb}).status_code == 200
    assert [rating.label for rating in server.store.ratings()] == [True]
    with server.store.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM rating_event").scalar() == 3


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ({}, 400, "Give one of `thumb`, `edit` and `ranks`; none came."),
        ({"thumb": "up", "edit": "x"}, 400, "['thumb', 'edit'] came."),
        ({"thumb": "sideways"}, 400, "`thumb`: Input should be 'up' or 'down'"),
        ({"thumb": "up", "choice": 1}, 400, "`choice` is 1 and there are 1 answers."),
        ({"edit": " "}, 400, "an answer needs some text"),
        ({"ranks": [1]}, 400, "comparing takes at least two"),
        ({"ranks": [1, 2]}, 400, "comparing takes at least two"),
        ({"id": "chatcmpl-0", "thumb": "up"}, 404, "There is no answer 'chatcmpl-0' of this key."),
        ({"thumb": "up", "stars": 5}, 400, "`stars` is no field that is known here"),
    ],
)
def test_what_makes_no_sense_is_refused(server: Running, more: dict[str, Any], status: int, said: str) -> None:
    answered = server.ask().json()
    refused = server.post("/v1/feedback", {"id": answered["id"], **more})
    assert (refused.status_code, said in message_of(refused)) == (status, True), refused.text


def test_ranks_that_do_not_fit_the_answers(server: Running) -> None:
    answered = server.ask(HOT, n=3).json()
    refused = server.post("/v1/feedback", {"id": answered["id"], "ranks": [1, 2]})
    assert refused.status_code == 400 and "`ranks` has 2 entries for 3 completions" in message_of(refused)
    assert list(server.store.sets()) == []


def test_nobody_speaks_of_another_tenants_answer(serve: Callable[..., Running], script: str) -> None:
    server = serve(script, keys=True)
    shop, _ = server.store.add_key("shop")
    rotated, _ = server.store.add_key("shop")
    bank, _ = server.store.add_key("bank")
    answered = server.ask(key=shop).json()
    thumb = {"id": answered["id"], "thumb": "up"}
    other, unknown = server.post("/v1/feedback", thumb, bank), server.post("/v1/feedback", {**thumb, "id": "x"}, bank)
    assert other.status_code == unknown.status_code == 404
    assert message_of(other).replace(answered["id"], "x") == message_of(unknown)
    assert list(server.store.ratings()) == []
    assert server.post("/v1/feedback", thumb, rotated).status_code == 200


def test_what_was_not_kept_cannot_be_learnt_from(serve: Callable[..., Running], script: str) -> None:
    server = serve(script, keys=True)
    key, _ = server.store.add_key("shop", keeps_content=False)
    answered = server.ask(key=key).json()
    (row,) = server.stored()
    assert (row.prompt, row.answers, row.status) == (None, None, "answered") and row.completion_tokens > 0
    assert KNOCK not in str(row) and WHO not in str(row)
    refused = server.post("/v1/feedback", {"id": answered["id"], "thumb": "up"}, key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "content_not_kept")


def test_an_erasure_takes_all_of_a_user_and_nothing_of_another(server: Running, tmp_path: Path) -> None:
    ann, ben = (server.ask(HOT, n=3, seed=0, user=user).json() for user in ("ann", "ben"))
    for answered in (ann, ben):
        server.post("/v1/feedback", {"id": answered["id"], "thumb": "up"})
        server.post("/v1/feedback", {"id": answered["id"], "edit": "Better.", "choice": 1})
        server.post("/v1/feedback", {"id": answered["id"], "ranks": [1, 2, 3]})
        server.post("/v1/feedback", {"id": answered["id"], "ranks": [3, 2, 1], "user": "ann"})
    erased = server.store.erase("local/ann")
    assert (erased.rows["exchange"], erased.rows["comparison_set"], erased.rows["ranking_event"]) == (1, 1, 3)
    with server.store.read() as connection:
        from plumbline.feedback import schema

        left = [str(row) for table in schema.metadata.tables.values() for row in connection.execute(table.select())]
    assert [row for row in left if "local/ann" in row] == []
    assert [each.user_id for each in server.stored()] == ["local/ben"]
    assert [ranking.labeler_id for ranking in server.store.rankings()] == ["user:local/ben"]


def test_prompts_of_users_who_agreed_are_those_of_the_next_round(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once for each user, as many of one as the cap allows, without personal data; of nobody who did not agree."""
    agree = {"metadata": {"consent": "yes"}}
    for text in (KNOCK, KNOCK, HOT, ""):
        server.ask(text, user="ann", **agree)
    server.ask(KNOCK, user="ben", **agree)
    server.ask(HOT, user="cleo")
    server.ask(HOT, user="cleo", metadata={"consent": "no"})
    monkeypatch.chdir(server.project.folder)
    ran = CliRunner().invoke(app, ["feedback", "prompts", "--out", "p.jsonl", "--cap", "2", "--plain-ids"])
    assert ran.exit_code == 0, ran.output
    lines = [json.loads(line) for line in Path("p.jsonl").read_text().splitlines()]
    found = [(line["user_id"], line["prompt"][0]["content"], line["source"]) for line in lines]
    assert found == [("local/ann", KNOCK, "serve"), ("local/ann", HOT, "serve"), ("local/ben", KNOCK, "serve")]
    assert "1 over the cap of 2" in ran.stderr
    again = CliRunner().invoke(app, ["feedback", "prompts", "--out", "p.jsonl"])
    assert again.exit_code == 2 and "is there already" in again.stderr


def test_personal_data_stays_out_of_them(
    serve: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = "I am ann@example.com, who are you?"
    server = serve(write_script(tmp_path, {asked: ["A model."]}))
    server.ask(asked, user="ann", metadata={"consent": "yes"})
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["feedback", "prompts", "--out", "p.jsonl"]).exit_code == 0
    text = Path("p.jsonl").read_text()
    assert "I am [EMAIL], who are you?" in text and "example.com" not in text and "local/ann" not in text
