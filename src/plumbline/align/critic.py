"""What a critic is asked: first what is wrong with an answer, then for a better one. And how its words are cleaned.

Small models follow examples rather than orders, so worked examples go before the case, as turns of the same
conversation. A critic that can be held to a grammar is held to the openings of its principle when it revises: left to
itself, the bundled model writes the answer it has just criticised once more.
"""

from __future__ import annotations

import json
import re

from plumbline.align.principles import Constitution, Principle, Worked
from plumbline.models import Prompt
from plumbline.models.score import plain_text
from plumbline.records import Message

LONGEST = 1200
"""Characters of a prompt and of an answer that a critic reads."""

CASE = "Request: {prompt}\n\nAnswer: {answer}\n\n{request}"
BRIEF = "Write the critique in one or two sentences."
ALONE = "Write only the new answer, as the person shall read it."


def critique_prompt(
    constitution: Constitution, principle: Principle, prompt: Prompt, answer: str, *, shots: int
) -> list[Message]:
    """The conversation whose next turn is the critique."""
    turns: list[Message] = []
    for example in nearest_last(constitution, principle, shots):
        turns += critique_turns(worked_principle(constitution, example, principle), example)
    return [*turns, user(case(prompt, answer, f"{principle.critique} {BRIEF}"))]


def revision_prompt(
    constitution: Constitution, principle: Principle, prompt: Prompt, answer: str, critique: str, *, shots: int
) -> list[Message]:
    """The conversation whose next turn is the revision; each example shows both turns."""
    turns: list[Message] = []
    for example in nearest_last(constitution, principle, shots):
        of = worked_principle(constitution, example, principle)
        turns += [*critique_turns(of, example), user(f"{of.revision} {ALONE}"), assistant(example.revision)]
    return [
        *turns,
        user(case(prompt, answer, f"{principle.critique} {BRIEF}")),
        assistant(critique or "Something about it is wrong."),
        user(f"{principle.revision} {ALONE}"),
    ]


def brief_revision_prompt(
    constitution: Constitution, principle: Principle, prompt: Prompt, *, shots: int
) -> list[Message]:
    """The same for a critic too small to read its own critique: requests with good answers, and the request at hand.

    The bundled model, shown an answer and a critique, copies from both.
    """
    turns: list[Message] = []
    for example in nearest_last(constitution, principle, shots):
        turns += [user(example.prompt), assistant(example.revision)]
    return [*turns, user(cut(plain_text(prompt)))]


def nearest_last(constitution: Constitution, principle: Principle, shots: int) -> tuple[Worked, ...]:
    """The worked examples to show; what stands last weighs most."""
    return constitution.examples_for(principle, shots)[::-1]


def critique_turns(principle: Principle, example: Worked) -> list[Message]:
    asked = case(example.prompt, example.answer, f"{principle.critique} {BRIEF}")
    return [user(asked), assistant(example.critique)]


def worked_principle(constitution: Constitution, example: Worked, principle: Principle) -> Principle:
    """The example's principle; the one at hand where only some domains were chosen."""
    return next((each for each in constitution.principles if each.id == example.principle), principle)


def case(prompt: Prompt, answer: str, request: str) -> str:
    return CASE.format(prompt=cut(plain_text(prompt)), answer=cut(answer), request=request)


def cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


# ---- what it says


def opening_grammar(openings: tuple[str, ...]) -> str:
    """A grammar of one sentence that begins with an opening: what a weak critic goes on to say takes it back."""
    choices = " | ".join(json.dumps(f"{opening} ") for opening in openings)
    return f"start: opening rest\nopening: {choices}\nrest: /[^\\n.!?]{{4,}}[.!?]/"


LEAD_IN = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok|absolutely)[!.,:]\s+)?"
    r"(?:(?:here(?:'s| is| are)|this is|the|my|a)\s+[^\n:]{0,60}"
    r"(?:answer|response|reply|revision|critique|version)[^\n:]{0,40}:\s*)?"
    r"(?:(?:revised |new |better )?(?:answer|response|revision|critique)\s*:\s*)?",
    re.IGNORECASE,
)


def stripped(text: str) -> str:
    """A critic's words without "Sure, here is a revised answer:" and without quotation marks around the whole.

    Sentences that it says again are left out, and one that is cut off at the end.
    """
    text = text.strip()
    rest = text[LEAD_IN.match(text).end() :].strip()  # type: ignore[union-attr]  # it matches the empty text too
    text = rest or text
    quoted = len(text) > 2 and text[0] == '"' == text[-1] and '"' not in text[1:-1]
    return whole(text[1:-1].strip() if quoted else text)


def whole(text: str) -> str:
    """The text without repeated sentences, and without a last one that has no end where another stands before it, nor
    the number before that one in a list."""
    pieces = re.split(r"(?<=[.!?])(\s+)", text)
    sentences, gaps = pieces[::2], ["", *pieces[1::2]]
    if len(sentences) > 1 and not re.search(r"""[.!?:;)\]"'`*]$""", sentences[-1]):
        sentences = sentences[:-1]
        while len(sentences) > 1 and re.fullmatch(r"\d+[.)]", sentences[-1]):
            sentences = sentences[:-1]
    seen: set[str] = set()
    kept = ""
    for gap, sentence in zip(gaps, sentences, strict=False):
        if sentence not in seen or len(sentence) < 4:  # "1." may come again
            kept += (gap if kept else "") + sentence
        seen.add(sentence)
    return kept
