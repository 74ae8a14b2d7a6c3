"""KTO: learn from thumbs, one answer at a time, by what an answer gains over the usual one.

    h(x, y) = log π(y | x) − log π_ref(y | x)
    z       = max(0, mean of h(x, y') over a step)      y' an answer to another prompt; no gradient
    v       = λ_D · σ(β (h − z))   for a thumb up,     λ_U · σ(β (z − h))   for a thumb down
    L       = mean of λ − v

(Ethayarajh et al. 2024, arXiv 2402.01306.) z stands for KL(π ‖ π_ref), β times of which is the reference point of
Kahneman and Tversky's value function. The paper asks for λ_D n_D / (λ_U n_U) between 1 and 4/3, n the thumbs' numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.align.answers import answer_logprobs, reference_logprobs
from plumbline.align.data import Limits, Opinion, Opinions, announce, load_opinions
from plumbline.models.grouped import Group
from plumbline.models.tokenizer import Tokenizer
from plumbline.training.batches import Batches, shuffled, size
from plumbline.training.checkpoint import Checkpoints
from plumbline.training.devices import Process, started
from plumbline.training.forecast import Forecast, forecast
from plumbline.training.learner import Learner
from plumbline.training.metrics import Metrics, Sums
from plumbline.training.optimise import Optimiser
from plumbline.training.run import Settings, keep_model, open_run

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Config(Settings):
    """Settings of KTO."""

    lr: float = 5e-5
    """Learning rate at its highest."""
    beta: float = 0.1
    """How strongly the policy is held to the reference."""
    desirable_weight: float | None = None
    """λ_D, how much a thumb up weighs; without it and λ_U, both kinds weigh the same and the larger kind's is 1."""
    undesirable_weight: float | None = None
    """λ_U, how much a thumb down weighs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(self.beta > 0, "beta", "it must be above 0")
        for name in ("desirable_weight", "undesirable_weight"):
            self.need(getattr(self, name) is None or getattr(self, name) > 0, name, "it must be above 0")


def kto_loss(
    ratios: torch.Tensor,
    good: torch.Tensor,
    usual: torch.Tensor,
    *,
    beta: float = 0.1,
    weights: tuple[float, float] = (1.0, 1.0),
    step: int = 1,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A micro-batch's part of the step's loss and metrics.

    `ratios` (answers,) are h, `good` (answers,) the thumbs, `usual` () is z, `weights` are λ_D and λ_U, and `step` is
    the number of answers in the step.
    """
    import torch

    over = beta * (ratios - usual)
    value = torch.where(good, weights[0] * over.sigmoid(), weights[1] * (-over).sigmoid())
    ceiling = torch.where(good, weights[0], weights[1]).to(ratios.dtype)
    loss = (ceiling - value).sum() / step
    with torch.no_grad():
        metrics = {"loss": loss.detach(), "usual": usual * len(ratios) / step, "reward": beta * ratios.sum() / step}
        metrics["accuracy"] = ((ratios > usual) == good).sum() / step
    return loss, metrics


def usual_ratio(ratios: torch.Tensor) -> torch.Tensor:
    """z () from the ratios (answers,) of answers to other prompts."""
    return ratios.detach().mean().clamp(min=0)


def balanced_weights(good: int, bad: int) -> tuple[float, float]:
    """λ_D and λ_U with which both kinds weigh the same, the larger kind's being 1."""
    if not good or not bad:
        return 1.0, 1.0
    return max(1.0, bad / good), max(1.0, good / bad)


@dataclass(frozen=True)
class Batch:
    """Rated answers with all that a look at them needs: each one's stranger, and what the reference thinks of both."""

    rated: Sequence[Opinion]
    strangers: Sequence[Group]
    """The same prompts, each with another one's answer."""
    reference: Sequence[torch.Tensor]
    strange_reference: Sequence[torch.Tensor]

    def take(self, places: Sequence[int]) -> Batch:
        parts = (self.rated, self.strangers, self.reference, self.strange_reference)
        return Batch(*([part[place] for place in places] for part in parts))  # type: ignore[arg-type]

    @property
    def groups(self) -> list[Group]:
        return [each.group for each in self.rated]


