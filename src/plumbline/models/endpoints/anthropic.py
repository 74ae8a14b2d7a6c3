"""The dialect of Anthropic's Messages API, in its version 2023-06-01.

The later version takes no temperature, top-p or top-k at all; this one takes them for the models that know them and
refuses them in words for the others, which is what a `Sampling` needs. Answers come one a request.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from plumbline.errors import UserError
from plumbline.models import Completion, FinishReason, Prompt, Raw, Sampling
from plumbline.models.chat import conversation, is_tokens
from plumbline.models.endpoints.dialect import Count, Reply, function_call, joined, refuse, sampling_values
from plumbline.records import Message

_FINISH: dict[str, FinishReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "cancelled",
}
"""Whatever is not named here ("end_turn", "stop_sequence") is an ordinary end."""


class _Block(BaseModel):
    type: str
    text: str = ""
    id: str = ""
    name: str = ""
    input: dict[str, Any] = {}
    _arguments: str = ""  # of a call while it is streamed; it may end in mid-word, so it stays text

    @property
    def call(self) -> dict[str, Any]:
        """The call of a tool that this block is."""
        return function_call(self.name, self._arguments or json.dumps(self.input, ensure_ascii=False), self.id)


class _Usage(BaseModel):
    input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    output_tokens: Count = 0

    @property
    def prompt_tokens(self) -> int:
        """All that was read; the API counts what came from its cache apart."""
        parts = (self.input_tokens, self.cache_creation_input_tokens, self.cache_read_input_tokens)
        return sum(part or 0 for part in parts)


class _Reply(BaseModel):
    content: list[_Block]
    stop_reason: str | None = None
    usage: _Usage


class _Delta(BaseModel):
    text: str = ""
    partial_json: str = ""
    stop_reason: str | None = None


class _Event(BaseModel):
    type: str
    index: int = 0
    message: _Reply | None = None
    content_block: _Block | None = None
    delta: _Delta = _Delta()
    usage: _Usage = _Usage()


class Anthropic:
    """Requests written and replies read for one model."""

    many = False

    def __init__(self, model: str, *, at_home: bool) -> None:
        self.model = model
        self.at_home = at_home

    def request(self, prompt: Prompt, sampling: Sampling, *, stream: bool = False) -> tuple[str, dict[str, Any]]:
        """The path and the body."""
        refuse("Anthropic's API", sampling, ("grammar", "truncate", "ignore_eos", "seed"))
        if isinstance(prompt, Raw) or is_tokens(prompt):
            raise UserError(
                f"the prompt is {'Raw text' if isinstance(prompt, Raw) else 'token ids'}, and Anthropic's API takes "
                "messages only: give a plain string or messages"
            )
        talk = conversation(prompt)
        first = next((place for place, turn in enumerate(talk.messages) if turn["role"] != "system"), None)
        if first is None:
            raise UserError("the prompt holds system messages only, and Anthropic's API needs a user turn: add one")
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": sampling.max_new_tokens,
            "messages": _messages(talk.messages[first:]),
            **sampling_values(sampling, self.at_home),
        }
        optional = {
            "system": "\n\n".join(turn["content"] or "" for turn in talk.messages[:first]),
            "top_k": sampling.top_k,
            "stop_sequences": list(sampling.stop),
            "tools": [_tool(tool) for tool in talk.tools],
            "stream": stream,
        }
        body |= {name: value for name, value in optional.items() if value}
        if sampling.schema is not None:
            body["output_config"] = {"format": {"type": "json_schema", "schema": sampling.schema}}
        return "/messages", body

    def read(self, reply: dict[str, Any]) -> Reply:
        """The one answer in a reply."""
        return _reply(_Reply.model_validate(reply))

    def draft(self) -> _Draft:
        """An empty draft."""
        return _Draft()


class _Draft:
    """A streamed answer, gathered into the reply that would have come unstreamed."""

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}
        self._stop_reason: str | None = None
        self._usage = _Usage()

    @property
    def finished(self) -> bool:
        return self._stop_reason is not None

    def add(self, event: dict[str, Any]) -> str:
        parsed = _Event.model_validate(event)
        block = parsed.content_block or self._blocks.get(parsed.index)
        match parsed.type:
            case "message_start" if parsed.message:
                self._usage = parsed.message.usage
            case "content_block_start" if block:
                self._blocks[parsed.index] = block
                return block.text
            case "content_block_delta" if block:
                block.text += parsed.delta.text
                block._arguments += parsed.delta.partial_json
                return parsed.delta.text
            case "message_delta":
                self._stop_reason = parsed.delta.stop_reason
                self._usage.output_tokens = parsed.usage.output_tokens
        return ""

    def reply(self) -> Reply:
        content = list(self._blocks.values())
        return _reply(_Reply(content=content, stop_reason=self._stop_reason, usage=self._usage))


def _reply(parsed: _Reply) -> Reply:
    """Text blocks are the answer and tool blocks its calls; a thought has its own field and is left out."""
    completion = Completion(
        text=joined("".join(block.text for block in parsed.content)),
        finish_reason=_FINISH.get(parsed.stop_reason or "", "stop"),
        prompt_tokens=parsed.usage.prompt_tokens,
        tool_calls=tuple(block.call for block in parsed.content if block.type == "tool_use"),
    )
    return Reply([completion], parsed.usage.output_tokens)


def _messages(turns: Sequence[Message]) -> list[dict[str, Any]]:
    """Turns in the API's shape: calls and results of tools are blocks, and all results of one turn go together."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        if turn["role"] == "tool":
            result = {
                "type": "tool_result",
                "tool_use_id": turn.get("tool_call_id", ""),
                "content": turn["content"] or "",
            }
            if messages and isinstance(messages[-1]["content"], list) and messages[-1]["role"] == "user":
                messages[-1]["content"].append(result)
            else:
                messages.append({"role": "user", "content": [result]})
        elif turn.get("tool_calls"):
            text = [{"type": "text", "text": turn["content"]}] if turn["content"] else []
            messages.append({"role": turn["role"], "content": text + [_tool_use(call) for call in turn["tool_calls"]]})
        else:
            messages.append({"role": turn["role"], "content": turn["content"] or ""})
    return messages


def _tool_use(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    arguments = function.get("arguments") or "{}"
    try:
        given = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        raise UserError(
            f"the arguments of a tool call are {arguments!r}, which is not JSON, and Anthropic's API takes no other: "
            "mend them, or leave that turn out"
        ) from None
    return {"type": "tool_use", "id": call.get("id", ""), "name": function.get("name", ""), "input": given}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool in OpenAI's function schema as this API writes it."""
    function = tool.get("function")
    if not isinstance(function, dict) or "name" not in function:
        raise UserError(f"the tool {tool!r} has no function with a name: give OpenAI's function schema")
    described = {"description": function["description"]} if function.get("description") else {}
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    return {"name": function["name"], **described, "input_schema": schema}
