"""PPO-ptx: the language-model loss on other texts, added to every step so that what the model knew is not lost.

    L = L_method − γ · mean over the texts' tokens of log π(x_t | x_<t)

(Ouyang et al. 2022, arXiv 2203.02155, equation 2.) Its batch and its denominator are its own; γ = 0 is the method
alone.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from plumbline.align import lm
from plumbline.align.online import Online
from plumbline.align.sft import count_tokens, sft_loss
from plumbline.training.batches import Batches, size
from plumbline.training.learner import Learner
from plumbline.training.run import Settings

if TYPE_CHECKING:
    import torch

    from plumbline.models.grouped import Group


class Pretraining:
    """The texts of a run, and the loss on the next batch of them."""

    def __init__(self, config: Online, learner: Learner, steps: int) -> None:
        self.weight, self.learner = config.ptx_weight, learner
        self.pieces: list[Group] = []
        if not self.weight:
            return
        shared = {field.name: getattr(config, field.name) for field in fields(Settings)}
        own = lm.Config(**{**shared, "data": config.ptx_data, "batch_size": config.ptx_batch, "held_out": 0.0})
        self.pieces, _ = lm.read(own, learner.tokenizer, learner.process)
        rounds = -(-steps * config.ptx_batch // len(self.pieces))
        self.batches = Batches.of(replace(own, epochs=rounds), [size(each) for each in self.pieces], learner.process)

    def backward(self, step: int) -> dict[str, torch.Tensor]:
        """Adds the gradient of γ times the loss on the texts of that step of the run, from 0; their plain loss."""
        if not self.weight:
            return {}
        batch = next(self.batches.after(step))
        tokens = count_tokens(self.pieces[place] for place in batch.examples)
        found: dict[str, torch.Tensor] = {}
        for micro_batch in batch.micro_batches:
            _, logprobs, entropy = self.learner.logprobs([self.pieces[place] for place in micro_batch])
            loss, values = sft_loss(logprobs, entropy, tokens)
            (self.weight * loss).backward()  # type: ignore[no-untyped-call]
            found["ptx_loss"] = found.get("ptx_loss", 0.0) + values["loss"]
        return found
