"""Poor labelers are found, good ones are left alone, and nobody is held against themselves."""

from __future__ import annotations

from itertools import combinations

import pytest

from panel import Panel, said, simulate_panel
from plumbline.feedback.consensus import consensus
from plumbline.feedback.labelers import INSTRUCTGPT, LabelerScore, judge_labelers, missed, weights_of
from plumbline.records import Ranking


def judge(panel: Panel) -> dict[str, LabelerScore]:
    return {score.labeler_id: score for score in judge_labelers(panel.rankings, gold=panel.gold)}


def right(panel: Panel, weights: dict[str, float] | None = None) -> float:
    """The share of pairs that the consensus has in the order of the answers' true quality; a tie is half right."""
    hits, pairs = 0.0, 0
    for found in consensus(panel.rankings, weights=weights):
        answers = zip(found.ranks, panel.truth[found.set_id], strict=True)
        for (rank, quality), (other_rank, other_quality) in combinations(answers, 2):
            lead = (other_rank - rank) * (quality - other_quality)  # type: ignore[operator]
            hits += 0.5 if lead == 0 else lead > 0
            pairs += 1
    return hits / pairs


# ---- the synthetic panel: 40 labelers, 20 % guess, 10 % answer upside down, 3 votes a set, 5 % gold


@pytest.mark.parametrize(("sets", "answers"), [(400, 4), (400, 9), (1000, 2)])
def test_poor_labelers_are_found_and_good_ones_are_left_alone(sets: int, answers: int) -> None:
    """Thirty sets each, or 75 of a single pair: at least 95 % found, with their fault named; at most 1 false alarm."""
    found = named = alarms = poor = 0
    for seed in range(3):
        panel = simulate_panel(seed, sets=sets, answers=answers)
        for name, score in judge(panel).items():
            fault = panel.faults.get(name)
            poor += fault is not None
            found += fault is not None and score.suggestion is not None
            named += fault is not None and score.suggestion == fault
            alarms += fault is None and score.suggestion is not None
    assert poor == 36
    assert found >= 0.95 * poor, (found, poor)
    assert named >= 0.9 * poor, (named, poor)
    assert alarms <= 1, alarms


def test_weights_beat_the_majority_and_exclusion_beats_it_too() -> None:
    panel = simulate_panel(1, sets=600)
    scores = judge(panel)
    excluded = [name for name, score in scores.items() if score.suggestion]
    majority, weighed = right(panel), right(panel, weights_of(scores.values()))
    without = right(panel, dict.fromkeys(excluded, 0.0))
    both = right(panel, weights_of(scores.values(), excluded))
    assert weighed > majority + 0.04 and without > majority + 0.04 and both > majority + 0.06
    assert right(panel, weights_of(scores.values(), panel.faults)) == pytest.approx(both, abs=0.02)


# ---- nothing to find


@pytest.mark.parametrize("seed", range(4))
def test_where_all_are_alike_nobody_is_suggested(seed: int) -> None:
    panel = simulate_panel(seed, sets=400, random_share=0, reversed_share=0, unlike=0)
    assert [score.labeler_id for score in judge(panel).values() if score.suggestion] == []


def test_where_all_guess_alarms_keep_to_the_level() -> None:
    """Guessers all: nobody is worse than the typical one, and each panel may have an alarm with 5 %.

    In 20 panels that is 5 or more once in 400 times; 200 other panels of this make had 10.
    """
    alarmed = 0
    for seed in range(20):
        panel = simulate_panel(seed, labelers=12, sets=100, random_share=1.0, reversed_share=0)
        alarmed += any(score.suggestion for score in judge(panel).values())
    assert alarmed <= 4


def test_good_labelers_who_differ_are_not_taken_for_poor_ones() -> None:
    panel = simulate_panel(2, sets=600, random_share=0, reversed_share=0, unlike=0.3)
    assert [score for score in judge(panel).values() if score.suggestion] == []


def test_few_sets_suggest_nothing() -> None:
    scores = judge_labelers(
        [said(name, *ranks, set_id=str(n)) for n in range(9) for name, ranks in
         (("ann", (1, 2)), ("ben", (1, 2)), ("cleo", (1, 2)), ("dan", (2, 1)))]
    )  # fmt: skip
    assert {score.suggestion for score in scores} == {None}
    assert scores[3].evidence == "fewer than 10 scored sets: too few to tell"
    assert scores[3].p_random is None and scores[3].others.value == 0


# ---- how a score is made


def turned(labelers: dict[str, bool], sets: int = 12) -> list[Ranking]:
    """Everybody ranks alike, but for those who turn it around."""
    return [
        said(name, *((3, 2, 1) if back else (1, 2, 3)), set_id=str(number))
        for number in range(sets)
        for name, back in labelers.items()
    ]


