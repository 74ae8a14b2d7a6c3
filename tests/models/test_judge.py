"""The judge: its score by the plain computation, both orders, and what cannot be asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from plumbline.errors import UserError
from plumbline.models import Score
from plumbline.models.families import load_causal
from plumbline.models.judge import Judge, Question, Solved
from plumbline.models.tokenizer import Tokenizer

EXAMPLES = (
    Solved({"prompt": "Why?", "completion": "It's me."}, 0),
    Solved({"prompt": "Knock, knock", "completion": "Who is there?"}, 1),
)
QUESTION = Question(
    template="Q: {prompt}\nA: {completion}\nIs it {first} or {second}?",
    labels=("hot", "late"),
    introduction="Judge.",
    examples=EXAMPLES,
    longest=40,
)
PROMPTS = ["My house is too hot.", "Why?", "The cafeteria had 23 apples."]
COMPLETIONS = ["Open the windows at night.", "", "9 are left, and {this} is <|im_end|> no end of text"]


def test_a_question_reads_as_written() -> None:
    fields = {"prompt": "a  b\nc", "completion": "x" * 50}
    assert QUESTION.case(fields, swapped=False) == f"Q: a b c\nA: {'x' * 40} ...\nIs it hot or late?"
    assert QUESTION.case(fields, swapped=True).endswith("Is it late or hot?")
    assert QUESTION.opening(swapped=False) == (
        "Judge.\n\n"
        "Q: Why?\nA: It's me.\nIs it hot or late? hot\n\n"
        "Q: Knock, knock\nA: Who is there?\nIs it hot or late? late\n\n"
    )
    assert QUESTION.opening(swapped=True).index("Knock") < QUESTION.opening(swapped=True).index("Why")


def plain_score(folder: Path, question: Question, prompt: str, completion: str) -> float:
    """One case at a time, the whole text in one pass, the whole vocabulary's log-probabilities."""
    import torch

    tokenizer, model = Tokenizer(folder), load_causal(folder, device="cpu", dtype="float32")
    odds = 0.0
    for swapped in (False, True):
        ids = tokenizer.encode(question.opening(swapped=swapped))
        ids += tokenizer.encode(question.case({"prompt": prompt, "completion": completion}, swapped=swapped))
        with torch.inference_mode():
            logprobs = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        first, second = (logprobs[tokenizer.encode(f" {label}")[0]].item() for label in question.labels)
        odds += (first - second) / 2
    return question.slope * odds + question.shift


def test_the_score_is_the_calibrated_mean_of_both_orders(tiny_llama: Path) -> None:
    question = replace(QUESTION, slope=0.5, shift=-2.0)
    judge = Judge(tiny_llama, question, device="cpu")
    assert isinstance(judge, Score)
    expected = [plain_score(tiny_llama, question, *pair) for pair in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert judge(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-4)
    assert len(set(expected)) == 3


def test_exchanging_the_labels_turns_the_score_round(tiny_llama: Path) -> None:
    other = replace(
        QUESTION,
        labels=QUESTION.labels[::-1],
        template=QUESTION.template.replace("{first} or {second}", "{second} or {first}"),
        examples=tuple(Solved(fields, 1 - label) for fields, label in EXAMPLES),
    )
    one, turned = (Judge(tiny_llama, question, device="cpu")(PROMPTS, COMPLETIONS) for question in (QUESTION, other))
    assert turned == pytest.approx([-score for score in one], abs=1e-4)


def test_a_score_does_not_depend_on_what_else_is_asked(tiny_llama: Path) -> None:
    judge = Judge(tiny_llama, QUESTION, device="cpu")
    together = judge(PROMPTS * 3, COMPLETIONS * 3)
    alone = [judge([prompt], [text])[0] for prompt, text in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert together == pytest.approx(alone * 3, abs=1e-4)
    assert judge([], []) == []


def test_other_fields_can_be_asked_about(tiny_llama: Path) -> None:
    two = Question("One: {one}\nTwo: {two}\nThe better is", ("One", "two"), introduction="Compare.")
    assert len(Judge(tiny_llama, two, device="cpu").ask([{"one": "a", "two": "b"}])) == 1


WRONG: list[tuple[Callable[[Question], Question], str]] = [
    (lambda question: replace(question, labels=("hot", "hot")), "begin with the same token"),
    (lambda question: replace(question, introduction="", examples=()), "no introduction and no examples"),
    (lambda question: replace(question, introduction="wall " * 600), "more than the model's window"),
]


@pytest.mark.parametrize(("change", "complaint"), WRONG, ids=[complaint for _, complaint in WRONG])
def test_what_cannot_be_asked_says_why(
    tiny_llama: Path, change: Callable[[Question], Question], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        Judge(tiny_llama, change(QUESTION), device="cpu")(PROMPTS, COMPLETIONS)


def test_two_lists_of_one_length_are_needed(tiny_llama: Path) -> None:
    with pytest.raises(UserError, match="1 prompts and 2 completions"):
        Judge(tiny_llama, QUESTION, device="cpu")(["a"], ["b", "c"])


def test_the_model_is_there_once_whatever_it_is_asked(tiny_llama: Path, tiny_model: Callable[[str], Path]) -> None:
    judge = Judge(tiny_llama, QUESTION, device="cpu")
    other = Judge(tiny_llama, replace(QUESTION, introduction="Be strict.", examples=EXAMPLES[:1]), device="cpu")
    assert other._model is judge._model
    assert judge(PROMPTS, COMPLETIONS) != pytest.approx(other(PROMPTS, COMPLETIONS), abs=1e-4)
    assert Judge(tiny_model("qwen2"), QUESTION, device="cpu")._model is not judge._model
