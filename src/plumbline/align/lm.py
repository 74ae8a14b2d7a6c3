"""Continued pretraining: the model goes on reading, now one's own texts.

    L(θ) = − 1 / N · Σ log π_θ(x_t | x_<t)        over the N tokens of a step's texts

A text is an answer to nothing but the end of the text before it, so the loss is the one of fine-tuning, `sft_loss`.
PPO-ptx takes it too, as its last term (Ouyang et al. 2022, arXiv 2203.02155, equation 2). Texts are curated first
(`corpus`): copies dropped, the least good dropped, sources mixed. Each text stays by itself; texts of like length
share a forward pass, so that there is little padding and no text sees another one.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from plumbline.align.corpus import mix, pieces_of, read_texts, shares, split, without_copies, without_the_worst
from plumbline.align.data import Limits, nothing_left, tell
from plumbline.align.sft import count_tokens, measure, sft_loss
from plumbline.errors import BadRecord
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


@dataclass(frozen=True)
class Config(Settings):
    """Settings of continued pretraining."""

    data: tuple[str, ...] = ()
    """File of texts (.txt, .md, .rst, or .jsonl with a `text` a line) or folder of such; give it once per source."""
    length: int = 512
    """Most tokens of one piece; longer texts are cut."""
    mixture: str = ""
    """Shares of the sources in what is learned, in the order of --data, for example 3,1; their sizes when left out."""
    good: tuple[str, ...] = ()
    """Texts of the kind that is wanted; the least like them are dropped from the data."""
    drop: float = 0.25
    """Share of the texts that is dropped then."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(self.length >= 2, "length", "it must be at least 2")
        self.need(0.0 <= self.drop < 1.0, "drop", "it must be at least 0 and below 1")


def train(config: Config, *, resume: bool = False) -> str:
    """Learns the texts; returns the name by which the trained model is loaded."""
    with started(config.device, config.precision, seed=config.seed) as process:
        folder = open_run(config, process, resume=resume)
        learner = Learner.load(config, process)
        learn, held_out = read(config, learner.tokenizer, process)
        batches = Batches.of(config, [size(piece) for piece in learn], process)
        optimiser = Optimiser.of(config, learner.weights, steps=len(batches))
        checkpoints = Checkpoints(folder / "checkpoints", process, learner.weights, optimiser=optimiser)
        done = checkpoints.restore()
        learner.prepare(learn, config)

        with Metrics(folder, process, config, total=len(batches), done=done) as metrics, learner.working():
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


def read(config: Config, tokenizer: Tokenizer, process: Process) -> tuple[list[Group], list[Group]]:
    """Pieces to learn and pieces held out, of curated texts; what was left out is told."""
    left_out: list[str] = []
    wanted = shares(config.mixture, len(config.data))
    found = read_texts(config.data, left_out)
    texts = without_copies(found)
    curated = [f"{len(found) - len(texts)} of {len(found)} texts are copies of others"]
    if config.good:
        good = read_texts(config.good, left_out)
        if not good:
            raise BadRecord(nothing_left(config.good, "no good example", left_out))
        chosen = without_the_worst(texts, good, config.drop)
        curated.append(f"{len(texts) - len(chosen)} are the least like the good ones")
        texts = chosen
    learn, apart = split(texts, config.held_out)
    length = min(config.length, Limits.of(tokenizer).window)
    by_source: list[list[Group]] = [[] for _ in config.data]
    for text in learn:
        by_source[text.source] += pieces_of(text.text, tokenizer, length)
    mixed = mix(by_source, wanted, config.seed)
    if not mixed:
        raise BadRecord(nothing_left(config.data, "no text", left_out))
    if process.first:
        print(f"plumb: {', '.join(curated)}; {len(texts)} stay", file=sys.stderr)
    if left_out and process.first:
        print(f"plumb: {tell(left_out)}", file=sys.stderr)
    return mixed, [piece for text in apart for piece in pieces_of(text.text, tokenizer, length)]
