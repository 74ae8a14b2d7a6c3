"""What a task may ask of the model it measures. Everything it was told is kept, so a stopped evaluation goes on.

A bench is a folder: answers.jsonl and weights.jsonl hold what the model said, by the digest of what it was asked, and
verdicts.jsonl what an endpoint that judges said of it, each line as soon as it is there; model.json says which model
that was. Tasks that ask the same thing share the answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

from plumbline.errors import UserError
from plumbline.evaluate.likelihood import Case, Likelihood, Weight, same_tokens
from plumbline.evaluate.records import Answered, Judged, Weighed, answer_key, verdict_key, weight_key
from plumbline.files import replaced
from plumbline.models import Completion, Generate, Prompt, Sampling, Score, load
from plumbline.models.families import family
from plumbline.models.preference import Case as Pair
from plumbline.models.preference import Criterion, Prefer, Verdict
from plumbline.models.resolve import Source, resolve
from plumbline.models.score import plain_text
from plumbline.models.tokenizer import Tokenizer
from plumbline.project import file_digest
from plumbline.records import read_jsonl, write_jsonl

K = TypeVar("K", Answered, Weighed, Judged)
Told: TypeAlias = tuple[Prompt, list[str]]
"""A prompt and the answers to it."""

ANSWERS, WEIGHTS, VERDICTS, MODEL = "answers.jsonl", "weights.jsonl", "verdicts.jsonl", "model.json"
AT_ONCE = 32
"""Prompts of one batch of a local model."""
REQUESTS = 8
"""Prompts that an endpoint is asked at the same time; each answer is kept by itself."""


class Progress(Protocol):
    """Shows how far something is: given a text, a total and what is done, hands out a function that adds units."""

    def __call__(self, text: str, *, total: int, done: int, unit: str) -> AbstractContextManager[Callable[[int], None]]:
        """A context within which the bar is seen."""
        ...


@contextmanager
def silent(text: str, *, total: int, done: int, unit: str) -> Iterator[Callable[[int], None]]:
    """No bar."""
    yield lambda units: None


class Bench:
    """A model under evaluation with the folder that keeps what it said."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        again: bool = False,
        open_model: Callable[[str], Generate] = load,
        progress: Progress = silent,
    ) -> None:
        self.name = name
        self.folder = folder
        self.source: Source = resolve(name)
        self._open_model = open_model
        self._progress = progress
        self.folder.mkdir(parents=True, exist_ok=True)
        self._keep_model(again)
        self._answers = {each.key: each for each in self._kept(ANSWERS, Answered)}
        self._weights = {each.key: Weight(each.logprob, each.tokens) for each in self._kept(WEIGHTS, Weighed)}
        self._verdicts = {each.key: each.verdict for each in self._kept(VERDICTS, Judged)}

    # ---- what can be asked

    @cached_property
    def model(self) -> Generate:
        """The model, opened when it is first asked."""
        return self._open_model(self.name)

    @cached_property
    def unseen(self) -> str:
        """Why the probabilities of given texts cannot be had from the model; "" if they can."""
        if self.source.kind != "folder":
            return f"{self.name!r} does not run here"
        kind = family(self.source.folder)
        return "" if kind == "causal" else f"{self.name!r} is no decoder but a {kind}"

    @cached_property
    def likelihood(self) -> Likelihood:
        if self.source.kind != "folder" or self.unseen:
            raise UserError(f"{self.name!r} gives no probabilities of given texts: {self.unseen}")
        return Likelihood(self.source.folder)

    def cuts_like(self, other: Bench) -> bool:
        """Whether both models' tokenizers are the same; both run here. No weights are read for it."""
        mine, theirs = self.source.folder, other.source.folder
        assert mine is not None and theirs is not None, (self.name, other.name)
        return same_tokens(Tokenizer(mine), Tokenizer(theirs))

    def answer(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[str]:
        """The first answer to each prompt; `samples` gives all."""
        return [samples[0] for samples in self.samples(prompts, sampling)]

    def samples(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[str]]:
        """The answers to each prompt, asked where they are not there yet."""
        keys = [[answer_key(prompt, sampling, place) for place in range(sampling.n)] for prompt in prompts]
        asked = {own[0]: prompt for own, prompt in zip(keys, prompts, strict=True)}
        left = {key: prompt for key, prompt in asked.items() if key not in self._answers}
        if left:
            with self._progress(self.name, total=len(asked), done=len(asked) - len(left), unit="answers") as advance:
                for batch in self._ask(list(left.values()), sampling):
                    self._keep_answers(batch, sampling)
                    advance(len(batch))
        return [[self._answers[key].completion for key in own] for own in keys]

    def weigh(self, cases: Sequence[Case]) -> list[list[Weight]]:
        """What each text of each case weighs, computed where it is not there yet."""
        keys = [[weight_key(case.prompt, text, case.ends) for text in case.completions] for case in cases]
        left = [case for case, own in zip(cases, keys, strict=True) if any(key not in self._weights for key in own)]
        if left:
            likelihood = self.likelihood
            with self._progress(self.name, total=len(cases), done=len(cases) - len(left), unit="weighed") as advance:
                for place, weights in likelihood(left):
                    self._keep_weights(left[place], weights)
                    advance(1)
        return [[self._weights[key] for key in own] for own in keys]

    def score(self, scorer: Score, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """A score for each answer."""
        scores: list[float] = []
        with self._progress(scorer.name, total=len(prompts), done=0, unit="scored") as advance:
            for begin in range(0, len(prompts), AT_ONCE):
                piece = slice(begin, begin + AT_ONCE)
                scores += scorer(prompts[piece], completions[piece])
                advance(len(prompts[piece]))
        return scores

    def judge(self, prefer: Prefer, cases: Sequence[Pair], criterion: Criterion) -> list[Verdict]:
        """A verdict on each case. Those of a judge that speaks are kept; one that runs here reads again, since only its
        name would tell whether it has changed."""
        with self._progress(prefer.name, total=len(cases), done=0, unit="judged") as advance:
            if hasattr(prefer, "each"):
                return self._spoken(prefer, cases, criterion, advance)
            found: list[Verdict] = []
            for begin in range(0, len(cases), AT_ONCE):
                found += prefer(cases[begin : begin + AT_ONCE], criterion)
                advance(len(found) - begin)
            return found

    # ---- how it is asked

    def _ask(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[list[Told]]:
        """Prompts with their answers, as they come."""
        model = self.model
        if self.source.kind in ("openai", "anthropic"):
            yield from self._ask_endpoint(model, prompts, sampling)
            return
        for begin in range(0, len(prompts), AT_ONCE):
            batch = prompts[begin : begin + AT_ONCE]
            yield [as_told(*each) for each in zip(batch, model(batch, sampling), strict=True)]

    def _spoken(
        self, prefer: Any, cases: Sequence[Pair], criterion: Criterion, advance: Callable[[int], None]
    ) -> list[Verdict]:
        """The verdicts of a judge that gives one after the other, asked where they are not there yet."""
        keys = [verdict_key(prefer.name, case, criterion) for case in cases]
        left = {key: case for key, case in zip(keys, cases, strict=True) if key not in self._verdicts}
        advance(len(cases) - len(left))
        for key, verdict in zip(left, prefer.each(list(left.values()), criterion), strict=True):
            write_jsonl(self.folder / VERDICTS, [Judged(key=key, **vars(verdict))], append=True)
            self._verdicts[key] = verdict
            advance(1)
        return [self._verdicts[key] for key in keys]

    @staticmethod
    def _ask_endpoint(model: Generate, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[list[Told]]:
        """One request for each prompt, a few at a time. A failure is raised when all that had begun have ended."""
        failure: BaseException | None = None
        left, under_way = iter(prompts), dict[Future[list[list[Completion]]], Prompt]()
        with ThreadPoolExecutor(REQUESTS) as pool:
            while True:
                more = islice(left, REQUESTS - len(under_way) if failure is None else 0)
                under_way |= {pool.submit(model, [prompt], sampling): prompt for prompt in more}
                if not under_way:
                    break
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    prompt = under_way.pop(future)
                    if error := future.exception():
                        failure = failure or error
                    else:
                        yield [as_told(prompt, future.result()[0])]
        if failure is not None:
            raise failure

    # ---- what is kept

    def _keep_answers(self, batch: Sequence[Told], sampling: Sampling) -> None:
        lines = [
            Answered(key=answer_key(prompt, sampling, place), prompt=plain_text(prompt), completion=text)
            for prompt, texts in batch
            for place, text in reversed(list(enumerate(texts)))  # the first one last: with it, all are there
        ]
        write_jsonl(self.folder / ANSWERS, lines, append=True)
        self._answers |= {line.key: line for line in lines}

    def _keep_weights(self, case: Case, weights: Sequence[Weight]) -> None:
        lines = [
            Weighed(key=weight_key(case.prompt, text, case.ends), logprob=weight.logprob, tokens=weight.tokens)
            for text, weight in zip(case.completions, weights, strict=True)
        ]
        write_jsonl(self.folder / WEIGHTS, lines, append=True)
        self._weights |= {line.key: Weight(line.logprob, line.tokens) for line in lines}

    def _kept(self, name: str, kind: type[K]) -> Iterable[K]:
        path = self.folder / name
        if not path.is_file():
            return ()
        write_jsonl(path, [], append=True)  # takes out a line that a killed process left half-written
        return read_jsonl(path, kind) if path.stat().st_size else ()

    def _keep_model(self, again: bool) -> None:
        """Refuses a folder that another model's answers are in; `again` empties it."""
        path = self.folder / MODEL
        now = {"model": self.source.name, "files": identity(self.source)}
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else now
        if again or before != now:
            if not again:
                raise UserError(
                    f"{str(self.folder)!r} holds answers of {before.get('model')!r} as it was then, and the model has "
                    "changed: begin again with --again, or name another --out"
                )
            for name in (ANSWERS, WEIGHTS, VERDICTS):
                (self.folder / name).unlink(missing_ok=True)
        with replaced(path) as file:
            file.write(json.dumps(now, indent=2).encode() + b"\n")


def as_told(prompt: Prompt, samples: Sequence[Completion]) -> Told:
    return prompt, [each.text for each in samples]


def identity(source: Source) -> str:
    """By what a model is known again: its files' names and contents; an endpoint only by its name."""
    total = hashlib.sha256(source.name.encode())
    place = source.folder
    files = [place] if source.kind == "scripted" else []
    if source.kind == "folder":
        files = sorted(each for each in place.rglob("*") if each.suffix in KNOWN_BY and each.is_file())
    for path in files:
        total.update(f"{path.name}\0{file_digest(path)}\n".encode())
    return total.hexdigest()


KNOWN_BY = (".json", ".jsonl", ".safetensors", ".jinja")
"""Endings of the files that make a model what it is; others, such as an engine's graph, may come later."""
