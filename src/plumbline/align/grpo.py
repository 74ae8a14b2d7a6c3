"""GRPO and RLOO: PPO without a value function, since the other answers to a prompt say what to expect of one.

    A_i  = (r_i − mean_K r) / (spread_K r + 1e-4)           baseline "group"          the same for all its tokens
    A_i  = r_i − mean of the prompt's other answers         baseline "leave-one-out"
    ρ_t  = π(a_t) / π_old(a_t)
    L    = mean over tokens of max(− A ρ_t, − A clip(ρ_t, 1 − ε, 1 + ε)) + β · KL_t

Shao et al. 2024 (arXiv 2402.03300, equation 3) for the group and for the KL as a term of the loss, whose gradient here
is the KL's own whichever estimate is shown (`kl`). Ahmadian et al. 2024 (arXiv 2402.14740) for leaving one out; theirs
takes the KL from the reward of the whole answer (`kl_place="reward"`). The mean is over all tokens of a step, so that a
token weighs the same in a short answer and in a long one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from plumbline.align.advantages import group_advantages, leave_one_out
from plumbline.align.answers import per_token
from plumbline.align.doctor import Doctor
from plumbline.align.kl import Beta, kl_estimate, kl_loss
from plumbline.align.online import (
    Batch,
    Cast,
    Online,
    Stages,
    about,
    batches_of,
    by_answer,
    corrections,
    forecast,
    iterations_of,
    last_row,
    reached,
    redone_later,
    steps_of,
    tell_stop,
    with_missing_end,
)
from plumbline.align.ppo import ADAM_EPS, policy_loss
from plumbline.align.pretraining import Pretraining
from plumbline.align.rollouts import Rollouts, Sampler, cut_lines, keep_lines
from plumbline.align.sft import count_tokens
from plumbline.models import Score
from plumbline.training.batches import Batches
from plumbline.training.checkpoint import Checkpoints
from plumbline.training.devices import started
from plumbline.training.forecast import Forecast
from plumbline.training.metrics import Metrics, Sums
from plumbline.training.optimise import Optimiser
from plumbline.training.run import keep_model, open_run

if TYPE_CHECKING:
    import torch

BASELINES = ("group", "leave-one-out")
PLACES = ("loss", "reward")


@dataclass(frozen=True)
class Config(Online):
    """Settings of GRPO and RLOO."""

    samples: int = 8
    """Answers to each prompt of an iteration; they are each other's measure."""
    baseline: str = "group"
    """What an answer is compared with: group (all answers to its prompt), or leave-one-out (the others)."""
    scale: bool = True
    """Divide by the spread of a prompt's rewards; for the baseline `group`."""
    kl: str = "k3"
    """How the KL is estimated: k1, k2 or k3."""
    kl_place: str = "loss"
    """Where the KL counts: loss (each token), or reward (the whole answer)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(self.samples > 1, "samples", "an answer is measured by the others to its prompt: draw at least 2")
        self.need(self.baseline in BASELINES, "baseline", f"give one of {', '.join(BASELINES)}")
        self.need(self.kl_place in PLACES, "kl_place", f"give one of {', '.join(PLACES)}")


class Then(NamedTuple):
    """What was known of some answers' tokens before the updates, all (tokens,)."""

    logprobs: torch.Tensor
    reference: torch.Tensor
    advantages: torch.Tensor
    weights: torch.Tensor


