"""Labelled texts: a text, alone or after a prompt, and the class that people put it into.

    {"text", "label"}                      a text alone
    {"prompt", "completion", "label"}      an answer to a prompt; our ratings are this, with the labels true and false
    {"messages", "label"}, and LLaMA-Factory's shapes, as ratings have them (`plumbline.formats`)

A label is a name, a whole number, or true or false. The classes are the labels of what is learned, numbers in their
own order and names in that of the alphabet: of 0 and 1, as of false and true, the second is the one that means yes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, model_validator

from plumbline.align.data import Part, nothing_left, part_of
from plumbline.errors import BadRecord, UserError
from plumbline.files import shown
from plumbline.formats import Line, read_lines, with_answer
from plumbline.models.score import Reads
from plumbline.records import AnyAnswer, Id, Message, Record, Split, StoredPrompt, checked_prompt

SHAPES = ("messages", "conversations", "instruction", "completion")
"""Fields by which a line without `text` is known to hold an answer."""


def label_name(value: object) -> str:
    """The label as a name; JSON's true and false are called so."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, str) and value.strip()):
        return str(value)
    raise ValueError(f"is {shown(value)}: a label is a name, a whole number, or true or false")


def not_empty(text: str) -> str:
    if not text.strip():
        raise ValueError(f"is {shown(text)}: there is nothing in it to put into a class")
    return text


class Labelled(Record):
    """A text and its class. Lines about one prompt, or of one text, are held out together."""

    prompt: StoredPrompt = ""
    """Empty where the text stands alone."""
    text: Annotated[AnyAnswer, AfterValidator(not_empty)]
    label: Annotated[str, BeforeValidator(label_name)]
    prompt_id: Id
    split: Split | None = None

    @classmethod
    def _asked(cls, data: Line) -> str | list[Message]:
        return checked_prompt(data.get("prompt") or data.get("text"))

    @model_validator(mode="before")
    @classmethod
    def _translate(cls, line: Line) -> dict[str, Any]:
        label = line.get("label", line.get("kto_tag"))
        if label is None:
            raise BadRecord("`label` is missing: a labelled text has the name or the number of its class")
        if "text" in line:
            return {**line, "label": label}
        if not any(name in line for name in SHAPES):
            there = ", ".join(f"`{name}`" for name in line)
            raise BadRecord(f"has no `text`, and no `prompt` with a `completion` (there is {there})")
        prompt, text = with_answer(line)
        return {**line, "prompt": prompt, "text": text, "label": label}


@dataclass(frozen=True)
class LabelledTexts:
    """What the files hold: the texts to learn and those held out, their classes, and what of them is read."""

    train: list[Labelled]
    held_out: list[Labelled]
    classes: tuple[str, ...]
    reads: Reads


def load_labelled(paths: Sequence[str], left_out: list[str], *, reads: str, share: float) -> LabelledTexts:
    """Reads files of labelled texts. What is marked as test is kept for later and not looked at here."""
    parts: dict[Part, list[Labelled]] = {"train": [], "validation": [], "test": []}
    for record in read_lines(paths, Labelled, left_out):
        parts[part_of(record, share)].append(record)
    classes = classes_of((record.label for record in parts["train"]), paths, left_out)
    held_out = []
    for record in parts["validation"]:
        if record.label in classes:
            held_out.append(record)
        else:
            left_out.append(f"{about(record)}: it is held out, and no text that is learned has its label")
    return LabelledTexts(parts["train"], held_out, classes, reads_of([*parts["train"], *held_out], reads))


def about(record: Labelled) -> str:
    """The record as a message names it."""
    return f"the text {shown(record.text)} (label {record.label!r})"


def classes_of(labels: Iterable[str], paths: Sequence[str], left_out: Sequence[str]) -> tuple[str, ...]:
    """The different labels in order; BadRecord where there are fewer than two."""
    found = set(labels)
    if len(found) == 1:
        raise BadRecord(
            nothing_left(paths, f"nothing but the label {found.pop()!r}, and a classifier needs two", left_out)
        )
    if not found:
        raise BadRecord(nothing_left(paths, "no labelled text", left_out))
    numbers = all(label.lstrip("-").isdecimal() for label in found)
    return tuple(sorted(found, key=int if numbers else None))


def reads_of(records: Sequence[Labelled], reads: str) -> Reads:
    """What of the records is read, as was asked, else the pair where they have prompts."""
    with_prompt = sum(bool(record.prompt) for record in records)
    if reads == "completion" or (not reads and not with_prompt):
        return "completion"
    if with_prompt < len(records):
        raise UserError(
            f"{with_prompt} of {len(records)} labelled texts have a prompt and the others stand alone: pass "
            "--reads completion to leave the prompts out, or give every text its prompt"
        )
    return "pair"
