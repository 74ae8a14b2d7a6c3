"""Answers that the policy samples: what it is to learn from, as tokens, and as lines that people and audits read.

The noise of an answer is a function of (seed, iteration, prompt, number of the answer), so several processes sample
what one would and a run that goes on samples what it would have. Tokens stay as they were sampled: nothing is decoded
and encoded again. Sampling is from the whole distribution at the temperature unless the settings cut it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from plumbline.align.data import Limits, Part, announce, nothing_left, part_of
from plumbline.errors import BadRecord, UserError
from plumbline.files import replaced
from plumbline.formats import read_prompts
from plumbline.models import Completion, Raw, Sampling
from plumbline.models.chat import encode_prompt
from plumbline.models.grouped import Group
from plumbline.records import Message, Rollout, read_jsonl, write_jsonl
from plumbline.training.batches import shuffled
from plumbline.training.curves import ROLLOUTS
from plumbline.training.devices import Process
from plumbline.training.learner import HAT, Learner
from plumbline.training.run import Settings

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Question:
    """A prompt to be answered."""

    prompt_id: str
    prompt: str | list[Message]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Rollouts:
    """The answers of one iteration; lists by answer go prompt after prompt."""

    questions: list[Question]
    groups: list[Group]
    """Each prompt with its answers' tokens, as they were sampled."""
    completions: list[Completion]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each answer."""
        return [len(each.tokens) for each in self.completions]

    @property
    def ended(self) -> list[bool]:
        """Whether each answer wrote its end-of-text."""
        return [each.finish_reason == "stop" for each in self.completions]

    @property
    def asked(self) -> list[Question]:
        """The question of each answer."""
        return [
            question for question, group in zip(self.questions, self.groups, strict=True) for _ in group.completions
        ]

    def sampled_at(self) -> list[torch.Tensor]:
        """For each prompt (tokens,), the log-prob under the distribution that each token was really drawn from."""
        import torch

        left = iter(self.completions)
        return [
            torch.tensor([each for _ in group.completions for each in next(left).sampler_logprobs])
            for group in self.groups
        ]


class Sampler(Protocol):
    """What answers for a policy: in this process, in an engine's, or on another machine."""

    def follow(self, learner: Learner) -> None:
        """From here on the answers are the learner's, as its weights are now."""

    def __call__(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Completion]]: ...


class OwnSampler:
    """The model in training answers itself: no copy of it anywhere, in the precision in which it is trained."""

    def __init__(self) -> None:
        self._learner: Learner | None = None

    def follow(self, learner: Learner) -> None:
        self._learner = learner

    def __call__(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Completion]]:
        from plumbline.models.generate import Reference

        assert self._learner is not None, "follow comes first"
        reference = Reference(self._learner.model, self._learner.tokenizer)
        with self._learner.working(), self._learner.process.autocast():
            return reference(prompts, sampling)


class EngineSampler:
    """The OpenVINO engine answers, wearing the adapter; the base is compiled once for the whole run."""

    def __init__(self, folder: Path, mode: str | None) -> None:
        from plumbline.models.engines.openvino import OpenVINO

        self.engine = OpenVINO(folder, mode=mode)

    def follow(self, learner: Learner) -> None:
        assert learner.hats is not None, "an engine follows adapters only"
        weights = {name: each.detach().float().numpy() for name, each in learner.hats.named_parameters(HAT).items()}
        self.engine.wear(weights, scale=learner.hats.scale(HAT), name=HAT)

    def __call__(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Completion]]:
        return self.engine(prompts, sampling)


def open_sampler(learner: Learner, name: str, mode: str) -> Sampler:
    """The sampler of that name; "auto" takes the engine where it is there and knows the model."""
    from plumbline.models.engines.graph import installed, runs

    possible = learner.hats is not None and learner.process.device.type == "cpu"
    if name == "auto":
        name = "openvino" if possible and installed() and runs(learner.folder) else "own"
    if name == "own":
        return OwnSampler()
    if not possible:
        raise UserError("the openvino sampler follows adapters on a CPU: train adapters there, or pass --sampler own")
    return EngineSampler(learner.folder, mode or None)


# ---- an iteration


