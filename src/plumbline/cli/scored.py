"""The record that `plumb score` reads and writes. Apart from the command, whose help must not wait for pydantic."""

from __future__ import annotations

from pydantic import FiniteFloat

from plumbline.records import AnyAnswer, Id, Record, StoredPrompt


class Scored(Record):
    """An answer with its score; it has none yet in a file that was not scored. Other fields pass through."""

    prompt_id: Id
    prompt: StoredPrompt
    completion: AnyAnswer
    score: FiniteFloat | None = None
    scorer: str | None = None
