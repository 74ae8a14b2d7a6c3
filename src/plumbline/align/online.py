"""What methods share that learn from their own answers: settings, who takes part, what is known of an iteration.

The loops themselves are in the methods' files; here are the functions that they call between two updates.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.align.answers import per_token
from plumbline.align.data import Limits
from plumbline.align.kl import ESTIMATES
from plumbline.align.rewarding import Reward, checked, open_reward
from plumbline.align.rollouts import (
    Question,
    Questions,
    Rollouts,
    Sampler,
    open_sampler,
    questions_of,
    read_questions,
    sample,
    sampling_seed,
)
from plumbline.errors import UserError
from plumbline.models import Sampling, Score
from plumbline.training.batches import Batches, size
from plumbline.training.devices import Process, started
from plumbline.training.forecast import Forecast, peak_memory
from plumbline.training.learner import Learner
from plumbline.training.run import Settings

if TYPE_CHECKING:
    import torch

    from plumbline.models.grouped import Group
    from plumbline.training.checkpoint import Checkpoints
    from plumbline.training.metrics import Metrics

MEASURED = 64
"""Most held-out prompts that a look answers."""

SAMPLERS = ("auto", "own", "openvino")


@dataclass(frozen=True)
class Online(Settings):
    """What every method can be told that learns from answers of its own."""

    data: tuple[str, ...] = ()
    """File of prompts: records of any kind, of which the prompts are taken, or .txt with one a line."""
    reward: str = ""
    """What judges an answer: a reward model or classifier (version, folder or hub id), or FILE.py:FUNCTION."""
    reward_label: str = ""
    """Class of a classifier whose log-odds are the reward."""
    samples: int = 4
    """Answers to each prompt of an iteration."""
    prompts: int = 16
    """Prompts of one iteration."""
    batch_size: int = 4
    """Prompts of one optimiser step, each with all its answers."""
    passes: int = 4
    """Times that an iteration's answers are learned from."""
    iterations: int = 0
    """Iterations of the run; 0 is as many as the epochs over the prompts need."""
    max_new_tokens: int = 64
    """Most tokens of an answer."""
    temperature: float = 1.0
    """Temperature of sampling, and of all log-probs."""
    top_k: int = 0
    """Sample from the k likeliest tokens only; the difference to the whole distribution is corrected. 0 is all."""
    top_p: float = 1.0
    """Sample from the likeliest tokens that together reach p only; corrected likewise."""
    raw: bool = False
    """Give prompts to the model as they are, without the chat template."""
    missing_end: float = 1.0
    """What an answer loses that did not end within its tokens."""
    beta: float = 0.05
    """What a unit of KL from the reference costs, in rewards."""
    kl: str = "k1"
    """How the KL is estimated: k1, k2 or k3."""
    kl_target: float = 0.0
    """KL of an answer that beta is moved towards; 0 leaves beta as it is."""
    kl_horizon: float = 10_000.0
    """Answers over which beta follows."""
    reference: str = ""
    """Model that the policy is held to, where it is not the one that training starts from."""
    clip_ratio: float = 0.2
    """How far the policy's ratio may move from 1 before it stops paying."""
    correction: float = 2.0
    """Largest weight that corrects a token for the sampler's rounding; 0 corrects nothing."""
    sampler: str = "own"
    """What samples: own (the model in training), openvino, or auto, which takes the faster one that is there."""
    sampler_mode: str = ""
    """Mode of the openvino sampler: f32 (exact) or bf16."""
    stop_reward: float | None = None
    """Stop when an iteration's mean reward reaches this."""
    stop_kl: float = 0.0
    """Stop when an answer's mean KL goes beyond this; 0 is never."""
    ptx_data: tuple[str, ...] = ()
    """Texts whose language-model loss is added to every step (PPO-ptx), as --data of `plumb train lm`."""
    ptx_weight: float = 0.0
    """Weight of that loss."""
    ptx_batch: int = 4
    """Texts of one step."""
    lr: float = 5e-5
    """Learning rate at its highest."""
    schedule: str = "linear"
    """How it falls afterwards: cosine, linear or constant."""
    every: int = 10
    """Iterations between two checkpoints, and looks at held-out prompts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        least = (
            ("samples", 1),
            ("prompts", 1),
            ("passes", 1),
            ("max_new_tokens", 1),
            ("iterations", 0),
            ("ptx_batch", 1),
        )
        for name, value in least:
            self.need(getattr(self, name) >= value, name, f"it must be at least {value}")
        for name in ("missing_end", "beta", "kl_target", "clip_ratio", "correction", "stop_kl", "ptx_weight"):
            self.need(getattr(self, name) >= 0, name, "it must not be below 0")
        self.need(self.temperature > 0, "temperature", "it must be above 0: a greedy policy explores nothing")
        self.need(self.kl in ESTIMATES, "kl", f"give one of {', '.join(ESTIMATES)}")
        self.need(self.kl_horizon > 0, "kl_horizon", "it must be above 0")
        self.need(self.sampler in SAMPLERS, "sampler", f"give one of {', '.join(SAMPLERS)}")
        self.need(bool(self.ptx_data) or not self.ptx_weight, "ptx_weight", "name its texts with --ptx-data")
        self.need(self.batch_size <= self.prompts, "batch_size", f"an iteration has {self.prompts} prompts (--prompts)")

    def sampling(self, number: int, *, samples: int | None = None) -> Sampling:
        """How the answers of an iteration are drawn."""
        return Sampling(
            n=samples or self.samples,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=sampling_seed(self.seed, number),
        )


# ---- who takes part


@dataclass(frozen=True)
class Cast:
    """The policy in training, what it is held to, what answers for it, what judges it, and what it is asked."""

    learner: Learner
    reference: Learner
    """The learner itself, whose base it is, or a model of its own."""
    sampler: Sampler
    reward: Reward
    questions: Questions

    @classmethod
    def of(cls, config: Online, process: Process, score: Score | None = None, sampler: Sampler | None = None) -> Cast:
        """Everyone that the settings name; a score or a sampler that is handed in goes before them."""
        learner = Learner.load(config, process)
        limits = Limits.of(learner.tokenizer, truncate=config.truncate_prompt)
        questions = read_questions(config, limits, room=config.max_new_tokens, raw=config.raw, process=process)
        reward = open_reward(learner, config.reward, config.reward_label, score, config.tokens)
        reference = open_reference(config, learner)
        return cls(
            learner, reference, sampler or open_sampler(learner, config.sampler, config.sampler_mode), reward, questions
        )

    def answer(self, config: Online, number: int) -> Rollouts:
        """The answers of an iteration."""
        questions = questions_of(self.questions.train, number, config.prompts, config.seed)
        return sample(self.learner, self.sampler, questions, config.sampling(number))

    def judge(self, rollouts: Rollouts) -> list[float]:
        """The raw reward of each answer."""
        return checked(self.reward(rollouts), rollouts, self.reward.name)

    def held_out(self, config: Online) -> dict[str, float]:
        """The mean reward of one answer to each held-out prompt, with the same noise each time."""
        asked: list[Question] = self.questions.held_out[:MEASURED]
        if not asked:
            return {}
        rewards = self.judge(sample(self.learner, self.sampler, asked, config.sampling(0, samples=1)))
        return {"held_out_reward": sum(rewards) / len(rewards)}

    def reference_logprobs(self, config: Online, rollouts: Rollouts, batches: Batches) -> list[torch.Tensor]:
        """For each prompt (tokens,), what the reference thinks of its answers' tokens."""
        learner = self.reference
        with learner.hats.wearing(None) if learner.hats else nullcontext():
            return per_token(
                learner,
                rollouts.groups,
                batches.first_passes(),
                lambda batch: learner.logprobs(batch, config.temperature)[1],
            )


