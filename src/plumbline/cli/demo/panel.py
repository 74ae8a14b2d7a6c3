"""Two labelers who are not there: the people behind the frozen rankings were few, and agreement takes several.

A simulated labeler has the ranking of the real one, read from the best answer to the worst, and exchanges neighbours
in it with a stated chance. They are called simulated wherever they appear.
"""

from __future__ import annotations

import random

from plumbline.records import Ranking

SIMULATED = {"two (simulated)": 0.1, "three (simulated)": 0.2}
"""The chance with which each exchanges two neighbours."""


def panel(rankings: list[Ranking], seed: int = 0) -> list[Ranking]:
    """The rankings, followed by those of each simulated labeler."""
    found = list(rankings)
    for name, chance in SIMULATED.items():
        dice = random.Random(f"{name} {seed}")
        found += [mistaken(each, name, chance, dice) for each in rankings]
    return found


def mistaken(ranking: Ranking, name: str, chance: float, dice: random.Random) -> Ranking:
    """The ranking as somebody gives it who exchanges neighbouring ranks with this chance; flags stay."""
    ranks = sorted({rank for rank in ranking.ranks if rank is not None})
    order = list(ranks)
    for place in range(len(order) - 1):
        if dice.random() < chance:
            order[place], order[place + 1] = order[place + 1], order[place]
    now = dict(zip(order, ranks, strict=True))
    given = tuple(None if rank is None else now[rank] for rank in ranking.ranks)
    return ranking.model_copy(update={"labeler_id": name, "ranks": given})
