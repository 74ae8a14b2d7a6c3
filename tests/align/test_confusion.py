"""What is known of a classifier, against numbers worked out by hand."""

from __future__ import annotations

from math import exp, log

import pytest

from plumbline.align.accuracy import wilson
from plumbline.align.confusion import measure_confusion, softmax

NAMES = ("air", "joke", "sum")
LABELS = [0, 0, 0, 1, 1, 2]
OUTPUTS = [[3.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 5.0]]
"""Said: air, air, joke, joke, sum, sum. The third and the fifth are wrong."""


def test_the_counts_by_hand() -> None:
    found = measure_confusion(NAMES, LABELS, OUTPUTS, prompts=list("abcdef"), learned=[1, 1, 0, 2])
    assert found.confusion == ((2, 1, 0), (0, 1, 1), (0, 0, 1))
    assert [tuple(each) for each in found.classes] == [("air", 1, 3, 2, 2), ("joke", 2, 2, 2, 1), ("sum", 1, 1, 2, 1)]
    assert found.right == (pytest.approx(4 / 6), *map(pytest.approx, wilson(4 / 6, 6)), 6)
    assert found.commonest == pytest.approx(2 / 6), "joke is commonest in training, and 2 of the 6 are jokes"
    assert found.beats_commonest is (wilson(4 / 6, 6)[0] > 2 / 6)


def test_the_log_loss_by_hand() -> None:
    found = measure_confusion(NAMES, LABELS, OUTPUTS, prompts=list("abcdef"), learned=LABELS)
    of_best = sum(log(exp(top) / (exp(top) + 2)) for top in (3.0, 1.0, 4.0, 5.0))
    of_others = log(1 / (exp(2.0) + 2)) + log(1 / (exp(1.0) + 2))
    assert found.log_loss == pytest.approx(-(of_best + of_others) / 6)


def test_calibration_says_what_it_believed_of_the_class_that_it_says() -> None:
    """Five bins of 6 texts hold 1, 1, 1, 1 and 2. The two outputs of 1 stand first: one was right, one was not."""
    found = measure_confusion(NAMES, LABELS, OUTPUTS, prompts=list("abcdef"), learned=LABELS)
    assert sum(each.pairs for each in found.calibration) == 6
    first, second, third, *_ = found.calibration
    assert first.said == second.said == pytest.approx(exp(1) / (exp(1) + 2))
    assert (first.was, second.was) == (1.0, 0.0)
    assert (third.said, third.was) == (pytest.approx(exp(2) / (exp(2) + 2)), 0.0)


def test_texts_about_one_prompt_are_one_vote() -> None:
    apart = measure_confusion(NAMES, LABELS, OUTPUTS, prompts=list("abcdef"), learned=LABELS).right
    together = measure_confusion(NAMES, LABELS, OUTPUTS, prompts=list("aaabbb"), learned=LABELS).right
    assert together.value == apart.value and together.sets == 2
    assert together.high - together.low > apart.high - apart.low


def test_nothing_held_out_is_no_error() -> None:
    found = measure_confusion(NAMES, [], [], prompts=[], learned=LABELS)
    assert (found.examples, found.calibration, found.beats_commonest) == (0, (), False)


def test_large_outputs_do_not_overflow() -> None:
    assert softmax([1000.0, 0.0]) == [1.0, 0.0]
    found = measure_confusion(("no", "yes"), [1], [[1000.0, 0.0]], prompts=["a"], learned=[0, 1])
    assert found.log_loss > 600