def open_reference(config: Online, learner: Learner) -> Learner:
    """The learner where its base is the reference; else the reference loaded apart."""
    if not config.reference and learner.hats is not None:
        return learner
    name = config.reference or config.model
    if config.reference:
        refuse_stranger(config)
    apart = Learner.load(replace(config, model=name, lora_rank=0, top_layers=0), learner.process)
    for each in apart.weights:
        each.requires_grad_(False)
    if apart.model.config.vocab_size != learner.model.config.vocab_size:
        raise UserError(
            f"the reference {name!r} has {apart.model.config.vocab_size} tokens and the policy "
            f"{learner.model.config.vocab_size}: a KL is between models of one vocabulary"
        )
    return apart


def refuse_stranger(config: Online) -> None:
    """UserError where the project knows that the policy does not come from the reference."""
    from plumbline.project import Project

    project = Project.find()
    known = {version.ref: version for version in project.versions()} if project else {}
    if config.model not in known:
        return
    line, ahead = [], [config.model]
    while ahead:
        name = ahead.pop()
        line.append(name)
        ahead += [known[name].base, *known[name].parents] if name in known else []
    if config.reference not in line:
        raise UserError(
            f"the reference {config.reference!r} is no ancestor of {config.model!r} (it comes from "
            f"{', '.join(map(repr, line[1:]))}): a KL from a stranger says nothing; name one of these, or none"
        )


