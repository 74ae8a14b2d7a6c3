"""Scores of a run's answers by somebody who had no part in it, on a sample of each step, kept for the next audit.

Of each step some prompts are drawn, and of each a few answers: prompts differ more than the answers to one, and a
second answer is needed to see whether both rewards prefer the same one. Scores lie in the run's audit/scores.jsonl
under the text that was scored, so an audit that was stopped goes on, and a second one asks nobody again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, FiniteFloat

from plumbline.align import frontier
from plumbline.align.detectors import Series
from plumbline.align.figures import FIGURES, Block, Figure, agreement_with, series_of
from plumbline.align.frontier import Best, Curve
from plumbline.align.rewarding import numbers_of
from plumbline.errors import UserError
from plumbline.files import read_jsonl, write_jsonl
from plumbline.models import Score
from plumbline.records import Rollout

FOLDER, FILE = "audit", "scores.jsonl"
ANSWERS_SCORED = 64
"""Answers of a step that a scorer sees."""
AT_ONCE = 64
EXTREMES = 8
"""Answers that are shown because the trained reward likes them and the scorer does not."""
OF_A_PROMPT = 4
"""Answers to one prompt that are scored, at most."""

Advance = Callable[[int], object]


class KeptScore(BaseModel):
    """One line of the file."""

    scorer: str
    answer: str
    """What `key_of` makes of the prompt and the answer."""
    score: FiniteFloat


def key_of(rollout: Rollout) -> str:
    text = json.dumps([rollout.prompt_id, rollout.prompt, rollout.completion], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def chosen(groups: Sequence[Sequence[Rollout]], answers: int, step: int) -> list[list[Rollout]]:
    """Of a step's groups those to be scored, cut to a few answers each: about `answers` in all, the same every time."""

    def drawn(group: Sequence[Rollout]) -> str:
        return hashlib.sha256(f"audit {step}: {group[0].prompt_id}".encode()).hexdigest()

    taken, left = [], answers
    for group in sorted(groups, key=drawn):
        if left < 1:
            break
        taken.append(list(group[: min(OF_A_PROMPT, left)]))
        left -= len(taken[-1])
    return taken


def score_answers(
    score: Score, rollouts: Sequence[Rollout], folder: Path, *, again: bool = False, advance: Advance | None = None
) -> dict[str, float]:
    """The score of each answer by `key_of` it; what is kept already is not asked for, unless `again`."""
    path = folder / FILE
    known = {} if again else kept(path, score.name)
    wanted = {key: rollout for rollout in rollouts if (key := key_of(rollout)) not in known}
    if advance is not None:
        advance(len(rollouts) - len(wanted))
    asked = list(wanted.items())
    for begin in range(0, len(asked), AT_ONCE):
        part = asked[begin : begin + AT_ONCE]
        numbers = ask(score, [rollout for _, rollout in part])
        lines = [
            KeptScore(scorer=score.name, answer=key, score=each) for (key, _), each in zip(part, numbers, strict=True)
        ]
        write_jsonl(path, lines, append=True)
        known |= {line.answer: line.score for line in lines}
        if advance is not None:
            advance(len(part))
    return {key: known[key] for key in map(key_of, rollouts)}


def kept(path: Path, scorer: str) -> dict[str, float]:
    """What is in the file from this scorer; of two scores of one answer the later one."""
    if not path.is_file():
        return {}
    write_jsonl(path, [], append=True)  # mends a last line that was cut off
    if not path.stat().st_size:
        return {}
    return {line.answer: line.score for line in read_jsonl(path, KeptScore) if line.scorer == scorer}


def ask(score: Score, rollouts: Sequence[Rollout]) -> list[float]:
    """One finite number for each answer, or UserError that names the scorer."""
    given = numbers_of(
        score,
        [rollout.prompt for rollout in rollouts],
        [rollout.completion for rollout in rollouts],
        called=f"the scorer {score.name!r}",
        remedy="mend it and audit again, which goes on with what is not scored yet",
    )
    for rollout, number in zip(rollouts, given, strict=True):
        if not math.isfinite(number):
            raise UserError(
                f"the scorer {score.name!r} gave {number} for the answer {rollout.completion[:60]!r}: "
                "it must give a finite number"
            )
    return given


# ---- a run as a scorer sees it


class Extreme(NamedTuple):
    """An answer that the trained reward likes far better than the scorer does; both as shares of all scored answers
    that have less."""

    rollout: Rollout
    score: float
    trained: float
    independent: float


@dataclass(frozen=True)
class View:
    """A run as one independent scorer sees it."""

    scorer: str
    series: Series
    reward: Series
    """Of the same answers."""
    agreement: Series | None
    best: Best
    curve: Curve | None
    extremes: tuple[Extreme, ...]


def refuse_own(folder: Path, scores: Sequence[Score]) -> None:
    """UserError where a scorer is the run's own reward, or is named twice."""
    names = [score.name for score in scores]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two scorers are called {name!r}: give each one once")
    config = folder / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    if settings.get("reward") in names:
        raise UserError(
            f"{settings['reward']!r} is the reward that the run was trained with, and no judge of itself: name another "
            "one, such as a reward model of another seed, or audit without"
        )


def see(
    folder: Path,
    blocks: Sequence[Block],
    score: Score,
    *,
    answers: int = ANSWERS_SCORED,
    again: bool = False,
    advance: Callable[[str, int], Advance] | None = None,
) -> View:
    """Scores a sample of each step and measures what can be measured with it."""
    if answers < 1:
        raise UserError(f"answers is {answers!r}: a scorer must see at least 1 answer of a step")
    drawn = [Block(block.step, chosen(block.groups, answers, block.step)) for block in blocks]
    flat = [each for block in drawn for group in block.groups for each in group]
    by_key = score_answers(
        score,
        flat,
        folder / FOLDER,
        again=again,
        advance=advance(score.name, len(flat)) if advance is not None else None,
    )
    scores = {id(each): by_key[key_of(each)] for each in flat}
    series = series_of(drawn, Figure(score.name, ".3g", lambda group: [scores[id(each)] for each in group]))
    reward = series_of(drawn, FIGURES["reward"])
    kl = series_of(blocks, FIGURES["kl"])
    assert series is not None and reward is not None and kl is not None
    return View(
        score.name,
        series,
        reward,
        series_of(drawn, Figure("agreement", ".1%", agreement_with(scores), fewest=2)),
        frontier.best_step(series),
        frontier.fit(kl.values, series.values - series.beginning[0]),
        tuple(extremes_of(flat, scores)),
    )


def extremes_of(rollouts: Sequence[Rollout], scores: dict[int, float]) -> list[Extreme]:
    """The answers that the trained reward puts the furthest above where the scorer puts them."""
    from scipy.stats import rankdata

    trained = rankdata([each.reward for each in rollouts]) / len(rollouts)
    independent = rankdata([scores[id(each)] for each in rollouts]) / len(rollouts)
    found: dict[str, Extreme] = {}
    for place in (independent - trained).argsort(kind="stable"):
        each = rollouts[place]
        found.setdefault(
            each.completion, Extreme(each, scores[id(each)], float(trained[place]), float(independent[place]))
        )
        if len(found) == EXTREMES:
            break
    return list(found.values())
