"""Batches by hand: every row once, within the budget, longest first; padding that only the lengths know of."""

from __future__ import annotations

import pytest

from plumbline.models.batches import by_length, pad_left, pad_right


def test_batches_by_hand() -> None:
    # Lengths 9, 5, 5, 4, 1 in 10 tokens: 9 alone, 5 + 5, then 4 with 1, which is padded to 4.
    assert list(by_length([5, 1, 9, 4, 5], 10)) == [[2], [0, 4], [3, 1]]
    assert list(by_length([30, 2, 2], 10)) == [[0], [1, 2]]  # a row above the budget goes alone
    assert list(by_length([0, 0], 1)) == [[0], [1]]
    assert list(by_length([], 10)) == []


@pytest.mark.parametrize("budget", [1, 7, 64, 10_000])
def test_every_row_is_in_one_batch_and_no_batch_breaks_the_budget(budget: int) -> None:
    lengths = [(7 * place * place) % 41 for place in range(100)]
    batches = list(by_length(lengths, budget))
    assert sorted(place for batch in batches for place in batch) == list(range(100))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[place] for place in batch) <= budget


def test_padding_goes_to_the_side_that_is_named() -> None:
    ids, mask = pad_right([[5, 0], [7, 8, 0]])
    assert ids.tolist() == [[5, 0, 0], [7, 8, 0]]
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]  # an id of 0 that belongs to a row is real
    ids, mask = pad_left([[5, 0], [7, 8, 0]])
    assert ids.tolist() == [[0, 5, 0], [7, 8, 0]]
    assert mask.tolist() == [[0, 1, 1], [1, 1, 1]]
