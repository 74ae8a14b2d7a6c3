"""Each shape that others write becomes the same record as ours, and what is wrong with a line is said."""

from __future__ import annotations

import gzip
import json
import os
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import BadRecord, UserError
from plumbline.formats import (
    AnyLine,
    RewardedLine,
    as_comparison,
    as_demonstration,
    as_rankings,
    as_rating,
    read_comparisons,
    read_lines,
    read_ratings,
)
from plumbline.records import ComparisonSet, Demonstration, Pair, Ranking, Rating, Record, parse

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
    assert not pair.model_extra, "no text is there twice"


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
    assert not rating.model_extra


REWARDED: dict[str, tuple[dict[str, Any], Any]] = {
    "ours": ({"prompt": ASKED, "completion": "Air it.", "reward": 0.5}, ASKED),
    "with messages": ({"prompt": [USER], "completion": [reply("Air it.")], "reward": 0.5}, [USER]),
    "a whole conversation": ({"messages": [USER, reply("Air it.")], "reward": 0.5}, [USER]),
    "as plumb score writes it": ({"prompt": ASKED, "completion": "Air it.", "score": 0.5}, ASKED),
}


@pytest.mark.parametrize(("line", "prompt"), REWARDED.values(), ids=REWARDED)
def test_every_shape_of_a_rewarded_answer_is_the_same(line: dict[str, Any], prompt: Any) -> None:
    record = parse(RewardedLine, line)
    assert (record.prompt, record.completion, record.reward) == (prompt, "Air it.", 0.5)


def test_a_reward_goes_before_a_score_and_neither_is_told() -> None:
    line = {"prompt": ASKED, "completion": "x", "reward": 1, "score": 2}
    assert parse(RewardedLine, line).reward == 1
    with pytest.raises(BadRecord, match="`reward` is missing"):
        parse(RewardedLine, {"prompt": ASKED, "completion": "x"})


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
    assert not as_demonstration(line).model_extra


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


# ---- OASST trees


def message(name: str, role: str, **rest: Any) -> dict[str, Any]:
    return {"message_id": name, "role": role, "text": f"text of {name}", **rest}


def tree(*replies: dict[str, Any], **prompt: Any) -> dict[str, Any]:
    return {"message_tree_id": "t", "prompt": message("root", "prompter", replies=list(replies), **prompt)}


def answer(name: str, rank: int | None, **rest: Any) -> dict[str, Any]:
    return message(name, "assistant", rank=rank, **rest)


def test_a_tree_is_a_ranking_for_each_prompt_with_two_ranked_replies() -> None:
    follow_up = message("q", "prompter", replies=[answer("c", 1), answer("d", 0)])
    alone = message("r", "prompter", replies=[answer("e", 0)])
    first, second = as_rankings(tree(answer("a", 1, replies=[follow_up, alone]), answer("b", 0)))
    assert (first.set_id, first.prompt, first.completions, first.ranks) == (
        "root",
        [{"role": "user", "content": "text of root"}],
        ("text of a", "text of b"),
        (2, 1),
    )
    assert [turn["content"] for turn in second.prompt if isinstance(turn, dict)] == [
        "text of root",
        "text of a",
        "text of q",
    ]
    assert (second.set_id, second.completions, second.ranks) == ("q", ("text of c", "text of d"), (2, 1))
    assert {first.labeler_id, second.labeler_id} == {"oasst"}


def test_what_is_deleted_synthetic_or_unranked_is_left_out_and_what_was_refused_is_flagged() -> None:
    below = message("q", "prompter", replies=[answer("x", 0), answer("y", 1)])
    (ranking,) = as_rankings(
        tree(
            answer("a", 3),
            answer("deleted", 0, deleted=True, replies=[below]),
            answer("made up", 1, synthetic=True),
            answer("refused", None, review_result=False),
            answer("new", None),
            answer("b", 2, review_result=False),
        )
    )
    assert ranking.completions == ("text of a", "text of refused", "text of b")
    assert (ranking.ranks, ranking.flags) == ((2, None, 1), (False, True, False))
    assert as_rankings(tree(answer("a", 0), answer("refused", None, review_result=False))) == []


def ranking_event(user: str | None, *order: str, **rest: Any) -> dict[str, Any]:
    return {"type": "ranking", "user_id": user, "ranked_message_ids": list(order), **rest}


def test_each_labeler_of_a_tree_keeps_an_own_ranking() -> None:
    events = [ranking_event("ann", "b", "a"), ranking_event(None, "a", "b"), ranking_event("eve", not_rankable=True)]
    found = as_rankings(tree(answer("a", 0), answer("b", 1), events={"ranking": events, "emoji": [{"emoji": "+1"}]}))
    assert {each.labeler_id: each.ranks for each in found} == {"ann": (2, 1), "oasst-2": (1, 2), "eve": (None, None)}


