"""The fakes do what they say, so that a test that stands on them proves something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plumbline.errors import BadRecord, UserError
from plumbline.models import Completion, Conversation, Embed, Generate, Raw, Sampling, Score
from plumbline.models.scripted import (
    Call,
    Scripted,
    ScriptedEmbed,
    ScriptedScore,
    count_tokens,
    prompt_text,
    split_tokens,
)


def texts(answers: list[list[Completion]]) -> list[list[str]]:
    return [[completion.text for completion in samples] for samples in answers]


# ---- which answer


def test_a_list_is_given_in_order_and_then_ends() -> None:
    model = Scripted(["a", "b", "c", "d"], name="yes-man")
    assert texts(model(["one", "two"], Sampling(n=2))) == [["a", "b"], ["c", "d"]]
    with pytest.raises(UserError, match="'yes-man' has 4 answers and was asked for one more: lengthen its script"):
        model(["three"])


def test_a_dict_answers_by_prompt_and_samples_take_turns() -> None:
    model = Scripted({"one": ["a", "b"], "two": "c"})
    assert texts(model(["two", "one"], Sampling(n=3))) == [["c", "c", "c"], ["a", "b", "a"]]
    assert texts(model(["one"])) == [["a"]]  # no memory
    with pytest.raises(UserError, match="'scripted' has no answer to 'three': add one .*'one', 'two'"):
        model(["three"])


def test_a_function_answers_by_prompt() -> None:
    model = Scripted(lambda prompt: [f"{prompt}!", f"{prompt}?"])
    assert texts(model(["so"], Sampling(n=2))) == [["so!", "so?"]]


def test_a_seed_is_where_the_turns_begin() -> None:
    model = Scripted({"one": ["a", "b", "c"]})
    assert texts(model(["one"], Sampling(n=3, seed=4))) == [["b", "c", "a"]]
    ((completion,),) = model(["one"], Sampling(seed=2))
    assert (completion.text, completion.seed) == ("c", 2)


def test_a_prompt_is_known_by_its_last_words() -> None:
    model = Scripted({"Knock": "Who is there?", "7 8": "tokens"})
    messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Knock"}]
    prompts = ["Knock", Raw("Knock"), messages, Conversation(messages), [7, 8]]
    assert texts(model(prompts)) == [["Who is there?"]] * 4 + [["tokens"]]
    assert prompt_text([{"role": "assistant", "content": None, "tool_calls": []}]) == ""


def test_a_bare_text_is_refused_as_it_would_answer_by_letters() -> None:
    with pytest.raises(UserError, match="answers is the text 'yes': give a list, a dict or a function"):
        Scripted("yes")


# ---- what an answer is


def test_an_exception_is_raised() -> None:
    model = Scripted(["fine", ValueError("broken")])
    model(["one"])
    with pytest.raises(ValueError, match="broken"):
        model(["two"])
    with pytest.raises(ValueError, match="broken"):
        list(Scripted([ValueError("broken")]).stream("one"))


def test_a_completion_passes_with_its_calls_of_tools() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": "{}"}}
    scripted = Completion("", "tool_calls", logprobs=(-0.5,), tool_calls=(call,))
    ((completion,),) = Scripted([scripted])(["one two"])
    assert completion == Completion(
        "", "tool_calls", logprobs=(-0.5,), tool_calls=(call,), prompt_tokens=2, seed=0, model="scripted"
    )


# ---- limits


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        ("one", ["one"]),
        ("  one\n two ", ["  one", "\n two", " "]),
        ("\n", ["\n"]),
        ("naïve ☂", ["naïve", " ☂"]),
    ],
)
def test_a_token_is_a_word_with_the_space_before_it(text: str, tokens: list[str]) -> None:
    assert split_tokens(text) == tokens
    assert "".join(tokens) == text
    assert count_tokens(text) == len(tokens)


@pytest.mark.parametrize(
    ("limit", "stop", "text", "finish"),
    [
        (9, (), "one two three", "stop"),
        (4, (), "one two three", "stop"),
        (3, (), "one two three", "length"),  # no room for the end
        (2, (), "one two", "length"),
        (9, ("two",), "one ", "stop"),
        (9, ("three", " two"), "one", "stop"),
        (2, ("three",), "one two", "length"),  # the stop string is never written
        (9, ("one",), "", "stop"),
    ],
)
def test_an_answer_ends_at_its_limit_or_before_the_first_stop_string(
    limit: int, stop: tuple[str, ...], text: str, finish: str
) -> None:
    model = Scripted(["one two three"] * 2)
    sampling = Sampling(max_new_tokens=limit, stop=stop)
    ((completion,),) = model(["Hi"], sampling)
    assert (completion.text, completion.finish_reason) == (text, finish)
    *pieces, last = model.stream("Hi", sampling)
    assert [piece.text for piece in pieces] == split_tokens(text)
    assert last.completion == completion


def test_tokens_are_counted() -> None:
    model = Scripted(lambda prompt: "one two")
    model(["a b c", "d"], Sampling(n=2))
    assert model.speed.prompt_tokens == 2 * (3 + 1)
    assert model.speed.new_tokens == 4 * (2 + 1)


# ---- what a test can see


def test_calls_are_remembered() -> None:
    model = Scripted(lambda prompt: "ok")
    greedy = Sampling(temperature=0.0)
    model(["a", "b"], greedy)
    list(model.stream("c"))
    assert model.calls == [Call(("a", "b"), greedy), Call(("c",), Sampling(), streamed=True)]


# ---- files


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_file_with_prompts_answers_by_prompt(tmp_path: Path) -> None:
    path = write(
        tmp_path / "script.jsonl",
        '{"prompt": "one", "completion": "a"}',
        '{"prompt": [{"role": "user", "content": "two"}], "completion": "b", "model": "kept out"}',
        '{"prompt": "one", "completion": "ç"}',
    )
    model = Scripted.from_file("scripted:script.jsonl", path)
    assert model.name == "scripted:script.jsonl"
    assert texts(model(["two", "one"], Sampling(n=2))) == [["b", "b"], ["a", "ç"]]


def test_a_file_without_prompts_answers_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "script.jsonl", '{"completion": "a"}', '{"completion": "b"}')
    assert texts(Scripted.from_file("s", path)(["x", "y"])) == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ((), "script.jsonl' holds no records: it is empty"),
        (
            ('{"completion": "a"}', '{"prompt": "one", "completion": "a"}'),
            "gives some answers a prompt and others none",
        ),
        (('{"completion": "a"}', '{"answer": "b"}'), "script.jsonl.*2.*completion"),
        (("{",), "script.jsonl.*1"),
    ],
)
def test_a_file_that_is_no_script_is_refused(lines: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(BadRecord, match=sentence):
        Scripted.from_file("s", write(tmp_path / "script.jsonl", *lines))


# ---- the other two


def test_vectors_hang_on_the_text_alone() -> None:
    embed = ScriptedEmbed(dimensions=64)
    vectors = embed(["one", "two", "one"])
    assert vectors.shape == (3, 64) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0)
    assert (vectors[0] == vectors[2]).all()
    assert abs(float(vectors[0] @ vectors[1])) < 0.9
    assert (embed(["two"])[0] == vectors[1]).all()
    assert embed([]).shape == (0, 64)


def test_scores_come_from_a_function_or_are_all_the_same() -> None:
    assert ScriptedScore(lambda prompt, completion: len(completion))(["p", "p"], ["a", "bcd"]) == [1.0, 3.0]
    assert ScriptedScore(2)(["p", "p"], ["a", "b"]) == [2.0, 2.0]
    with pytest.raises(UserError, match="2 prompts and 1 completions were given"):
        ScriptedScore()(["p", "p"], ["a"])


def test_each_fake_keeps_its_seam() -> None:
    assert isinstance(Scripted([]), Generate)
    assert isinstance(ScriptedEmbed(), Embed)
    assert isinstance(ScriptedScore(), Score)
