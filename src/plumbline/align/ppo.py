"""PPO: answer, be judged, and make better answers likelier, a little at a time and not far from where one began.

    r_t  = − β (log π_old(a_t) − log π_ref(a_t))        and the answer's reward is added at its last token
    A_t  = GAE(r, V)                                    (`advantages`)
    ρ_t  = π(a_t) / π_old(a_t)

    policy   mean over tokens of max(− A_t ρ_t, − A_t clip(ρ_t, 1 − ε, 1 + ε))
    value    mean over tokens of ½ max((V_t − R_t)², (clip(V_t, V_old ± ε_v) − R_t)²)        R_t = A_t + V_old
    L        = policy + c_v · value − c_e · entropy + γ · language-model loss on other texts

Schulman et al. 2017 (arXiv 1707.06347, equation 7) for the clip; Ziegler et al. 2019 (arXiv 1909.08593) and Stiennon
et al. 2020 (arXiv 2009.01325) for the reward; Ouyang et al. 2022 (arXiv 2203.02155, equation 2) for the last term.
What PPO needs beside these equations is in Huang et al. 2024 (arXiv 2403.17031).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from plumbline.align.advantages import as_rows, gae, real_places, token_rewards, whiten
from plumbline.align.answers import per_token
from plumbline.align.doctor import Doctor
from plumbline.align.kl import Beta, kl_estimate
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
from plumbline.align.pretraining import Pretraining
from plumbline.align.rollouts import Rollouts, Sampler, cut_lines, keep_lines
from plumbline.align.sft import count_tokens
from plumbline.align.value import STARTS, Value
from plumbline.models import Score
from plumbline.models.grouped import Group
from plumbline.training.batches import Batches
from plumbline.training.checkpoint import Checkpoints, Stateful
from plumbline.training.devices import started
from plumbline.training.forecast import Forecast
from plumbline.training.metrics import Metrics, Sums
from plumbline.training.optimise import Optimiser
from plumbline.training.run import keep_model, open_run

if TYPE_CHECKING:
    import torch

ADAM_EPS = 1e-5


@dataclass(frozen=True)
class Config(Online):
    """Settings of PPO."""

    gamma: float = 1.0
    """What a reward is worth one token earlier."""
    lam: float = 0.95
    """How far advantages look ahead: 0 trusts the values, 1 the rewards."""
    value: str = "zero"
    """Where the value function starts: zero (a head on the policy), or reward (a copy of the reward model)."""
    value_weight: float = 0.1
    """Weight of the value loss."""
    value_clip: float = 0.2
    """How far a value may move from what it was."""
    value_lr: float = 1e-3
    """Learning rate of the value's own weights."""
    value_warmup: int = 0
    """Iterations in which only the value learns."""
    entropy_weight: float = 0.0
    """Weight of the entropy, which is wanted."""
    whiten_rewards: bool = False
    """Give the rewards per token spread 1 in each iteration; their mean stays."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gamma", "lam"):
            self.need(0 <= getattr(self, name) <= 1, name, "it must lie between 0 and 1")
        for name in ("value_weight", "value_clip", "value_warmup", "entropy_weight"):
            self.need(getattr(self, name) >= 0, name, "it must not be below 0")
        self.need(self.value_lr > 0, "value_lr", "it must be above 0")
        self.need(self.value in STARTS, "value", f"give one of {', '.join(STARTS)}")


def policy_loss(
    logprobs: torch.Tensor,
    old: torch.Tensor,
    advantages: torch.Tensor,
    *,
    clip: float = 0.2,
    weights: torch.Tensor | None = None,
    tokens: int,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A micro-batch's part of the clipped objective; all (its tokens,), and `tokens` counts the whole step's."""
    import torch

    log_ratio = logprobs - old
    ratio = log_ratio.exp()
    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    each = torch.maximum(plain, clipped)
    loss = (each if weights is None else each * weights).sum() / tokens
    with torch.no_grad():
        metrics = {
            "policy_loss": loss.detach(),
            "clipped": (clipped > plain).sum() / tokens,
            "moved": (ratio - 1 - log_ratio).sum() / tokens,
        }
    return loss, metrics


