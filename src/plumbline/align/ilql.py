"""ILQL: learn from answers with rewards, and from nothing else, what each next token is worth; then answer by that.

    h, a, h'    what stands so far, the next token, what stands then; r is the answer's reward at its last token, else 0
    u           min(Q̄₁, Q̄₂)(h, a) − V(h)

    L_Q   Σ_i (r + γ V(h') − Q_i(h, a))²           V = 0 after the last token; no gradient through V
    L_V   |τ − 1(u < 0)| · u²                      the expectile: the mean for τ = ½, near the largest for τ near 1
    L_C   − Σ_i log softmax(Q_i(h, ·))(a)          keeps Q low for tokens that the data never took
    L_π   − min(e^{η u}, 100) · log π(a | h)       cloning, for η > 0 of the better tokens above all
    L     mean over the answers' tokens of L_Q + L_V + α L_C + λ L_π
    Q̄_i ← Q̄_i + ρ (Q_i − Q̄_i)                     after each step

An answer is drawn from π(a | h) · e^{β u}. So good steps of different answers come together in one that nobody wrote.

(Snell et al. 2022, arXiv 2206.11871. The expectile is Kostrikov et al. 2021's, arXiv 2110.06169; L_C Kumar et al.
2020's, arXiv 2006.04779; η Nair et al. 2020's, arXiv 2006.09359.)

Rewards are divided by their spread, so that β and α mean the same for every scale of rewards.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.align.data import Limits, Part, announce, nothing_left, part_of
from plumbline.errors import BadRecord
from plumbline.formats import read_rewarded
from plumbline.models.grouped import Answers, Group
from plumbline.models.tokenizer import Tokenizer
from plumbline.training.batches import Batches, micro_batches, size
from plumbline.training.checkpoint import Checkpoints
from plumbline.training.devices import Process, started
from plumbline.training.forecast import Forecast, forecast
from plumbline.training.learner import Learner
from plumbline.training.metrics import Metrics, Sums
from plumbline.training.optimise import Optimiser
from plumbline.training.run import Settings, keep_model, open_run

if TYPE_CHECKING:
    import torch

TOGETHER = 8
"""Answers to one prompt in one example: its prompt is computed once for them."""
MOST = 100.0
"""How much more than another token one may weigh in cloning."""


@dataclass(frozen=True)
class Config(Settings):
    """Settings of ILQL."""

    epochs: int = 3
    """Times that each example is seen."""
    gamma: float = 0.99
    """γ, what a reward is worth one token earlier."""
    tau: float = 0.7
    """τ, how near V comes to the best that the data holds: 0.5 is the mean, near 1 the largest."""
    conservative: float = 0.1
    """α, how strongly Q is kept low for tokens that the data never took."""
    cloning: float = 1.0
    """λ, how strongly the policy learns to answer as the data does; 0 leaves it as it is."""
    sharpness: float = 0.0
    """η, how much more the policy learns tokens with an advantage; 0 clones all alike."""
    polyak: float = 0.1
    """ρ, the share of their way that the slow copies of the Q heads go after each step."""
    q_rank: int = 32
    """Rank of the Q heads, which have a row for each token of the vocabulary."""
    beta: float = 4.0
    """β, how far answers follow the rewards; kept in the model's q_heads.json, and 0 is the policy alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(0 < self.gamma <= 1, "gamma", "it must be above 0 and at most 1")
        self.need(0 < self.tau < 1, "tau", "it must lie between 0 and 1")
        self.need(0 < self.polyak <= 1, "polyak", "it must be above 0 and at most 1")
        self.need(self.q_rank >= 1, "q_rank", "it must be at least 1")
        for name in ("conservative", "cloning", "sharpness", "beta"):
            self.need(getattr(self, name) >= 0, name, "it must not be below 0")


@dataclass(frozen=True)
class Look:
    """What policy and heads say of the tokens of some answers; (tokens,) unless said otherwise."""

    logprobs: torch.Tensor
    qs: torch.Tensor  # (2, tokens), Q_i of each token
    q_logprobs: torch.Tensor  # (2, tokens), log softmax Q_i at each token
    slow: torch.Tensor  # min of the slow Q
    values: torch.Tensor  # V before each token
    rewards: torch.Tensor  # at an answer's last token, else 0
    row: torch.Tensor  # the answer that each token belongs to


