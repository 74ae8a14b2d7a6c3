"""Our models in EleutherAI's lm-evaluation-harness (the extra `harness`), for benchmarks that it knows and we do not.

    import lm_eval
    from plumbline.evaluate.harness import as_harness_model

    lm_eval.simple_evaluate(model=as_harness_model("policy@1"), tasks=["arc_easy"])

What the harness sends is text that it has put together itself, so it is read without a chat template. Tasks that take
answers alone work with every model, those that take probabilities with one that runs here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from typing import Any

from plumbline.errors import MissingExtra
from plumbline.evaluate.likelihood import Case, Likelihood
from plumbline.models import Generate, Raw, Sampling, load
from plumbline.models.resolve import resolve

LONGEST = 256
"""Tokens of an answer where the harness names no limit."""


class Asked:
    """The three questions of the harness, answered by a model of ours."""

    def __init__(self, name: str, model: Generate | None = None) -> None:
        self.name = name
        self._given = model

    @cached_property
    def model(self) -> Generate:
        return self._given or load(self.name)

    @cached_property
    def likelihood(self) -> Likelihood:
        return Likelihood(resolve(self.name).folder)

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """The answer to each (context, settings)."""
        found: list[str] = []
        for context, settings in (each.args for each in requests):
            until = settings.get("until") or ()
            sampling = Sampling(
                temperature=float(settings.get("temperature") or 0.0) if settings.get("do_sample") else 0.0,
                max_new_tokens=int(settings.get("max_gen_toks") or LONGEST),
                stop=(until,) if isinstance(until, str) else tuple(filter(None, until)),
                truncate=True,
                seed=0,
            )
            found.append(self.model([Raw(context)], sampling)[0][0].text)
        return found

    def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """For each (context, continuation) its log-probability, and whether greedy decoding would write it."""
        cases = [Case(Raw(context), (text,), ends=False) for context, text in (each.args for each in requests)]
        weights = dict(self.likelihood(cases))
        greedy = self.likelihood.greedy(cases)
        return [(weights[place][0].logprob, greedy[place]) for place in range(len(cases))]

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """The log-probability of each whole text."""
        cases = [Case(Raw(""), (text,), ends=False) for (text,) in (each.args for each in requests)]
        weights = dict(self.likelihood(cases))
        return [weights[place][0].logprob for place in range(len(cases))]


def as_harness_model(name: str, model: Generate | None = None) -> Any:
    """The model of that name as an `lm_eval.api.model.LM`; `model` answers in its place where it is given."""
    try:
        base = import_module("lm_eval.api.model").LM
    except ImportError:
        raise MissingExtra("harness", "lm-evaluation-harness") from None

    def begin(self: Any) -> None:
        base.__init__(self)
        Asked.__init__(self, name, model)

    return type("PlumblineModel", (Asked, base), {"__init__": begin})()
