"""DPO: learn from ranked answers without a reward model, by what the policy itself thinks of them.

    h(y) = log π(y | x) − log π_ref(y | x)                          the implicit reward is β · h

    sigmoid          − 1 / C(K, 2) · Σ_{(w, l)} log σ(β (h_w − h_l))       Rafailov et al. 2023, arXiv 2305.18290
      smoothed         (1 − ε) · that + ε · the same with w and l exchanged       for labels wrong with probability ε
    ipo              1 / C(K, 2) · Σ_{(w, l)} (h_w − h_l − 1 / (2β))²      Azar et al. 2023, arXiv 2310.12036
    plackett-luce    − Σ_k log ( e^{β h_k} / Σ_{j ranked below k, and k} e^{β h_j} )      the DPO paper's appendix A.3

For IPO h is a mean over the answer's tokens: of a sum, the target 1 / (2β) would ask less of each token the longer the
answer is. Tied answers form no pair; in Plackett–Luce they do not compete with each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plumbline.align.accuracy import Accuracy, keep_accuracy, measure_accuracy
from plumbline.align.answers import answer_logprobs, reference_logprobs
from plumbline.align.data import Limits, Order, Pairs, Preference, Preferences, announce, load_preferences, pairs_of
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

LOSSES = ("sigmoid", "ipo", "plackett-luce")


@dataclass(frozen=True)
class Config(Settings):
    """Settings of DPO."""

    lr: float = 5e-5
    """Learning rate at its highest."""
    loss: str = "sigmoid"
    """Which loss: sigmoid, ipo or plackett-luce."""
    beta: float = 0.1
    """How strongly the policy is held to the reference."""
    smoothing: float = 0.0
    """Share of the pairs that are taken to be labeled the wrong way round; for the sigmoid loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(self.loss in LOSSES, "loss", f"give one of {', '.join(LOSSES)}")
        self.need(self.beta > 0, "beta", "it must be above 0")
        self.need(0 <= self.smoothing < 0.5, "smoothing", "it must be at least 0 and below 0.5")
        self.need(self.smoothing == 0 or self.loss == "sigmoid", "smoothing", "only the sigmoid loss can be smoothed")


