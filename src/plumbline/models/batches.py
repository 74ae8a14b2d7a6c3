"""Which rows share a forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def by_length(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Places of rows in batches of at most `budget` tokens, padding included; a row above the budget goes alone.

    Rows of like length share a batch, so that little of it is padding; the longest come first, so that a batch that
    does not fit into memory fails at once.
    """
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    begin = 0
    while begin < len(order):
        end = begin + max(1, budget // max(1, lengths[order[begin]]))
        yield order[begin:end]
        begin = end
