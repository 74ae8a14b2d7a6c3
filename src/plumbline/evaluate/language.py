"""What a model holds likely: how well it predicts text, and how far it has moved from another model.

The KL divergence is taken over the whole vocabulary along answers that the model samples itself at temperature 1, so
its mean over answers estimates KL(π ‖ π_ref) per answer without the noise of a single token's log-ratio.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from plumbline.errors import UserError
from plumbline.evaluate.bench import Bench
from plumbline.evaluate.likelihood import Case
from plumbline.evaluate.records import Asked, Outcome, Text
from plumbline.evaluate.statistics import Floats, ratio
from plumbline.evaluate.tasks import Metric, Setting, Task, plain
from plumbline.models import Prompt, Raw, Sampling

FREELY = Sampling(temperature=1.0, max_new_tokens=48, seed=0)


def predict(bench: Bench, items: Sequence[Text], setting: Setting) -> list[Outcome]:
    """How many bits each text takes."""
    weights = bench.weigh([Case(Raw(""), (item.text,), ends=False) for item in items])
    return [
        Outcome(
            item_id=item.item_id,
            about=item.about,
            prompt="",
            completion=item.text,
            values={
                "nats": -weight.logprob,
                "bits": -weight.logprob / math.log(2),
                "tokens": float(weight.tokens),
                "bytes": float(len(item.text.encode())),
            },
            note=f"{-weight.logprob / math.log(2) / len(item.text.encode()):.3f} bits a byte",
            worth=weight.logprob / len(item.text.encode()),
        )
        for item, (weight,) in zip(items, weights, strict=True)
    ]


def perplexity(rows: Floats, weights: Floats) -> Floats:
    """exp(nats / tokens), from the sums over the drawn texts."""
    return np.asarray(np.exp(ratio(rows, weights)), dtype=np.float64)


PERPLEXITY = Task(
    name="perplexity",
    aim="capable",
    kind=Text,
    solve=predict,
    metrics=(
        Metric("bits_per_byte", ("bits", "bytes"), ratio, "lower", ".3f", "bits that a byte of text takes"),
        Metric("perplexity", ("nats", "tokens"), perplexity, "lower", ".2f", "per token", per_token=True),
    ),
    file="texts.jsonl",
    needs=("probabilities",),
)


def diverge(bench: Bench, items: Sequence[Asked], setting: Setting) -> list[Outcome]:
    """How far the model's next tokens are from the other's, along its own answers."""
    assert setting.other is not None, "a divergence is from another model"
    if not bench.cuts_like(setting.other):
        raise UserError(
            f"{bench.name!r} and {setting.other.name!r} cut text into different tokens, so there is no KL between "
            "them: compare bits_per_byte of the task perplexity"
        )
    prompts: list[Prompt] = [item.prompt for item in items]
    answers = bench.answer(prompts, FREELY)
    outcomes = []
    for item, answer in zip(items, answers, strict=True):
        found = bench.likelihood.divergence(setting.other.likelihood, item.prompt, answer)
        outcomes.append(
            Outcome(
                item_id=item.item_id,
                about=item.about,
                prompt=plain(item.prompt),
                completion=answer,
                values={"kl": found.logprob, "tokens": float(found.tokens)},
                note=f"{found.logprob / found.tokens:.3f} nats a token",
                worth=-found.logprob / found.tokens,
            )
        )
    return outcomes


KL = Task(
    name="kl",
    aim="near",
    kind=Asked,
    solve=diverge,
    metrics=(
        Metric("kl_per_token", ("kl", "tokens"), ratio, None, ".4f", "nats"),
        Metric("kl_per_answer", ("kl",), form=".3f", about="nats, of answers of at most 48 tokens"),
    ),
    file="ordinary.jsonl",
    needs=("other", "probabilities"),
)