def dpo_loss(
    ratios: torch.Tensor, pairs: Pairs, *, beta: float = 0.1, smoothing: float = 0.0
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A micro-batch's part of the step's loss and metrics, from h (answers,) of its sets."""
    import torch

    gap = beta * (ratios[pairs.better] - ratios[pairs.worse])  # (pairs,)
    right, wrong = torch.nn.functional.logsigmoid(gap), torch.nn.functional.logsigmoid(-gap)
    loss = -(pairs.weight * ((1 - smoothing) * right + smoothing * wrong)).sum()
    return loss, {"loss": loss.detach(), **pair_metrics(ratios, pairs, beta)}


def ipo_loss(ratios: torch.Tensor, pairs: Pairs, *, beta: float = 0.1) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The same for IPO, whose ratios are means over each answer's tokens."""
    gap = ratios[pairs.better] - ratios[pairs.worse]
    loss = (pairs.weight * (gap - 1 / (2 * beta)).square()).sum()
    return loss, {"loss": loss.detach(), **pair_metrics(ratios, pairs, beta)}


def plackett_luce_loss(
    ratios: torch.Tensor, sets: Sequence[Sequence[Order]], pairs: Pairs, *, beta: float = 0.1, step: int = 1
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The same for whole orders; `sets` has each set's, and `step` is the number of sets in the step."""
    loss, begin = ratios.new_zeros(()), 0
    for orders in sets:
        end = begin + len(orders[0].ranks)
        for order in orders:
            loss = loss - order_logprob(beta * ratios[begin:end], order.ranks) / (len(orders) * step)
        begin = end
    assert begin == len(ratios), (begin, len(ratios))
    return loss, {"loss": loss.detach(), **pair_metrics(ratios, pairs, beta)}


def order_logprob(scores: torch.Tensor, ranks: Sequence[int | None]) -> torch.Tensor:
    """log P of one order under Plackett and Luce: each answer is drawn first among itself and those below it."""
    total = scores.new_zeros(())
    for place, rank in enumerate(ranks):
        below = [other for other, its in enumerate(ranks) if rank is not None and its is not None and its > rank]
        if below:
            total = total + scores[place] - scores[[place, *below]].logsumexp(0)
    return total


def pair_metrics(ratios: torch.Tensor, pairs: Pairs, beta: float) -> dict[str, torch.Tensor]:
    """Implicit rewards of the better and the worse answers apart, since both may fall, and how often they agree."""
    better, worse = beta * ratios.detach()[pairs.better], beta * ratios.detach()[pairs.worse]
    return {
        "accuracy": (pairs.vote * (better > worse)).sum(),
        "chosen_reward": (pairs.vote * better).sum(),
        "rejected_reward": (pairs.vote * worse).sum(),
    }


def train(config: Config, *, resume: bool = False) -> str:
    """Learns the comparisons; returns the name by which the trained model is loaded."""
    import torch

    with started(config.device, config.precision, seed=config.seed) as process:
        folder = open_run(config, process, resume=resume)
        learner = Learner.load(config, process)
        data = read(config, learner.tokenizer, process)
        groups = [example.group for example in data.train]
        learner.prepare(groups, config)
        everything = [*groups, *(example.group for example in data.held_out)]
        reference = reference_logprobs(learner, everything, budget=config.tokens, keep=folder / "reference.safetensors")
        batches = Batches.of(config, [size(group) for group in groups], process)
        optimiser = Optimiser.of(config, learner.weights, steps=len(batches))
        checkpoints = Checkpoints(folder / "checkpoints", process, learner.weights, optimiser=optimiser)
        done = checkpoints.restore()

        with Metrics(folder, process, config, total=len(batches), done=done) as metrics, learner.working():
            for step in batches.after(done):
                whole = [data.train[place] for place in step.examples]
                sums = Sums()
                for micro_batch in step.micro_batches:
                    examples = [data.train[place] for place in micro_batch]
                    answers, logprobs, _ = learner.logprobs([example.group for example in examples])
                    own = answers.sums(logprobs)
                    ratios = own - torch.cat([reference[place] for place in micro_batch]).to(own)
                    loss, values = loss_of(config, ratios, examples, whole)
                    loss.backward()  # type: ignore[no-untyped-call]
                    sums.add(values)
                process.reduce_gradients(learner.weights)
                row = process.total(sums) | optimiser.step(of=step)
                if look := step.ends_epoch or step.number % config.every == 0:
                    row |= measure(config, learner, data.held_out, reference[len(data.train) :])
                metrics.log(step.number, row)
                if look:
                    checkpoints.save(step.number, score=row.get("held_out_loss"))
            found = all_ratios(config, learner, data.held_out, reference[len(data.train) :])
        if process.first:
            keep_accuracy(folder, accuracy_of(config, data.held_out, found))
        return keep_model(folder, config, process, learner.save)


def expect(config: Config) -> Forecast:
    """What training with these settings would take; leaves no trace."""
    with started(config.device, config.precision, seed=config.seed) as process:
        learner = Learner.load(config, process)
        data = read(config, learner.tokenizer, process)
        return forecast(learner, [example.group for example in data.train], config)


def loss_of(
    config: Config, ratios: torch.Tensor, examples: Sequence[Preference], step: Sequence[Preference]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss that the settings name, for a micro-batch of a step, from log π − log π_ref (answers,)."""
    pairs = pairs_of(examples, step, ratios.device)
    if config.loss == "ipo":
        lengths = [len(completion) for example in examples for completion in example.group.completions]
        return ipo_loss(ratios / ratios.new_tensor(lengths), pairs, beta=config.beta)
    if config.loss == "plackett-luce":
        orders = [example.orders for example in examples]
        return plackett_luce_loss(ratios, orders, pairs, beta=config.beta, step=len(step))
    return dpo_loss(ratios, pairs, beta=config.beta, smoothing=config.smoothing)


def measure(
    config: Config, learner: Learner, held_out: Sequence[Preference], reference: Sequence[torch.Tensor]
) -> dict[str, float]:
    """The loss on held-out comparisons, and how often the implicit rewards agree; nothing where there are none."""
    import torch

    if not held_out:
        return {}
    ratios = all_ratios(config, learner, held_out, reference)
    loss, _ = loss_of(config, torch.cat(ratios), held_out, held_out)
    return {"held_out_loss": loss.item(), "held_out_accuracy": accuracy_of(config, held_out, ratios).right.value}


def all_ratios(
    config: Config, learner: Learner, examples: Sequence[Preference], reference: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """log π − log π_ref of each set's answers (answers,), without gradients."""
    own = answer_logprobs(learner, [example.group for example in examples], config.tokens)
    return [mine - theirs for mine, theirs in zip(own, reference, strict=True)]


def accuracy_of(config: Config, examples: Sequence[Preference], ratios: Sequence[torch.Tensor]) -> Accuracy:
    """Of the implicit rewards."""
    return measure_accuracy(examples, [(config.beta * each).tolist() for each in ratios])


def read(config: Config, tokenizer: Tokenizer, process: Process) -> Preferences:
    """The comparisons to learn and those held out; what cannot be used is told, with the reason."""
    limits = Limits.of(tokenizer, truncate=config.truncate_prompt)
    data = load_preferences(config.data, limits, ties=False, share=config.held_out)
    announce(data.left_out, process)
    return data
