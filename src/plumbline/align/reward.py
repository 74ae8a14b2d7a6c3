"""Reward model: one number for an answer, such that people's better answers get the higher one.

    L = − 1 / C(K, 2) · Σ_{(w, l)} log σ(r(x, y_w) − r(x, y_l))        over all pairs of K ranked answers

(Ouyang et al. 2022, arXiv 2203.02155, section 3.5. Each answer takes part in one gradient, not in K − 1.)

Ties, after Davidson (1970, doi 10.1080/01621459.1970.10481082), with d = r_i − r_j:

    P(i better) = e^{d/2} / Z     P(tie) = ν / Z     Z = e^{d/2} + e^{−d/2} + ν

Given that there is no tie this is σ(d), the equation above; with ν = 0 it is that equation. A tie pulls the two rewards
together. ν = 2p / (1 − p) for a share p of ties: its likeliest value where all rewards are equal, as they begin.

Llama 2's margin (Touvron et al. 2023, arXiv 2307.09288, section 3.2.2) takes m · margin from d where one is better.

The reward is a linear function of the state at the answer's last token. A constant added to all rewards changes no
loss, so afterwards the rewards of reference answers are given mean 0 and spread 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.align.accuracy import keep_accuracy, measure_accuracy
from plumbline.align.answers import per_answer
from plumbline.align.data import (
    Comparison,
    Limits,
    Pairs,
    Preference,
    Preferences,
    announce,
    load_preferences,
    pairs_of,
)
from plumbline.models.grouped import Group
from plumbline.models.tokenizer import Tokenizer
from plumbline.training.batches import Batches, size
from plumbline.training.checkpoint import Checkpoints
from plumbline.training.devices import Process, started
from plumbline.training.forecast import Forecast, forecast
from plumbline.training.learner import Learner
from plumbline.training.metrics import Metrics, Sums
from plumbline.training.optimise import Optimiser
from plumbline.training.run import Settings, keep_model, open_run

if TYPE_CHECKING:
    import torch

    from plumbline.models.heads import ScalarHead

REFERENCES = 64
"""Sets whose answers decide where the rewards' zero lies and how wide they spread: enough for a tenth of the spread."""


@dataclass(frozen=True)
class Config(Settings):
    """Settings of the reward model."""

    skip_ties: bool = False
    """Leave equal ranks out; else they teach that two answers are worth the same."""
    margin: float = 0.0
    """How far apart the rewards shall be: this times the pair's margin, its share of the votes."""


