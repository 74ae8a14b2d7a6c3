"""The official client of OpenAI passes its calls with nothing changed but the base URL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plumbline.models import Sampling
from plumbline.models.generate import Reference
from serving import HOT, HOT_ANSWERS, KNOCK, WHO, Running, write_script

openai = pytest.importorskip("openai", reason="the client of OpenAI is not installed")

ORDER = {
    "type": "object",
    "properties": {"item": {"enum": ["jeans", "shirt"]}, "count": {"type": "integer"}},
    "required": ["item", "count"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "find_order", "description": "Finds it.", "parameters": ORDER}}


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("scripted")
    call = json.dumps({"name": "find_order", "arguments": {"item": "jeans", "count": 1}})
    more = {
        "Call.": [f"Let me see. <tool_call>{call}</tool_call>"],
        "Chat.": ["No call is needed."],
        "Ünï 🦊": ["日本 🦊"],
    }
    with Running(folder, write_script(folder, more)) as server:
        yield server


@pytest.fixture(scope="module")
def tiny(
    tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]
) -> Iterator[Running]:
    embedder = str(tiny_model("bert"))
    with Running(
        tmp_path_factory.mktemp("tiny"), str(tiny_llama), engine="transformers", embedder=embedder, max_tokens=16
    ) as server:
        yield server


# ---- chat


def test_a_chat(scripted: Running) -> None:
    reply = scripted.client().chat.completions.create(model="plumbline", messages=ask(KNOCK), user="ann")
    (choice,) = reply.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (WHO, "assistant", "stop")
    assert reply.usage.prompt_tokens == 2
    assert reply.usage.total_tokens == 2 + reply.usage.completion_tokens
    assert reply.model == scripted.settings.model and reply.id.startswith("chatcmpl-")
    stored = scripted.store.exchange(reply.id, "local")
    assert stored is not None
    assert (stored.user_id, stored.version, stored.status) == ("local/ann", reply.model, "answered")
    assert stored.prompt == {"messages": ask(KNOCK)}
    assert stored.answers == [{"text": WHO, "tool_calls": []}]
    assert stored.latency_ms > 0 and stored.settings is not None and stored.settings["finish_reasons"] == ["stop"]


def test_a_stream_gives_the_same_in_pieces_and_is_stored_before_its_end(scripted: Running) -> None:
    stream = scripted.client().chat.completions.create(
        model="plumbline", messages=ask(KNOCK), stream=True, stream_options={"include_usage": True}, temperature=0.5
    )
    pieces, ends = [], []
    for chunk in stream:
        if not chunk.choices:
            assert chunk.usage.total_tokens == chunk.usage.prompt_tokens + chunk.usage.completion_tokens > 2
            continue
        pieces.append(chunk.choices[0].delta.content or "")
        if chunk.choices[0].finish_reason:
            stored = scripted.store.exchange(chunk.id, "local")
            assert stored is not None and stored.answers == [{"text": WHO, "tool_calls": []}]
            assert stored.first_ms is not None
            ends.append(chunk.choices[0].finish_reason)
    assert "".join(pieces) == WHO and len([piece for piece in pieces if piece]) > 3
    assert ends == ["stop"]


def test_samples_stops_and_limits(scripted: Running) -> None:
    client = scripted.client()
    several = client.chat.completions.create(model="plumbline", messages=ask(HOT), n=3, seed=0)
    assert [choice.message.content for choice in several.choices] == list(HOT_ANSWERS)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    stopped = client.chat.completions.create(model="plumbline", messages=ask(HOT), seed=0, stop=["at", "!"])
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("Open the windows ", "stop")
    short = client.chat.completions.create(model="plumbline", messages=ask(KNOCK), max_tokens=2)
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("Who is", "length")
    newer = client.chat.completions.create(model="plumbline", messages=ask(KNOCK), max_completion_tokens=2)
    assert newer.usage.completion_tokens == 2


def test_several_samples_as_a_stream(scripted: Running) -> None:
    stream = scripted.client().chat.completions.create(
        model="plumbline", messages=ask(HOT), n=2, seed=0, stream=True, temperature=0.3
    )
    texts = {0: "", 1: ""}
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert tuple(texts.values()) == HOT_ANSWERS[:2]


def test_parts_of_text_and_the_developers_role(scripted: Running) -> None:
    parts = [{"type": "text", "text": "Knock, "}, {"type": "text", "text": "knock"}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    reply = scripted.client().chat.completions.create(model="plumbline", messages=messages)
    assert reply.choices[0].message.content == WHO


def test_every_letter_arrives(scripted: Running) -> None:
    client = scripted.client()
    assert client.chat.completions.create(model="", messages=ask("Ünï 🦊")).choices[0].message.content == "日本 🦊"
    stream = client.chat.completions.create(model="", messages=ask("Ünï 🦊"), stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "日本 🦊"


# ---- tools


def test_a_model_that_is_free_to_call_a_tool(scripted: Running) -> None:
    client = scripted.client()
    reply = client.chat.completions.create(model="plumbline", messages=ask("Call."), tools=[TOOL])
    (choice,) = reply.choices
    assert choice.finish_reason == "tool_calls" and choice.message.content == "Let me see."
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "find_order") and call.id
    assert json.loads(call.function.arguments) == {"item": "jeans", "count": 1}
    plain = client.chat.completions.create(model="plumbline", messages=ask("Chat."), tools=[TOOL])
    assert plain.choices[0].message.tool_calls is None
    assert plain.choices[0].message.content == "No call is needed."


def test_a_call_in_a_stream(scripted: Running) -> None:
    stream = scripted.client().chat.completions.create(
        model="plumbline", messages=ask("Call."), tools=[TOOL], stream=True
    )
    chunks = [chunk.choices[0] for chunk in stream]
    calls = [call for choice in chunks for call in choice.delta.tool_calls or ()]
    assert [(call.index, call.function.name) for call in calls] == [(0, "find_order")]
    assert chunks[-1].finish_reason == "tool_calls"


def test_a_call_that_is_required_of_a_local_model_is_one(tiny: Running) -> None:
    reply = tiny.client().chat.completions.create(
        model="plumbline", messages=ask("Where is it?"), tools=[TOOL], tool_choice="required", max_tokens=60
    )
    (call,) = reply.choices[0].message.tool_calls
    assert reply.choices[0].message.content is None
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "find_order" and set(arguments) == {"item", "count"}
    assert arguments["item"] in ("jeans", "shirt") and isinstance(arguments["count"], int)


# ---- a local model


def test_a_schema_is_followed(tiny: Running) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "order", "schema": ORDER, "strict": True}}
    for seed in range(3):
        reply = tiny.client().chat.completions.create(
            model="plumbline", messages=ask("An order, please."), response_format=wanted, seed=seed, max_tokens=40
        )
        order = json.loads(reply.choices[0].message.content)
        assert set(order) == {"item", "count"} and order["item"] in ("jeans", "shirt")


def test_any_json(tiny: Running) -> None:
    reply = tiny.client().chat.completions.create(
        model="plumbline", messages=ask("JSON, please."), response_format={"type": "json_object"}, max_tokens=30, seed=1
    )
    assert isinstance(json.loads(reply.choices[0].message.content), dict)


def test_the_same_seed_gives_the_same_text_and_the_text_is_the_engines(tiny: Running, tiny_llama: Path) -> None:
    client = tiny.client()
    given = {"model": "plumbline", "messages": ask("Hi"), "seed": 7, "temperature": 0.9, "top_p": 0.8, "max_tokens": 12}
    first, second = (client.chat.completions.create(**given) for _ in range(2))
    assert first.choices[0].message.content == second.choices[0].message.content
    sampling = Sampling(max_new_tokens=12, temperature=0.9, top_p=0.8, seed=7)
    ((alone,),) = Reference.open(tiny_llama, device="cpu")([ask("Hi")], sampling)
    assert first.choices[0].message.content == alone.text
    assert first.usage.completion_tokens == len(alone.tokens)


def test_logprobs(tiny: Running) -> None:
    reply = tiny.client().chat.completions.create(
        model="plumbline", messages=ask("Hi"), max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
    )
    told = reply.choices[0].logprobs.content
    assert len(told) == reply.usage.completion_tokens
    for each in told:
        assert each.logprob == pytest.approx(each.top_logprobs[0].logprob, abs=1e-4)  # greedy takes the likeliest
        assert len(each.top_logprobs) == 3 and bytes(each.bytes).decode() == each.token
    stream = tiny.client().chat.completions.create(
        model="plumbline", messages=ask("Hi"), max_tokens=5, temperature=0, logprobs=True, stream=True
    )
    pieces = [
        each for chunk in stream for each in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else ())
    ]
    assert [each.token for each in pieces] == [each.token for each in told]


def test_texts_that_go_on(tiny: Running) -> None:
    client = tiny.client()
    reply = client.completions.create(
        model="plumbline", prompt=["Once upon", "A"], n=2, max_tokens=4, seed=1, logprobs=2
    )
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    for choice in reply.choices:
        assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) == len(choice.logprobs.top_logprobs)
    tokens = client.completions.create(model="plumbline", prompt=[5, 6, 7], max_tokens=3, temperature=0)
    assert tokens.usage.prompt_tokens == 3 and tokens.id.startswith("cmpl-")
    stream = client.completions.create(model="plumbline", prompt=[5, 6, 7], max_tokens=3, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == tokens.choices[0].text


def test_embeddings(tiny: Running) -> None:
    client = tiny.client()
    texts = ["too hot", "very cold", "too hot"]
    reply = client.embeddings.create(model=tiny.settings.embedder, input=texts)  # as base64, the client's default
    plain = client.embeddings.create(model="plumbline", input=texts, encoding_format="float")
    vectors = [each.embedding for each in reply.data]
    assert vectors[0] == pytest.approx(vectors[2]) and vectors[0] != pytest.approx(vectors[1])
    for one, other in zip(reply.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6) and one.index == other.index
    assert sum(value**2 for value in vectors[0]) == pytest.approx(1.0, abs=1e-5)


# ---- what is there, and errors


def test_the_models(scripted: Running) -> None:
    client = scripted.client()
    names = [model.id for model in client.models.list()]
    assert names == ["plumbline", scripted.settings.model]
    assert client.models.retrieve("plumbline").id == "plumbline"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


@pytest.mark.parametrize(
    ("more", "kind", "code", "said"),
    [
        ({"model": "gpt-9"}, "NotFoundError", "model_not_found", "'gpt-9' is not served here"),
        ({"temperature": 3}, "BadRequestError", None, "`temperature`: Input should be less than or equal to 2"),
        ({"messages": []}, "BadRequestError", None, "`messages`"),
        (
            {"frequency_penalty": 0.5},
            "BadRequestError",
            "unsupported_parameter",
            "`frequency_penalty` is not supported",
        ),
        ({"extra_body": {"wings": 2}}, "BadRequestError", "unknown_parameter", "`wings` is no field that is known"),
        ({"n": 64}, "BadRequestError", None, "64 answers were asked for at once and there are 32 places"),
        ({"messages": ask("What?")}, "BadRequestError", None, "has no answer to 'What?'"),
        ({"logprobs": True}, "BadRequestError", None, "`logprobs` are not told by"),
        ({"tools": [{"type": "spell"}]}, "BadRequestError", None, "`tools.0` is no function"),
    ],
)
def test_what_is_wrong_has_the_clients_own_errors(
    scripted: Running, more: dict[str, Any], kind: str, code: str | None, said: str
) -> None:
    with pytest.raises(getattr(openai, kind)) as raised:
        scripted.client().chat.completions.create(**{"model": "plumbline", "messages": ask(KNOCK), **more})
    assert said in raised.value.message
    assert raised.value.code == code


def test_a_prompt_that_does_not_fit_the_window(tiny: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="model's window leaves room for 511") as raised:
        tiny.client().chat.completions.create(model="plumbline", messages=ask("word " * 600))
    assert raised.value.code == "context_length_exceeded"


@pytest.mark.model
def test_the_bundled_model_answers_through_the_client(tmp_path: Path, smollm2: Path) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    with Running(tmp_path, "smollm2-135m", engine="openvino") as server:  # "auto" would first compare the engines
        reply = server.client().chat.completions.create(
            model="smollm2-135m", messages=ask("What is the capital of France?"), temperature=0, max_tokens=24
        )
        assert "Paris" in reply.choices[0].message.content
        stream = server.client().chat.completions.create(
            model="plumbline", messages=ask("What is the capital of France?"), temperature=0, max_tokens=24, stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == reply.choices[0].message.content
