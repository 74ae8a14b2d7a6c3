"""The dialect of Anthropic's Messages API: requests and replies in the documented shapes, as data."""

from __future__ import annotations

from typing import Any

import pytest
from fake_server import block_events, message, message_events

from plumbline.errors import UserError
from plumbline.models import Conversation, Raw, Sampling
from plumbline.models.endpoints.anthropic import Anthropic

HOSTED = Anthropic("claude", at_home=True)
OWN = Anthropic("qwen", at_home=False)


def test_a_request() -> None:
    sampling = Sampling(n=1, max_new_tokens=9, temperature=0.5, top_p=0.9, top_k=5, stop=("END",))
    assert HOSTED.request("Hi", sampling, stream=True) == (
        "/messages",
        {
            "model": "claude",
            "max_tokens": 9,
            "messages": [{"role": "user", "content": "Hi"}],
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 5,
            "stop_sequences": ["END"],
            "stream": True,
        },
    )


def test_models_that_take_no_sampling_get_none_at_its_neutral_values() -> None:
    neutral = Sampling(temperature=1.0, top_p=1.0)
    assert HOSTED.request("Hi", neutral)[1].keys() == {"model", "max_tokens", "messages"}
    assert OWN.request("Hi", neutral)[1].items() >= {"temperature": 1.0, "top_p": 1.0}.items()


def test_messages_tools_and_a_schema_are_put_into_its_shape() -> None:
    def call(number: str, arguments: Any) -> dict[str, Any]:
        return {"id": number, "type": "function", "function": {"name": "weather", "arguments": arguments}}

    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call("c1", '{"day": 1}'), call("c2", {})]},
        {"role": "tool", "content": "yes", "tool_call_id": "c1"},
        {"role": "tool", "content": "no", "tool_call_id": "c2"},
        {"role": "assistant", "content": None, "tool_calls": [call("c3", "")]},
        {"role": "tool", "content": None, "tool_call_id": "c3"},
        {"role": "user", "content": "So?"},
    ]
    parameters = {"type": "object", "properties": {"day": {"type": "integer"}}}
    tools: Any = [
        {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": parameters}},
        {"type": "function", "function": {"name": "time"}},
    ]
    schema = {"type": "object"}
    _, body = HOSTED.request(Conversation(messages, tools), Sampling(schema=schema))
    assert body["system"] == "Be brief.\n\nBe kind."
    assert body["messages"] == [
        {"role": "user", "content": "Rain?"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": {"day": 1}},
                {"type": "tool_use", "id": "c2", "name": "weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "yes"},
                {"type": "tool_result", "tool_use_id": "c2", "content": "no"},
            ],
        },
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c3", "name": "weather", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c3", "content": ""}]},
        {"role": "user", "content": "So?"},
    ]
    assert body["tools"] == [
        {"name": "weather", "description": "Tells it.", "input_schema": parameters},
        {"name": "time", "input_schema": {"type": "object", "properties": {}}},
    ]
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": schema}}


@pytest.mark.parametrize(
    ("prompt", "sampling", "sentence"),
    [
        ("Hi", Sampling(seed=1), "seed is 1, which Anthropic's API cannot do"),
        ("Hi", Sampling(grammar="start: /a/"), "grammar is"),
        ("Hi", Sampling(ignore_eos=True), "ignore_eos is True"),
        ("Hi", Sampling(truncate=True), "truncate is True"),
        (Raw("Once"), Sampling(), "the prompt is Raw text, .*give a plain string or messages"),
        ([1, 2], Sampling(), "the prompt is token ids"),
        ([{"role": "system", "content": "Be brief."}], Sampling(), "system messages only.*: add one"),
        (
            Conversation([{"role": "user", "content": "Hi"}], [{"name": "weather"}]),
            Sampling(),
            "no function with a name",
        ),
        (
            [{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{no"}}]}],
            Sampling(),
            "arguments of a tool call are '{no', which is not JSON",
        ),
    ],
)
def test_what_the_api_cannot_do_is_refused(prompt: Any, sampling: Sampling, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        OWN.request(prompt, sampling)


def test_a_reply() -> None:
    thought = {"type": "thinking", "thinking": "They greet me.", "signature": "x"}
    reply = OWN.read(message(thought, {"type": "text", "text": "Hi"}, {"type": "text", "text": " there."}))
    assert [(one.text, one.finish_reason, one.tool_calls) for one in reply.completions] == [("Hi there.", "stop", ())]
    assert (reply.completions[0].prompt_tokens, reply.new_tokens) == (5 + 1 + 2, 3)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "cancelled"),
    ],
)
def test_finish_reasons(said: str, meant: str) -> None:
    assert OWN.read(message({"type": "text", "text": "a"}, stop=said)).completions[0].finish_reason == meant


def test_calls_of_tools_can_be_put_back_into_a_message() -> None:
    block = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"place": "Zürich"}}
    (completion,) = OWN.read(message(block, stop="tool_use")).completions
    assert completion.tool_calls == (
        {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Zürich"}'}},
    )
    turn: Any = {"role": "assistant", "content": completion.text, "tool_calls": list(completion.tool_calls)}
    assert OWN.request([turn], Sampling())[1]["messages"][0]["content"] == [block]


def test_a_stream_is_gathered() -> None:
    draft = OWN.draft()
    events = message_events(
        [
            *block_events(0, {"type": "thinking", "thinking": ""}, [{"type": "thinking_delta", "thinking": "Hm."}]),
            *block_events(
                1,
                {"type": "text", "text": ""},
                [{"type": "text_delta", "text": "naïve "}, {"type": "text_delta", "text": "☂"}],
            ),
            *block_events(
                2,
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {}},
                [{"type": "input_json_delta", "partial_json": part} for part in ("", '{"day"', ": 1}")],
            ),
            *block_events(3, {"type": "tool_use", "id": "t2", "name": "time", "input": {}}, []),
            {"type": "an_event_of_tomorrow", "value": [1]},
        ],
        stop="tool_use",
        output=9,
    )
    texts = []
    for event in events[:-2]:
        texts.append(draft.add(event))
        assert not draft.finished
    draft.add(events[-2])
    assert draft.finished
    assert "".join(texts) == "naïve ☂"
    reply = draft.reply()
    (completion,) = reply.completions
    assert (completion.text, completion.finish_reason) == ("naïve ☂", "tool_calls")
    assert [call["function"] for call in completion.tool_calls] == [
        {"name": "weather", "arguments": '{"day": 1}'},
        {"name": "time", "arguments": "{}"},
    ]
    assert (completion.prompt_tokens, reply.new_tokens) == (8, 9)


def test_a_call_that_the_limit_cut_is_given_as_it_came() -> None:
    """It is the model's fault, so it goes back to the model; nothing is raised."""
    draft = OWN.draft()
    call = {"type": "tool_use", "id": "t1", "name": "weather", "input": {}}
    for event in message_events(
        block_events(0, call, [{"type": "input_json_delta", "partial_json": '{"da'}]), "max_tokens"
    ):
        draft.add(event)
    (completion,) = draft.reply().completions
    assert completion.finish_reason == "length"
    assert completion.tool_calls[0]["function"]["arguments"] == '{"da'


@pytest.mark.parametrize(
    "body", [{}, {"content": "text", "usage": {}}, {"content": [{"text": "no type"}], "usage": {}}]
)
def test_another_shape_is_a_value_error(body: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        OWN.read(body)
