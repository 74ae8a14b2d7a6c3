"""The text metrics against arithmetic written out, and against what others published for the same texts."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from plumbline.evaluate.statistics import at_equal_length, mean, measure
from plumbline.evaluate.text import (
    bleu,
    bleu_counts,
    common_subsequence,
    corpus_bleu,
    exact_match,
    final_number,
    pass_at_k,
    rouge,
    rouge_l,
    rouge_n,
    words,
)


def data(folder: str) -> Path:
    path = Path(os.environ.get("PLUMBLINE_TEST_DATA", "")) / folder
    if not os.environ.get("PLUMBLINE_TEST_DATA") or not path.is_dir():
        pytest.skip(f"no {folder} in the folder that PLUMBLINE_TEST_DATA names")
    return path


# ---- exact match


def test_exact_match_looks_past_the_white_space_around_and_at_nothing_else() -> None:
    assert exact_match(" a b\n", ["c", "a b"]) == 1
    assert exact_match("a  b", ["a b"]) == exact_match("A b", ["a b"]) == exact_match("", ["a"]) == 0


@pytest.mark.parametrize(
    ("text", "number"),
    [("There are 1,234.50 left.", "1234.5"), ("23 - 20 + 6 = 9", "9"), ("-3", "-3"), ("none", ""), ("7.", "7")],
)
def test_the_final_number_is_that_of_the_answer(text: str, number: str) -> None:
    assert final_number(text) == number


# ---- BLEU


def test_bleu_counts_what_is_matched_and_clips_it() -> None:
    # Papineni's example: "the" seven times matches the two of the reference.
    counts = bleu_counts(["the"] * 7, ["the cat is on the mat".split()])
    assert counts[:4] == [2, 7, 0, 6] and counts[-2:] == [7, 6]


def test_bleu_by_hand() -> None:
    text, reference = "a b c d e", "a b c d f"
    # 4 of 5 single, 3 of 4 double, 2 of 3 triple, 1 of 2 quadruple; equally long
    assert corpus_bleu([text], [[reference]]) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    smoothed = (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25
    assert corpus_bleu([text], [[reference]], smooth=True) == pytest.approx(smoothed)


def test_a_short_text_pays_for_what_it_leaves_out() -> None:
    reference = "a b c d e f g h"
    assert corpus_bleu(["a b c d"], [[reference]]) == pytest.approx(math.exp(1 - 8 / 4))
    assert corpus_bleu([reference], [[reference]]) == pytest.approx(1)
    assert corpus_bleu(["x y z w"], [[reference]]) == 0 and corpus_bleu([""], [[reference]]) == 0


def test_the_reference_of_the_nearest_length_counts() -> None:
    assert bleu_counts("a b c".split(), ["a b c d".split(), "a b c d e f".split()])[-1] == 4
    assert bleu_counts("a b c".split(), ["a b".split(), "a b c d".split()])[-1] == 2  # of equals the shorter


def test_bleu_of_a_set_is_not_the_mean_of_its_texts() -> None:
    texts, references = ["a b c d e", "x"], [["a b c d e"], ["y"]]
    rows = np.array([bleu_counts(t.split(), [r.split() for r in rs]) for t, rs in zip(texts, references, strict=True)])
    found = measure(bleu, rows)
    assert found.value == pytest.approx((5 / 6) ** 0.25)
    assert 0 <= found.low < found.value < found.high <= 1


def test_words_are_letters_and_signs() -> None:
    assert words("Don't stop, 2.5!") == ["Don", "'", "t", "stop", ",", "2", ".", "5", "!"]


def test_codexglues_toy_pair_of_files_has_the_published_figures() -> None:
    folder = data("codexglue")
    texts, references = (
        (folder / f"refine_toy.{name}.txt").read_text().splitlines() for name in ("predictions", "references")
    )
    assert round(100 * corpus_bleu(texts, [[each] for each in references], smooth=True), 2) == 79.03
    right = [exact_match(text, [reference]) for text, reference in zip(texts, references, strict=True)]
    assert sum(right) / len(right) == 0.4


# ---- ROUGE


def test_rouge_by_hand() -> None:
    own, reference = "the cat sat on the mat".split(), "the cat was on a mat".split()
    assert rouge_n(own, reference, 1) == pytest.approx(2 * 4 / 12)  # the, cat, on, mat
    assert rouge_n(own, reference, 2) == pytest.approx(2 * 1 / 10)  # the cat
    assert common_subsequence(own, reference) == 4
    assert rouge_l(own, reference) == pytest.approx(2 * 4 / 12)
    assert rouge_l(["b", "a"], ["a", "b"]) == 0.5


def test_rouge_takes_the_nearest_reference_and_small_letters() -> None:
    assert rouge("The CAT!", ["a dog", "the cat"]) == {"rouge1": 1, "rouge2": 1, "rougeL": 1}
    assert rouge("", ["the cat"]) == rouge("...", ["the cat"]) == {"rouge1": 0, "rouge2": 0, "rougeL": 0}


def test_the_longest_common_subsequence_is_that_of_all_subsequences() -> None:
    numbers = np.random.default_rng(0)
    for _ in range(50):
        one, other = ("".join(numbers.choice(list("abc"), size)) for size in numbers.integers(0, 8, 2))
        subsequences = {
            "".join(one[place] for place in range(len(one)) if mask >> place & 1) for mask in range(1 << len(one))
        }

        def within(part: str, text: str = other) -> bool:
            left = iter(text)
            return all(letter in left for letter in part)

        assert common_subsequence(one, other) == max(len(part) for part in subsequences if within(part))


# ---- programs


def test_pass_at_k_is_the_share_of_choices_with_one_that_passes() -> None:
    from itertools import combinations

    for passed in range(6):
        for k in range(1, 6):
            picks = list(combinations(range(5), k))
            share = sum(min(pick) < passed for pick in picks) / len(picks)
            assert pass_at_k(5, passed, k) == pytest.approx(share)


# ---- win rates


LENGTH_CONTROLLED = {"text_davinci_001": 20.571, "phi-2": 29.819}
"""As published, over all 805 instructions and with a term for their difficulty that takes many models."""


@pytest.mark.parametrize(
    ("model", "percent", "wins", "ties"), [("text_davinci_001", 15.036, 79, 8), ("phi-2", 31.876, 170, 10)]
)
def test_alpaca_evals_annotations_have_the_published_win_rates(
    model: str, percent: float, wins: int, ties: int
) -> None:
    lines = (data("alpaca_eval") / f"v1_gpt4.{model}.jsonl").read_text().splitlines()
    given = [json.loads(line)["preference"] for line in lines]
    points = [{1: 0.0, 2: 1.0}.get(each, 0.5) for each in given if each is not None]  # 2 is this model's answer
    found = measure(mean, np.array(points)[:, None])
    assert round(100 * found.value, 3) == percent
    assert (sum(each == 1 for each in points), sum(each == 0.5 for each in points)) == (wins, ties)
    # The leaderboard's standard error is over all 805 instructions: it shrinks with the root of their number.
    error = {"text_davinci_001": 1.2351, "phi-2": 1.6056}[model]
    own = float(np.std(points, ddof=1) / len(points) ** 0.5)
    assert 100 * own * (len(points) / 804) ** 0.5 == pytest.approx(error, rel=0.02)
    assert (found.high - found.low) / 4 == pytest.approx(own, rel=0.1)
    lengths = [
        (len(row["output_2"]) - len(row["output_1"])) for row in map(json.loads, lines) if row["preference"] is not None
    ]
    controlled = measure(at_equal_length, np.column_stack([points, lengths]))
    assert controlled.low < LENGTH_CONTROLLED[model] / 100 < controlled.high
    # The short answers of the one gain, the longer ones of the other lose.
    assert (controlled.value > found.value) == (model == "text_davinci_001")
