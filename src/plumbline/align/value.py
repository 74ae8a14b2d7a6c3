"""The value of a state: what an answer is still expected to be worth before each of its tokens.

    V(s_t) = w · h_t + b        h_t the state that predicts the answer's token t

By default h is the policy's own state, so values cost no pass of their own, and w and b are 0 at the start. With
`start="reward"` the value has an adapter and a head of its own, copied from the reward model, which must be worn over
the same base (Huang et al. 2024, arXiv 2403.17031, start theirs so).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.align.rewarding import HAT as REWARD_HAT
from plumbline.align.rewarding import Reward, WornReward
from plumbline.errors import UserError
from plumbline.models.grouped import Answers, Group
from plumbline.models.heads import ScalarHead
from plumbline.training.learner import Learner

if TYPE_CHECKING:
    import torch

HAT = "value"
STARTS = ("zero", "reward")


class Value:
    """The value function of a run; `weights` are what of it is trained apart from the policy."""

    def __init__(self, learner: Learner, reward: Reward, start: str) -> None:
        import torch

        self.learner, self.own = learner, start == "reward"
        self.head = ScalarHead(learner.model.config.hidden_size, device=learner.process.device)
        if not self.own:
            with torch.no_grad():
                self.head.weight.zero_()
            self.weights = self.head.parameters()
            return
        if not isinstance(reward, WornReward) or learner.hats is None:
            raise UserError(
                f"--value reward copies the reward model, and {reward.name!r} is no adapter on the policy's base: "
                "train the reward model from the same model, or pass --value zero"
            )
        learner.hats.snapshot(REWARD_HAT, HAT)
        adapter = learner.hats.parameters(HAT)
        for each in adapter:
            each.requires_grad_(True)
        with torch.no_grad():
            self.head.weight.copy_(reward.head.weight)
            self.head.bias.copy_(reward.head.bias)
        self.weights = [*adapter, *self.head.parameters()]

    def __call__(self, groups: Sequence[Group], answers: Answers) -> torch.Tensor:
        """(tokens,) for the groups whose answers the policy's pass gave."""
        if self.own:
            assert self.learner.hats is not None
            with self.learner.hats.wearing(HAT):
                answers = self.learner.answers(groups)
        return self.head(answers.states)

    def save(self, folder: Path) -> None:
        """Writes what a later run may go on from."""
        if self.own:
            assert self.learner.hats is not None
            self.learner.hats.save(HAT, folder)
        self.head.save(folder)
