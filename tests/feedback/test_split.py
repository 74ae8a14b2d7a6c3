"""No user and no prompt on two sides, whatever the data; and the report finds what is, whoever made the split."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline.errors import UserError
from plumbline.feedback.duplicates import Nearness
from plumbline.feedback.split import Plan, check, split
from plumbline.records import PromptRecord, Split, parse

APART = Nearness(alike=0, beginning=0)


def prompt(text: str, user: str | None = None, part: Split | None = None, **rest: object) -> PromptRecord:
    return parse(PromptRecord, {"prompt": text, "user_id": user, "split": part, **rest})


def parts(prompts: list[PromptRecord]) -> list[Split | None]:
    return [each.split for each in prompts]


def words(number: int) -> str:
    """A question that no other number's resembles."""
    draw = random.Random(number)
    return "".join(draw.choices("abcdefghijklmnop ", k=40)).strip() + f" {number}"


def many(users: int, each: int) -> list[PromptRecord]:
    return [prompt(words(user * each + number), f"u{user}") for user in range(users) for number in range(each)]


def test_users_stay_whole_and_the_shares_are_met() -> None:
    done = split(many(users=40, each=5))
    report = check(done)
    assert Counter(parts(done)) == {"train": 160, "validation": 20, "test": 20}
    assert report.prompts == {"train": 160, "validation": 20, "test": 20}
    assert report.users == {"train": 32, "validation": 4, "test": 4}
    assert report.sound and report.left_out == 0 and report.most_of_a_user == 5


def test_the_seed_decides_and_the_same_seed_decides_alike() -> None:
    prompts = many(users=20, each=2)
    assert parts(split(prompts)) == parts(split(prompts))
    assert parts(split(prompts)) != parts(split(prompts, Plan(seed=1)))
    shuffled = random.Random(0).sample(prompts, len(prompts))
    by_id = {each.prompt_id: each.split for each in split(prompts)}
    assert {each.prompt_id: each.split for each in split(shuffled)} == by_id


def chain() -> list[PromptRecord]:
    """a and b share a prompt, b and c have near-duplicates, so three users hang together; five more stand alone."""
    question = "How do I keep my house cool in the summer without a machine"
    linked = [
        prompt("Why is the sky blue?", "a"),
        prompt("why is the sky BLUE", "b"),
        prompt(question, "b"),
        prompt(question + " please", "c"),
        prompt(words(1), "c"),
    ]
    return linked + [prompt(words(10 + number), f"alone {number}") for number in range(5)]


def test_what_hangs_together_by_several_steps_goes_one_way() -> None:
    plan = Plan(shares=(0.5, 0.25, 0.25))
    done = split(chain(), plan)
    assert len(set(parts(done)[:5])) == 1
    assert set(parts(done)) == {"train", "validation", "test"}
    assert check(done, plan).sound
    assert check(done, plan).largest == 0.5


def test_the_report_finds_each_fault_of_a_split_made_otherwise() -> None:
    question = "How do I keep my house cool in the summer without a machine"
    leaky = [
        prompt("one", "a", "train"),
        prompt("two", "a", "test"),
        prompt("Three?", "b", "train"),
        prompt("Three?", "c", "validation"),
        prompt(question, "d", "train"),
        prompt(question + " please", "e", "test"),
        prompt("left out", "f"),
        prompt("nobody's", None, "train"),
    ]
    report = check(leaky)
    assert (report.shared_users, report.shared_prompts, report.near_duplicates) == (1, 1, 2)
    assert not report.sound
    assert (report.left_out, report.of_nobody) == (1, 1)
    assert check(leaky, Plan(nearness=APART)).near_duplicates == 1, "the equal prompts remain"
    assert check([each for each in leaky if each.split != "test"][:1]).sound


