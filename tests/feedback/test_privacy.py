"""Personal data is replaced wherever a record holds text, each hit is kept once, and ids become aliases."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from plumbline.errors import UserError
from plumbline.feedback.privacy import Aliases, Hit, Replacer, read_salt, salt_of
from plumbline.personal_data import Finding
from plumbline.records import Answer, ComparisonSet, Demonstration, Message, Pair, Ranking, Rating, parse

MAIL = "ann.lee@example.org"


def ranking(labeler: str = "bob", **rest: object) -> Ranking:
    line = {
        "set_id": "s1",
        "prompt": f"Write to {MAIL}, please.",
        "completions": ["Dear Ann", f"To: {MAIL}\nCc: {MAIL}", "No."],
        "ranks": [1, 1, None],
        "flags": [False, False, True],
        "labeler_id": labeler,
        "instruction_version": "1",
    }
    return parse(Ranking, {**line, **rest})


def test_a_ranking_loses_its_addresses_and_nothing_else() -> None:
    replacer = Replacer()
    before = ranking()
    after = replacer(before)
    assert after.prompt == "Write to [EMAIL], please."
    assert after.completions == ("Dear Ann", "To: [EMAIL]\nCc: [EMAIL]", "No.")
    kept = {"set_id", "prompt_id", "ranks", "flags", "labeler_id", "instruction_version"}
    assert before.model_dump(include=kept) == after.model_dump(include=kept)
    assert [(hit.record, hit.field, hit.start, hit.end) for hit in replacer.hits] == [
        ("s1", "prompt", 9, 9 + len(MAIL)),
        ("s1", "completions, 2", 4, 4 + len(MAIL)),
        ("s1", "completions, 2", 4 + len(MAIL) + 5, 4 + 2 * len(MAIL) + 5),
    ]
    assert {(hit.kind, hit.text, hit.replacement) for hit in replacer.hits} == {("email", MAIL, "[EMAIL]")}


def test_the_rankings_of_a_set_count_each_hit_once() -> None:
    replacer = Replacer()
    for labeler in ("ann", "bob", "eve"):
        replacer(ranking(labeler))
    assert replacer.kinds() == {"email": 3}
    replacer(ranking(set_id="s2"))
    assert replacer.kinds() == {"email": 6}


def test_every_kind_of_record_is_searched_to_the_bottom() -> None:
    asked: list[Message] = [{"role": "user", "content": f"I am {MAIL}"}]
    call = {"type": "function", "function": {"name": "send", "arguments": {"to": [MAIL]}}}
    replacer = Replacer()
    pair = replacer(parse(Pair, {"prompt": asked, "chosen": f"Hi {MAIL}", "rejected": "Hi"}))
    assert (pair.prompt, pair.chosen) == ([{"role": "user", "content": "I am [EMAIL]"}], "Hi [EMAIL]")
    rating = replacer(parse(Rating, {"prompt": "x", "completion": MAIL, "label": True}))
    assert rating.completion == "[EMAIL]"
    waiting = replacer(
        parse(ComparisonSet, {"set_id": "1", "prompt": "x", "completions": [Answer(text=MAIL, seed=3), {"text": "b"}]})
    )
    assert waiting.completions == (Answer(text="[EMAIL]", seed=3), Answer(text="b"))
    turns = [*asked, {"role": "assistant", "content": None, "tool_calls": [call]}]
    shown = replacer(parse(Demonstration, {"messages": turns}))
    assert shown.messages[1]["tool_calls"] == [
        {"type": "function", "function": {"name": "send", "arguments": {"to": ["[EMAIL]"]}}}
    ]
    assert replacer.hits[-1].field == "messages, 2, tool_calls, 1, function, arguments, to, 1"


def test_a_record_without_hits_is_the_same_object() -> None:
    clean = parse(Rating, {"prompt": "x", "completion": "y", "label": True})
    assert Replacer()(clean) is clean


def test_another_finder_takes_the_place_of_ours() -> None:
    def names(text: str) -> list[Finding]:
        start = text.find("Ann")
        return [Finding("address", start, start + 3, "Ann")] if start >= 0 else []

    assert Replacer(names)(ranking()).completions[0] == "Dear [ADDRESS]"


def test_real_sentences_lose_what_their_labels_say() -> None:
    folder = os.environ.get("PLUMBLINE_TEST_DATA")
    if not folder:
        pytest.skip("PLUMBLINE_TEST_DATA names no folder with real data")
    replacer = Replacer()
    lines = [
        json.loads(text)
        for text in (Path(folder) / "pii_presidio" / "synth_dataset_v2.jsonl").read_text().split("\n")
        if text
    ]
    labelled, missed = 0, 0
    for number, line in enumerate(lines):
        rating = {"prompt": line["full_text"], "completion": "x", "label": True, "prompt_id": str(number)}
        after = str(replacer(parse(Rating, rating)).prompt)
        mails = [span["entity_value"] for span in line["spans"] if span["entity_type"] == "EMAIL_ADDRESS"]
        labelled, missed = labelled + len(mails), missed + sum(mail in after for mail in mails)
    assert labelled > 20 and missed == 0
    assert all(lines[int(hit.record)]["full_text"][hit.start : hit.end] == hit.text for hit in replacer.hits)


# ---- aliases


def test_an_id_becomes_the_same_alias_everywhere_and_another_with_another_salt() -> None:
    aliases = Aliases(b"salt" * 8)
    first, second = aliases(ranking("ann", user_id="ann")), aliases(ranking("ann", set_id="s2"))
    assert first.labeler_id == second.labeler_id == aliases.of("labeler_id", "ann")
    assert first.labeler_id.startswith("labeler-") and "ann" not in first.labeler_id
    user = first.model_dump()["user_id"]
    assert user.startswith("user-") and user[5:] != first.labeler_id[8:]
    assert Aliases(b"other" * 8).of("labeler_id", "ann") != first.labeler_id
    assert aliases.of("labeler_id", "bob") != first.labeler_id


def test_a_record_of_nobody_stays_as_it_is() -> None:
    nobody = parse(Rating, {"prompt": "x", "completion": "y", "label": True})
    assert Aliases(b"salt" * 8)(nobody) is nobody


def test_a_project_has_one_salt_that_only_its_owner_reads(tmp_path: Path) -> None:
    salt = salt_of(tmp_path)
    assert len(salt) == 32 and salt_of(tmp_path) == salt
    assert (tmp_path / "salt").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["salt"]
    assert len({salt_of(folder) for folder in (make(tmp_path / "a"), make(tmp_path / "b"))}) == 2


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_who_comes_at_once_gets_the_same_salt(tmp_path: Path) -> None:
    gate = threading.Barrier(8)
    salts: list[bytes] = []

    def ask() -> None:
        gate.wait()
        salts.append(salt_of(tmp_path))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(salts) == 8 and len(set(salts)) == 1


@pytest.mark.parametrize(("content", "complaint"), [("no digits", "cannot read the salt"), ("ab", "is cut off")])
def test_a_damaged_salt_is_told(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "salt").write_text(content)
    with pytest.raises(UserError, match=complaint):
        read_salt(tmp_path / "salt")


def test_a_hit_is_a_line_for_review() -> None:
    hit = Hit(record="s", field="prompt", start=0, end=3, kind="email", text="a@b", replacement="[EMAIL]")
    assert json.loads(hit.model_dump_json()) == {
        "record": "s",
        "field": "prompt",
        "start": 0,
        "end": 3,
        "kind": "email",
        "text": "a@b",
        "replacement": "[EMAIL]",
    }
