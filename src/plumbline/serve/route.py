"""Routing, as plumb.toml has it: which requests are hard enough for the larger model, and what each exchange costs.

    [route]
    large = "openai:MODEL@URL"
    by = "confidence"
    below = -0.9

    [prices]
    "openai:MODEL@URL" = [2.5, 10.0]

A rule is a function of what is known of a request. It says why the larger model should be asked, or nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from plumbline.errors import BadProject
from plumbline.serve.requests import Asked, characters

MILLION = 1_000_000
Prices = Mapping[str, tuple[float, float]]
"""By model: what a million tokens cost that it reads, and that it writes. One that is not named costs nothing."""


@dataclass(frozen=True)
class Route:
    """The table `[route]`."""

    large: str
    """The larger model, by its exact name."""
    by: str = "rule"
    """The rule that decides."""
    name: str = "route"
    """The model's name under which clients ask to be routed."""
    longer_than: int = 0
    """`rule`: characters of a prompt above which it is hard; 0 does not look."""
    tools: bool = False
    """`rule`: whether a request that offers tools is hard."""
    words: tuple[str, ...] = ()
    """`rule`: words and phrases of the last message by which it is hard."""
    below: float = math.nan
    """`confidence` and `score`: the number below which the small model's answer does not do."""
    scorer: str = ""
    """`score`: what judges the small model's answer, by name."""
    patience: float = 60.0
    """Seconds until the larger model's first word, or until the end of an answer that is no stream."""
    teaches: bool = False
    """Whether the larger model's licence lets its answers be trained on."""


@dataclass(frozen=True)
class Seen:
    """What a rule may look at."""

    characters: int
    last: str
    """The last message, or the text."""
    tools: bool
    logprob: float | None = None
    """Mean log-probability of a token of the small model's answer, once there is one."""
    score: float | None = None
    """What the scorer says of that answer."""

    @classmethod
    def of(cls, asked: Asked) -> Seen:
        """What is seen before anybody has answered."""
        last = asked.prompts[-1]
        text = last["messages"][-1]["content"] if "messages" in last else last.get("text")
        return cls(characters(asked), text or "", bool(asked.tools) and asked.choice != "none")


# ---- the rules


def by_rule(route: Route, seen: Seen) -> str:
    """Long prompts, offers of tools, certain words."""
    if route.longer_than and seen.characters > route.longer_than:
        return f"it is longer than {route.longer_than:,} characters"
    if route.tools and seen.tools:
        return "it offers tools"
    for word in route.words:
        if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", seen.last, re.IGNORECASE):
            return f"it speaks of {word!r}"
    return ""


def by_confidence(route: Route, seen: Seen) -> str:
    """An answer that the small model itself gives little probability."""
    if seen.logprob is None:
        return "the small model says nothing of its confidence"
    return f"a mean log-probability of {seen.logprob:.3g}, below {route.below:g}" if seen.logprob < route.below else ""


def by_score(route: Route, seen: Seen) -> str:
    """An answer of which a scorer thinks little."""
    if seen.score is None:
        return f"{route.scorer!r} gives no number"
    return f"a score of {seen.score:.3g}, below {route.below:g}" if seen.score < route.below else ""


RULES: dict[str, Callable[[Route, Seen], str]] = {"rule": by_rule, "confidence": by_confidence, "score": by_score}
AFTER = ("confidence", "score")
"""The rules that look at the small model's answer, which is written first."""


# ---- what it costs


def cost_of(prices: Prices, model: str, read: int, written: int) -> float:
    """What so many tokens of a model cost."""
    for_read, for_written = prices.get(model, (0.0, 0.0))
    return (read * for_read + written * for_written) / MILLION


# ---- from plumb.toml


def read_route(table: Mapping[str, Any]) -> Route | None:
    """The route of a table; None where there is none. What is wrong with it is said by its name."""
    if not table:
        return None

    def need(ok: bool, name: str, what: str) -> None:
        if not ok:
            raise BadProject(f"plumb.toml has {table.get(name)!r} as `{name}` in [route]: {what}")

    known = {field.name: getattr(Route, field.name, "") for field in fields(Route)}
    for name, value in table.items():
        need(name in known, name, f"there are {', '.join(known)}")
        kinds = {float: (float, int), tuple: (list,)}.get(type(known[name]), (type(known[name]),))
        kind = " or ".join(each.__name__ for each in kinds)
        need(isinstance(value, kinds) and isinstance(value, bool) == (kinds == (bool,)), name, f"it is a {kind}")
    words = table.get("words", [])
    need(all(isinstance(each, str) and each.strip() for each in words), "words", "it is a list of texts")
    route = Route(**{**table, "large": table.get("large", ""), "words": tuple(words)})
    need(bool(route.large), "large", "name the larger model, openai:MODEL@URL")
    need(bool(route.name), "name", "clients ask by it")
    need(route.by in RULES, "by", f"it is one of {', '.join(RULES)}")
    need(route.patience > 0, "patience", "it is a number of seconds")
    need(route.by != "rule" or bool(route.longer_than or route.tools or route.words), "by",
         "give at least one of longer_than, tools and words")  # fmt: skip
    need(route.by not in AFTER or math.isfinite(route.below), "below", "give the number below which an answer is weak")
    need(route.by != "score" or bool(route.scorer), "scorer", "name what judges the answers")
    return route


def read_prices(table: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """The prices of a table."""
    prices = {}
    for name, pair in table.items():
        sound = isinstance(pair, list) and len(pair) == 2
        if not sound or any(isinstance(each, bool) or not isinstance(each, int | float) or each < 0 for each in pair):
            what = "it is what a million tokens cost, [read, written]"
            raise BadProject(f"plumb.toml has {pair!r} as the price of {name!r} in [prices]: {what}")
        prices[name] = (float(pair[0]), float(pair[1]))
    return prices
