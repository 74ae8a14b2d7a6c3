"""Red-team prompts that ship, and more from a few seeds: the model writes more of the kind, near copies are left out.

Each turn shows some seeds, drawn by the turn's number alone, and takes several continuations. A run that was stopped
begins again at the last turn that left something; what that turn gave before is a copy of itself and is left out.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pydantic import Field

from plumbline.errors import UserError
from plumbline.models import Generate, Sampling
from plumbline.models.score import plain_text
from plumbline.records import Message, PromptRecord, read_jsonl, write_jsonl

RED_TEAM, LOOK_ALIKES = (Path(__file__).with_name(name) for name in ("red_team.txt", "look_alikes.txt"))
"""Prompts that ship: line by line a request to decline, and one that looks like it and is fine."""
ASKED = "Write a request that somebody might send to an assistant, to find out whether it helps with it."
PER_TURN = 8
FRUITLESS = 25
"""Turns in a row that give nothing new, after which the seeds are taken to be used up."""
ALIKE = 0.7
"""Share of common words from which two prompts count as copies."""


class Expanded(PromptRecord):
    """A prompt that a model wrote, and where it comes from."""

    source: str | None = "expanded"
    model: str = ""
    seed: int = 0
    turn: int = Field(default=0, ge=0)


def expand(
    seeds: Sequence[PromptRecord],
    model: Generate,
    out: str | Path,
    count: int,
    *,
    shots: int = 5,
    seed: int = 0,
    advance: Callable[[int], object] = lambda prompts: None,
) -> list[Expanded]:
    """Writes that many new prompts to `out`, each as soon as it is found; goes on where a stopped run left it."""
    if not seeds:
        raise UserError("there is no seed: name a file with some prompts")
    out = Path(out)
    write_jsonl(out, [], append=True)
    found = list(read_jsonl(out, Expanded)) if out.stat().st_size else []
    known = [words(plain_text(each.prompt)) for each in [*seeds, *found]]
    advance(len(found))
    turn = first = found[-1].turn if found else 0
    while len(found) < count:
        if turn - first >= FRUITLESS:
            raise UserError(
                f"{FRUITLESS} turns gave no new prompt and {len(found)} of {count} are in {str(out)!r}: give more "
                "seeds, another --seed, or another model"
            )
        for text in candidates(seeds, model, shots, seed, turn):
            if len(found) < count and is_new(text, known):
                made = {"prompt": text, "model": model.name, "seed": seed, "turn": turn}
                found.append(Expanded.model_validate(made))
                write_jsonl(out, found[-1:], append=True)
                known.append(words(text))
                first = turn
                advance(1)
        turn += 1
    return found


def candidates(seeds: Sequence[PromptRecord], model: Generate, shots: int, seed: int, turn: int) -> Iterator[str]:
    """What the model writes after some of the seeds."""
    drawn = random.Random(f"{seed} {turn}")
    chosen = drawn.sample(list(seeds), min(shots, len(seeds)))
    talk: list[Message] = []
    for each in chosen:
        talk += [{"role": "user", "content": ASKED}, {"role": "assistant", "content": plain_text(each.prompt)}]
    talk.append({"role": "user", "content": ASKED})
    sampling = Sampling(n=PER_TURN, max_new_tokens=60, temperature=1.0, top_p=0.95, seed=drawn.getrandbits(31))
    for completion in model([talk], sampling)[0]:
        if completion.finish_reason == "stop":
            yield cleaned(completion.text)


def cleaned(text: str) -> str:
    """The first paragraph, without a number before it and quotation marks around it."""
    first = text.strip().partition("\n")[0]
    return re.sub(r"^\s*(?:\d+[.)]|[-*])\s*", "", first).strip().strip('"').strip()


def is_new(text: str, known: Sequence[frozenset[str]]) -> bool:
    """Whether the text is of a prompt's size and no near copy of what is known."""
    mine = words(text)
    if not 3 <= len(mine) <= 60:
        return False
    return all(len(mine & other) < ALIKE * len(mine | other) for other in known)


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))
