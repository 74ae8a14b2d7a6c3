"""`plumb chat`: a conversation by pipe, and at a terminal with Ctrl-C."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from cli.conftest import Terminal, read_lines, write_script
from models.fake_server import FakeServer, Handler, Request, piece, speak, sse
from plumbline.cli.chat import Talk
from plumbline.errors import UserError
from plumbline.models import Sampling
from plumbline.models.chat import encode_prompt
from plumbline.models.scripted import Scripted
from plumbline.models.tokenizer import Tokenizer

Plumb = Callable[..., Result]


def test_a_conversation_by_pipe_is_the_answers_and_nothing_else(plumb: Plumb, script: str) -> None:
    result = plumb("chat", "--model", script, typed="Hi\n\nBye\n/quit\nHi\n")
    assert (result.exit_code, result.stdout) == (0, "Hello.\nAu revoir.\n")


def test_the_end_of_the_input_is_the_end(plumb: Plumb, script: str) -> None:
    result = plumb("chat", "--model", script, typed="Hi\n")
    assert (result.exit_code, result.stdout) == (0, "Hello.\n")


def test_an_error_ends_the_turn_and_not_the_conversation(plumb: Plumb, script: str) -> None:
    result = plumb("chat", "--model", script, typed="What?\nHi\n/nonsense\nBye\n")
    assert (result.exit_code, result.stdout) == (0, "Hello.\nAu revoir.\n")
    assert "has no answer to 'What?'" in result.stderr
    assert "plumb: '/nonsense' is no command: /help lists them\n" in result.stderr


def test_a_saved_conversation_is_a_demonstration(plumb: Plumb, script: str, tmp_path: Path) -> None:
    typed = "/save talk.jsonl\nHi\n/save\n/save talk.jsonl\n/reset\n/save talk.jsonl\nBye\n/save talk.jsonl\n"
    result = plumb("chat", "--model", script, "--system", "Be brief.", typed=typed)
    assert result.stderr.count("plumb: there is nothing to save yet\n") == 2
    assert result.stderr.count("plumb: /save needs the name of a file\n") == 1
    system = {"role": "system", "content": "Be brief."}
    assert [line["messages"] for line in read_lines(tmp_path / "talk.jsonl")] == [
        [system, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}],
        [system, {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "Au revoir."}],
    ]


def talk_with(model: Scripted, *lines: str, tokenizer: Tokenizer | None = None, system: str | None = None) -> Talk:
    talk = Talk(model, Sampling(max_new_tokens=64), tokenizer, system)
    for line in lines:
        talk.hear(line)
    return talk


def test_the_model_sees_the_whole_conversation(capsys: pytest.CaptureFixture[str]) -> None:
    model = Scripted(["one", "two", "three", "four"])
    talk_with(model, "first", "/system Be kind.", "second", "/reset", "third", "/system", "fourth")
    seen = [[(each["role"], each["content"]) for each in call.prompts[0]] for call in model.calls]  # type: ignore[call-overload,index,union-attr]
    first = [("user", "first")]
    second = [*first, ("assistant", "one"), ("user", "second")]
    third = [("user", "third")]
    kind = ("system", "Be kind.")
    assert seen == [first, [kind, *second], [kind, *third], [*third, ("assistant", "three"), ("user", "fourth")]]
    assert capsys.readouterr().out == "one\ntwo\nthree\nfour\n"


def test_a_question_without_an_answer_is_taken_back() -> None:
    model = Scripted(["one", UserError("the endpoint is tired"), "two"])
    talk = talk_with(model, "first")
    with pytest.raises(UserError, match="tired"):
        talk.hear("second")
    talk.hear("third")
    assert [each["content"] for each in talk.turns] == ["first", "one", "third", "two"]


def test_a_full_window_forgets_the_oldest_turns_and_says_so(
    tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each question and answer take about a fifth of the window of 512, of which 64 are kept free."""
    tokenizer = Tokenizer(tiny_llama)
    model = Scripted(lambda prompt: "Open the windows at night. " * 5)
    talk = talk_with(
        model, *(f"{number}: My house is too hot." for number in range(9)), tokenizer=tokenizer, system="Hm."
    )
    sizes = [len(encode_prompt(tokenizer, call.prompts[0])) for call in model.calls]
    assert max(sizes) <= 512 - 64 < max(sizes) + sizes[1] - sizes[0]
    roles = [each["role"] for each in talk.messages()]
    assert roles == ["system", *["user", "assistant"] * (len(talk.turns) // 2)]
    assert talk.turns[-2]["content"] == "8: My house is too hot."
    assert 4 <= len(talk.turns) < 18
    said = capsys.readouterr().err
    assert said.count("the model's window of 512 tokens is full: forgot the oldest") == (18 - len(talk.turns)) // 2


def test_a_question_that_alone_is_too_long_is_refused_by_the_model(plumb: Plumb, tiny_llama: Path) -> None:
    args = ["chat", "--model", tiny_llama, "--engine", "transformers", "--max-new-tokens", 2]
    result = plumb(*args, typed="knock " * 600 + "\nHi\n")
    assert result.exit_code == 0
    assert "tokens and the model's window leaves room for 511" in result.stderr
    assert result.stderr.count("plumb: ") == 1


# ---- at a terminal


class Halting(FakeServer):
    """A server whose first answer stops half-way and never ends."""

    def __init__(self) -> None:
        super().__init__(self.halt, speak(Scripted(lambda prompt: "All is well again.")))
        self.halted = threading.Event()

    def halt(self, handler: Handler, request: Request) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        for event in sse(piece({"role": "assistant", "content": "Once upon a time there was "})):
            handler.wfile.write(event)
        handler.wfile.flush()
        self.over.wait(60)
        handler.close_connection = True


@pytest.fixture
def server() -> Iterator[Halting]:
    with Halting() as server:
        yield server


def test_ctrl_c_stops_the_answer_and_not_the_program(
    server: Halting, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    talk = terminal("chat", "--model", f"openai:m@{server.url}")
    talk.read_until("> ")
    talk.type("Tell me a story\n")
    talk.read_until("there was")
    talk.interrupt()
    talk.read_until("(stopped)")
    talk.read_until("> ")
    talk.type("Go on\n")
    talk.read_until("All is well again.")
    talk.read_until("> ")
    talk.interrupt()
    talk.type("\n")  # an interrupt in the moment before Python waits for a key is seen with the next one
    talk.read_until("/quit or Ctrl-D leaves")
    talk.read_until("> ")
    talk.type("/save talk.jsonl\n")
    talk.read_until("saved to talk.jsonl")
    talk.read_until("> ")  # only then does Ctrl-D reach the editing of the line
    talk.type("\x04")
    talk.read_rest()
    assert talk.process.returncode == 0
    (line,) = read_lines(tmp_path / "talk.jsonl")
    assert [each["content"] for each in line["messages"]] == [
        "Tell me a story",
        "Once upon a time there was ",
        "Go on",
        "All is well again.",
    ]


def test_ctrl_c_while_generate_streams_leaves_what_was_written(
    server: Halting, terminal: Callable[..., Terminal]
) -> None:
    run = terminal("generate", "--prompt", "Tell me a story", "--model", f"openai:m@{server.url}")
    run.read_until("there was")
    run.interrupt()
    assert run.read_rest().strip() == ""
    assert run.process.returncode == 130


def test_lines_break_between_words_at_a_terminal(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    long = " ".join(["extraordinarily"] * 12) + "\n\nend"
    talk = terminal("chat", "--model", write_script(tmp_path / "s.jsonl", {"Hi": [long]}))
    talk.read_until("> ")
    talk.type("Hi\n")
    shown = talk.read_until("end")
    lines = [line.strip() for line in shown.splitlines()][1:]
    assert lines == [" ".join(["extraordinarily"] * 5)] * 2 + [" ".join(["extraordinarily"] * 2), "", "end"]
    assert json.loads((tmp_path / "s.jsonl").read_text())["completion"] == long