WHO = st.one_of(st.none(), st.sampled_from(["ann", "bob", "cid", "dan", "eve"]))
WHAT = st.sampled_from(
    [words(number) for number in range(12)] + [words(3) + "!", words(4).upper(), words(5)[:-1] + "9"]
)
WHERE = st.sampled_from([None, None, None, "train", "validation", "test"])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(WHAT, WHO, WHERE), max_size=25), st.integers(0, 3), st.sampled_from([0, 1, 2, 200]))
def test_no_user_and_no_prompt_is_ever_on_two_sides(rows: list[tuple[str, str, Split]], seed: int, cap: int) -> None:
    plan = Plan(seed=seed, cap=cap)
    given_prompts = [prompt(*row) for row in rows]
    done = split(given_prompts, plan)
    assert [each.prompt_id for each in done] == [each.prompt_id for each in given_prompts]
    report = check(done, plan)
    assert report.sound
    assert not cap or report.most_of_a_user <= cap
    assert sum(report.prompts.values()) + report.left_out == len(rows)
    by_user: dict[str, set[str]] = {}  # and once more, by hand
    for each in done:
        if each.user_id and each.split:
            by_user.setdefault(each.user_id, set()).add(each.split)
    assert all(len(found) == 1 for found in by_user.values())


def test_one_answer_joins_the_prompts_of_two_users() -> None:
    prompts = many(users=20, each=1)
    answers = {each.prompt_id: {number, 100 + number // 4} for number, each in enumerate(prompts)}  # four share one
    alone, done = split(prompts), split(prompts, answers=answers)
    assert check(alone, answers=answers).shared_answers > 0 and not check(alone, answers=answers).sound
    report = check(done, answers=answers)
    assert report.sound and (report.shared_answers, report.largest) == (0, 0.2)
    assert all(len(set(parts(done)[begin : begin + 4])) == 1 for begin in range(0, 20, 4))


def test_a_data_set_that_grows_moves_nothing() -> None:
    before = split(many(users=30, each=2))
    grown = split([*before, *[prompt(words(900 + number), f"new {number}") for number in range(30)]])
    assert parts(grown)[:60] == parts(before)
    assert check(grown).sound
    assert Counter(parts(grown)) == {"train": 72, "validation": 9, "test": 9}


@pytest.mark.parametrize(("one", "other", "both"), [("test", "train", "train"), ("test", "validation", "validation")])
def test_what_was_learned_from_is_not_tested_on(one: Split, other: Split, both: Split) -> None:
    first, second = prompt(words(1), "a", one), prompt(words(2), "b", other)
    bridge = [prompt(words(1), "c"), prompt(words(2), "c")]
    assert set(parts(split([first, second, *bridge]))) == {both}


def test_the_cap_is_kept_and_what_has_a_split_stays() -> None:
    done = split(many(users=3, each=10), Plan(cap=4))
    assert Counter(each.user_id for each in done if each.split) == {"u0": 4, "u1": 4, "u2": 4}
    more = split([*[prompt(words(500 + number), "u0") for number in range(50)], *done], Plan(cap=4))
    assert parts(more)[50:] == parts(done) and set(parts(more)[:50]) == {None}
    assert check(more, Plan(cap=4)).left_out == 50 + 18


def test_a_prompt_over_the_cap_of_one_of_its_users_is_left_out_for_both() -> None:
    shared = prompt(words(0), "b")
    done = split([*[prompt(words(number), "a") for number in range(6)], shared], Plan(cap=3))
    assert done[6].split == done[0].split
    assert sum(each.split is not None for each in done[:6]) == 3


def test_another_key_keeps_organisations_whole() -> None:
    prompts = [prompt(words(number), f"u{number}", organisation=f"o{number % 4}") for number in range(40)]
    plan = Plan(key="organisation", shares=(0.5, 0.25, 0.25))
    done = split(prompts, plan)
    assert check(done, plan).users == {"train": 2, "validation": 1, "test": 1}
    assert check(done, plan).sound and not check(split(prompts), plan).sound


def test_prompts_of_nobody_are_split_one_by_one_and_counted() -> None:
    done = split([prompt(words(number)) for number in range(50)])
    assert Counter(parts(done)) == {"train": 40, "validation": 5, "test": 5}
    assert check(done).of_nobody == 50


def test_nothing_is_split_into_nothing() -> None:
    assert split([]) == []
    assert check([]).sound


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_shares_that_make_no_whole_are_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(UserError, match="add up to 1"):
        Plan(shares=shares)


def test_a_share_of_nothing_gets_nothing() -> None:
    assert set(parts(split(many(users=9, each=1), Plan(shares=(0.9, 0.0, 0.1))))) == {"train", "test"}
