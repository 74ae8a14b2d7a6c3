"""Dawid and Skene's own table, crowds with known truth, and flags."""

from __future__ import annotations

import json
import os
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from panel import said
from plumbline.errors import UserError
from plumbline.feedback.dawid_skene import dawid_skene, nonsense

# Dawid and Skene 1979, table 1: 45 patients, the first observer three times, then four others once each.
PATIENTS = """
1111111 3334334 1122122 2223121 2223222 2223322 1222111 3333433 2222223 2322223 4444444 2223343 1111111 2223212 1211111
1112111 1111111 1111111 2222221 2221322 2222222 2222221 2223222 2212222 1111111 1111111 2322222 1111111 1111111 1121121
1111111 3333233 1111111 2222222 2223232 4334343 2212232 2323233 3333432 1111111 1111111 1212111 2322222 1211111 2222222
"""
TABLE = [
    (patient, observer, int(label))
    for patient, row in enumerate(PATIENTS.split())
    for observer, label in zip((1, 1, 1, 2, 3, 4, 5), row, strict=True)
]


def test_the_table_of_1979() -> None:
    """The paper prints shares of .40, .42, .11 and .07; the rest are its estimates carried to convergence."""
    found = dawid_skene(TABLE, prior=(0, 0))
    assert found.converged and found.labels == (1, 2, 3, 4)
    assert found.shares == pytest.approx([0.3996, 0.4220, 0.1118, 0.0667], abs=5e-5)
    assert found.log_likelihood == pytest.approx(-192.891, abs=5e-4)
    assert Counter(found.best(patient) for patient in range(45)) == {1: 18, 2: 19, 3: 5, 4: 3}
    habits = [[0.889, 0.111, 0, 0], [0.071, 0.876, 0.053, 0], [0, 0.339, 0.661, 0], [0, 0, 0.556, 0.444]]
    assert found.habits[1] == pytest.approx(np.array(habits), abs=5e-4)


def test_the_order_of_answers_does_not_matter() -> None:
    one, other = dawid_skene(TABLE), dawid_skene(TABLE[::-1])
    for patient in range(45):
        assert one.posterior[patient] == pytest.approx(other.posterior[patient], abs=1e-6)


def test_thousands_of_labels_for_one_task_do_not_underflow() -> None:
    found = dawid_skene([("t", worker, worker % 3 == 0) for worker in range(5000)] + [("u", 0, True)])
    assert np.isfinite(found.log_likelihood) and found.best("t") is False


def test_one_label_is_certain_without_a_prior_and_not_with_it() -> None:
    alone = [("t", "ann", True), ("u", "ann", False)]
    assert dawid_skene(alone, prior=(0, 0)).posterior["t"][1] == pytest.approx(1)
    assert 0.5 < dawid_skene(alone).posterior["t"][1] < 0.95


@pytest.mark.parametrize(("answers", "prior"), [([], (2, 0.5)), ([("t", "ann", 1)], (-1, 0))])
def test_nothing_to_learn_from_is_refused(answers: list[tuple[str, str, int]], prior: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="give some labels, and a prior of 0 or more"):
        dawid_skene(answers, prior=prior)


# Right by majority, where equal votes count by their share, and right by Dawid and Skene without a prior.
CROWDS = {"d_duck": (0.7593, 0.8981), "s_dog": (0.8222, 0.8426)}


@pytest.mark.parametrize("name", CROWDS)
def test_crowds_whose_truth_is_known(name: str) -> None:
    """The reference figures of the data's own page; the paper of 2017 that gathered them has like ones."""
    folder = Path(os.environ.get("PLUMBLINE_TEST_DATA", "")) / "crowd_labels"
    if not (folder / f"{name}.answer.jsonl").is_file():
        pytest.skip(f"no crowd_labels/{name}.answer.jsonl in the folder that PLUMBLINE_TEST_DATA names")
    answers = [
        (row["question"], row["worker"], row["answer"])
        for row in map(json.loads, (folder / f"{name}.answer.jsonl").read_text().splitlines())
    ]
    truth = {
        row["question"]: row["truth"]
        for row in map(json.loads, (folder / f"{name}.truth.jsonl").read_text().splitlines())
    }
    votes: dict[str, Counter[str]] = {}
    for question, _, label in answers:
        votes.setdefault(question, Counter())[label] += 1
    by_majority = 0.0
    for question, right in truth.items():
        best = [label for label, count in votes[question].items() if count == max(votes[question].values())]
        by_majority += (right in best) / len(best)
    majority, expected = CROWDS[name]
    assert by_majority / len(truth) == pytest.approx(majority, abs=5e-5)
    for prior, room in (((0.0, 0.0), 5e-5), ((2.0, 0.5), 0.005)):
        found = dawid_skene(answers, prior=prior)
        right = sum(found.best(question) == label for question, label in truth.items()) / len(truth)
        assert right == pytest.approx(expected, abs=room)
        assert right > majority


# ---- flags


def test_no_flags_no_nonsense() -> None:
    assert nonsense([said("ann", 1, 2), said("ben", 2, 1)]) == {}


def test_a_careless_flagger_is_believed_less() -> None:
    """Ann, Ben and Cleo flag one answer in ten together. Dan flags every second one, alone."""
    rankings = []
    for number in range(40):
        bad = number % 10 == 0
        for labeler in ("ann", "ben", "cleo"):
            rankings.append(said(labeler, 1, None if bad else 2, set_id=str(number)))
        rankings.append(said("dan", 1, None if number % 2 else 2, set_id=str(number)))
    found = nonsense(rankings)
    assert all(found[str(number), "B"] > 0.99 for number in range(0, 40, 10))
    assert all(found[str(number), "B"] < 0.1 for number in range(1, 40, 2))
    assert set(found) == {(str(number), "B") for number in range(40) if number % 2 or number % 10 == 0}


def test_the_order_of_labelers_does_not_matter() -> None:
    rankings = [said("ann", 1, None), said("ben", None, 1), said("cleo", 1, None)]
    first, *others = [nonsense(each) for each in permutations(rankings)]
    assert all(other == pytest.approx(first, abs=1e-6) for other in others)