def train(config: Config, *, resume: bool = False) -> str:
    """Learns the ratings; returns the name by which the trained model is loaded."""
    with started(config.device, config.precision, seed=config.seed) as process:
        folder = open_run(config, process, resume=resume)
        learner = Learner.load(config, process)
        data = read(config, learner.tokenizer, process)
        learn = with_strangers(learner, data.train, config.tokens, folder / "reference.safetensors")
        held_out = with_strangers(learner, data.held_out, config.tokens, folder / "reference-held-out.safetensors")
        learner.prepare([*learn.groups, *learn.strangers], config)
        weights = weights_of(config, data.train)
        batches = Batches.of(config, [size(group) for group in learn.groups], process)
        optimiser = Optimiser.of(config, learner.weights, steps=len(batches))
        checkpoints = Checkpoints(folder / "checkpoints", process, learner.weights, optimiser=optimiser)
        done = checkpoints.restore()

        with Metrics(folder, process, config, total=len(batches), done=done) as metrics, learner.working():
            for step in batches.after(done):
                usual = usual_of(learner, learn.take(step.examples), config.tokens)
                sums = Sums()
                for micro_batch in step.micro_batches:
                    batch = learn.take(micro_batch)
                    answers, logprobs, _ = learner.logprobs(batch.groups)
                    loss, values = loss_of(config, answers.sums(logprobs), batch, usual, weights, len(step.examples))
                    loss.backward()  # type: ignore[no-untyped-call]
                    sums.add(values)
                process.reduce_gradients(learner.weights)
                row = process.total(sums) | optimiser.step(of=step)
                if look := step.ends_epoch or step.number % config.every == 0:
                    row |= measure(config, learner, held_out, weights)
                metrics.log(step.number, row)
                if look:
                    checkpoints.save(step.number, score=row.get("held_out_loss"))
        return keep_model(folder, config, process, learner.save)


def expect(config: Config) -> Forecast:
    """What training with these settings would take; leaves no trace."""
    with started(config.device, config.precision, seed=config.seed) as process:
        learner = Learner.load(config, process)
        data = read(config, learner.tokenizer, process)
        return forecast(learner, [example.group for example in data.train], config)


def loss_of(
    config: Config, own: torch.Tensor, batch: Batch, usual: torch.Tensor, weights: tuple[float, float], step: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """`kto_loss` from the policy's log-probs (answers,) of whole answers."""
    import torch

    ratios = own - torch.cat(list(batch.reference)).to(own)
    good = torch.tensor([each.good for each in batch.rated], device=own.device)
    return kto_loss(ratios, good, usual.to(own), beta=config.beta, weights=weights, step=step)


def usual_of(learner: Learner, batch: Batch, budget: int) -> torch.Tensor:
    """z () for a whole step."""
    import torch

    own = answer_logprobs(learner, batch.strangers, budget)
    return usual_ratio(torch.cat(own) - torch.cat(list(batch.strange_reference)))


def measure(config: Config, learner: Learner, held_out: Batch, weights: tuple[float, float]) -> dict[str, float]:
    """The loss on held-out ratings, and how often the implicit reward agrees; nothing where there are none."""
    import torch

    if not held_out.rated:
        return {}
    usual = usual_of(learner, held_out, config.tokens)
    own = torch.cat(answer_logprobs(learner, held_out.groups, config.tokens))
    loss, values = loss_of(config, own, held_out, usual, weights, len(held_out.rated))
    return {"held_out_loss": loss.item(), "held_out_accuracy": float(values["accuracy"])}


# ---- the data


def read(config: Config, tokenizer: Tokenizer, process: Process) -> Opinions:
    """The ratings to learn and those held out; what cannot be used is told, with the reason."""
    limits = Limits.of(tokenizer, truncate=config.truncate_prompt)
    data = load_opinions(config.data, limits, share=config.held_out)
    announce(data.left_out, process)
    return data


def weights_of(config: Config, rated: Sequence[Opinion]) -> tuple[float, float]:
    """λ_D and λ_U as the settings say, else balanced."""
    good = sum(each.good for each in rated)
    balanced = balanced_weights(good, len(rated) - good)
    if config.desirable_weight is None and config.undesirable_weight is None:
        return balanced
    return config.desirable_weight or 1.0, config.undesirable_weight or 1.0


def with_strangers(learner: Learner, rated: Sequence[Opinion], budget: int, keep: Path) -> Batch:
    """The ratings with their strangers and what the reference thinks of both."""
    strangers = mismatch([each.group for each in rated], learner.tokenizer.window)
    groups = [*(each.group for each in rated), *strangers]
    reference = reference_logprobs(learner, groups, budget=budget, keep=keep) if groups else []
    return Batch(rated, strangers, reference[: len(rated)], reference[len(rated) :])


def mismatch(groups: Sequence[Group], window: int) -> list[Group]:
    """Each prompt with the answer to another one, cut where it does not fit: the same pairs in every epoch.

    Where all prompts are the same there is no other one, and a neighbour's answer is taken.
    """
    order = shuffled(len(groups), 0, 0)
    found: dict[int, Group] = {}
    for place, number in enumerate(order):
        prompt = groups[number].prompt
        following = (order[(place + step) % len(order)] for step in range(1, len(order)))
        other = next((each for each in following if groups[each].prompt != prompt), order[place - 1])
        found[number] = Group(prompt, [groups[other].completions[0][: window - len(prompt)]])
    return [found[number] for number in range(len(groups))]