def value_loss(
    values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, *, clip: float = 0.2, tokens: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The same for the values."""
    import torch

    near = old + (values - old).clamp(-clip, clip)
    loss = 0.5 * torch.maximum((values - returns).square(), (near - returns).square()).sum() / tokens
    return loss, {"value_loss": loss.detach()}


def ppo_loss(
    config: Config, logprobs: torch.Tensor, entropy: torch.Tensor, values: torch.Tensor, then: Then, tokens: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A micro-batch's part of the step's loss, without the language-model term."""
    policy, told = policy_loss(
        logprobs, then.logprobs, then.advantages, clip=config.clip_ratio, weights=then.weights, tokens=tokens
    )
    off, told_value = value_loss(values, then.values, then.returns, clip=config.value_clip, tokens=tokens)
    spread = entropy.sum() / tokens
    loss = policy + config.value_weight * off - config.entropy_weight * spread
    return loss, {**told, **told_value, "entropy": spread.detach()}


def train(config: Config, *, resume: bool = False, score: Score | None = None, sampler: Sampler | None = None) -> str:
    """Learns from answers of its own; returns the name by which the policy is loaded.

    `score` judges in place of the reward that the settings name, and `sampler` answers in place of theirs.
    """
    with started(config.device, config.precision, seed=config.seed) as process:
        folder = open_run(config, process, resume=resume)
        cast = Cast.of(config, process, score, sampler)
        learner, count = cast.learner, len(cast.questions.train)
        value = Value(learner, cast.reward, config.value)
        weights = [*learner.weights, *value.weights]
        beta = Beta(config.beta, config.kl_target, config.kl_horizon)
        total = iterations_of(config, count)
        steps = steps_of(config, count, total)
        optimiser = Optimiser.of(config, learner.weights, steps=steps, eps=ADAM_EPS)
        value_optimiser = Optimiser.of(config, value.weights, steps=steps, lr=config.value_lr, eps=ADAM_EPS)
        ptx = Pretraining(config, learner, steps)
        parts: dict[str, Stateful] = {"policy": optimiser, "value": value_optimiser, "beta": beta}
        checkpoints = Checkpoints(folder / "checkpoints", process, weights, **parts)
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
                    batch = look(config, cast, value, rollouts, batches, rewards, beta.value)
                doctor.look(batch.told, metrics.first, number, rollouts)
                with stages.timed("learning"):
                    for step in batches.after(0):
                        tokens = count_tokens(rollouts.groups[place] for place in step.examples)
                        for micro_batch in step.micro_batches:
                            groups, known = batch.take(micro_batch)
                            then = Then(*known)
                            answers, logprobs, entropy = learner.logprobs(
                                groups, config.temperature, entropy_gradient=config.entropy_weight > 0
                            )
                            loss, values = ppo_loss(config, logprobs, entropy, value(groups, answers), then, tokens)
                            loss.backward()  # type: ignore[no-untyped-call]
                            sums.add(values)
                            if step.number == 1:
                                first = max(first, float((logprobs.detach() - then.logprobs).abs().max()))
                        sums.add(ptx.backward(optimiser.done))
                        process.reduce_gradients(weights)
                        if number <= config.value_warmup:
                            forget_gradients(learner.weights)
                        rates = optimiser.step(of=step)
                        value_optimiser.step(of=step)
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

        def write(place: Path) -> None:
            learner.save(place)
            value.save(place / "value")

        return keep_model(folder, config, process, write)


def expect(config: Config) -> Forecast:
    """What training with these settings would take; leaves no trace."""
    with tempfile.TemporaryDirectory() as scratch:
        return forecast(train, config, Path(scratch))


# ---- what is known before the first update of an iteration


class Then(NamedTuple):
    """What was known of some answers' tokens before the updates, all (tokens,)."""

    logprobs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    weights: torch.Tensor


def look(
    config: Config,
    cast: Cast,
    value: Value,
    rollouts: Rollouts,
    batches: Batches,
    rewards: Sequence[float],
    beta: float,
) -> Batch:
    """What the policy, the value and the reference say of the answers, and what follows from it for each token."""
    import torch

    learner, lengths = cast.learner, rollouts.lengths

    def compute(batch: list[Group]) -> torch.Tensor:
        answers, logprobs, _ = learner.logprobs(batch, config.temperature)
        return torch.stack([logprobs, value(batch, answers).to(logprobs.dtype)], 1)

    own = per_token(learner, rollouts.groups, batches.first_passes(), compute)
    reference = cast.reference_logprobs(config, rollouts, batches)
    weights, gap = corrections(config, [each[:, 0] for each in own], rollouts)
    old, values = torch.cat(own).unbind(1)
    d = old - torch.cat(reference)

    mask = real_places(lengths, as_rows(old, lengths))
    scores = with_missing_end(config, rewards, rollouts).to(old)
    given = token_rewards(scores, as_rows(kl_estimate(old, old - d, config.kl), lengths), mask, beta=beta)
    if config.whiten_rewards:
        given = whiten(given, mask, shift=False)
    advantages, returns = gae(given, as_rows(values, lengths), mask, gamma=config.gamma, lam=config.lam)
    explained = 1 - float((returns[mask] - values).var(correction=0) / (returns[mask].var(correction=0) + 1e-8))
    known = Then(old, values, whiten(advantages, mask)[mask], returns[mask], torch.cat(weights))
    kl = by_answer(d, rollouts)
    told = about(rewards, kl, rollouts) | {"scored": float(scores.mean()), "explained": explained, "sampler_gap": gap}
    return Batch.of(rollouts, known, kl, by_answer(torch.cat(reference), rollouts), told)


def forget_gradients(weights: Sequence[torch.nn.Parameter]) -> None:
    """Leaves the optimiser nothing to move these by."""
    for each in weights:
        each.grad = None
