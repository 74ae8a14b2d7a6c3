"""Supervised fine-tuning: people show how to answer, and the model learns to answer like that.

    L(θ) = − 1 / N · Σ log π_θ(y_t | x, y_<t)        over the N tokens of a step's answers

Only the answer y is learned, not the prompt x. An answer is its text and then exactly one end-of-text token, which is
learned too: it is how the model comes to stop.

Ouyang et al. 2022 (InstructGPT, arXiv 2203.02155), section 3.5 and appendix C.1, whose settings are
`PRESETS["instructgpt"]`: sixteen epochs, though the held-out loss rises after the first, since what people prefer goes
on rising.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plumbline.align.data import Limits, Part, nothing_left, part_of, tell
from plumbline.errors import BadRecord, UserError
from plumbline.formats import read_demonstrations
from plumbline.models.grouped import Group
from plumbline.models.tokenizer import Tokenizer
from plumbline.records import Message
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


@dataclass(frozen=True)
class Config(Settings):
    """Settings of supervised fine-tuning."""

    epochs: int = 3
    """Times that each example is seen."""
    dropout: float = 0.0
    """Share of what each attention and MLP adds to the stream of states that is dropped while training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(0.0 <= self.dropout < 1.0, "dropout", "it must be at least 0 and below 1")


PRESETS: dict[str, dict[str, Any]] = {
    "instructgpt": {
        "epochs": 16,
        "batch_size": 32,
        "lr": 9.65e-6,
        "warmup": 0.0,
        "schedule": "cosine",
        "lr_floor": 0.1,
        "dropout": 0.2,
        "lora_rank": 0,
    },
}


def sft_loss(
    logprobs: torch.Tensor, entropy: torch.Tensor, tokens: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A micro-batch's part of the step's loss, from its answers' log-probs and entropies, both (its tokens,).

    `tokens` counts the answers' tokens of the whole step, so the parts add up to the step's mean per token.
    """
    loss = -logprobs.sum() / tokens
    return loss, {"loss": loss.detach(), "entropy": entropy.detach().sum() / tokens}


def train(config: Config, *, resume: bool = False) -> str:
    """Learns the demonstrations; returns the name by which the trained model is loaded."""
    with started(config.device, config.precision, seed=config.seed) as process:
        folder = open_run(config, process, resume=resume)
        learner = Learner.load(config, process)
        learn, held_out = read(config, learner.tokenizer, process)
        batches = Batches.of(config, [size(group) for group in learn], process)
        optimiser = Optimiser.of(config, learner.weights, steps=len(batches))
        checkpoints = Checkpoints(folder / "checkpoints", process, learner.weights, optimiser=optimiser)
        done = checkpoints.restore()
        learner.prepare(learn, config)

        with (
            Metrics(folder, process, config, total=len(batches), done=done) as metrics,
            learner.working(),
            residual_dropout(learner.model, config.dropout),
        ):
            for step in batches.after(done):
                tokens = count_tokens(learn[place] for place in step.examples)
                sums = Sums()
                for micro_batch in step.micro_batches:
                    _, logprobs, entropy = learner.logprobs([learn[place] for place in micro_batch])
                    loss, values = sft_loss(logprobs, entropy, tokens)
                    loss.backward()  # type: ignore[no-untyped-call]
                    sums.add(values)
                process.reduce_gradients(learner.weights)
                row = process.total(sums) | optimiser.step(of=step)
                if look := step.ends_epoch or step.number % config.every == 0:
                    row |= measure(learner, held_out, config.tokens)
                metrics.log(step.number, row)
                if look:
                    checkpoints.save(step.number, score=row.get("held_out_loss"))
        return keep_model(folder, config, process, learner.save)


def expect(config: Config) -> Forecast:
    """What training with these settings would take; leaves no trace."""
    with started(config.device, config.precision, seed=config.seed) as process:
        learner = Learner.load(config, process)
        learn, _ = read(config, learner.tokenizer, process)
        return forecast(learner, learn, config)


def measure(learner: Learner, groups: Sequence[Group], budget: int) -> dict[str, float]:
    """The loss and the entropy per token over held-out answers; nothing where there are none."""
    import torch

    tokens, sums, process = count_tokens(groups), Sums(), learner.process
    sizes, share = [size(group) for group in groups], (process.rank, process.world, process.device.type)
    with torch.no_grad():
        for micro_batch in micro_batches(sizes, range(len(groups)), budget, *share):
            _, logprobs, entropy = learner.logprobs([groups[place] for place in micro_batch])
            sums.add(sft_loss(logprobs, entropy, tokens)[1])
    return {f"held_out_{name}": value for name, value in process.total(sums).items()}


def count_tokens(groups: Iterable[Group]) -> int:
    """The answers' tokens, those that end them included."""
    return sum(len(completion) for group in groups for completion in group.completions)


# ---- the data


def read(config: Config, tokenizer: Tokenizer, process: Process) -> tuple[list[Group], list[Group]]:
    """The demonstrations to learn and those held out; what cannot be used is told, with the reason."""
    limits = Limits.of(tokenizer, truncate=config.truncate_prompt)
    left_out: list[str] = []
    parts: dict[Part, list[Group]] = {"train": [], "validation": [], "test": []}
    for record in read_demonstrations(config.data, left_out):
        name = f"the demonstration on prompt {record.prompt_id!r}"
        *asked, answer = record.messages
        if answer.get("tool_calls") or answer["content"] is None:
            left_out.append(f"{name}: its answer calls tools, and only text is learned")
            continue
        group = limits.group(name, plainly(asked), [answer["content"]], left_out)
        if group is not None:
            parts[part_of(record, config.held_out)].append(group)
    if not parts["train"]:
        raise BadRecord(nothing_left(config.data, "no demonstration", left_out))
    if left_out and process.first:
        print(f"plumb: {tell(left_out)}", file=sys.stderr)
    return parts["train"], parts["validation"]


def plainly(asked: list[Message]) -> str | list[Message]:
    """One user's turn as text, which a model without a chat template can read as well."""
    alone = asked[0] if len(asked) == 1 else None
    return alone["content"] or "" if alone and alone["role"] == "user" else asked


# ---- dropout


@contextlib.contextmanager
def residual_dropout(model: Any, share: float) -> Iterator[None]:
    """Inside, a share of what each attention and MLP adds to the states is dropped wherever gradients are taken."""
    import torch

    def drop(_: Any, __: Any, output: Any) -> Any:
        if not torch.is_grad_enabled():
            return output
        first, *rest = output if isinstance(output, tuple) else (output,)
        dropped = torch.nn.functional.dropout(first, share)
        return (dropped, *rest) if isinstance(output, tuple) else dropped

    parts = [module for name, module in model.named_modules() if name.rpartition(".")[2] in RESIDUAL_PARTS]
    if share and not parts:
        raise UserError(
            f"dropout is {share!r}: {type(model).__name__} has no part that we know to put it on; leave it 0"
        )
    hooks = [part.register_forward_hook(drop) for part in parts] if share else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


RESIDUAL_PARTS = {"self_attn", "self_attention", "attention", "attn", "mlp"}
"""How families call the two parts of a layer whose outputs are added to the states."""