def reward_loss(
    rewards: torch.Tensor, pairs: Pairs, *, nu: float = 0.0, margin: float = 0.0
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A micro-batch's part of the step's loss, and of its metrics, from the rewards (answers,) of its sets."""
    import torch

    difference = rewards[pairs.better] - rewards[pairs.worse]  # (pairs,)
    shifted = difference - torch.where(pairs.tied, 0.0, margin * pairs.margin)
    better, tie = preference_logprobs(shifted, nu)
    assert nu or not pairs.tied.any(), "a tie has no likelihood where ν is 0"
    loss = -(pairs.weight * (torch.where(pairs.tied, tie, better) if nu else better)).sum()
    with torch.no_grad():
        metrics = {
            "loss": loss.detach(),
            "accuracy": (pairs.vote * (difference > 0)).sum(),
            "gap": (pairs.vote * difference).sum(),
        }
    return loss, metrics


def preference_logprobs(difference: torch.Tensor, nu: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """log P(better) and log P(tie) under Davidson's model, for rewards that differ by so much."""
    import torch

    if not nu:
        return torch.nn.functional.logsigmoid(difference), torch.full_like(difference, -torch.inf)
    tie = torch.full_like(difference, nu).log() - difference / 2  # log of ν / e^{d/2}
    better = -torch.stack([torch.zeros_like(difference), -difference, tie]).logsumexp(0)
    return better, tie + better


def tie_strength(comparisons: Iterable[Comparison]) -> float:
    """ν for these comparisons: 0 where none is tied."""
    tied = total = 0.0
    for each in comparisons:
        total += each.weight
        tied += each.weight * each.tied
    return 2 * tied / (total - tied) if tied else 0.0


def train(config: Config, *, resume: bool = False) -> str:
    """Learns the comparisons; returns the name by which the reward model is loaded."""
    from plumbline.models.heads import ScalarHead

    with started(config.device, config.precision, seed=config.seed) as process:
        folder = open_run(config, process, resume=resume)
        learner = Learner.load(config, process)
        data = read(config, learner.tokenizer, process)
        nu = tie_strength(each for example in data.train for each in example.comparisons)
        head = ScalarHead(learner.model.config.hidden_size, device=process.device)
        process.spread(head.parameters())
        weights = [*learner.weights, *head.parameters()]
        batches = Batches.of(config, [size(example.group) for example in data.train], process)
        optimiser = Optimiser.of(config, weights, steps=len(batches))
        checkpoints = Checkpoints(folder / "checkpoints", process, weights, optimiser=optimiser)
        done = checkpoints.restore()
        learner.prepare([example.group for example in data.train], config)

        with Metrics(folder, process, config, total=len(batches), done=done) as metrics, learner.working():
            for step in batches.after(done):
                whole = [data.train[place] for place in step.examples]
                sums = Sums()
                for micro_batch in step.micro_batches:
                    examples = [data.train[place] for place in micro_batch]
                    rewards = rewards_of(learner, head, [example.group for example in examples])
                    pairs = pairs_of(examples, whole, process.device)
                    loss, values = reward_loss(rewards, pairs, nu=nu, margin=config.margin)
                    loss.backward()  # type: ignore[no-untyped-call]
                    sums.add(values)
                process.reduce_gradients(weights)
                row = process.total(sums) | optimiser.step(of=step)
                if look := step.ends_epoch or step.number % config.every == 0:
                    row |= measure(learner, head, data.held_out, config.tokens)
                metrics.log(step.number, row)
                if look:
                    checkpoints.save(step.number, score=row.get("held_out_loss"))
            report(folder, learner, head, data, config.tokens)

        def write(place: Path) -> None:
            learner.save(place)
            head.save(place)

        return keep_model(folder, config, process, write)


def expect(config: Config) -> Forecast:
    """What training with these settings would take; leaves no trace."""
    with started(config.device, config.precision, seed=config.seed) as process:
        learner = Learner.load(config, process)
        data = read(config, learner.tokenizer, process)
        return forecast(learner, [example.group for example in data.train], config)


def read(config: Config, tokenizer: Tokenizer, process: Process) -> Preferences:
    """The comparisons to learn and those held out; what cannot be used is told, with the reason."""
    limits = Limits.of(tokenizer, truncate=config.truncate_prompt)
    data = load_preferences(config.data, limits, ties=not config.skip_ties, share=config.held_out)
    announce(data.left_out, process)
    return data


def rewards_of(learner: Learner, head: ScalarHead, groups: Sequence[Group]) -> torch.Tensor:
    """The rewards (answers,) of all the groups' answers."""
    return head(learner.answers(groups).last)


def all_rewards(learner: Learner, head: ScalarHead, examples: Sequence[Preference], budget: int) -> list[list[float]]:
    """The rewards of each set's answers, without gradients."""
    groups = [example.group for example in examples]
    return [
        each.tolist() for each in per_answer(learner, groups, budget, lambda batch: rewards_of(learner, head, batch))
    ]


def measure(learner: Learner, head: ScalarHead, held_out: Sequence[Preference], budget: int) -> dict[str, float]:
    """How well the rewards agree with comparisons that were held out; nothing where there are none."""
    rewards = all_rewards(learner, head, held_out, budget)
    found = measure_accuracy(held_out, rewards)
    return {"held_out_loss": found.log_loss, "held_out_accuracy": found.right.value} if found.pairs else {}


def report(folder: Path, learner: Learner, head: ScalarHead, data: Preferences, budget: int) -> None:
    """Writes what is known of the finished model to accuracy.json, and gives its rewards mean 0 and spread 1.

    The accuracy's log loss and calibration are of the rewards as they were learned; times `spread` they are so again.
    """
    import torch

    held_out = all_rewards(learner, head, data.held_out, budget)
    references = all_rewards(learner, head, data.train[:REFERENCES], budget)
    given = torch.tensor([reward for rewards in references for reward in rewards], device=head.weight.device)
    head.standardise(given)
    if learner.process.first:
        accuracy = measure_accuracy(data.held_out, held_out)
        keep_accuracy(folder, accuracy, mean=given.mean().item(), spread=given.std(correction=0).item())
