"""The prompts of a command: read from a file, framed with a system message, checked against the window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plumbline.cli.terminal import waiting
from plumbline.errors import PromptTooLong, UserError

if TYPE_CHECKING:
    from plumbline.models import Sampling
    from plumbline.models.tokenizer import Tokenizer
    from plumbline.records import Message, PromptRecord

System = Annotated[str | None, typer.Option("--system", help="A system message before the prompt.", metavar="TEXT")]
RawText = Annotated[bool, typer.Option("--raw", help="Send the text as it is, without the chat template.")]


def one_prompt(text: str) -> PromptRecord:
    from plumbline.records import PromptRecord

    if not text.strip():
        raise UserError(f"the prompt is {text!r}: give it some text")
    return PromptRecord.model_validate({"prompt": text})


def read_prompts(path: Path) -> list[PromptRecord]:
    """The prompts of a .txt file (one a line) or of a JSON Lines file of prompt records; each id once."""
    from plumbline.records import PromptRecord, read_jsonl

    if path.suffix == ".txt":
        found = [one_prompt(line.strip()) for line in read_text(path).split("\n") if line.strip()]
        if not found:
            raise UserError(f"{str(path)!r} holds no prompt: put one on each line")
    else:
        found = list(read_jsonl(path, PromptRecord))
    by_id: dict[str, PromptRecord] = {}
    for record in found:
        if by_id.setdefault(record.prompt_id, record).prompt != record.prompt:
            raise UserError(f"{str(path)!r} has two different prompts called {record.prompt_id!r}: rename one")
    return list(by_id.values())


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # a byte order mark is no part of the first prompt
    except UnicodeDecodeError as error:
        raise UserError(f"{str(path)!r} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error


def frame(record: PromptRecord, *, system: str | None, raw: bool) -> PromptRecord:
    """The prompt as it is asked: with the system message, or marked as raw text."""
    from plumbline.models import Raw

    prompt = record.prompt
    if raw:
        if system is not None or not isinstance(prompt, str):
            raise UserError(
                f"--raw sends plain text, so prompt {record.prompt_id!r} can have no messages: leave out --raw"
            )
        return record.model_copy(update={"prompt": Raw(prompt)})
    if system is None:
        return record
    turns: list[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return record.model_copy(update={"prompt": [{"role": "system", "content": system}, *turns]})


def tokenizer_of(model: str) -> Tokenizer | None:
    """The tokenizer of a local model, brought here and converted first where that is needed; None for an endpoint."""
    from plumbline.models.resolve import resolve
    from plumbline.models.tokenizer import Tokenizer

    with waiting(f"looking up {model}"):
        source = resolve(model)
        return Tokenizer(source.folder) if source.kind == "folder" else None


def check_fit(
    tokenizer: Tokenizer | None, prompts: Sequence[PromptRecord], sampling: Sampling, path: Path | None = None
) -> None:
    """Refuses a prompt that is too long before any time is spent, and names it and its line in the file `path`.

    An endpoint judges for itself.
    """
    from plumbline.models.decoding import fit_prompt

    if tokenizer is None:
        return
    for record in prompts:
        try:
            fit_prompt(tokenizer, record.prompt, sampling)
        except PromptTooLong as error:
            line = f" (line {line_of(record.prompt_id, path)} of {str(path)!r})" if path is not None else ""
            raise PromptTooLong(error.tokens, error.limit, f"prompt {record.prompt_id!r}{line}") from None


def line_of(prompt_id: str, path: Path) -> int:
    """The line of a file, known to be good, on which that prompt stands first."""
    from plumbline.files import parse_line
    from plumbline.records import PromptRecord

    for number, line in enumerate(read_text(path).split("\n"), 1):
        if text := line.strip():
            record = one_prompt(text) if path.suffix == ".txt" else parse_line(text.encode(), PromptRecord, 0)
            if record.prompt_id == prompt_id:
                return number
    raise AssertionError(f"{prompt_id!r} is not in {str(path)!r}")


def sent_text(tokenizer: Tokenizer | None, prompt: PromptRecord, sampling: Sampling) -> str:
    """The text that the model really sees; for an endpoint, which applies a template of its own, the messages."""
    import json

    from plumbline.models.chat import conversation, render
    from plumbline.models.decoding import fit_prompt

    if tokenizer is not None:
        return render(tokenizer, fit_prompt(tokenizer, prompt.prompt, sampling))
    return json.dumps(list(conversation(prompt.prompt).messages), ensure_ascii=False, indent=2)
