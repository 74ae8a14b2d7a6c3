"""The dialect of OpenAI's API: requests and replies in the documented shapes, as data."""

from __future__ import annotations

from typing import Any

import pytest
from fake_server import chat, chats, last_piece, piece

from plumbline.errors import UserError
from plumbline.models import Conversation, Raw, Sampling
from plumbline.models.endpoints.openai import OpenAI

HOSTED = OpenAI("gpt", at_home=True)
OWN = OpenAI("qwen", at_home=False)
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def test_a_chat_request_for_openai_itself() -> None:
    sampling = Sampling(n=2, max_new_tokens=9, temperature=0.5, top_p=0.9, seed=3, stop=("\n", "END"))
    assert HOSTED.request("Hi", sampling) == (
        "/chat/completions",
        {
            "model": "gpt",
            "messages": [{"role": "user", "content": "Hi"}],
            "max_completion_tokens": 9,
            "temperature": 0.5,
            "top_p": 0.9,
            "n": 2,
            "seed": 3,
            "stop": ["\n", "END"],
        },
    )


def test_a_chat_request_for_another_server() -> None:
    assert OWN.request("Hi", Sampling(temperature=0.0, top_k=5), stream=True) == (
        "/chat/completions",
        {
            "model": "qwen",
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 256,
            "temperature": 0.0,
            "top_p": 1.0,
            "top_k": 5,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    )


def test_what_openai_takes_as_its_own_default_is_left_out_there_only() -> None:
    neutral = Sampling(temperature=1.0, top_p=1.0)
    assert not {"temperature", "top_p"} & HOSTED.request("Hi", neutral)[1].keys()
    assert OWN.request("Hi", neutral)[1].items() >= {"temperature": 1.0, "top_p": 1.0}.items()


def test_a_seed_of_zero_is_sent() -> None:
    assert OWN.request("Hi", Sampling(seed=0))[1]["seed"] == 0
    assert "seed" not in OWN.request("Hi", Sampling())[1]


def test_messages_tools_and_a_schema_go_as_they_are() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "yes", "tool_call_id": "c1"},
    ]
    schema = {"type": "object", "properties": {"rain": {"type": "boolean"}}}
    _, body = OWN.request(Conversation(messages, [WEATHER]), Sampling(schema=schema))
    assert body["messages"] == messages
    assert body["tools"] == [WEATHER]
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }


@pytest.mark.parametrize(("prompt", "sent"), [(Raw("Once upon"), "Once upon"), ([5, 6, 7], [5, 6, 7])])
def test_raw_text_and_tokens_go_to_completions(prompt: Any, sent: Any) -> None:
    path, body = HOSTED.request(prompt, Sampling(max_new_tokens=4))
    assert path == "/completions"
    assert (body["prompt"], body["max_tokens"]) == (sent, 4)
    assert not {"messages", "max_completion_tokens"} & body.keys()
    with pytest.raises(UserError, match="schema is .*completions API"):
        HOSTED.request(prompt, Sampling(schema={"type": "object"}))


@pytest.mark.parametrize(
    ("dialect", "sampling", "sentence"),
    [
        (OWN, Sampling(grammar="start: /a/"), "grammar is 'start: /a/', which an OpenAI-compatible API cannot do"),
        (OWN, Sampling(ignore_eos=True), "ignore_eos is True"),
        (OWN, Sampling(truncate=True), "truncate is True"),
        (HOSTED, Sampling(top_k=5), "top_k is 5, which OpenAI's API cannot do: leave it out, or use a local model"),
    ],
)
def test_what_the_api_cannot_do_is_refused(dialect: OpenAI, sampling: Sampling, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        dialect.request("Hi", sampling)


def test_answers_come_in_the_order_of_their_index() -> None:
    body = chats([{"content": "a"}, {"content": "b"}], "length")
    body["choices"].reverse()
    reply = OWN.read(body)
    assert [completion.text for completion in reply.completions] == ["a", "b"]
    assert {completion.finish_reason for completion in reply.completions} == {"length"}
    assert (reply.completions[0].prompt_tokens, reply.new_tokens) == (7, 6)


@pytest.mark.parametrize(
    ("said", "meant"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "cancelled"), ("eos_token", "stop"), (None, "stop")],
)
def test_finish_reasons(said: Any, meant: str) -> None:
    assert OWN.read(chat("a", said)).completions[0].finish_reason == meant