# ---- an iteration


def iterations_of(config: Online, questions: int) -> int:
    """Iterations of the run."""
    return config.iterations or config.epochs * -(-questions // config.prompts)


def steps_of(config: Online, questions: int, iterations: int) -> int:
    """Optimiser steps of the run; the last iteration of a round may have fewer prompts."""
    per_round = -(-questions // config.prompts)
    last = questions - (per_round - 1) * config.prompts
    rounds, rest = divmod(iterations, per_round)
    full, short = -(-config.prompts // config.batch_size), -(-last // config.batch_size)
    return config.passes * (rounds * ((per_round - 1) * full + short) + rest * full)


def batches_of(config: Online, rollouts: Rollouts, number: int, process: Process) -> Batches:
    """The steps of an iteration: its prompts in mini-batches, shuffled anew in each pass."""
    return Batches(
        [size(group) for group in rollouts.groups],
        batch_size=config.batch_size,
        budget=config.tokens,
        epochs=config.passes,
        seed=sampling_seed(config.seed, number),
        rank=process.rank,
        world=process.world,
        device=process.device.type,
    )


def corrections(config: Online, old: Sequence[torch.Tensor], rollouts: Rollouts) -> tuple[list[torch.Tensor], float]:
    """For each prompt (tokens,) the weight min(π_old / sampler, cap), and the mean difference of their log-probs."""
    import torch

    sampled = [each.to(mine) for each, mine in zip(rollouts.sampled_at(), old, strict=True)]
    gap = float((torch.cat(list(old)) - torch.cat(sampled)).abs().mean())
    if not config.correction:
        return [torch.ones_like(each) for each in old], gap
    weights = [(mine - its).exp().clamp(max=config.correction) for mine, its in zip(old, sampled, strict=True)]
    return weights, gap


def with_missing_end(config: Online, rewards: Sequence[float], rollouts: Rollouts) -> torch.Tensor:
    """(answers,): what the loss sees of the rewards."""
    import torch

    pairs = zip(rewards, rollouts.ended, strict=True)
    return torch.tensor([reward - (0.0 if ended else config.missing_end) for reward, ended in pairs])


def by_answer(flat: torch.Tensor, rollouts: Rollouts) -> torch.Tensor:
    """(answers,), sums of something per token (tokens,)."""
    import torch

    return torch.stack([each.sum() for each in torch.split(flat, rollouts.lengths)])


def by_prompt(flat: torch.Tensor, rollouts: Rollouts) -> list[torch.Tensor]:
    """For each prompt its part of something per token (tokens, ...)."""
    import torch

    return list(torch.split(flat, [sum(map(len, group.completions)) for group in rollouts.groups]))


def about(rewards: Sequence[float], kl: torch.Tensor, rollouts: Rollouts) -> dict[str, float]:
    """What is logged of an iteration's answers."""
    count = len(rewards)
    mean = sum(rewards) / count
    return {
        "reward": mean,
        "kl": float(kl.mean()),
        "reward_spread": (sum((each - mean) ** 2 for each in rewards) / count) ** 0.5,
        "kl_error": float(kl.std() / count**0.5) if count > 1 else 0.0,
        "length": sum(rollouts.lengths) / count,
        "ended": sum(rollouts.ended) / count,
    }


@dataclass(frozen=True)
class Batch:
    """An iteration that is ready to be learned from."""

    groups: list[Group]
    columns: list[torch.Tensor]
    """For each prompt (tokens, things known): what the method knew of each token before the updates."""
    kl: list[float]
    """For each answer, the sum of log π − log π_ref."""
    reference: list[float]
    """For each answer, the sum of log π_ref."""
    told: dict[str, float]
    """What is logged."""

    @classmethod
    def of(
        cls,
        rollouts: Rollouts,
        known: Iterable[torch.Tensor],
        kl: torch.Tensor,
        reference: torch.Tensor,
        told: dict[str, float],
    ) -> Batch:
        """From things known, each (tokens,), and sums (answers,)."""
        import torch

        columns = by_prompt(torch.stack(list(known), 1), rollouts)
        return cls(rollouts.groups, columns, kl.tolist(), reference.tolist(), told)

    def take(self, places: Sequence[int]) -> tuple[list[Group], tuple[torch.Tensor, ...]]:
        """Some prompts of it, and what was known of their answers' tokens, each (tokens,)."""
        import torch

        return [self.groups[place] for place in places], torch.cat([self.columns[place] for place in places]).unbind(1)


def last_row(metrics: Metrics, process: Process) -> dict[str, float]:
    """What is known of the last iteration, on every process; nothing before the first."""
    return next(iter(process.gather(metrics.rows[-1:])[0]), {})


def reached(config: Online, row: Mapping[str, float]) -> str:
    """Why the run stops after the iteration of that row; "" if it goes on."""
    if not row:
        return ""
    if config.stop_reward is not None and row["reward"] >= config.stop_reward:
        return f"the mean reward {row['reward']:.3g} has reached --stop-reward {config.stop_reward:g}"
    if config.stop_kl and row["kl"] > config.stop_kl:
        return f"the mean KL {row['kl']:.3g} has gone beyond --stop-kl {config.stop_kl:g}"
    return ""


def tell_stop(number: int, why: str, process: Process) -> None:
    if process.first:
        print(f"plumb: stopped after iteration {number}: {why}", file=sys.stderr)


class Stages:
    """Seconds spent on each part of an iteration."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[f"seconds_{name}"] = self.seconds.get(f"seconds_{name}", 0.0) + time.perf_counter() - begin

    def told(self, rollouts: Rollouts) -> dict[str, float]:
        """These, and the answers' tokens per second of all together."""
        return {**self.seconds, "tokens_per_second": sum(rollouts.lengths) / sum(self.seconds.values())}


@contextlib.contextmanager
def redone_later(checkpoints: Checkpoints, done: int) -> Iterator[None]:
    """Where this part of an iteration fails, what came before it is kept, and the run can go on from there."""
    try:
        yield
    except UserError:
        if done:
            checkpoints.save(done)
        raise


# ---- what a run would take


def forecast(train: Callable[..., str], config: Online, scratch: Path) -> Forecast:
    """One iteration of a few prompts, run as the method runs it and thrown away; the rest is reckoned from it."""
    from plumbline.align.data import Limits
    from plumbline.models.resolve import resolve
    from plumbline.models.tokenizer import Tokenizer

    with started(config.device, config.precision, seed=config.seed) as process:
        limits = Limits.of(Tokenizer(resolve(config.model).folder), truncate=config.truncate_prompt)
        count = len(read_questions(config, limits, room=config.max_new_tokens, raw=config.raw, process=process).train)
        tried = replace(config, prompts=config.batch_size, iterations=1, out=str(scratch / "run"), trackers=())
        with contextlib.redirect_stderr(io.StringIO()):
            train(tried)
        row = json.loads((scratch / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        total = iterations_of(config, count)
        seconds = sum(value for name, value in row.items() if name.startswith("seconds_"))
        asked = min(config.prompts, count)
        return Forecast(
            steps=steps_of(config, count, total),
            tokens=round(total * asked * config.samples * row["length"]),
            memory=peak_memory(process),
            seconds=seconds * asked / min(config.batch_size, count) * total,
        )