def test_labelers_that_saw_other_replies_count_by_the_merged_ranks() -> None:
    events = [ranking_event("ann", "b", "a"), ranking_event("bob", "a")]
    (merged,) = as_rankings(tree(answer("a", 0), answer("b", 1), events={"ranking": events}))
    assert (merged.labeler_id, merged.ranks) == ("oasst", (1, 2))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"message_tree_id": "t"}, "`prompt` is missing"),
        (tree({"role": "assistant", "text": "x"}), "`prompt`, `replies`, entry 1, `message_id` is missing"),
        (tree(message("a", "robot")), "`role` is 'robot': it must be 'prompter' or 'assistant'"),
        (tree(answer("a", 0), answer("b", -1)), "holds 0: the best rank is 1"),
        (message("a", "assistant", parent_id="b"), "take the file with the trees"),
        ({"prompt": "Hi", "completion": "Ho", "model": "m", "finish_reason": "stop"}, "which nobody has judged"),
    ],
)
def test_what_is_wrong_with_a_line_of_any_shape_is_said(tmp_path: Path, line: dict[str, Any], reason: str) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text(json.dumps({"prompt": "Hi", "chosen": "a", "rejected": "b"}) + "\n" + json.dumps(line))
    left_out: list[str] = []
    assert len(list(read_lines([path], AnyLine, left_out))) == 1
    assert len(left_out) == 1 and left_out[0].startswith(f"{path}:2: ") and reason in left_out[0]


def test_real_trees_hold_the_pairs_that_were_counted_elsewhere() -> None:
    folder = os.environ.get("PLUMBLINE_TEST_DATA")
    if not folder:
        pytest.skip("PLUMBLINE_TEST_DATA names no folder with real data")
    left_out: list[str] = []
    rankings = [
        each
        for each in read_comparisons([Path(folder) / "oasst_trees" / "trees.jsonl"], left_out)
        if isinstance(each, Ranking)
    ]
    ranked = [[rank for rank in each.ranks if rank is not None] for each in rankings]
    assert left_out == []
    assert sum(a != b for ranks in ranked for a, b in combinations(ranks, 2)) == 417


# ---- any shape, in any container

LINES: list[tuple[dict[str, Any], type[Record]]] = [
    ({"prompt": "Hi", "chosen": "a", "rejected": "b"}, Pair),
    ({"prompt": "Hi", "set_id": "1", "completions": [{"text": "a"}, {"text": "b"}]}, ComparisonSet),
    ({"prompt": "Hi", "completion": "Ho", "label": True}, Rating),
    ({"prompt": "Hi", "completion": "Ho"}, Demonstration),
    (tree(answer("a", 1), answer("b", 0)), Ranking),
]


def kinds(path: Path) -> list[type[Record]]:
    left_out: list[str] = []
    found = [type(record) for line in read_lines([path], AnyLine, left_out) for record in line.records]
    assert left_out == []
    return found


def test_the_shape_is_told_by_the_fields_also_in_a_packed_file_and_in_a_folder(tmp_path: Path) -> None:
    text = "".join(json.dumps(line) + "\n" for line, _ in LINES)
    packed = tmp_path / "lines.jsonl.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    wanted = [kind for _, kind in LINES]
    assert kinds(packed) == wanted
    (tmp_path / "README.md").write_text("# Card\n")
    (tmp_path / "more.jsonl").write_text(text)
    assert kinds(tmp_path) == wanted * 2


def test_a_parquet_file_is_read_and_its_empty_cells_are_no_fields(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    good = {"prompt": [USER], "chosen": "a", "rejected": "b", "margin": None, "split": None}
    rows = [good, {**good, "rejected": "a"}, {**good, "prompt": [{**USER, "name": "ann"}], "margin": 0.5}]
    path = tmp_path / "pairs.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    left_out: list[str] = []
    first, second = read_comparisons([path], left_out)
    assert isinstance(first, Pair) and isinstance(second, Pair)
    assert (first.margin, second.margin, first.prompt) == (1.0, 0.5, [USER])
    assert len(left_out) == 1 and left_out[0].startswith(f"{path}:2: ")


def test_a_damaged_container_is_named(tmp_path: Path) -> None:
    packed, table, empty = tmp_path / "a.jsonl.gz", tmp_path / "a.parquet", tmp_path / "empty"
    packed.write_bytes(gzip.compress(json.dumps(LINES[0][0]).encode() * 50)[:-12])
    table.write_bytes(b"PAR1 and no more")
    empty.mkdir()
    for path, complaint in ((packed, "is damaged"), (table, "cannot be read as Parquet"), (empty, "holds no data")):
        with pytest.raises(UserError, match=complaint) as error:
            read_comparisons([path], [])
        assert repr(str(path)) in str(error.value)
