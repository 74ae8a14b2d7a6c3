"""Requests join and leave a running batch, and each is answered as it is alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from plumbline.errors import PromptTooLong
from plumbline.models import Completion, Sampling
from plumbline.models.continuous import Continuous, Group
from plumbline.models.generate import Reference

PROMPTS = ["Knock, knock.", "My house is too hot. What can I do?", "One word, please:", "a " * 40]
SAMPLINGS = [
    Sampling(temperature=1.0, max_new_tokens=20, seed=1, ignore_eos=True),
    Sampling(temperature=0.0, max_new_tokens=9, seed=2, ignore_eos=True),
    Sampling(temperature=0.7, top_p=0.9, max_new_tokens=14, seed=3, n=3, ignore_eos=True),
    Sampling(temperature=1.0, top_k=5, max_new_tokens=5, seed=4, ignore_eos=True),
]


@pytest.fixture(scope="module")
def reference(tiny_llama: Path) -> Reference:
    return Reference.open(tiny_llama, name="tiny", device="cpu")


def run(batch: Continuous, come: dict[int, list[int]]) -> dict[int, list[Completion]]:
    """What becomes of requests of which `come` says after how many steps they come."""
    done: dict[int, Group] = {}
    steps = 0
    while batch.busy or any(step >= steps for step in come):
        for number in come.get(steps, ()):
            batch.add(number, PROMPTS[number], SAMPLINGS[number])
        done |= {group.number: group for group in batch.step() if group.done}
        steps += 1
    return {number: [row.completion() for row in group.rows] for number, group in done.items()}


@pytest.mark.parametrize(
    "come", [{0: [0, 1, 2, 3]}, {0: [0], 3: [1], 4: [2, 3]}, {0: [3], 2: [2], 8: [1], 30: [0]}], ids=str
)
def test_a_request_gets_what_it_gets_alone_whenever_it_comes(reference: Reference, come: dict[int, list[int]]) -> None:
    found = run(Continuous(reference), come)
    for number, (prompt, sampling) in enumerate(zip(PROMPTS, SAMPLINGS, strict=True)):
        (alone,) = reference([prompt], sampling)
        assert [each.tokens for each in found[number]] == [each.tokens for each in alone]
        for joined, apart in zip(found[number], alone, strict=True):
            assert joined.logprobs == pytest.approx(apart.logprobs, abs=1e-4)
            assert (joined.text, joined.seed, joined.model) == (apart.text, apart.seed, "tiny")


def test_what_does_not_fit_waits_and_what_is_too_large_for_any_batch_runs_alone(reference: Reference) -> None:
    batch = Continuous(reference, rows=2)
    for number in range(4):
        batch.add(number, PROMPTS[number], SAMPLINGS[number])
    running = []
    while batch.busy:
        running.append({group.number for group in batch.step() if not group.done})
    assert {0, 1} in running and {2} in running and not any(2 in numbers and len(numbers) > 1 for numbers in running)


def test_who_is_cancelled_leaves_the_others_as_they_are(reference: Reference) -> None:
    batch = Continuous(reference)
    for number in range(3):
        batch.add(number, PROMPTS[number], SAMPLINGS[number])
    batch.add(9, "waits no more", SAMPLINGS[0])
    batch.cancel(9)
    batch.step()
    batch.cancel(2)
    batch.cancel(77)
    done: dict[int, Group] = {}
    while batch.busy:
        done |= {group.number: group for group in batch.step() if group.done}
    assert set(done) == {0, 1}
    assert done[0].rows[0].completion().tokens == reference([PROMPTS[0]], SAMPLINGS[0])[0][0].tokens


def test_a_batch_that_never_ends_stays_narrow(reference: Reference) -> None:
    """Answers of eight tokens overlap for ever; what is masked in every row is dropped, so the cache does not grow."""
    batch = Continuous(reference)
    widths = []
    for step in range(120):
        if step % 4 == 0:
            batch.add(step, "Hi", replace(SAMPLINGS[1], max_new_tokens=8))
        batch.step()
        widths.append(batch._batch.mask.shape[1])  # type: ignore[union-attr]
    prompt = len(reference.rows("Hi", SAMPLINGS[0], "")[0].prompt)
    assert max(widths) <= prompt + 8 + 4


def test_a_prompt_that_does_not_fit_is_refused_and_the_rest_goes_on(reference: Reference) -> None:
    batch = Continuous(reference)
    batch.add(0, PROMPTS[0], SAMPLINGS[0])
    with pytest.raises(PromptTooLong):
        batch.add(1, "word " * 5000, SAMPLINGS[0])
    done = []
    while batch.busy:
        done += [group.number for group in batch.step() if group.done]
    assert done == [0]


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "t5"])
def test_other_families_join_or_wait_and_answer_alike(tiny_model: Callable[[str], Path], family: str) -> None:
    reference = Reference.open(tiny_model(family), device="cpu")
    found = run(Continuous(reference), {0: [1], 3: [0]})
    for number in (0, 1):
        alone = reference([PROMPTS[number]], SAMPLINGS[number])[0][0]
        assert found[number][0].tokens == alone.tokens


def test_the_logits_are_those_of_the_tokens(reference: Reference) -> None:
    prompt = [5, 6, 7]
    answer = reference([prompt], Sampling(temperature=0.0, max_new_tokens=4, ignore_eos=True))[0][0]
    logits = reference.logits([*prompt, *answer.tokens[:-1]], 4)
    assert tuple(logits.argmax(-1)) == answer.tokens
