"""Comparisons become pairs with the right weights, lines of one set find each other, what cannot be used is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plumbline.align.data import (
    Limits,
    Order,
    Preference,
    compare,
    gather,
    load_opinions,
    load_preferences,
    pairs_of,
    tell,
)
from plumbline.errors import BadRecord
from plumbline.models.chat import encode_prompt
from plumbline.models.grouped import Group
from plumbline.models.tokenizer import Tokenizer
from plumbline.records import Pair, Ranking


def ranking(ranks: list[int | None], texts: str = "abcdefghi", **fields: Any) -> dict[str, Any]:
    return {
        "set_id": "s",
        "prompt_id": "p",
        "prompt": "My house is too hot. What can I do?",
        "completions": list(texts[: len(ranks)]),
        "ranks": ranks,
        "flags": [rank is None for rank in ranks],
        "labeler_id": "ann",
        "instruction_version": "1",
        "split": "train",
        **fields,
    }


def write(path: Path, *lines: Any) -> list[str]:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [str(path)]


@pytest.fixture
def limits(tiny_llama: Path) -> Limits:
    return Limits.of(Tokenizer(tiny_llama))


def read(path: Path, limits: Limits, *lines: Any, ties: bool = True, share: float = 0.1) -> Any:
    return load_preferences(write(path / "data.jsonl", *lines), limits, ties=ties, share=share)


# ---- pairs


def test_nine_ranked_answers_make_36_pairs_of_equal_weight() -> None:
    ranks = (5, 1, 9, 2, 8, 3, 7, 4, 6)
    pairs = compare([Order(ranks)], ties=True)
    assert len(pairs) == 36
    assert all(ranks[pair.better] < ranks[pair.worse] and pair.weight == 1 / 36 for pair in pairs)
    assert len({(pair.better, pair.worse) for pair in pairs}) == 36


def test_ties_count_as_pairs_only_where_they_are_asked_for() -> None:
    order = [Order((1, 2, 1))]
    assert [(pair.better, pair.worse, pair.tied, pair.weight) for pair in compare(order, ties=True)] == [
        (0, 2, True, 1 / 3),
        (0, 1, False, 1 / 3),
        (2, 1, False, 1 / 3),
    ]
    assert [(pair.better, pair.worse, pair.weight) for pair in compare(order, ties=False)] == [
        (0, 1, 1 / 2),
        (2, 1, 1 / 2),
    ]


def test_a_flagged_answer_is_in_no_pair_and_two_labelers_share_the_weight() -> None:
    pairs = compare([Order((1, 2, None)), Order((1, 2, 3))], ties=True)
    assert [(pair.better, pair.worse, pair.weight) for pair in pairs] == [
        (0, 1, 1 / 2),
        (0, 1, 1 / 6),
        (0, 2, 1 / 6),
        (1, 2, 1 / 6),
    ]


# ---- sets


def test_rankings_of_one_set_share_its_answers_whatever_order_they_were_shown_in() -> None:
    first = Ranking.model_validate(ranking([1, 2, 3], "abc"))
    second = Ranking.model_validate(ranking([1, 2, None], "cab", labeler_id="bob"))
    (one,) = gather([first, second], 0.1)
    assert one.completions == ("a", "b", "c")
    assert [order.ranks for order in one.orders] == [(1, 2, 3), (2, None, 1)]


def test_the_pairs_of_a_ranking_are_put_together_again_and_others_stay_apart() -> None:
    told = {"prompt": "Hi", "prompt_id": "p"}
    three = [("a", "b"), ("a", "c"), ("b", "c")]
    pairs = [Pair(**told, set_id="s", chosen=better, rejected=worse) for better, worse in three]
    (one,) = gather(pairs, 0.1)
    assert one.completions == ("a", "b", "c")
    found = compare(one.orders, ties=True)
    assert [(pair.better, pair.worse, pair.weight) for pair in found] == [
        (0, 1, 1 / 3),
        (0, 2, 1 / 3),
        (1, 2, 1 / 3),
    ]
    assert len(gather([pair.model_copy(update={"set_id": None}) for pair in pairs], 0.1)) == 3


def test_a_text_drawn_twice_is_one_answer() -> None:
    (one,) = gather([Ranking.model_validate(ranking([1, 3, 2], "aab"))], 0.1)
    assert (one.completions, one.orders[0].ranks) == (("a", "b"), (1, 2))


# ---- tokens


def test_a_completion_is_its_text_and_one_end_token(tmp_path: Path, limits: Limits) -> None:
    (example,) = read(tmp_path, limits, ranking([2, 1, 3], "abc")).train
    tokenizer = limits.tokenizer
    assert example.group == Group(
        tuple(encode_prompt(tokenizer, "My house is too hot. What can I do?")),
        tuple((*tokenizer.encode(text), tokenizer.eos_id) for text in "abc"),
    )


def test_a_prompt_that_fills_the_window_is_named_or_cut_from_the_left(tmp_path: Path, limits: Limits) -> None:
    long = ranking([1, 2], "ab", set_id="long", prompt="heat " * 600)
    found = read(tmp_path, limits, long, ranking([1, 2], "ab"))
    assert len(found.train) == 1
    (told,) = found.left_out
    assert told.startswith("set 'long': its prompt has ") and "--truncate-prompt" in told

    cut = Limits.of(limits.tokenizer, truncate=True)
    long_one, _ = read(tmp_path, cut, long, ranking([1, 2], "ab")).train
    whole = encode_prompt(limits.tokenizer, "heat " * 600)
    assert list(long_one.group.prompt) == whole[-(limits.window - 2) :]


def test_an_answer_longer_than_the_window_is_left_out_even_when_prompts_are_cut(tmp_path: Path, limits: Limits) -> None:
    pair = {"prompt": "Hi", "chosen": "heat " * 600, "rejected": "b", "split": "train"}
    found = read(tmp_path, Limits.of(limits.tokenizer, truncate=True), pair, ranking([1, 2]))
    assert len(found.train) == 1
    assert "shorten it" in found.left_out[0] and "the pair on prompt" in found.left_out[0]


# ---- what cannot be used


BAD = [
    ({"prompt": "Hi", "chosen": "a", "rejected": "a"}, "a pair needs two different answers"),
    ({"prompt": "Hi", "chosen": "a", "rejected": "  "}, "an answer needs some text"),
    ({"prompt": "Hi", "chosen": "a"}, "`rejected` is missing"),
    (ranking([1]), "comparing takes at least two"),
    (ranking([1, 2, 3], "ab"), "`ranks` has 3 entries for 2 completions"),
    (ranking([1, None, None]), "set 's': holds fewer than two ranked answers"),
    ([1, 2], "a record is one JSON object"),
]


@pytest.mark.parametrize(("line", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_each_bad_line_is_named_and_the_good_ones_are_kept(
    tmp_path: Path, limits: Limits, line: Any, reason: str
) -> None:
    found = read(tmp_path, limits, ranking([1, 2], set_id="good"), line)
    assert [example.name for example in found.train] == ["set 'good'"]
    assert len(found.left_out) == 1 and reason in found.left_out[0]
    if not reason.startswith("set"):
        assert "data.jsonl:2: " in found.left_out[0]


def test_a_set_with_all_answers_tied_teaches_a_tie_or_is_left_out(tmp_path: Path, limits: Limits) -> None:
    lines = [ranking([1, 2], set_id="good"), ranking([1, 1, 1])]
    assert len(read(tmp_path, limits, *lines).train) == 2
    without = read(tmp_path, limits, *lines, ties=False)
    assert len(without.train) == 1
    assert without.left_out == ["set 's': has all its answers tied, so it says of no answer that it is better"]


def test_a_file_with_nothing_to_learn_is_an_error_with_its_reasons(tmp_path: Path, limits: Limits) -> None:
    with pytest.raises(BadRecord, match="no comparison in which one answer is better"):
        read(tmp_path, limits, ranking([1, 1]))
    with pytest.raises(BadRecord, match="(?s)1 left out:.*fewer than two ranked"):
        read(tmp_path, limits, ranking([1, None]))


def test_many_faults_are_counted_and_the_first_shown() -> None:
    assert tell([f"line {number}" for number in range(8)]).splitlines() == [
        "8 left out:",
        *(f"  line {number}" for number in range(5)),
        "  and 3 more",
    ]


# ---- what is held out


def test_a_named_split_goes_before_the_hash_and_test_is_not_touched(tmp_path: Path, limits: Limits) -> None:
    lines = [ranking([1, 2], set_id=part, split=part) for part in ("train", "validation", "test")]
    found = read(tmp_path, limits, *lines)
    assert ([each.name for each in found.train], [each.name for each in found.held_out]) == (
        ["set 'train'"],
        ["set 'validation'"],
    )


def test_without_a_split_a_tenth_of_the_prompts_is_held_out(tmp_path: Path, limits: Limits) -> None:
    lines = [{"prompt": f"Question {number}", "chosen": "a", "rejected": "b"} for number in range(300)]
    found = read(tmp_path, limits, *lines)
    assert len(found.train) + len(found.held_out) == 300
    assert 15 <= len(found.held_out) <= 50
    assert len(read(tmp_path, limits, *lines, share=0.0).held_out) == 0


def test_ratings_are_groups_of_one(tmp_path: Path, limits: Limits) -> None:
    lines = [{"prompt": "Hi", "completion": text, "label": text == "b", "split": "train"} for text in "abc"]
    found = load_opinions(write(tmp_path / "r.jsonl", *lines), limits, share=0.1)
    assert [each.good for each in found.train] == [False, True, False]
    assert all(len(each.group.completions) == 1 for each in found.train)


# ---- tensors


def example(*orders: tuple[int | None, ...]) -> Preference:
    made = [Order(ranks) for ranks in orders]
    group = Group([1], [[2]] * len(orders[0]))
    return Preference("made up", group, tuple(made), tuple(compare(made, ties=True)))


def test_places_count_on_through_a_micro_batch_and_weights_are_parts_of_the_step() -> None:
    two, three = example((2, 1)), example((1, 1, 2))
    pairs = pairs_of([two, three], [two, three, two])
    assert pairs.better.tolist() == [1, 2, 2, 3]
    assert pairs.worse.tolist() == [0, 3, 4, 4]
    assert pairs.tied.tolist() == [False, True, False, False]
    assert pairs.weight.tolist() == pytest.approx([1 / 3, 1 / 9, 1 / 9, 1 / 9])
    strict = 1 + 2 / 3 + 1
    assert pairs.vote.tolist() == pytest.approx([1 / strict, 0, 1 / 3 / strict, 1 / 3 / strict])


def test_the_weights_of_all_micro_batches_add_up_to_one() -> None:
    step = [example((2, 1)), example((1, 1, 2)), example((1, 2, 3), (1, 1, 2))]
    cut = [pairs_of(part, step) for part in (step[:1], step[1:])]
    assert sum(float(pairs.weight.sum()) for pairs in cut) == pytest.approx(1)
    assert sum(float(pairs.vote.sum()) for pairs in cut) == pytest.approx(1)
