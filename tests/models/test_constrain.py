"""Answers in shape: whatever a random model would rather say, and within the tokens it was given."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import UserError
from plumbline.models import Sampling
from plumbline.models.generate import Reference

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "home": {
            "type": "object",
            "properties": {"city": {"type": "string", "minLength": 3}, "warm": {"type": "boolean"}},
            "required": ["city", "warm"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "tags", "home"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Reference:
    return Reference.open(tiny_llama)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
def test_a_schema_is_always_followed_to_its_end(model: Reference, temperature: float) -> None:
    """A random model never stops by itself; every answer is whole all the same, in the schema's order."""
    sampling = Sampling(temperature=temperature, max_new_tokens=120, n=12, seed=4, schema=PERSON)
    for answer in model(["Who is Ada?"], sampling)[0]:
        value = json.loads(answer.text)
        assert list(value) == ["name", "age", "tags", "home"]
        assert isinstance(value["age"], int) and len(value["home"]["city"]) >= 3
        assert answer.finish_reason == "stop" and len(answer.tokens) <= 120


def test_without_the_schema_the_same_model_is_never_in_shape(model: Reference) -> None:
    """Negative control."""
    for answer in model(["Who is Ada?"], Sampling(temperature=1.0, max_new_tokens=120, n=12, seed=4))[0]:
        with pytest.raises(ValueError):
            json.loads(answer.text)


def test_too_few_tokens_for_any_answer(model: Reference) -> None:
    with pytest.raises(UserError, match="leaves 10 tokens and the shortest answer that the schema allows needs"):
        model(["Who?"], Sampling(max_new_tokens=10, schema=PERSON))


def test_a_choice(model: Reference) -> None:
    schema = {"enum": ["yes", "no"]}
    answers = {answer.text for answer in model(["Hot?"], Sampling(temperature=5.0, n=20, seed=1, schema=schema))[0]}
    assert answers == {'"yes"', '"no"'}


def test_a_grammar(model: Reference) -> None:
    grammar = 'start: "It is " ("hot" | "cold") "."'
    answers = {answer.text for answer in model(["Hot?"], Sampling(temperature=5.0, n=20, seed=1, grammar=grammar))[0]}
    assert answers == {"It is hot.", "It is cold."}


def test_the_sampler_draws_from_what_is_allowed_renormalised(model: Reference) -> None:
    """Two allowed words: their sampler probabilities add up to one, their own do not."""
    sampling = Sampling(temperature=4.0, n=200, seed=2, grammar='start: "h" | "k"')
    first = {answer.text: answer for answer in model(["Hot?"], sampling)[0]}
    assert set(first) == {"h", "k"}
    assert sum(math.exp(answer.sampler_logprobs[0]) for answer in first.values()) == pytest.approx(1.0, abs=1e-5)
    assert sum(math.exp(answer.logprobs[0]) for answer in first.values()) < 0.5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"schema": {"type": "strange"}}, "the schema .* cannot be followed"),
        ({"grammar": "start: ("}, "the grammar .* cannot be followed"),
    ],
    ids=["schema", "grammar"],
)
def test_what_cannot_be_followed_is_said(model: Reference, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        model(["Hot?"], Sampling(**settings))