def test_nobody_is_held_against_themselves() -> None:
    """Dan against three who agree: with his own vote the majority would be his in no case either, but his score says
    how he stands to the others: never alike, and they to each other: always, whatever he says."""
    scores = {
        each.labeler_id: each for each in judge_labelers(turned(dict(ann=False, ben=False, cleo=False, dan=True)))
    }
    assert {name: score.others.value for name, score in scores.items()} == {"ann": 1, "ben": 1, "cleo": 1, "dan": 0}
    assert scores["dan"].suggestion == "reversed" and scores["dan"].p_reversed == pytest.approx(0, abs=1e-6)
    assert scores["dan"].evidence == (
        "chooses as others or gold do 0% of the time on 12 sets, the typical labeler 100%"
    )


def test_one_alone_has_no_score_but_by_gold() -> None:
    rankings = [said("ann", 1, 2, 3, set_id=str(number)) for number in range(12)]
    (score,) = judge_labelers(rankings)
    assert score.others.value is None and score.others.why == "undefined: the others say nothing"
    assert score.gold.why == "undefined: no gold set ranked" and score.suggestion is None
    gold = [said("the team", 3, 2, 1, set_id=str(number)) for number in range(12)]
    (score,) = judge_labelers(rankings, gold=gold)
    assert score.gold.value == 0 and score.suggestion == "reversed"


def test_gold_says_who_is_upside_down_where_most_are() -> None:
    """Without gold the two who are right seem to be the ones who turn everything around."""
    rankings = turned(dict(ann=False, ben=False, cleo=True, dan=True, eve=True), sets=20)
    without = {each.labeler_id for each in judge_labelers(rankings) if each.suggestion == "reversed"}
    gold = [said("the team", 1, 2, 3, set_id=str(number)) for number in range(4)]
    with_gold = {each.labeler_id for each in judge_labelers(rankings, gold=gold) if each.suggestion == "reversed"}
    assert (without, with_gold) == ({"ann", "ben"}, {"cleo", "dan", "eve"})


def test_ties_and_what_gold_leaves_out_say_nothing() -> None:
    gold = [said("the team", 1, 1, None), said("the team", 1, 2, None, set_id="t")]
    rankings = [said("ann", 1, 2, 3), said("ann", 1, 2, 3, set_id="t"), said("ben", 1, 1, 1, set_id="t")]
    ann, ben = judge_labelers(rankings, gold=gold)
    assert (ann.gold.value, ann.gold.n, ann.sets) == (1, 1, 2)
    assert ben.gold.value is None and ben.accuracy.why == "undefined: no choice between two answers"


def test_flags_are_held_against_most_others_or_gold() -> None:
    """Cleo flags B, which the two others do not: she is right on A alone; where gold flags B, they are."""
    rankings = [said("ann", 1, 2), said("ben", 1, 2), said("cleo", 1, None)]
    assert {each.labeler_id: each.flags.value for each in judge_labelers(rankings)} == {"ann": 1, "ben": 1, "cleo": 0.5}
    by_gold = judge_labelers(rankings, gold=[said("the team", 1, None)])
    assert {each.labeler_id: each.flags.value for each in by_gold} == {"ann": 0.5, "ben": 0.5, "cleo": 1}


def test_the_order_of_labelers_does_not_matter() -> None:
    panel = simulate_panel(5, labelers=10, sets=60)
    turned_around = judge_labelers(panel.rankings[::-1], gold=panel.gold)
    for one, other in zip(judge_labelers(panel.rankings, gold=panel.gold), turned_around, strict=True):
        assert (one.labeler_id, one.suggestion, one.sets) == (other.labeler_id, other.suggestion, other.sets)
        assert one.others.value == pytest.approx(other.others.value, abs=1e-3)


def test_no_rankings_no_labelers() -> None:
    assert judge_labelers([]) == []
    assert weights_of([]) == {}


# ---- weights and cut-offs


def test_weights_are_log_odds_with_a_mean_of_1() -> None:
    scores = judge_labelers(turned(dict(ann=False, ben=False, cleo=False, dan=True)))
    weights = weights_of(scores)
    assert sum(weights.values()) == pytest.approx(4)
    assert weights["ann"] / weights["dan"] == pytest.approx(2.944439 / 0.200671, rel=1e-5)  # log 0.95/0.05, 0.55/0.45
    weights = weights_of(scores, {"dan"})
    assert weights == {"ann": pytest.approx(1), "ben": pytest.approx(1), "cleo": pytest.approx(1), "dan": 0}


def test_instructgpts_cut_offs() -> None:
    assert INSTRUCTGPT == (0.75, 0.75, 6.0)
    scores = judge_labelers(turned(dict(ann=False, ben=False, cleo=False, dan=True)))
    assert missed(scores[0], demonstrations=6) == []
    assert missed(scores[0]) == []
    assert missed(scores[3], demonstrations=5.5) == [
        "comparisons: 0.00, and 0.75 are asked for",
        "demonstrations: 5.50, and 6.00 are asked for",
    ]
