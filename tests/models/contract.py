"""What every `Generate` keeps, as checks that take one. `test_generate_contract.py` holds all of ours against them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from plumbline.errors import UserError
from plumbline.models import Completion, Generate, Sampling

PROMPTS = ("Knock, knock.", "My house is too hot. What can I do?", "One word, please:")
GREEDY = Sampling(temperature=0.0, max_new_tokens=12)


@dataclass(frozen=True)
class Subject:
    """A `Generate` and what it promises. Greedy, it answers each of `PROMPTS` with more than three tokens."""

    generate: Generate
    seeded: bool = True
    """Whether the same seed gives the same text."""
    count: Callable[[str], int] | None = None
    """Tokens in a text, where that can be told from the text."""


def _one(subject: Subject, prompt: str, sampling: Sampling) -> Completion:
    ((completion,),) = subject.generate([prompt], sampling)
    return completion


def keeps_the_seam(subject: Subject) -> None:
    assert isinstance(subject.generate, Generate)
    assert subject.generate.name
    assert _one(subject, PROMPTS[0], GREEDY).model == subject.generate.name


def answers_in_order(subject: Subject) -> None:
    """A batch holds what each prompt gets alone, in the order of the prompts."""
    together = [completion.text for (completion,) in subject.generate(PROMPTS, GREEDY)]
    assert together == [_one(subject, prompt, GREEDY).text for prompt in PROMPTS]
    assert len(set(together)) > 1, "prompts that all get one answer do not show an order"


def gives_n_samples(subject: Subject) -> None:
    answers = subject.generate(PROMPTS, Sampling(n=3, max_new_tokens=8, temperature=1.0))
    assert [len(samples) for samples in answers] == [3, 3, 3]
    assert all(isinstance(completion, Completion) for samples in answers for completion in samples)


def takes_no_prompts(subject: Subject) -> None:
    assert subject.generate([], GREEDY) == []


def reads_a_text_as_one_turn(subject: Subject) -> None:
    turn = [{"role": "user", "content": PROMPTS[0]}]
    ((spelled,),) = subject.generate([turn], GREEDY)
    assert spelled.text == _one(subject, PROMPTS[0], GREEDY).text


def streams_the_same_answer(subject: Subject) -> None:
    """The pieces join to the text, only the last carries the completion, and that is the one a call gives."""
    for prompt in PROMPTS:
        *pieces, last = subject.generate.stream(prompt, GREEDY)
        called = _one(subject, prompt, GREEDY)
        assert last.completion is not None
        assert all(piece.completion is None for piece in pieces)
        assert "".join(piece.text for piece in [*pieces, last]) == last.completion.text == called.text
        assert last.completion.finish_reason == called.finish_reason
        assert last.completion.prompt_tokens == called.prompt_tokens
        assert last.completion.model == called.model


def ends_before_a_stop_string(subject: Subject) -> None:
    """Three letters from an answer's second half, given as a stop string, end it there, called and streamed."""
    text = _one(subject, PROMPTS[1], GREEDY).text
    threes = [text[begin : begin + 3] for begin in range(len(text) // 2, len(text) - 2)]
    stop = next(three for three in threes if "\ufffd" not in three)  # no broken character, as random models write
    sampling = Sampling(temperature=0.0, max_new_tokens=12, stop=("never in any answer", stop))
    stopped = _one(subject, PROMPTS[1], sampling)
    assert stopped.text == text[: text.index(stop)]
    assert stopped.finish_reason == "stop"
    *_, last = subject.generate.stream(PROMPTS[1], sampling)
    assert last.completion is not None and last.completion.text == stopped.text


def repeats_a_seed(subject: Subject) -> None:
    if not subject.seeded:
        return
    sampling = Sampling(n=3, temperature=1.0, max_new_tokens=8, seed=17)
    texts = [[sample.text for sample in samples] for samples in subject.generate(PROMPTS, sampling)]
    again = subject.generate(PROMPTS[::-1], sampling)[::-1]
    assert texts == [[sample.text for sample in samples] for samples in again]
    assert all(sample.seed == 17 for samples in again for sample in samples)
    others = [subject.generate(PROMPTS, Sampling(temperature=1.0, max_new_tokens=8, seed=seed)) for seed in range(5)]
    assert len({tuple(sample.text for (sample,) in answers) for answers in others}) > 1, "no seed changes anything"


def keeps_the_limit(subject: Subject) -> None:
    sampling = Sampling(temperature=0.0, max_new_tokens=3)
    for prompt in PROMPTS:
        completion = _one(subject, prompt, sampling)
        assert completion.finish_reason == "length"
        assert len(completion.tokens) in (0, 3)
        if subject.count:
            assert subject.count(completion.text) == 3
        assert _one(subject, prompt, GREEDY).text.startswith(completion.text)


def refuses_bad_sampling(subject: Subject) -> None:
    with pytest.raises(UserError, match="temperature is -1"):
        subject.generate(PROMPTS, Sampling(temperature=-1.0))
    with pytest.raises(UserError, match="n is 2: a stream carries one answer"):
        list(subject.generate.stream(PROMPTS[0], Sampling(n=2)))


CHECKS = (
    keeps_the_seam,
    answers_in_order,
    gives_n_samples,
    takes_no_prompts,
    reads_a_text_as_one_turn,
    streams_the_same_answer,
    ends_before_a_stop_string,
    repeats_a_seed,
    keeps_the_limit,
    refuses_bad_sampling,
)
