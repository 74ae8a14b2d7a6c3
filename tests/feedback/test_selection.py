"""What of a store goes into a file: everybody's words, merged or not, of one split, and what was noted on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plumbline.feedback.exchange import FORMATS, export
from plumbline.feedback.privacy import Aliases, Replacer
from plumbline.feedback.selection import (
    NO_SPLIT,
    OTHER_SPLIT,
    OVER_CAP,
    Selection,
    answers_of,
    prompts_of,
    read_splits,
    write_splits,
)
from plumbline.feedback.split import Plan, check, split
from plumbline.feedback.store import Store
from plumbline.records import ComparisonSet, Pair, PromptRecord, Ranking, Rating, parse

COOL = ("Open the windows at night.", "Draw the curtains by day.", "Hot.")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "plumb.db") as store:
        yield store


def a_set(name: str, user: str | None = None, texts: tuple[str, ...] = COOL, **rest: Any) -> ComparisonSet:
    line = {"set_id": name, "prompt": f"question {name}?", "completions": [{"text": text} for text in texts], **rest}
    return parse(ComparisonSet, line if user is None else {**line, "user_id": user})


def ranked(of: ComparisonSet, labeler: str, *ranks: int | None) -> Ranking:
    line = of.model_dump(include={"set_id", "prompt_id", "prompt"})
    texts = [answer.text for answer in of.completions]
    flags = [rank is None for rank in ranks]
    said = {"completions": texts, "ranks": ranks, "flags": flags, "labeler_id": labeler, "instruction_version": "1"}
    return parse(Ranking, {**line, **said})


def fill(store: Store) -> None:
    """Three sets by two users; ann and ben disagree once, eve is excluded; one thumb; one edit."""
    first, second, third = a_set("1", "u1"), a_set("2", "u2"), a_set("3", "u2")
    store.add_sets([first, second, third])
    store.add_rankings(
        [
            ranked(first, "ann", 2, 1, 3),
            ranked(first, "ben", 1, 2, 3),
            ranked(second, "ann", 1, 1, None),
            ranked(second, "eve", 3, 2, 1),
            ranked(third, "ann", 1, 2, 3),
        ],
        "test",
    )
    store.exclude("eve", {"because": "at random"}, "a test")
    store.add_rating(parse(Rating, {"prompt": "question 1?", "completion": "Move.", "label": False}), "u1")
    store.add_edit("question 4?", "Hot", "It is hot.", "u4")
    store.add_edit("question 4?", None, "Written.", "u4")


def texts(pairs: Iterator[Pair]) -> list[tuple[str, str | None, str, str, float, int]]:
    return [(pair.prompt_id[:2], pair.set_id, pair.chosen, pair.rejected, pair.margin, pair.n_votes) for pair in pairs]


def test_pairs_are_those_of_the_rankings_and_of_the_edits(store: Store) -> None:
    fill(store)
    chosen = Selection(store)
    pairs = {(pair.set_id, pair.chosen, pair.rejected): (pair.margin, pair.n_votes) for pair in chosen.records("pairs")}
    windows, curtains, hot = COOL
    assert pairs == {
        ("1", windows, hot): (1.0, 2),  # one against one on the first two: a tie
        ("1", curtains, hot): (1.0, 2),
        ("3", windows, curtains): (1.0, 1),
        ("3", windows, hot): (1.0, 1),
        ("3", curtains, hot): (1.0, 1),
        (None, "It is hot.", "Hot"): (1.0, 1),
    }
    assert list(chosen.seen)[:3] == ["1", "2", "3"] and len(chosen.seen) == 4


def test_who_is_excluded_counts_only_when_asked(store: Store) -> None:
    fill(store)
    assert len(list(Selection(store).records("rankings"))) == 4
    assert len(list(Selection(store, include_excluded=True).records("rankings"))) == 5


def test_the_consensus_of_a_set_is_one_ranking_and_its_pairs_know_how_many_said_so(store: Store) -> None:
    fill(store)
    merged = {each.set_id: each for each in Selection(store, method="ranked-pairs").records("rankings")}
    assert merged["1"].ranks == (1, 1, 2) and merged["2"].flags == (False, False, True)
    votes = [pair.n_votes for pair in Selection(store, method="kemeny").records("pairs") if pair.set_id == "1"]
    assert votes == [2, 2]


def test_a_set_comes_with_everything_that_was_said_of_it(store: Store, tmp_path: Path) -> None:
    fill(store)
    found = list(Selection(store).records("sets"))
    assert [(each.merged.ranks, [vote.labeler_id for vote in each.votes]) for each in found] == [
        ((1, 1, 2), ["ann", "ben"]),
        ((1, 1, None), ["ann"]),
        ((1, 2, 3), ["ann"]),
    ]
    assert export(found, tmp_path / "trees.jsonl", "oasst").rows == 3


def test_every_format_finds_its_records(store: Store, tmp_path: Path) -> None:
    fill(store)
    rows = {
        name: export(Selection(store).records(shape.holds), tmp_path / f"{name}.jsonl", name).rows
        for name, shape in FORMATS.items()
    }
    pairs = dict.fromkeys(["trl-dpo", "trl-reward", "hh-rlhf", "llama-factory"], 6)
    assert rows == {**pairs, "rankings": 4, "kto": 1, "llama-factory-kto": 1, "sft": 2, "oasst": 3}


def test_only_one_part_goes_in_and_the_rest_is_counted_by_prompt(store: Store) -> None:
    fill(store)
    names = {each.prompt_id: each.prompt for each in store.sets()}
    one, two, three = names
    chosen = Selection(store, splits={one: "train", two: "test", three: None}, part="train")
    rankings = list(chosen.records("rankings"))
    assert [(each.set_id, each.split) for each in rankings] == [("1", "train"), ("1", "train")]
    assert list(chosen.seen) == ["1"]
    assert chosen.left_out == {OTHER_SPLIT: {two}, OVER_CAP: {three}}
    assert len(list(chosen.records("ratings"))) == 1
    assert list(chosen.records("demonstrations")) == [] and len(chosen.left_out[NO_SPLIT]) == 1
    assert {pair.split for pair in Selection(store, splits=dict.fromkeys(names, "test")).records("pairs")} == {"test"}


def test_changes_are_made_before_pairs_so_that_equal_answers_are_none(store: Store) -> None:
    of = a_set("1", "u1", ("Write to ann@example.org", "Write to ben@example.org", "No."))
    store.add_sets([of])
    store.add_rankings([ranked(of, "ann", 1, 2, 3)], "test")
    store.add_edit("q", "Call ann@example.org", "Call ben@example.org", "u")
    replacer = Replacer()
    pairs = list(Selection(store, changes=(replacer, Aliases(b"s" * 32))).records("pairs"))
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("Write to [EMAIL]", "No.")]
    assert replacer.kinds() == {"email": 4}
    (ranking,) = Selection(store, changes=(Aliases(b"s" * 32),)).records("rankings")
    assert ranking.labeler_id.startswith("labeler-") and ranking.user_id.startswith("user-")


# ---- the project's split


def test_the_prompts_of_a_store_are_all_with_all_who_wrote_them(store: Store) -> None:
    fill(store)
    store.add_sets([a_set("5", "u9", prompt="question 1?"), a_set("6", None, organisation="o")])
    found = prompts_of(store, {})
    assert sorted((str(each.prompt), each.user_id or "") for each in found) == [
        ("question 1?", "u1"),
        ("question 1?", "u9"),
        ("question 2?", "u2"),
        ("question 3?", "u2"),
        ("question 4?", "u4"),
        ("question 6?", ""),
    ]
    by_organisation = {
        str(each.prompt): getattr(each, "organisation", None) for each in prompts_of(store, {}, "organisation")
    }
    assert by_organisation["question 6?"] == "o" and by_organisation["question 1?"] is None


def test_a_split_is_kept_in_the_project_and_grows(store: Store, tmp_path: Path) -> None:
    assert read_splits(tmp_path) is None
    fill(store)
    plan = Plan(cap=1)
    done = split(prompts_of(store, {}), plan)
    write_splits(tmp_path, done)
    kept = read_splits(tmp_path)
    assert kept == {each.prompt_id: each.split for each in done}
    assert [part for part in kept.values()].count(None) == 1, "u2 asked twice"
    store.add_sets([a_set(f"new {number}", f"n{number}") for number in range(20)])
    grown = split(prompts_of(store, kept), plan)
    assert check(grown, plan).sound
    after = {each.prompt_id: each.split for each in grown}
    assert {name: after[name] for name, part in kept.items() if part} == {
        name: part for name, part in kept.items() if part
    }
    assert isinstance(grown[0], PromptRecord)


def test_two_users_with_one_long_answer_are_on_one_side_and_short_answers_join_nobody(store: Store) -> None:
    long = "Close the shutters before noon, and open the windows at night."
    for number in range(12):
        name, text = f"s{number}", long.replace(" ", "\n", 1) if number in (3, 7) else f"{number} {long}"
        completions = [{"text": text}, {"text": "No."}]
        given = {"set_id": name, "prompt": f"{number * 7919} is asked", "user_id": name, "completions": completions}
        store.add_sets([parse(ComparisonSet, given)])
    store.add_rating(parse(Rating, {"prompt": "Cool?", "completion": long, "label": True}), "somebody else")
    plan = Plan(shares=(0.4, 0.3, 0.3))
    answers = answers_of(store, plan.answer)
    assert answers_of(store, 0) == {} and answers_of(store, len(long) + 5) == {}
    prompts = prompts_of(store, {})
    done = split(prompts, plan, answers)
    joined = {each.split for each in done if getattr(each, "user_id", None) in ("s3", "s7", "somebody else")}
    assert len(joined) == 1 and check(done, plan, answers).sound
    assert check(done, plan, answers).largest == 3 / 13
