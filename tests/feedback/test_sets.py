"""Sets and criteria: frozen, the same on both databases to the last character, streamed however many."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from collecting import Clock, a_set, some_sets
from plumbline.errors import BadRecord, UserError
from plumbline.feedback.sets import CHUNK, chunks
from plumbline.feedback.store import Added, Store
from plumbline.records import ComparisonSet, Rating, parse

TEXTS = {
    "right to left": "שלום, עולם \u202eolleh\u202c",
    "Chinese, Japanese, Korean": "你好，世界。こんにちは 안녕하세요 𠮷野家",
    "U+0000": "before\0after\0",
    "the escape character": "\x10\x100\x101\0\x10",
    "what looks like an escape": "\x100 \x101 \x10",
    "scripts": "<script>alert('x')</script> & \"quotes\" \\ %s :name ${x} {y}",
    "line ends and spaces": " \r\n\t\u2028 x \u00a0",
    "joined characters": "e\u0301 é 👩‍👩‍👧 ﷽",
    "every control character": "".join(map(chr, range(32))) + "\x7f\x85",
    "a megabyte": "wörd " * 200_000,
}

# ---- sets in and out


def test_a_set_comes_back_as_it_was(store: Store) -> None:
    given = a_set(
        completions=[
            {"text": "one", "model": "m@3", "sampling": {"temperature": 0.7, "top_k": 50}, "seed": 2**63, "why": [1]},
            {"text": ""},
        ],
        criterion="harmless",
        user_id="u1",
        source="mail",
        split="test",
    )
    assert store.add_sets([given]) == Added(1, 0)
    assert store.comparison_set("s0") == given
    assert list(store.sets()) == [given]


def test_a_prompt_of_messages_comes_back_as_it_was(store: Store) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi\0"}, call]
    given = a_set(prompt=messages, criterion="helpful")
    store.add_sets([given])
    assert store.comparison_set("s0") == given


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_comes_back_to_the_last_character(store: Store, text: str) -> None:
    name = f"s {text[:100]}"
    given = a_set(name, prompt=f"p{text}", completions=[{"text": text}, {"text": "x"}], user_id=f"u{text[:100]}")
    store.add_sets([given], criterion=f"c{text[:100]}")
    assert store.comparison_set(name).model_dump() == given.model_dump() | {"criterion": f"c{text[:100]}"}
    assert store.add_sets([given], criterion=f"c{text[:100]}") == Added(0, 1)
    assert store.revise(f"c{text[:100]}", text, by=text).text == text
    assert store.instruction(f"c{text[:100]}").text == text
    ann = store.add_labeler(f"n{text[:100]}x")
    assert store.labelers() == [ann]


def test_half_of_a_surrogate_pair_is_refused(store: Store) -> None:
    sentence = "has half of a surrogate pair at character [0-9]+, which no database can hold"
    with pytest.raises(BadRecord, match=sentence):
        store.add_sets([a_set(source="\ud800")])
    with pytest.raises(BadRecord, match=f"the name {sentence}"):
        store.add_labeler("Ann \ud800")
    with pytest.raises(BadRecord, match=f"the text {sentence}"):
        store.add_criterion("kind", "\ud800")
    assert store.count() == 0


def test_the_same_set_again_is_known_and_another_under_its_id_is_named(store: Store) -> None:
    assert store.add_sets([a_set(), a_set(), a_set("s1")]) == Added(2, 1)
    assert store.add_sets([a_set(split="train")]) == Added(0, 1)  # what stands beside the content does not change it
    for change in ({"prompt": "another"}, {"answers": 2}, {"criterion": "honest"}):
        with pytest.raises(BadRecord, match="the set 's0' is there with other content: a set never changes, rename it"):
            store.add_sets([a_set(**change)])  # type: ignore[arg-type]
    assert store.comparison_set("s0") == a_set(criterion="helpful")


def test_a_prompt_id_means_one_prompt(store: Store) -> None:
    store.add_sets([a_set("s0", prompt="one", prompt_id="p")])
    assert store.add_sets([a_set("s1", prompt="one", prompt_id="p")]) == Added(1, 0)
    with pytest.raises(BadRecord, match="the prompt 'p' is there with another text: give this one another id"):
        store.add_sets([a_set("s2", prompt="two", prompt_id="p")])


def test_bad_sets_are_told_and_the_good_ones_stay(store: Store) -> None:
    told: list[tuple[str, str]] = []
    given = [a_set("s0"), a_set("s1"), a_set("s0", answers=2), a_set("x" * 301), a_set("s2")]
    assert store.add_sets(given, on_bad=lambda bad, why: told.append((bad.set_id, why))) == Added(3, 0)
    assert [bad for bad, _ in told] == ["s0", "x" * 301]
    assert told[1][1].endswith("it needs 1 to 300 characters")
    with pytest.raises(BadRecord):
        store.add_sets([a_set("s3"), a_set("s0", answers=2)])
    assert store.count() == 4  # without `on_bad` as well


def test_the_longest_ids_fit(store: Store) -> None:
    name = "語" * 300
    store.add_sets([a_set(name, prompt_id=name, user_id=name)], criterion=name)
    assert store.comparison_set(name).prompt_id == name


def test_a_prompt_of_one_turn_is_the_same_as_its_text(store: Store) -> None:
    text = a_set("s")
    turn = a_set("s", prompt=[{"role": "user", "content": text.prompt}])
    assert text.prompt_id == turn.prompt_id
    store.add_sets([text])
    assert store.add_sets([turn]) == Added(0, 1)
    assert store.add_sets([turn.model_copy(update={"set_id": "t"})]) == Added(1, 0)
    store.add_rating(parse(Rating, {"prompt": turn.prompt, "completion": "x", "label": True}), "u")
    assert [each.prompt for each in store.sets()] == [text.prompt, text.prompt]


def test_an_unknown_set_is_said(store: Store) -> None:
    with pytest.raises(UserError, match="there is no set 's9': it was never added, or it was erased"):
        store.comparison_set("s9")


def test_sets_of_one_criterion(store: Store) -> None:
    store.add_sets([a_set("s0", criterion="honest"), a_set("s1"), a_set("s2", criterion="honest")])
    assert [each.set_id for each in store.sets(criterion="honest")] == ["s0", "s2"]
    assert store.progress(criterion="honest").total == 2 and store.progress().total == 3


# ---- gold


def test_gold_is_marked_with_the_sets_or_later_and_can_be_corrected(store: Store) -> None:
    store.add_sets(some_sets(3), gold={"s0": (1, 3, 3)})
    store.add_sets([], gold={"s1": (2, 1, None)})
    assert store.gold_sets() == {"s0": (1, 2, 2), "s1": (2, 1, None)}
    store.add_sets([], gold={"s0": (1, 1, 1)})
    assert store.gold_sets()["s0"] == (1, 1, 1)


@pytest.mark.parametrize(
    ("gold", "sentence"),
    [
        ({"s0": (1, 2)}, "`ranks` has 2 entries for 3 completions"),
        ({"s0": (0, 1, 2)}, "`ranks` holds 0: the best rank is 1"),
        ({"s9": (1, 2, 3)}, "there is no set 's9'"),
    ],
)
def test_gold_must_be_a_ranking_of_a_set_that_is_there(
    store: Store, gold: dict[str, tuple[int, ...]], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        store.add_sets(some_sets(1), gold=gold)
    assert store.gold_sets() == {}


# ---- criteria


def test_instructions_have_versions_with_dates(store: Store, clock: Clock) -> None:
    first = store.add_criterion("kind", "Be kind.", by="mo")
    assert (first.version, first.text, first.by, first.at) == (1, "Be kind.", "mo", clock.now)
    clock.pass_minutes(5)
    second = store.revise("kind", "Be kinder.", by="li")
    assert store.revise("kind", "Be kinder.", by="li") == second  # nothing new
    assert store.instructions("kind") == [first, second]
    assert (store.instruction("kind"), store.instruction("kind", 1)) == (second, first)
    assert second.at - first.at == clock.now - first.at


def test_a_criterion_is_begun_once(store: Store) -> None:
    first = store.add_criterion("kind", "Be kind.")
    assert store.add_criterion("kind", "Be kind.") == first
    with pytest.raises(UserError, match="there is a criterion 'kind' with other instructions: revise them"):
        store.add_criterion("kind", "Be nice.")


def test_sets_begin_the_criterion_that_they_need(store: Store) -> None:
    store.add_criterion("honest", "Check the facts.")
    store.add_sets([a_set("s0", criterion="honest"), a_set("s1")], criterion="kind")
    assert set(store.criteria()) == {"honest", "kind"}
    assert store.instruction("kind").text == "Rank the answers from the best to the worst by this criterion: kind."
    assert store.instruction("honest").text == "Check the facts."


def test_an_unknown_criterion_or_version_is_said(store: Store) -> None:
    with pytest.raises(UserError, match="there is no criterion 'kind': there is none yet"):
        store.instruction("kind")
    store.add_criterion("honest", "x")
    with pytest.raises(UserError, match="there is no criterion 'kind': there is 'honest'"):
        store.revise("kind", "x", by="mo")
    with pytest.raises(UserError, match="the instructions of 'honest' have no version 2: the newest is 1"):
        store.instruction("honest", 2)


# ---- how many


def test_chunks_are_neither_long_nor_heavy() -> None:
    assert [len(chunk) for chunk in chunks([1] * (2 * CHUNK + 3), lambda _: 1)] == [CHUNK, CHUNK, 3]
    assert list(chunks([1, 2, 3], lambda _: 10_000_000)) == [[1], [2], [3]]
    assert list(chunks([], len)) == []


def test_however_many_sets_take_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def many(count: int) -> Iterator[ComparisonSet]:
        return (a_set(f"{count} {number}", prompt="x" * 1000 + str(number)) for number in range(count))

    def most(count: int) -> int:
        tracemalloc.start()
        assert store.add_sets(many(count)).new == count
        assert sum(1 for _ in store.sets()) == store.count()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    monkeypatch.setattr("plumbline.feedback.sets.CHUNK", 50)
    with Store.open(tmp_path) as store:
        most(60)  # what is made once
        few, more = most(100), most(400)
    assert more < 2 * few  # and not four times as much