def grpo_loss(
    config: Config, logprobs: torch.Tensor, entropy: torch.Tensor, then: Then, beta: float, tokens: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A micro-batch's part of the step's loss, without the language-model term."""
    loss, told = policy_loss(
        logprobs, then.logprobs, then.advantages, clip=config.clip_ratio, weights=then.weights, tokens=tokens
    )
    if config.kl_place == "loss":
        moved = (then.weights * kl_loss(logprobs, then.reference, config.kl)).sum() / tokens
        loss = loss + beta * moved
        told["kl_loss"] = moved.detach()
    return loss, {**told, "entropy": entropy.detach().sum() / tokens}


def train(config: Config, *, resume: bool = False, score: Score | None = None, sampler: Sampler | None = None) -> str:
    """Learns from answers of its own; returns the name by which the policy is loaded.

    `score` judges in place of the reward that the settings name, and `sampler` answers in place of theirs.
    """
    with started(config.device, config.precision, seed=config.seed) as process:
        folder = open_run(config, process, resume=resume)
        cast = Cast.of(config, process, score, sampler)
        learner, count = cast.learner, len(cast.questions.train)
        beta = Beta(config.beta, config.kl_target, config.kl_horizon)
        total = iterations_of(config, count)
        steps = steps_of(config, count, total)
        optimiser = Optimiser.of(config, learner.weights, steps=steps, eps=ADAM_EPS)
        ptx = Pretraining(config, learner, steps)
        checkpoints = Checkpoints(folder / "checkpoints", process, learner.weights, policy=optimiser, beta=beta)
        done = checkpoints.restore()
        cut_lines(folder, done, process)
        doctor = Doctor(config, cast, folder)

        with Metrics(folder, process, config, total=total, done=done) as metrics, learner.working():
            row = last_row(metrics, process)
            for number in range(done + 1, total + 1):
                if why := reached(config, row):
                    tell_stop(number - 1, why, process)
                    break
                stages, sums, first = Stages(), Sums(), 0.0
                with stages.timed("sampling"):
                    rollouts = cast.answer(config, number)
                with stages.timed("scoring"), redone_later(checkpoints, number - 1):
                    learner.make_room(rollouts.groups, config, passes=config.passes + 1)
                    rewards = cast.judge(rollouts)
                batches = batches_of(config, rollouts, number, process)
                with stages.timed("looking"):
                    batch = look(config, cast, rollouts, batches, rewards, beta.value)
                doctor.look(batch.told, metrics.first, number, rollouts)
                with stages.timed("learning"):
                    for step in batches.after(0):
                        tokens = count_tokens(rollouts.groups[place] for place in step.examples)
                        for micro_batch in step.micro_batches:
                            groups, known = batch.take(micro_batch)
                            then = Then(*known)
                            _, logprobs, entropy = learner.logprobs(groups, config.temperature)
                            loss, values = grpo_loss(config, logprobs, entropy, then, beta.value, tokens)
                            loss.backward()  # type: ignore[no-untyped-call]
                            sums.add(values)
                            if step.number == 1:
                                first = max(first, float((logprobs.detach() - then.logprobs).abs().max()))
                        sums.add(ptx.backward(optimiser.done))
                        process.reduce_gradients(learner.weights)
                        rates = optimiser.step(of=step)
                row = batch.told | {name: each / len(batches) for name, each in process.total(sums).items()} | rates
                row |= {"beta": beta.value, "first_log_ratio": max(process.gather(first))} | stages.told(rollouts)
                doctor.look(row, metrics.first, number, rollouts)
                beta.follow(row["kl"], len(rewards))
                if look_now := number % config.every == 0 or number == total or bool(reached(config, row)):
                    row |= cast.held_out(config)
                keep_lines(folder, number, rollouts, rewards, batch.kl, batch.reference, process)
                metrics.log(number, row)
                if look_now:
                    checkpoints.save(number, score=-row.get("held_out_reward", row["reward"]))
        return keep_model(folder, config, process, learner.save)


def expect(config: Config) -> Forecast:
    """What training with these settings would take; leaves no trace."""
    with tempfile.TemporaryDirectory() as scratch:
        return forecast(train, config, Path(scratch))


# ---- what is known before the first update of an iteration


def look(
    config: Config, cast: Cast, rollouts: Rollouts, batches: Batches, rewards: Sequence[float], beta: float
) -> Batch:
    """What the policy and the reference say of the answers, and what follows from it for each token."""
    import torch

    learner, lengths = cast.learner, rollouts.lengths
    own = per_token(
        learner,
        rollouts.groups,
        batches.first_passes(),
        lambda batch: learner.logprobs(batch, config.temperature)[1],
    )
    theirs = cast.reference_logprobs(config, rollouts, batches)
    weights, gap = corrections(config, own, rollouts)
    old, reference = torch.cat(own), torch.cat(theirs)
    kl = by_answer(old - reference, rollouts)
    scores = with_missing_end(config, rewards, rollouts).to(old)
    told = about(rewards, kl, rollouts) | {"scored": float(scores.mean()), "sampler_gap": gap}
    if config.kl_place == "reward":
        scores = scores - beta * by_answer(kl_estimate(old, reference, config.kl), rollouts)
    together = scores.view(len(rollouts.groups), config.samples)
    told["undecided"] = float((together.std(1, correction=0) == 0).double().mean())
    advantages = (
        leave_one_out(together)
        if config.baseline == "leave-one-out"
        else group_advantages(together, scale=config.scale)
    )
    each_token = advantages.flatten().repeat_interleave(torch.tensor(lengths, device=old.device))
    known = Then(old, reference, each_token, torch.cat(weights))
    return Batch.of(rollouts, known, kl, by_answer(reference, rollouts), told)