def ilql_loss(config: Config, look: Look, tokens: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A micro-batch's part of the step's loss and metrics; `tokens` counts the answers' tokens of the whole step."""
    goal = look.rewards + config.gamma * next_values(look.values, look.row)
    over = look.slow - look.values
    weight = (config.sharpness * over.detach()).exp().clamp(max=MOST)
    q_loss = (goal - look.qs).square().sum() / tokens
    v_loss = expectile(over, config.tau).sum() / tokens
    conservative = -look.q_logprobs.sum() / tokens
    cloning = -(weight * look.logprobs).sum() / tokens
    loss = q_loss + v_loss + config.conservative * conservative + config.cloning * cloning
    parts = {"loss": loss, "q_loss": q_loss, "v_loss": v_loss, "conservative": conservative, "cloning": cloning}
    return loss, {name: part.detach() for name, part in {**parts, "value": look.values.sum() / tokens}.items()}


def expectile(difference: torch.Tensor, tau: float) -> torch.Tensor:
    """|τ − 1(u < 0)| · u², whose sum over many u is least where V is their τ-expectile."""
    return (tau - (difference < 0).to(difference.dtype)).abs() * difference.square()


def next_values(values: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """V (tokens,) after each token, 0 after an answer's last; no gradient."""
    following = values.detach().roll(-1)
    return following.where(~last_of(row), 0.0)


def last_of(row: torch.Tensor) -> torch.Tensor:
    """Which tokens are their answer's last."""
    last = row != row.roll(-1)
    last[-1] = True
    return last


class Critics:
    """The Q heads with their slow copies, and V."""

    def __init__(self, process: Process, hidden: int, vocabulary: int, *, rank: int, level: float) -> None:
        from plumbline.models.heads import ScalarHead
        from plumbline.models.q_heads import QHead

        self.qs = [QHead(hidden, vocabulary, rank, level=level, device=process.device) for _ in range(2)]
        self.value = ScalarHead(hidden, device=process.device)
        self.value.bias.data.fill_(level)
        process.spread(self.parameters())
        self.slow = copy.deepcopy(self.qs)

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is learned."""
        return [*(each for head in self.qs for each in head.parameters()), *self.value.parameters()]

    def look(self, answers: Answers, logprobs: torch.Tensor, given: Sequence[float]) -> Look:
        """At answers with these log-probs (tokens,) and rewards (answers,)."""
        import torch

        states, targets = answers.states.to(logprobs.dtype), answers.targets
        rewards = torch.zeros_like(logprobs)
        rewards[last_of(answers.row)] = logprobs.new_tensor(given)
        with torch.no_grad():
            slow = torch.stack([head.tokens(states, targets) for head in self.slow]).amin(0)
        return Look(
            logprobs=logprobs,
            qs=torch.stack([head.tokens(states, targets) for head in self.qs]),
            q_logprobs=torch.stack([head.logprobs(states, targets) for head in self.qs]),
            slow=slow,
            values=self.value(states),
            rewards=rewards,
            row=answers.row,
        )

    def follow(self, share: float) -> None:
        """The slow copies go a share of their way to the heads."""
        import torch

        with torch.no_grad():
            for slow, head in zip(self.slow, self.qs, strict=True):
                for mine, its in zip(slow.parameters(), head.parameters(), strict=True):
                    mine.lerp_(its, share)

    def state_dict(self) -> dict[str, Any]:
        """The slow copies; what is learned is kept with the other weights."""
        return {"slow": [each.detach() for head in self.slow for each in head.parameters()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        mine = (each for head in self.slow for each in head.parameters())
        for each, kept in zip(mine, state["slow"], strict=True):
            each.data.copy_(kept)


def train(config: Config, *, resume: bool = False) -> str:
    """Learns the rewarded answers; returns the name by which the guided model is loaded."""
    from plumbline.models.q_heads import save_q_heads

    with started(config.device, config.precision, seed=config.seed) as process:
        folder = open_run(config, process, resume=resume)
        learner = Learner.load(config, process)
        data = read(config, learner.tokenizer, process)
        vocabulary, hidden = learner.model.get_output_embeddings().weight.shape
        critics = Critics(process, hidden, vocabulary, rank=config.q_rank, level=data.mean)
        weights = [*learner.weights, *critics.parameters()]
        groups = [example.group for example in data.train]
        batches = Batches.of(config, [size(group) for group in groups], process)
        optimiser = Optimiser.of(config, weights, steps=len(batches))
        checkpoints = Checkpoints(folder / "checkpoints", process, weights, optimiser=optimiser, critics=critics)
        done = checkpoints.restore()
        learner.prepare(groups, config)

        with Metrics(folder, process, config, total=len(batches), done=done) as metrics, learner.working():
            for step in batches.after(done):
                tokens = count_tokens(data.train[place] for place in step.examples)
                sums = Sums()
                for micro_batch in step.micro_batches:
                    look = look_at(learner, critics, [data.train[place] for place in micro_batch])
                    loss, values = ilql_loss(config, look, tokens)
                    loss.backward()  # type: ignore[no-untyped-call]
                    sums.add(values)
                process.reduce_gradients(weights)
                row = process.total(sums) | optimiser.step(of=step)
                critics.follow(config.polyak)
                if look_now := step.ends_epoch or step.number % config.every == 0:
                    row |= measure(config, learner, critics, data.held_out)
                metrics.log(step.number, row)
                if look_now:
                    checkpoints.save(step.number, score=row.get("held_out_loss"))

        def write(place: Path) -> None:
            learner.save(place)
            save_q_heads(place, critics.slow, config.beta)

        return keep_model(folder, config, process, write)


def expect(config: Config) -> Forecast:
    """What training with these settings would take; leaves no trace."""
    with started(config.device, config.precision, seed=config.seed) as process:
        learner = Learner.load(config, process)
        data = read(config, learner.tokenizer, process)
        return forecast(learner, [example.group for example in data.train], config)


def look_at(learner: Learner, critics: Critics, examples: Sequence[Example]) -> Look:
    """One pass through the model, and the heads on top of it."""
    answers, logprobs, _ = learner.logprobs([example.group for example in examples])
    return critics.look(answers, logprobs, [reward for example in examples for reward in example.rewards])


def measure(config: Config, learner: Learner, critics: Critics, held_out: Sequence[Example]) -> dict[str, float]:
    """The loss and its parts over held-out answers; nothing where there are none."""
    import torch

    tokens, sums, process = count_tokens(held_out), Sums(), learner.process
    sizes, share = [size(example.group) for example in held_out], (process.rank, process.world, process.device.type)
    with torch.no_grad():
        for micro_batch in micro_batches(sizes, range(len(held_out)), config.tokens, *share):
            look = look_at(learner, critics, [held_out[place] for place in micro_batch])
            sums.add(ilql_loss(config, look, tokens)[1])
    return {f"held_out_{name}": value for name, value in process.total(sums).items()}


# ---- the data


@dataclass(frozen=True)
class Example:
    """A prompt with some of its answers, and their rewards."""

    group: Group
    rewards: tuple[float, ...]


@dataclass(frozen=True)
class Data:
    """What to learn from, what to measure on, and the mean of the rewards that are learned."""

    train: list[Example]
    held_out: list[Example]
    mean: float


def read(config: Config, tokenizer: Tokenizer, process: Process) -> Data:
    """The rewarded answers, their rewards over their spread; what cannot be used is told, with the reason."""
    limits = Limits.of(tokenizer, truncate=config.truncate_prompt)
    left_out: list[str] = []
    parts: dict[Part, list[tuple[Group, float]]] = {"train": [], "validation": [], "test": []}
    for number, record in enumerate(read_rewarded(config.data, left_out), 1):
        name = f"answer {number} (prompt {record.prompt_id!r})"
        group = limits.group(name, record.prompt, [record.completion], left_out)
        if group is not None:
            parts[part_of(record, config.held_out)].append((group, record.reward))
    rewards = [reward for _, reward in parts["train"]]
    if len(rewards) < 2:
        raise BadRecord(nothing_left(config.data, "fewer than two answers with rewards", left_out))
    spread = statistics.pstdev(rewards)
    if max(rewards) == min(rewards):
        raise BadRecord(
            f"all {len(rewards)} answers to train on have the reward {rewards[0]!r}, which says of none that it is "
            "better: give answers with different rewards"
        )
    announce(left_out, process)
    learned, held_out = (together(parts[part], spread) for part in ("train", "validation"))
    return Data(learned, held_out, statistics.fmean(rewards) / spread)


def together(answers: Iterable[tuple[Group, float]], spread: float) -> list[Example]:
    """Answers to one prompt as examples of at most `TOGETHER`, in the order of their first ones."""
    by_prompt: dict[tuple[int, ...], list[tuple[Sequence[int], float]]] = {}
    for group, reward in answers:
        by_prompt.setdefault(tuple(group.prompt), []).append((group.completions[0], reward / spread))
    return [
        Example(Group(prompt, [completion for completion, _ in some]), tuple(reward for _, reward in some))
        for prompt, its in by_prompt.items()
        for some in (its[begin : begin + TOGETHER] for begin in range(0, len(its), TOGETHER))
    ]


def count_tokens(examples: Iterable[Example]) -> int:
    """The answers' tokens, those that end them included."""
    return sum(len(completion) for example in examples for completion in example.group.completions)
