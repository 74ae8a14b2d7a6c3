"""Records: what each accepts, what it says about what it refuses, and files that hold through kills and bad bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plumbline.errors import BadRecord, UserError
from plumbline.records import (
    Answer,
    ComparisonSet,
    Demonstration,
    Generated,
    Pair,
    PromptRecord,
    Ranking,
    Rating,
    Record,
    Rewarded,
    Rollout,
    held_out,
    parse,
    prompt_id,
    read_jsonl,
    write_jsonl,
)

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "My house is too hot."}]
SET = {"set_id": "s1", "prompt_id": "p1", "prompt": "My house is too hot. What can I do?"}
RANKED: dict[str, Any] = {
    **SET,
    "completions": ["Open a window.", "Move.", "Ask the sun."],
    "ranks": [2, 1, 3],
    "flags": [False, False, False],
    "labeler_id": "ann",
    "instruction_version": "1",
}
SHAPES: list[tuple[type[Record], dict[str, Any]]] = [
    (PromptRecord, {"prompt_id": "p1", "prompt": CHAT, "user_id": "u1", "source": "web", "split": "test"}),
    (ComparisonSet, {**SET, "completions": [{"text": "Move.", "model": "m", "seed": 1}, {"text": ""}]}),
    (Ranking, RANKED),
    (Pair, {"prompt": "Why?", "chosen": "So.", "rejected": "No.", "prompt_id": "p1", "margin": 0.5, "n_votes": 4}),
    (Rating, {"prompt": "Why?", "completion": "So.", "label": True}),
    (Rewarded, {"prompt": CHAT, "completion": "", "reward": -1.5, "split": "train"}),
    (Demonstration, {"messages": [*CHAT, {"role": "assistant", "content": "Open a window."}]}),
    (
        Generated,
        {**SET, "completion": "", "model": "m", "sampling": {"n": 1}, "finish_reason": "stop", "seed": 2**63 - 1},
    ),
    (
        Rollout,
        {
            "step": 0,
            "prompt_id": "p1",
            "prompt": CHAT,
            "completion": "",
            "reward": -0.5,
            "kl": -1.25,
            "tokens": 1,
            "ended": True,
            "reference_logprob": -3.5,
        },
    ),
]


# ---- shapes


@pytest.mark.parametrize(("kind", "data"), SHAPES, ids=[kind.__name__ for kind, _ in SHAPES])
def test_every_shape_comes_back_from_a_file_as_it_was(tmp_path: Path, kind: type[Record], data: dict[str, Any]) -> None:
    record = parse(kind, data)
    assert write_jsonl(tmp_path / "a.jsonl", [record]) == 1
    assert list(read_jsonl(tmp_path / "a.jsonl", kind)) == [record]
    written = json.loads((tmp_path / "a.jsonl").read_text())
    assert {key: written[key] for key in data if key != "completions"} == {
        key: value for key, value in data.items() if key != "completions"
    }


def test_records_cannot_be_changed() -> None:
    record = PromptRecord(prompt_id="p1", prompt="Why?")
    with pytest.raises(ValidationError, match="frozen"):
        record.prompt = "How?"  # type: ignore[misc]


def test_fields_of_others_are_kept(tmp_path: Path) -> None:
    """In the record, in the messages, and through a file."""
    message = {"role": "user", "content": "Why?", "reasoning": None, "parts": [1, 2]}
    record = parse(PromptRecord, {"prompt": [message], "score": {"deep": [0.5]}})
    write_jsonl(tmp_path / "a.jsonl", [record])
    written = json.loads((tmp_path / "a.jsonl").read_text())
    assert written["score"] == {"deep": [0.5]} and written["prompt"] == [message]


def test_ranks_become_dense_and_ties_stay() -> None:
    assert parse(Ranking, {**RANKED, "ranks": [1, 1, 3]}).ranks == (1, 1, 2)
    assert parse(Ranking, {**RANKED, "ranks": [7, 2, 7]}).ranks == (2, 1, 2)
    flagged = {**RANKED, "ranks": [5, None, 3], "flags": [False, True, False]}
    assert parse(Ranking, flagged).ranks == (2, None, 1)
    nothing_left = {**RANKED, "ranks": [None] * 3, "flags": [True] * 3, "completions": ["", "a", "b"]}
    assert parse(Ranking, nothing_left).ranks == (None, None, None)


@given(st.lists(st.none() | st.integers(1, 50), min_size=2, max_size=9))
def test_dense_ranks_keep_the_order(ranks: list[int | None]) -> None:
    texts = [f"answer {place}" for place in range(len(ranks))]
    data = {**RANKED, "completions": texts, "ranks": ranks, "flags": [rank is None for rank in ranks]}
    dense = parse(Ranking, data).ranks
    used = {rank for rank in dense if rank is not None}
    assert used == set(range(1, len(used) + 1))
    for before, after in zip(ranks, dense, strict=True):
        for other_before, other_after in zip(ranks, dense, strict=True):
            if before is not None and other_before is not None:
                assert after is not None and other_after is not None
                assert (before < other_before) == (after < other_after)


def test_a_pair_of_a_conversation_is_written_the_way_trl_reads_chat_data() -> None:
    chat = parse(Pair, {"prompt": CHAT, "chosen": "Open a window.", "rejected": "Move."})
    assert chat.chosen == "Open a window."
    assert chat.model_dump()["chosen"] == [{"role": "assistant", "content": "Open a window."}]
    assert parse(Pair, chat.model_dump()) == chat
    assert parse(Pair, {"prompt": "Why?", "chosen": "So.", "rejected": "No."}).model_dump()["chosen"] == "So."
    rating = parse(Rating, {"prompt": CHAT, "completion": "Move.", "label": False})
    assert rating.model_dump()["completion"] == [{"role": "assistant", "content": "Move."}]
    assert parse(Rating, rating.model_dump()) == rating


CALL = [{"id": "1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}]
REFUSED: list[tuple[type[Record], dict[str, Any], str]] = [
    (PromptRecord, {"promt": "Why?"}, "`prompt` is missing: is `promt` meant to be it?"),
    (PromptRecord, {"id": 3, "body": "Why?"}, "`prompt` is missing (there is `id`, `body`)"),
    (PromptRecord, {}, "`prompt` is missing (there is nothing)"),
    (PromptRecord, {"prompt": 5}, "`prompt` is 5: it must be text or a list of messages"),
    (PromptRecord, {"prompt": " \n"}, "`prompt` is ' \\n': it needs some text"),
    (PromptRecord, {"prompt": []}, "`prompt` is empty: it must hold at least one message"),
    (PromptRecord, {"prompt": ["Why?"]}, "`prompt` has 'Why?' as message 1: a message has a role and a content"),
    (
        PromptRecord,
        {"prompt": [CHAT[0], {"role": "human", "content": "Why?"}]},
        "`prompt` has the role 'human' in message 2: a role is one of system, user, assistant, tool",
    ),
    (
        PromptRecord,
        {"prompt": [{"role": "user"}]},
        "`prompt` has no content in message 1: only an assistant's tool calls may go without",
    ),
    (PromptRecord, {"prompt": [{"role": "user", "content": [1]}]}, "`prompt` has the content [1] in message 1"),
    (PromptRecord, {"prompt": "half \ud83d"}, "`prompt` has half of a surrogate pair at character 5"),
    (PromptRecord, {"prompt": "Why?", "prompt_id": ""}, "`prompt_id` is '': it must not be empty"),
    (PromptRecord, {"prompt": "Why?", "split": "dev"}, "`split` is 'dev': it must be 'train', 'validation' or 'test'"),
    (ComparisonSet, {**SET, "completions": [{"text": "one"}]}, "`completions` holds 1: comparing takes at least"),
    (
        ComparisonSet,
        {**SET, "completions": [{"text": "a"}, {"txt": "b"}]},
        "`completions`, entry 2, `text` is missing: is `txt` meant to be it?",
    ),
    (Ranking, {**RANKED, "ranks": [1, 2]}, "`ranks` has 2 entries for 3 completions"),
    (Ranking, {**RANKED, "flags": [False] * 4}, "`flags` has 4 entries for 3 completions"),
    (Ranking, {**RANKED, "ranks": [0, 1, 2]}, "`ranks` holds 0: the best rank is 1"),
    (Ranking, {**RANKED, "ranks": [1, "b", 2]}, "`ranks`, entry 2 is 'b': it must be a whole number"),
    (Ranking, {**RANKED, "flags": [True, False, False]}, "completion 1 is flagged and has rank 2"),
    (Ranking, {**RANKED, "ranks": [2, None, 1]}, "completion 2 has no rank and is not flagged: rank it or flag it"),
    (
        Ranking,
        {**RANKED, "completions": ["a", " ", "c"]},
        "completion 2 is ' ': an empty one can only be flagged",
    ),
    (Pair, {"prompt": "Why?", "chosen": "So.", "rejected": "So."}, "`chosen` and `rejected` are both 'So.'"),
    (Pair, {"prompt": "Why?", "chosen": "", "rejected": "So."}, "`chosen` is '': an answer needs some text"),
    (Pair, {"prompt": "Why?", "chosen": None, "rejected": "So."}, "`chosen` is None: it must be text"),
    (
        Pair,
        {"prompt": "Why?", "chosen": [CHAT[1]], "rejected": "So."},
        "an answer is text or one message of the assistant",
    ),
    (
        Pair,
        {"prompt": "Why?", "chosen": "a", "rejected": "b", "margin": float("nan")},
        "`margin` is nan: it must be a finite number",
    ),
    (Pair, {"prompt": "Why?", "chosen": "a", "rejected": "b", "n_votes": 0}, "`n_votes` is 0: it must be at least 1"),
    (
        Rating,
        {"prompt": "Why?", "completion": "So.", "label": "good"},
        "`label` is 'good': it must be true or false",
    ),
    (
        Rewarded,
        {"prompt": "Why?", "completion": "So.", "reward": float("inf")},
        "`reward` is inf: it must be a finite number",
    ),
    (Demonstration, {"messages": CHAT}, "`messages` ends with a message of the user"),
    (
        Demonstration,
        {"messages": [{"role": "assistant", "content": "Hm."}]},
        "`messages` holds an answer alone: put the message before it",
    ),
    (
        Demonstration,
        {"messages": [*CHAT, {"role": "assistant", "content": " "}]},
        "`messages` is ' ': an answer needs some text",
    ),
]


ROLLOUT = SHAPES[-1][1]
REFUSED += [
    (Rollout, {**ROLLOUT, "reward": float("nan")}, "`reward` is nan: it must be a finite number"),
    (Rollout, {**ROLLOUT, "kl": None}, "`kl` is None: it must be a number"),
    (Rollout, {**ROLLOUT, "step": -1}, "`step` is -1: it must be at least 0"),
    (Rollout, {**ROLLOUT, "tokens": 0}, "`tokens` is 0: it must be at least 1"),
    (Rollout, {**ROLLOUT, "ended": "perhaps"}, "`ended` is 'perhaps': it must be true or false"),
]


@pytest.mark.parametrize(("kind", "data", "sentence"), REFUSED)
def test_a_fault_is_said_in_one_sentence(kind: type[Record], data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRecord) as caught:
        parse(kind, data)
    message = str(caught.value)
    assert message.startswith(sentence) or sentence in message and kind is Pair
    assert "\n" not in message and ";" not in message and "pydantic" not in message


def test_every_fault_of_a_record_is_said_and_long_values_are_cut() -> None:
    with pytest.raises(BadRecord) as caught:
        parse(Ranking, {**RANKED, "ranks": "first", "labeler_id": [["x" * 500]]})
    first, second = str(caught.value).split("; ")
    assert first == "`ranks` is 'first': it must be a list"
    assert second.startswith("`labeler_id` is [['xxx") and second.endswith("xxx']]: it must be text")
    assert len(second) < 120


def test_tool_calls_may_go_without_text() -> None:
    called = {"role": "assistant", "tool_calls": CALL}
    demonstration = parse(Demonstration, {"messages": [*CHAT, called]})
    assert demonstration.messages[-1] == {**called, "content": None}


def test_numbers_serve_as_ids() -> None:
    record = parse(PromptRecord, {"prompt_id": 17, "prompt": "Why?", "user_id": 3})
    assert (record.prompt_id, record.user_id) == ("17", "3")


def test_an_answer_keeps_where_it_came_from() -> None:
    answer = Answer(text="So.", model="m", sampling={"temperature": 0.7}, seed=5)
    both = ComparisonSet(set_id="s", prompt_id="p", prompt="Why?", completions=(answer, Answer(text="No.")))
    assert both.model_dump()["completions"][0] == {
        "text": "So.",
        "model": "m",
        "sampling": {"temperature": 0.7},
        "seed": 5,
    }


# ---- ids and what is held out


def test_a_prompt_has_one_id_however_it_is_written() -> None:
    turn = {"role": "user", "content": "Why?"}
    assert prompt_id("Why?") == "51ce2e32ea943357"  # for good: ids stand in files
    assert prompt_id([turn]) == prompt_id([{"content": "Why?", "name": None, "role": "user"}]) == prompt_id("Why?")
    different = ["why?", "Why? ", [{**turn, "role": "system"}], [turn, turn], [{**turn, "name": "Ann"}]]
    assert len({prompt_id(prompt) for prompt in [*different, "Why?"]}) == 6


def test_records_without_an_id_get_that_of_their_prompt() -> None:
    expected = prompt_id("Why?")
    assert parse(PromptRecord, {"prompt": "Why?"}).prompt_id == expected
    assert parse(PromptRecord, {"prompt": "Why?", "prompt_id": None}).prompt_id == expected
    assert parse(Pair, {"prompt": "Why?", "chosen": "So.", "rejected": "No."}).prompt_id == expected
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    assert parse(Demonstration, {"messages": turns}).prompt_id == expected


def test_a_tenth_is_held_out_by_the_id_alone() -> None:
    names = [f"prompt {number}" for number in range(5000)]
    kept = {name for name in names if held_out(name)}
    # 5000 draws at 0.1 have a standard deviation of 21.2; five of them is a miss in 1.7 million seeds
    assert abs(len(kept) - 500) < 5 * 21.2
    assert kept < {name for name in names if held_out(name, 0.3)}
    assert not any(held_out(name, 0.0) for name in names) and all(held_out(name, 1.0) for name in names)
    assert [held_out(name) for name in ("prompt 3", "prompt 4", "prompt 5")] == [False, False, False]
    with pytest.raises(UserError, match="fraction is 1.5: it must lie between 0 and 1"):
        held_out("a", 1.5)
