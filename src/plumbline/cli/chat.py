"""`plumb chat`: a conversation on the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from plumbline.cli.loading import Engine, Mode, ModelName, named, open_model
from plumbline.cli.prompts import System, tokenizer_of
from plumbline.cli.sampling import SamplingOptions, takes_sampling
from plumbline.cli.terminal import Stream, complain, note
from plumbline.errors import PlumblineError, UserError

if TYPE_CHECKING:
    from plumbline.models import Generate, Sampling
    from plumbline.models.tokenizer import Tokenizer
    from plumbline.records import Message

HELP = """\
/system TEXT   tell the model how to behave, from now on
/reset         forget the conversation
/save FILE     add the conversation to a file (JSON Lines)
/quit          leave; Ctrl-D does too
Ctrl-C         stop an answer"""


@takes_sampling(without=("n", "truncate"))
def chat(
    sampling: SamplingOptions,
    system: System = None,
    model: ModelName = None,
    engine: Engine = "auto",
    mode: Mode = None,
) -> None:
    """Talk with a model.

    Answers appear as they are written. /help lists what can be typed besides; Ctrl-C stops an answer, not the program.
    """
    model = named(model)
    drawn = sampling.resolve()
    tokenizer = tokenizer_of(model)
    talk = Talk(open_model(model, engine, mode), drawn, tokenizer, system)
    note(f"{talk.model.name}. /help lists the commands, Ctrl-D leaves.")
    while True:
        try:
            line = read_line()
            if line in (None, "/quit"):
                return
            talk.hear(line)
        except KeyboardInterrupt:
            note("\n/quit or Ctrl-D leaves")
        except PlumblineError as error:  # it ends the turn, not the conversation
            complain(str(error))


def read_line() -> str | None:
    """The next line, None at the end. On a terminal with editing and history; from a pipe without a prompt."""
    person = sys.stdin.isatty() and sys.stdout.isatty()
    if person:
        import readline  # noqa: F401  (importing it is what makes `input` editable)
    try:
        return input("\n> " if person else "").strip()
    except EOFError:
        if person:
            typer.echo()
        return None


class Talk:
    """A conversation. When the model's window is full, its oldest turns are forgotten."""

    def __init__(self, model: Generate, sampling: Sampling, tokenizer: Tokenizer | None, system: str | None) -> None:
        self.model = model
        self.sampling = sampling
        self.tokenizer = tokenizer
        self.system = system
        self.turns: list[Message] = []

    def hear(self, line: str) -> None:
        """Does what was typed: a command, or something to answer."""
        command, _, rest = line.partition(" ")
        match command:
            case "":
                pass
            case "/help":
                note(HELP)
            case "/system":
                self.system = rest.strip() or None
                note("the model has new instructions" if self.system else "the model has no instructions")
            case "/reset":
                self.turns.clear()
                note("forgotten")
            case "/save":
                self.save(rest.strip())
            case _ if command.startswith("/"):
                raise UserError(f"{command!r} is no command: /help lists them")
            case _:
                self.say(line)

    def messages(self) -> list[Message]:
        instructions: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return [*instructions, *self.turns]

    def say(self, text: str) -> None:
        """Asks and prints the answer as it comes. A question without an answer is taken back."""
        before = list(self.turns)
        self.turns.append({"role": "user", "content": text})
        self.make_room()
        answer, stream = "", Stream()
        try:
            for chunk in self.model.stream(self.messages(), self.sampling):
                answer += chunk.text  # first: what is on the screen must not be forgotten
                stream.write(chunk.text)
        except KeyboardInterrupt:
            stream.write(" (stopped)")
            stream.end()
        else:
            stream.end()
        finally:
            self.turns = [*self.turns, {"role": "assistant", "content": answer}] if answer else before

    def make_room(self) -> None:
        """Forgets the oldest questions with their answers until the rest leaves room for an answer."""
        if self.tokenizer is None:  # an endpoint knows its own window
            return
        from plumbline.models.chat import encode_prompt

        window = self.tokenizer.window
        room = window - min(self.sampling.max_new_tokens, window // 2)
        forgotten = 0
        while len(self.turns) > 1 and len(encode_prompt(self.tokenizer, self.messages())) > room:
            del self.turns[:2]
            forgotten += 1
        if forgotten:
            note(f"(the model's window of {window} tokens is full: forgot the oldest {forgotten} of your questions)")

    def save(self, file: str) -> None:
        from plumbline.records import Demonstration, write_jsonl

        if not file:
            raise UserError("/save needs the name of a file")
        if not self.turns:
            raise UserError("there is nothing to save yet")
        write_jsonl(Path(file), [Demonstration.model_validate({"messages": self.messages()})], append=True)
        note(f"saved to {file}")
