"""Blind A/B: what goes to the room names nobody, and votes become a win rate over sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plumbline.evaluate.bench import Bench
from plumbline.evaluate.people import blind_sets, criterion_of, points_of, win_rate
from plumbline.evaluate.records import Asked
from plumbline.models.scripted import Scripted
from plumbline.records import Ranking


def bench(folder: Path, name: str, texts: dict[str, str]) -> Bench:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "completion": t}) + "\n" for p, t in texts.items()))
    return Bench(f"scripted:{path}", folder / name, open_model=lambda _: Scripted(texts, name))


def ranking(set_id: str, ranks: list[int | None], who: str = "ann") -> Ranking:
    return Ranking(
        set_id=set_id,
        prompt_id="p",
        prompt="p",
        completions=("a", "b"),
        ranks=tuple(ranks),
        flags=tuple(rank is None for rank in ranks),
        labeler_id=who,
        instruction_version="1",
    )


def test_sets_name_nobody_to_those_who_rank(tmp_path: Path) -> None:
    one = bench(tmp_path, "old", {"Hi": "Hello.", "Why?": "So."})
    other = bench(tmp_path, "new", {"Hi": "Hey!", "Why?": "So."})
    items = [Asked(item_id="1", prompt="Hi"), Asked(item_id="2", prompt="Why?")]
    (found,), equal = blind_sets(one, other, items)
    assert equal == 1  # the same answer twice is a tie, and nobody is asked
    assert [answer.text for answer in found.completions] == ["Hello.", "Hey!"]
    assert found.criterion == criterion_of(one, other) and "old" not in found.criterion and "new" not in found.criterion
    assert blind_sets(one, other, items)[0] == [found]  # the same again, so that the room knows it
    assert criterion_of(other, one) != found.criterion


@pytest.mark.parametrize(
    ("ranks", "points"),
    [([1, 2], 1), ([2, 1], 0), ([1, 1], 0.5), ([1, None], 1), ([None, 1], 0), ([None, None], 0.5)],
)
def test_a_vote_is_a_win_a_loss_or_a_tie(ranks: list[int | None], points: float) -> None:
    assert points_of(ranking("s", ranks)) == points


def test_sets_count_and_not_votes() -> None:
    votes = [ranking("s1", [1, 2]), ranking("s1", [1, 2], "ben"), ranking("s1", [1, 2], "cem"), ranking("s2", [2, 1])]
    found = win_rate(votes, equal=0)
    assert found is not None and (found.value, found.n) == (0.5, 2)
    with_ties = win_rate([ranking("s1", [1, 2])], equal=3)
    assert with_ties is not None and with_ties.value == (1 + 3 * 0.5) / 4
    assert win_rate([], equal=5) is None


def test_many_wins_are_a_verdict() -> None:
    found = win_rate([ranking(f"s{n}", [1, 2] if n < 36 else [2, 1]) for n in range(40)], equal=0)
    assert found is not None and found.value == 0.9
    assert found.verdict == "better" and found.change is not None and found.change.value == pytest.approx(0.8)
    few = win_rate([ranking(f"s{n}", [1, 2] if n < 3 else [2, 1]) for n in range(5)], equal=0)
    assert few is not None and few.verdict == "same"
    unanimous = win_rate([ranking(f"s{n}", [1, 2]) for n in range(4)], equal=0)  # by chance one time in eight
    assert unanimous is not None and unanimous.verdict == "unknown"