def questions_of(questions: Sequence[Question], number: int, count: int, seed: int) -> list[Question]:
    """The questions of an iteration, from 1: the next `count` of a shuffle that is new in each round."""
    per_round = -(-len(questions) // count)
    order = shuffled(len(questions), seed, (number - 1) // per_round)
    begin = (number - 1) % per_round * count
    return [questions[place] for place in order[begin : begin + count]]


def sample(learner: Learner, sampler: Sampler, questions: list[Question], sampling: Sampling) -> Rollouts:
    """The policy's answers to these questions; the processes share the work, and all have the result."""
    process = learner.process
    mine = range(process.rank, len(questions), process.world)
    sampler.follow(learner)
    answers = sampler([questions[place].tokens for place in mine], sampling) if mine else []
    found = {
        place: its for part in process.gather(dict(zip(mine, answers, strict=True))) for place, its in part.items()
    }
    together = [found[place] for place in range(len(questions))]
    groups = [
        Group(question.tokens, tuple(each.tokens for each in its))
        for question, its in zip(questions, together, strict=True)
    ]
    return Rollouts(questions, groups, [each for its in together for each in its])


def sampling_seed(seed: int, iteration: int) -> int:
    """The seed of an iteration's answers: every prompt gets new noise each time it comes again."""
    return (seed * 1_000_003 + iteration) % 2**63


# ---- prompts and lines


@dataclass(frozen=True)
class Questions:
    """The prompts of a run: to learn on, and held out to measure on."""

    train: list[Question]
    held_out: list[Question]


def read_questions(config: Settings, limits: Limits, *, room: int, raw: bool, process: Process) -> Questions:
    """Different prompts that leave `room` tokens for an answer; what cannot be used is told, with the reason."""
    left_out: list[str] = []
    found: dict[Part, dict[tuple[int, ...], Question]] = {"train": {}, "validation": {}, "test": {}}
    longest = limits.window - room
    for record in read_prompts(config.data, left_out):
        if raw and not isinstance(record.prompt, str):
            left_out.append(f"prompt {record.prompt_id!r} is a conversation, and --raw takes plain texts")
            continue
        tokens = encode_prompt(limits.tokenizer, Raw(record.prompt) if raw else record.prompt)
        if len(tokens) > longest and not limits.truncate:
            left_out.append(
                f"prompt {record.prompt_id!r} has {len(tokens)} tokens and the window of {limits.window} leaves "
                f"{longest} beside an answer of {room}: shorten it, lower --max-new-tokens, or pass --truncate-prompt"
            )
            continue
        kept = tuple(tokens[-longest:])
        part = found[part_of(record, config.held_out)]
        part.setdefault(kept, Question(record.prompt_id, record.prompt, kept))
    if not found["train"]:
        raise BadRecord(nothing_left(config.data, "no prompt", left_out))
    announce(left_out, process)
    return Questions(list(found["train"].values()), list(found["validation"].values()))


def keep_lines(
    folder: Path,
    step: int,
    rollouts: Rollouts,
    rewards: Sequence[float],
    kl: Sequence[float],
    reference: Sequence[float],
    process: Process,
) -> None:
    """Adds an iteration's answers to the run's lines; `kl` and `reference` are sums over each answer's tokens."""
    if not process.first:
        return
    rows = zip(rollouts.asked, rollouts.completions, rollouts.ended, rewards, kl, reference, strict=True)
    records = (
        Rollout(
            step=step,
            prompt_id=question.prompt_id,
            prompt=question.prompt,
            completion=completion.text,
            reward=reward,
            kl=moved,
            tokens=len(completion.tokens),
            ended=ended,
            reference_logprob=logprob,
        )
        for question, completion, ended, reward, moved, logprob in rows
    )
    write_jsonl(folder / ROLLOUTS, records, append=True)


def cut_lines(folder: Path, done: int, process: Process) -> None:
    """Takes out the lines after iteration `done`, which a process wrote that was killed."""
    path = folder / ROLLOUTS
    if not process.first or not path.exists():
        return
    half: list[object] = []
    kept = [each for each in read_jsonl(path, Rollout, on_bad=half.append) if each.step <= done]
    with replaced(path) as file:
        file.writelines(each.model_dump_json().encode() + b"\n" for each in kept)
