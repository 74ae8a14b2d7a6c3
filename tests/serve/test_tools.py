"""Calls of tools by a model that only writes text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plumbline.serve import tools
from plumbline.web.errors import Refusal


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **parameters}}}


FIND, SEND = tool("find"), tool("send")
CALL = json.dumps({"name": "find", "arguments": {"order": 5}})


@pytest.mark.parametrize(
    ("given", "choice", "expected"),
    [
        ((), None, "none"),
        ((FIND,), None, "auto"),
        ((FIND,), "none", "none"),
        ((FIND,), "required", "required"),
        ((FIND, SEND), {"type": "function", "function": {"name": "send"}}, "send"),
    ],
)
def test_which_call_is_wanted(given: Any, choice: object, expected: str) -> None:
    assert tools.chosen(given, choice) == (expected, given)


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        ([], "required"),
        ([FIND], "maybe"),
        ([FIND], {"function": {"name": "fly"}}),
        ([{"type": "function"}], None),
        ([{"type": "function", "function": {"name": "x", "parameters": []}}], None),
        ([FIND] * 129, None),
    ],
)
def test_what_makes_no_sense_is_refused(given: Any, choice: object) -> None:
    with pytest.raises(Refusal):
        tools.chosen(given, choice)


def test_a_required_call_is_a_schema_that_only_a_call_fits() -> None:
    assert tools.schema_of([FIND, SEND], "auto") is None
    either = tools.schema_of([FIND, SEND], "required")
    assert either is not None and len(either["anyOf"]) == 2
    one = tools.schema_of([FIND, SEND], "send")
    assert one is not None and one["properties"]["name"] == {"const": "send"}


@pytest.mark.parametrize(
    ("text", "choice", "rest", "calls"),
    [
        (CALL, "auto", "", 1),
        (f"Wait. <tool_call>\n{CALL}\n</tool_call>", "auto", "Wait.", 1),
        (f"<tool_call>{CALL}</tool_call> and <tool_call>{CALL}</tool_call>", "auto", "and", 2),
        (f"<tool_call>{CALL}", "auto", "", 1),
        ("<tool_call>not json</tool_call>", "auto", "<tool_call>not json</tool_call>", 0),
        ('{"name": "fly", "arguments": {}}', "auto", '{"name": "fly", "arguments": {}}', 0),
        ('{"name": "find", "arguments": "order 5"}', "auto", '{"name": "find", "arguments": "order 5"}', 0),
        ("[1, 2]", "auto", "[1, 2]", 0),
        ("plain", "required", "plain", 0),
    ],
)
def test_calls_are_found_and_what_is_none_stays_text(text: str, choice: str, rest: str, calls: int) -> None:
    found, made = tools.calls_in(text, [FIND, SEND], choice)
    assert (found, len(made)) == (rest, calls)
    for call in made:
        assert call["function"]["name"] == "find" and json.loads(call["function"]["arguments"]) == {"order": 5}


def test_a_model_whose_template_knows_no_tools_is_told_of_them() -> None:
    (system, user) = tools.told_of([{"role": "user", "content": "Hi"}], [FIND])
    assert system["role"] == "system" and '"name": "find"' in system["content"] and user["content"] == "Hi"
    (joined,) = tools.told_of([{"role": "system", "content": "Be kind."}], [FIND])
    assert joined["content"].startswith("Be kind.\n\nYou may call")
