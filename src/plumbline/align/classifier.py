"""Classifier: a text goes into one of some classes, such as harmful or not, for rewards and for rails.

    L(θ) = − 1 / M · Σ log p(c | x)  −  λ / N · Σ log π(x_t | x_<t)        over the M texts and N tokens of a step
    p(c | x) = softmax(z(x))_c

z has an output for each class. The first term is all there is for an encoder, as in BERT (Devlin et al. 2018,
arXiv 1810.04805): it predicts no next token. A decoder goes on with language modelling over the texts, so that it keeps
what it knows: the auxiliary objective of Radford et al. 2018 (Improving Language Understanding by Generative
Pre-Training, equation 5), with λ = 0.5 as there. It is the loss of `lm`.

With two classes, z_yes − z_no is the log-odds of yes, and serves as a reward.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from plumbline.align.class_models import Decoder, Encoder, Outputs, class_model
from plumbline.align.confusion import Confusion, measure_confusion
from plumbline.align.data import announce
from plumbline.align.labels import Labelled, classes_of, load_labelled
from plumbline.align.sft import sft_loss
from plumbline.files import replaced
from plumbline.models.score import Reads
from plumbline.training.batches import Batches, micro_batches
from plumbline.training.checkpoint import Checkpoints
from plumbline.training.devices import Process, started
from plumbline.training.forecast import Forecast, reckon
from plumbline.training.metrics import Metrics, Sums
from plumbline.training.optimise import Optimiser
from plumbline.training.run import Settings, keep_model, open_run

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Config(Settings):
    """Settings of a classifier."""

    epochs: int = 3
    """Times that each example is seen."""
    lm_weight: float | None = None
    """λ, how much the language-model loss over the texts weighs: 0.5 for a decoder; an encoder has no such loss."""
    reads: str = ""
    """What is classified: completion, or pair for the prompt too; when left out, pair where the texts have prompts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(self.lm_weight is None or self.lm_weight >= 0, "lm_weight", "it must not be below 0")
        self.need(
            self.reads in ("", *get_args(Reads)), "reads", f"give {' or '.join(get_args(Reads))}, or leave it out"
        )


