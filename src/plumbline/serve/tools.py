"""Calls of tools by a model that only writes text.

A model whose template knows tools is shown them by it; another is told of them in a system message. Where a call is
required, the answer must follow a schema that only a call fits. Where the model is free to call, calls are found in
what it wrote: `<tool_call>` blocks, or an answer that is one call and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from secrets import token_hex
from typing import Any

from plumbline.web.errors import Refusal

BLOCK = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
MOST = 128


def chosen(given: Sequence[dict[str, Any]], choice: object) -> tuple[str, tuple[dict[str, Any], ...]]:
    """Which call is wanted ("none", "auto", "required" or a name), and the tools, each with a name."""
    if len(given) > MOST:
        raise Refusal(400, f"`tools` holds {len(given)}: give up to {MOST}")
    for place, tool in enumerate(given):
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, dict) or not function.get("name"):
            raise Refusal(400, f"`tools.{place}` is no function with a name")
        if not isinstance(function.get("parameters", {}), dict):
            raise Refusal(400, f"`tools.{place}.function.parameters` is no JSON schema")
    names = [tool["function"]["name"] for tool in given]
    if isinstance(choice, dict):
        choice = (choice.get("function") or {}).get("name")
        if choice not in names:
            raise Refusal(400, f"`tool_choice` names {choice!r}, and the tools are {names!r}")
        return str(choice), tuple(given)
    if choice not in (None, "none", "auto", "required"):
        raise Refusal(400, f"`tool_choice` is {choice!r}: it is none, auto, required or a function by name")
    if choice == "required" and not given:
        raise Refusal(400, "`tool_choice` is required and there are no tools")
    return ("none" if not given or choice == "none" else str(choice or "auto")), tuple(given)


def schema_of(tools: Sequence[dict[str, Any]], choice: str) -> dict[str, Any] | None:
    """The JSON schema of a call, where one is required."""
    if choice in ("none", "auto"):
        return None
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["function"]["name"]},
                "arguments": tool["function"].get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
        if choice in ("required", tool["function"]["name"])
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def told_of(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with a system message that tells of the tools, for templates that do not."""
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    text = (
        f"You may call these functions:\n{listed}\n"
        'To call one, answer with nothing but <tool_call>{"name": NAME, "arguments": {...}}</tool_call>.'
    )
    first = messages[0] if messages else {}
    if first.get("role") == "system":
        return [{**first, "content": f"{first['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def calls_in(text: str, tools: Sequence[dict[str, Any]], choice: str) -> tuple[str, list[dict[str, Any]]]:
    """The text without its calls, and the calls in OpenAI's shape. What is no call of one of the tools stays text."""
    names = {tool["function"]["name"] for tool in tools}
    whole = as_call(text, names)
    if whole is not None:
        return "", [whole]
    if choice not in ("auto", "required"):
        return text, []
    calls: list[dict[str, Any]] = []

    def take(found: re.Match[str]) -> str:
        call = as_call(found[1], names)
        if call is None:
            return found[0]
        calls.append(call)
        return ""

    rest = BLOCK.sub(take, text)
    return (rest.strip(), calls) if calls else (text, [])


def as_call(text: str, names: set[str]) -> dict[str, Any] | None:
    try:
        said = json.loads(text)
    except ValueError:
        return None
    if not isinstance(said, dict) or said.get("name") not in names or not isinstance(said.get("arguments"), dict):
        return None
    function = {"name": said["name"], "arguments": json.dumps(said["arguments"], ensure_ascii=False)}
    return {"id": f"call_{token_hex(12)}", "type": "function", "function": function}