@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
def test_calls_of_tools_can_be_put_back_into_a_message(finish: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"day": 1}'}}
    (completion,) = OWN.read(chat(None, finish, tool_calls=[call])).completions
    assert completion.tool_calls == (call,)
    assert (completion.text, completion.finish_reason) == ("", "tool_calls")


def test_a_refusal_is_the_answer() -> None:
    assert OWN.read(chat(None, refusal="I cannot help.")).completions[0].text == "I cannot help."


def test_a_completions_reply() -> None:
    body = {"choices": [{"index": 0, "text": " a time", "logprobs": None, "finish_reason": "length"}]}
    assert OWN.read(body).completions[0].text == " a time"


def test_logprobs_are_read_in_both_shapes_where_they_mean_what_ours_do() -> None:
    dialect = OpenAI("m", at_home=False, logprobs=True)
    greedy = Sampling(temperature=0.0)
    assert dialect.request("Hi", greedy)[1]["logprobs"] is True
    assert dialect.request(Raw("Hi"), greedy)[1]["logprobs"] == 1
    with pytest.raises(UserError, match="temperature is 0.7 and logprobs were asked for"):
        dialect.request("Hi", Sampling(temperature=0.7))
    body = chat("a b")
    body["choices"][0]["logprobs"] = {"content": [{"token": "a", "logprob": -0.5}, {"token": " b", "logprob": -1.5}]}
    assert dialect.read(body).completions[0].logprobs == (-0.5, -1.5)
    body["choices"][0]["logprobs"] = {"tokens": ["a", " b"], "token_logprobs": [-0.5, -1.5]}
    assert dialect.read(body).completions[0].logprobs == (-0.5, -1.5)
    with pytest.raises(ValueError, match="no logprobs, which were asked for"):
        dialect.read(chat("a b"))


@pytest.mark.parametrize(
    "body",
    [{}, {"choices": []}, {"choices": [3]}, {"choices": [{"message": {"content": 3}}]}, {"choices": "none"}],
)
def test_another_shape_is_a_value_error(body: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        OWN.read(body)


def test_a_stream_is_gathered() -> None:
    draft = OWN.draft()
    events = [piece({"role": "assistant", "content": ""}), piece({"content": "naïve "}), piece({"content": "☂"})]
    assert [draft.add(event) for event in events] == ["", "naïve ", "☂"]
    assert not draft.finished
    assert draft.add(piece({}, "length")) == ""
    assert draft.finished
    assert draft.add(piece({})) == ""  # some servers send one more
    assert draft.add(last_piece(11, 2)) == ""
    reply = draft.reply()
    assert (reply.completions[0].prompt_tokens, reply.new_tokens) == (11, 2)
    assert [(one.text, one.finish_reason) for one in reply.completions] == [("naïve ☂", "length")]


def test_two_calls_are_gathered_from_their_fragments() -> None:
    def fragment(index: int, **function: str) -> dict[str, Any]:
        number = {"id": f"c{index}", "type": "function"} if "name" in function else {}
        return piece({"tool_calls": [{"index": index, **number, "function": function}]})

    draft = OWN.draft()
    for event in (
        fragment(0, name="weather", arguments=""),
        fragment(0, arguments='{"day"'),
        fragment(1, name="time", arguments="{}"),
        fragment(0, arguments=": 1}"),
        piece({}, "tool_calls"),
    ):
        assert draft.add(event) == ""
    (completion,) = draft.reply().completions
    assert completion.finish_reason == "tool_calls"
    assert [(call["id"], call["function"]) for call in completion.tool_calls] == [
        ("c0", {"name": "weather", "arguments": '{"day": 1}'}),
        ("c1", {"name": "time", "arguments": "{}"}),
    ]


def test_streamed_logprobs_are_gathered() -> None:
    draft = OpenAI("m", at_home=False, logprobs=True).draft()
    for number, text in enumerate(("a", "b")):
        event = piece({"content": text}, "stop" if number else None)
        event["choices"][0]["logprobs"] = {"content": [{"token": text, "logprob": -float(number)}]}
        draft.add(event)
    assert draft.reply().completions[0].logprobs == (0.0, -1.0)