def classifier_loss(
    outputs: Outputs, labels: torch.Tensor, *, texts: int, tokens: int = 0, lm_weight: float = 0.0
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A micro-batch's part of the step's loss and metrics, from what the model made of its texts.

    `labels` (texts,) are the classes' numbers; `texts` and `tokens` count those of the whole step.
    """
    import torch

    loss = torch.nn.functional.cross_entropy(outputs.classes, labels, reduction="sum") / texts
    right = (outputs.classes.argmax(1) == labels).sum()
    metrics = {"loss": loss.detach(), "class_loss": loss.detach(), "accuracy": right / texts}
    if outputs.logprobs is not None and outputs.entropy is not None:
        lm_loss, _ = sft_loss(outputs.logprobs, outputs.entropy, tokens)
        loss = loss + lm_weight * lm_loss
        metrics |= {"loss": loss.detach(), "lm_loss": lm_loss.detach()}
    return loss, metrics


class Example(NamedTuple):
    """A text as its model reads it: a decoder a group of token ids, an encoder a row of them."""

    prompt_id: str
    reading: Any
    label: int


class Examples(NamedTuple):
    train: list[Example]
    held_out: list[Example]


def train(config: Config, *, resume: bool = False) -> str:
    """Learns the labels; returns the name by which the classifier is loaded."""
    import torch

    with started(config.device, config.precision, seed=config.seed) as process:
        folder = open_run(config, process, resume=resume)
        model, data = read(config, process)
        batches = Batches.of(config, [model.size(each.reading) for each in data.train], process)
        optimiser = Optimiser.of(config, model.weights, steps=len(batches))
        checkpoints = Checkpoints(folder / "checkpoints", process, model.weights, optimiser=optimiser)
        done = checkpoints.restore()
        model.prepare([each.reading for each in data.train], config)

        with Metrics(folder, process, config, total=len(batches), done=done) as metrics, model.working():
            for step in batches.after(done):
                whole = [data.train[place] for place in step.examples]
                tokens = sum(model.predicted(each.reading) for each in whole)
                sums = Sums()
                for micro_batch in step.micro_batches:
                    examples = [data.train[place] for place in micro_batch]
                    outputs = model.outputs([each.reading for each in examples], lm=model.lm_weight > 0)
                    labels = torch.tensor([each.label for each in examples], device=process.device)
                    loss, values = classifier_loss(
                        outputs, labels, texts=len(whole), tokens=tokens, lm_weight=model.lm_weight
                    )
                    loss.backward()  # type: ignore[no-untyped-call]
                    sums.add(values)
                process.reduce_gradients(model.weights)
                row = process.total(sums) | optimiser.step(of=step)
                if look := step.ends_epoch or step.number % config.every == 0:
                    row |= measure(model, data, config.tokens)
                metrics.log(step.number, row)
                if look:
                    checkpoints.save(step.number, score=row.get("held_out_class_loss"))
            report(folder, model, data, config.tokens)
        return keep_model(folder, config, process, model.save)


def expect(config: Config) -> Forecast:
    """What training with these settings would take; leaves no trace."""
    with started(config.device, config.precision, seed=config.seed) as process:
        model, data = read(config, process)

        def learn(places: Sequence[int]) -> None:
            outputs = model.outputs([data.train[place].reading for place in places], lm=model.lm_weight > 0)
            made = outputs.classes if outputs.logprobs is None else outputs.classes.sum() + outputs.logprobs
            made.mean().backward()  # type: ignore[no-untyped-call]

        sizes = [model.size(each.reading) for each in data.train]
        with model.working():
            return reckon(learn, sizes, model.weights, config, process)


# ---- the data


def read(config: Config, process: Process) -> tuple[Decoder | Encoder, Examples]:
    """The model, and the texts to learn and those held out as it reads them; what cannot be used is told."""
    left_out: list[str] = []
    texts = load_labelled(config.data, left_out, reads=config.reads, share=config.held_out)
    model = class_model(config, texts, config.lm_weight, process)

    def as_read(records: Sequence[Labelled]) -> list[Example]:
        read = [(each, model.read(each, left_out)) for each in records]
        return [Example(each.prompt_id, it, model.classes.index(each.label)) for each, it in read if it is not None]

    data = Examples(as_read(texts.train), as_read(texts.held_out))
    classes_of((model.classes[each.label] for each in data.train), config.data, left_out)
    announce(left_out, process)
    return model, data


# ---- what is known of it


def measure(model: Decoder | Encoder, data: Examples, budget: int) -> dict[str, float]:
    """How well it does on texts that were held out; nothing where there are none."""
    found = confusion_of(model, data, budget)
    return {"held_out_class_loss": found.log_loss, "held_out_accuracy": found.right.value} if found.examples else {}


def report(folder: Path, model: Decoder | Encoder, data: Examples, budget: int) -> None:
    """Writes what is known of the finished classifier to accuracy.json."""
    found = confusion_of(model, data, budget)
    if model.process.first:
        with replaced(folder / "accuracy.json") as file:
            file.write(
                json.dumps({**asdict(found), "beats_commonest": found.beats_commonest}, indent=2).encode() + b"\n"
            )


def confusion_of(model: Decoder | Encoder, data: Examples, budget: int) -> Confusion:
    return measure_confusion(
        model.classes,
        [each.label for each in data.held_out],
        all_outputs(model, data.held_out, budget),
        [each.prompt_id for each in data.held_out],
        [each.label for each in data.train],
    )


def all_outputs(model: Decoder | Encoder, examples: Sequence[Example], budget: int) -> list[list[float]]:
    """The outputs of each text, without gradients; the processes share the work."""
    import torch

    process, mine = model.process, dict[int, list[float]]()
    sizes, share = [model.size(each.reading) for each in examples], (process.rank, process.world, process.device.type)
    with torch.no_grad():
        for places in micro_batches(sizes, range(len(examples)), budget, *share):
            rows = model.outputs([examples[place].reading for place in places]).classes.tolist()
            mine |= dict(zip(places, rows, strict=True))
    found = {place: row for part in process.gather(mine) for place, row in part.items()}
    return [found[place] for place in range(len(examples))]
