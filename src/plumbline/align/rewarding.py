"""What an answer is worth to a run: a reward model worn over the policy's own base, or any `Score` over texts.

A reward model that was trained as an adapter on the base that the policy stands on is put on as one more hat: one base
in memory, tokens in, and what lies below the adapters is computed once for it and the policy. Any other reward reads
texts: a separate reward model, a classifier's logit, a function, a judge.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from plumbline.align.answers import per_answer
from plumbline.align.rollouts import Rollouts
from plumbline.errors import UserError
from plumbline.models import Prompt, Score
from plumbline.models.adapters import CONFIG
from plumbline.models.grouped import Group
from plumbline.models.heads import FILE, ScalarHead
from plumbline.training.learner import Learner

if TYPE_CHECKING:
    import torch

HAT = "reward"


class Reward(Protocol):
    """Rollouts in, one number for each answer out, in their order."""

    name: str

    def __call__(self, rollouts: Rollouts) -> list[float]: ...


class WornReward:
    """A reward model as a hat over the learner's base."""

    def __init__(self, learner: Learner, folder: Path, name: str, budget: int) -> None:
        assert learner.hats is not None
        self.name, self.folder = name, folder
        self.learner, self.budget = learner, budget
        self.head = ScalarHead.load(folder, device=learner.process.device)
        learner.hats.load(HAT, folder / "adapter")
        for each in [*learner.hats.parameters(HAT), *self.head.parameters()]:
            each.requires_grad_(False)

    def __call__(self, rollouts: Rollouts) -> list[float]:
        end = self.learner.tokenizer.eos_id
        assert end is not None
        ended = iter(rollouts.ended)
        # A reward model reads an answer at its end-of-text; one that was cut off gets it here.
        groups = [
            Group(group.prompt, [(*(tokens[:-1] if next(ended) else tokens), end) for tokens in group.completions])
            for group in rollouts.groups
        ]
        return [each for its in per_answer(self.learner, groups, self.budget, self._rewards) for each in its.tolist()]

    def _rewards(self, groups: Sequence[Group]) -> torch.Tensor:
        assert self.learner.hats is not None
        with self.learner.hats.wearing(HAT):
            return self.head(self.learner.answers(groups).last)


class ToldReward:
    """A `Score` over texts; the processes share the answers."""

    def __init__(self, learner: Learner, score: Score) -> None:
        self.name, self.learner, self.score = score.name, learner, score

    def __call__(self, rollouts: Rollouts) -> list[float]:
        process = self.learner.process
        mine = range(process.rank, len(rollouts.completions), process.world)
        asked, completions = rollouts.asked, rollouts.completions
        given = numbers_of(
            self.score,
            [asked[each].prompt for each in mine],
            [completions[each].text for each in mine],
            called=f"the reward {self.name!r}",
            remedy="mend it, and --resume goes on with this iteration",
        )
        found = {
            place: each for part in process.gather(dict(zip(mine, given, strict=True))) for place, each in part.items()
        }
        return [found[place] for place in range(len(completions))]


def open_reward(learner: Learner, name: str, label: str, score: Score | None, budget: int) -> Reward:
    """The reward that a run's settings name, or the one that is handed in."""
    from plumbline.models.functions import is_function
    from plumbline.models.resolve import resolve
    from plumbline.models.score import load_scorer

    if score is not None:
        return ToldReward(learner, score)
    if not name:
        raise UserError("no reward was named: give --reward a reward model, a classifier or FILE.py:FUNCTION")
    if not is_function(name) and not label:
        folder = Path(resolve(name).folder or "")
        if shares_base(folder, learner):
            return WornReward(learner, folder, name, budget)
    return ToldReward(learner, load_scorer(name, label or None, device=str(learner.process.device)))


def shares_base(folder: Path, learner: Learner) -> bool:
    """Whether the reward model there is an adapter on what the learner's own adapter is on."""
    card = folder / "adapter" / CONFIG
    if learner.hats is None or not (folder / FILE).is_file() or not card.is_file():
        return False
    base = Path(json.loads(card.read_text(encoding="utf-8"))["base_model_name_or_path"])
    return base.exists() and base.resolve() == learner.folder.resolve()


def numbers_of(
    score: Score, prompts: Sequence[Prompt], completions: Sequence[str], *, called: str, remedy: str
) -> list[float]:
    """One number for each answer, or UserError that names who was to give it."""
    try:
        given = score(prompts, completions)
    except UserError:
        raise
    except Exception as error:  # a scorer is anyone's code; what it says is told, and one can go on after it
        raise UserError(f"{called} failed ({type(error).__name__}: {error}): {remedy}") from error
    if len(given) != len(completions):
        raise UserError(f"{called} gave {len(given)} numbers for {len(completions)} answers: it must give one for each")
    return [float(each) for each in given]


def checked(rewards: Sequence[float], rollouts: Rollouts, name: str) -> list[float]:
    """The rewards, or UserError with the answer whose reward is no number."""
    for question, completion, reward in zip(rollouts.asked, rollouts.completions, rewards, strict=True):
        if not math.isfinite(reward):
            raise UserError(
                f"the reward {name!r} gave {reward} for the answer {completion.text[:60]!r} to prompt "
                f"{question.prompt_id!r}: it must give a finite number, so mend it, and --resume goes on with this "
                "iteration"
            )
    return list(rewards)
