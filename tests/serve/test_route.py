"""Which requests are hard, by each rule; what tokens cost; and what plumb.toml may say of it."""

from __future__ import annotations

from typing import Any

import pytest

from plumbline.errors import BadProject
from plumbline.models import Sampling
from plumbline.serve.requests import Asked
from plumbline.serve.route import RULES, Route, Seen, cost_of, read_prices, read_route


def seen(last: str = "Hi", **more: Any) -> Seen:
    return Seen(**{"characters": len(last), "last": last, "tools": False, **more})


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (seen("x" * 20), ""),
        (seen("x" * 21), "it is longer than 20 characters"),
        (seen(tools=True), "it offers tools"),
        (seen("My Lawsuit!"), "it speaks of 'lawsuit'"),
        (seen("lawsuits"), ""),  # another word
        (seen("c++ code"), "it speaks of 'c++'"),
    ],
)
def test_a_plain_rule(given: Seen, why: str) -> None:
    route = Route("large", longer_than=20, tools=True, words=("lawsuit", "c++"))
    assert RULES["rule"](route, given) == why
    assert RULES["rule"](Route("large", longer_than=99), seen("lawsuit c++", tools=True)) == ""


@pytest.mark.parametrize(
    ("by", "field", "unknown"),
    [
        ("confidence", "logprob", "the small model says nothing of its confidence"),
        ("score", "score", "'judge' gives no number"),
    ],
)
def test_rules_that_look_at_the_small_models_answer(by: str, field: str, unknown: str) -> None:
    route = Route("large", by, below=-0.5, scorer="judge")
    assert RULES[by](route, seen(**{field: -0.5})) == ""
    assert RULES[by](route, seen(**{field: -0.51})).endswith("of -0.51, below -0.5")
    assert RULES[by](route, seen()) == unknown


def test_what_is_seen_of_a_request() -> None:
    messages = [{"role": "user", "content": "first"}, {"role": "user", "content": "last"}]
    tool = {"type": "function", "function": {"name": "f"}}
    asked = Asked("chat", "route", ({"messages": messages},), Sampling(), tools=(tool,), choice="auto")
    found = Seen.of(asked)
    assert (found.last, found.tools, found.characters > 20) == ("last", True, True)
    text = Seen.of(Asked("completion", "route", ({"text": "Once"},), Sampling()))
    assert (text.last, text.tools) == ("Once", False)
    assert Seen.of(Asked("completion", "route", ({"tokens": [1, 2]},), Sampling())).last == ""


def test_what_tokens_cost() -> None:
    prices = read_prices({"large": [2, 10.0]})
    assert cost_of(prices, "large", 500_000, 100_000) == 1.0 + 1.0
    assert cost_of(prices, "small", 500_000, 100_000) == 0.0


def test_a_table_becomes_a_route() -> None:
    assert read_route({}) is None
    table = {"large": "openai:m@http://h/v1", "by": "confidence", "below": -1, "teaches": True}
    assert read_route(table) == Route("openai:m@http://h/v1", "confidence", below=-1, teaches=True)
    assert read_route({"large": "m", "words": ["a b"]}) == Route("m", words=("a b",))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"by": "rule"}, "None as `large` in .route.: name the larger model"),
        ({"large": 5}, "5 as `large` in .route.: it is a str"),
        ({"large": "m", "lage": "m"}, "'m' as `lage` in .route.: there are large, by, name"),
        ({"large": "m", "by": "luck"}, "'luck' as `by` in .route.: it is one of rule, confidence, score"),
        ({"large": "m"}, "as `by` in .route.: give at least one of longer_than, tools and words"),
        ({"large": "m", "tools": 1}, "1 as `tools` in .route.: it is a bool"),
        ({"large": "m", "longer_than": True}, "True as `longer_than` in .route.: it is a int"),
        ({"large": "m", "words": ["", "x"]}, "as `words` in .route.: it is a list of texts"),
        ({"large": "m", "by": "confidence"}, "None as `below` in .route.: give the number"),
        ({"large": "m", "by": "score", "below": 0}, "None as `scorer` in .route.: name what judges"),
        ({"large": "m", "tools": True, "patience": 0}, "0 as `patience` in .route.: it is a number of seconds"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(table: dict[str, Any], said: str) -> None:
    with pytest.raises(BadProject, match=said):
        read_route(table)


@pytest.mark.parametrize("pair", [5, [1], [1, -1], ["1", 2], [True, 1], "12"])
def test_what_is_no_price(pair: Any) -> None:
    with pytest.raises(BadProject, match="as the price of 'm' in .prices.: it is what a million tokens cost"):
        read_prices({"m": pair})
