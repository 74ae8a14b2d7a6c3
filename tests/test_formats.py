"""Each shape that others write becomes the same record as ours, and what is wrong with a line is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plumbline.formats import as_comparison, as_demonstration, as_rating, read_comparisons, read_ratings
from plumbline.errors import BadRecord
from plumbline.records import Pair, Ranking

ASKED = "My house is too hot. What can I do?"
USER = {"role": "user", "content": ASKED}
SYSTEM = {"role": "system", "content": "Be brief."}


def reply(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


PAIRS: dict[str, tuple[dict[str, Any], Any]] = {
    "ours, and TRL's with text": ({"prompt": ASKED, "chosen": "Air it.", "rejected": "Move."}, ASKED),
    "TRL's with messages": (
        {"prompt": [USER], "chosen": [reply("Air it.")], "rejected": [reply("Move.")]},
        [USER],
    ),
    "TRL's messages without a prompt": (
        {"chosen": [SYSTEM, USER, reply("Air it.")], "rejected": [SYSTEM, USER, reply("Move.")]},
        [SYSTEM, USER],
    ),
    "HH-RLHF's": (
        {
            "chosen": f"\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: {ASKED}\n\nAssistant: Air it.",
            "rejected": f"\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: {ASKED}\n\nAssistant: Move.",
        },
        [{"role": "user", "content": "Hi"}, reply("Hello."), USER],
    ),
    "LLaMA-Factory's alpaca": (
        {"instruction": "My house is too hot.", "input": "What can I do?", "chosen": "Air it.", "rejected": "Move."},
        "My house is too hot.\nWhat can I do?",
    ),
    "LLaMA-Factory's alpaca with a past": (
        {
            "system": "Be brief.",
            "history": [["Hi", "Hello."]],
            "instruction": ASKED,
            "input": "",
            "chosen": "Air it.",
            "rejected": "Move.",
        },
        [SYSTEM, {"role": "user", "content": "Hi"}, reply("Hello."), USER],
    ),
    "LLaMA-Factory's sharegpt": (
        {
            "conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": ASKED}],
            "chosen": {"from": "gpt", "value": "Air it."},
            "rejected": {"from": "gpt", "value": "Move."},
        },
        [SYSTEM, USER],
    ),
}


@pytest.mark.parametrize(("line", "prompt"), PAIRS.values(), ids=PAIRS)
def test_every_shape_of_a_pair_is_the_same_pair(line: dict[str, Any], prompt: Any) -> None:
    pair = as_comparison(line)
    assert isinstance(pair, Pair)
    assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, "Air it.", "Move.")


def test_a_ranking_is_read_as_one() -> None:
    line = {
        "set_id": "s",
        "prompt_id": "p",
        "prompt": ASKED,
        "completions": ["a", "b", "c"],
        "ranks": [1, 1, 3],
        "flags": [False, False, False],
        "labeler_id": "ann",
        "instruction_version": "1",
    }
    ranking = as_comparison(line)
    assert isinstance(ranking, Ranking) and ranking.ranks == (1, 1, 2)


RATINGS: dict[str, tuple[dict[str, Any], Any]] = {
    "ours, and TRL's with text": ({"prompt": ASKED, "completion": "Air it.", "label": True}, ASKED),
    "TRL's with messages": ({"prompt": [USER], "completion": [reply("Air it.")], "label": True}, [USER]),
    "LLaMA-Factory's messages": ({"messages": [USER, reply("Air it.")], "label": True}, [USER]),
    "LLaMA-Factory's sharegpt": (
        {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": "Air it."}], "kto_tag": True},
        [USER],
    ),
    "LLaMA-Factory's alpaca": ({"instruction": ASKED, "input": "", "output": "Air it.", "kto_tag": True}, ASKED),
}


@pytest.mark.parametrize(("line", "prompt"), RATINGS.values(), ids=RATINGS)
def test_every_shape_of_a_rating_is_the_same_rating(line: dict[str, Any], prompt: Any) -> None:
    rating = as_rating(line)
    assert (rating.prompt, rating.completion, rating.label) == (prompt, "Air it.", True)


DEMONSTRATIONS: dict[str, dict[str, Any]] = {
    "ours, and TRL's": {"messages": [USER, reply("Air it.")]},
    "TRL's with text": {"prompt": ASKED, "completion": "Air it."},
    "TRL's prompt and completion": {"prompt": [USER], "completion": [reply("Air it.")]},
    "LLaMA-Factory's sharegpt": {
        "conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": "Air it."}]
    },
    "LLaMA-Factory's alpaca": {"instruction": ASKED, "output": "Air it."},
}


@pytest.mark.parametrize("line", DEMONSTRATIONS.values(), ids=DEMONSTRATIONS)
def test_every_shape_of_a_demonstration_is_the_same(line: dict[str, Any]) -> None:
    assert as_demonstration(line).messages == [USER, reply("Air it.")]


def test_a_function_call_becomes_a_call_of_tools() -> None:
    call = {"from": "function_call", "value": '{"name": "look_up", "arguments": {"word": "heat"}}'}
    answer = {"from": "observation", "value": "warmth"}
    turns = [{"from": "human", "value": "What is heat?"}, call, answer, {"from": "gpt", "value": "Warmth."}]
    _, called, told, _ = as_demonstration({"conversations": turns}).messages
    assert called["tool_calls"][0]["function"] == {"name": "look_up", "arguments": {"word": "heat"}}
    assert told == {"role": "tool", "content": "warmth"}


HUMAN = "\n\nHuman: Hi\n\nAssistant: "
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"chosen": "Yes", "rejected": "No"}, "has no `prompt`, and `chosen` is no transcript"),
    ({"chosen": HUMAN + "Yes", "rejected": HUMAN + "Yes"}, "a pair needs two different answers"),
    (
        {"chosen": HUMAN + "a\n\nHuman: b\n\nAssistant: c", "rejected": HUMAN + "d\n\nHuman: e\n\nAssistant: f"},
        "part after 1 of 4 and 4 turns",
    ),
    ({"chosen": [reply("a")], "rejected": [reply("b")]}, "part after 0 of 1 and 1 turns"),
    ({"rejected": "No"}, "`chosen` is missing: a comparison has `chosen` and `rejected`, or `ranks`"),
    (
        {"conversations": [{"from": "robot", "value": "x"}], "chosen": "a", "rejected": "b"},
        "has the speaker 'robot': a turn is `from` one of human,",
    ),
]


@pytest.mark.parametrize(("line", "reason"), WRONG, ids=[reason for _, reason in WRONG])
def test_what_is_wrong_with_a_pair_is_said(line: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRecord) as error:
        as_comparison(line)
    assert reason in str(error.value)


def test_a_rating_without_a_thumb_or_an_answer_is_refused() -> None:
    with pytest.raises(BadRecord, match="`label` is None: it must be true or false"):
        as_rating({"prompt": "Hi", "completion": "Ho"})
    with pytest.raises(BadRecord, match="it must end with an answer"):
        as_rating({"messages": [USER], "label": True})
    with pytest.raises(BadRecord, match=r"has no `messages`.*\(there is `text`\)"):
        as_rating({"text": "Hi"})


def test_a_json_list_is_read_like_lines_and_its_bad_entries_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    good = {"instruction": "Hi", "input": "", "chosen": "a", "rejected": "b"}
    path.write_text("\n " + json.dumps([good, {**good, "chosen": "b"}, good], indent=2))
    left_out: list[str] = []
    assert len(read_comparisons([path], left_out)) == 2
    assert len(left_out) == 1 and left_out[0].startswith(f"{path}:2: ")

    path.write_text("[{")
    with pytest.raises(BadRecord, match="begins like a JSON list and is none"):
        read_comparisons([path], [])


def test_several_files_are_read_one_after_the_other(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for path in paths:
        path.write_text(json.dumps({"prompt": path.stem, "completion": "x", "label": False}) + "\n")
    assert [rating.prompt for rating in read_ratings(paths, [])] == ["a", "b"]
