"""Which rows share a forward pass, and how rows of different lengths become one tensor.

Masks come from lengths, never from an id: with the bundled model padding and end-of-text are one token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


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


def pad_left(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (rows, longest), the rows' ends aligned; the padding's id is never looked at."""
    import torch

    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, longest - len(row) :] = torch.tensor(row)
        mask[number, longest - len(row) :] = 1
    return ids, mask


def pad_right(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (rows, longest), the rows' beginnings aligned."""
    import torch

    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    return ids, mask
