"""Rankings for tests: `said` writes one down, `simulate_panel` makes a panel of labelers whose faults are known.

Every answer has a quality, drawn from a normal distribution. A good labeler sees it with an error of their own size and
ties answers that look nearly the same; a reversed one ranks what they see upside down; a random one shuffles. With
`noise` 0.73 two good labelers agree on 72.6 % of comparisons, as InstructGPT's did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from plumbline.records import Ranking

Fault = Literal["random", "reversed"]


@dataclass(frozen=True)
class Panel:
    rankings: list[Ranking]
    """The rankings of a set stand together."""
    gold: list[Ranking]
    truth: dict[str, list[float]]
    """The quality of each answer, by set."""
    faults: dict[str, Fault]
    """Who is no good labeler, and why."""


def simulate_panel(
    seed: int,
    *,
    labelers: int = 40,
    sets: int = 1000,
    votes: int = 3,
    answers: int = 4,
    random_share: float = 0.2,
    reversed_share: float = 0.1,
    gold_share: float = 0.05,
    noise: float = 0.73,
    unlike: float = 0.2,
    tie: float = 0.15,
) -> Panel:
    """`unlike` is how much good labelers differ in noise (log scale); differences below `tie` are ties."""
    random = np.random.default_rng(seed)
    names = [f"labeler {number:03}" for number in range(labelers)]
    drawn = random.permutation(names).tolist()
    guessing, turned = round(labelers * random_share), round(labelers * reversed_share)
    faults: dict[str, Fault] = dict.fromkeys(drawn[:guessing], "random")
    faults |= dict.fromkeys(drawn[guessing : guessing + turned], "reversed")
    errors = noise * np.exp(unlike * random.standard_normal(labelers))

    panel = Panel([], [], {}, faults)
    queue: list[int] = []  # everybody gets as many sets, in an order of its own each time round
    for number in range(sets):
        set_id = f"set {number}"
        quality = random.standard_normal(answers)
        panel.truth[set_id] = quality.tolist()
        if random.random() < gold_share:
            panel.gold.append(ranking(set_id, quality, "gold", 0.0))
        while len(queue) < votes + labelers:
            queue += random.permutation(labelers).tolist()
        judges = list(dict.fromkeys(queue))[:votes]
        for judge in judges:
            queue.remove(judge)
            seen = quality + errors[judge] * random.standard_normal(answers)
            fault = faults.get(names[judge])
            if fault == "random":
                seen = random.standard_normal(answers)
            elif fault == "reversed":
                seen = -seen
            panel.rankings.append(ranking(set_id, seen, names[judge], tie))
    return panel


def said(labeler: str, *ranks: int | None, set_id: str = "s", texts: str = "ABCDEFGHI", **more: object) -> Ranking:
    """What a labeler says of the answers "A", "B", … of a set; None is a flag."""
    return Ranking.model_validate(
        {
            "set_id": set_id,
            "prompt_id": set_id,
            "prompt": f"The prompt of {set_id}",
            "completions": list(texts[: len(ranks)]),
            "ranks": ranks,
            "flags": [rank is None for rank in ranks],
            "labeler_id": labeler,
            "instruction_version": "1",
            **more,
        }
    )


def ranking(set_id: str, seen: np.ndarray, labeler: str, tie: float) -> Ranking:
    """The ranking of who sees these qualities: an answer ties with the next better one where they are near enough."""
    down = np.argsort(-seen)
    ranks = np.empty(len(seen), dtype=int)
    ranks[down] = 1 + np.cumsum(np.append(0, -np.diff(seen[down]) > tie))
    return said(labeler, *ranks.tolist(), set_id=set_id)
