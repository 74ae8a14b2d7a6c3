"""Rails around a model: the seam `Guard`, its verdicts, and what a list of rails says together. No torch.

A rail reads a text and says whether it may pass, may not, or may in another wording. One that cannot say (it raised, or
took too long) is "unavailable", which is not "pass": unless it was put there as one that may fail, nothing passes it.

rails.py     the rails that come with the package, and how they are named on a command line
guarded.py   any `Generate` with rails before and behind it
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Side = Literal["input", "output"]
Outcome = Literal["pass", "change", "block", "unavailable"]

log = logging.getLogger("plumbline.guard")


@dataclass(frozen=True)
class Verdict:
    """What one rail says of one text."""

    guard: str
    side: Side
    outcome: Outcome
    reason: str = ""
    """Why it does not pass as it is; never a part of the text."""
    text: str | None = None
    """With "change", the text in the wording that may pass."""


class Guard(Protocol):
    """A rail. It holds no state between texts, and may be called from several threads."""

    name: str

    def __call__(self, text: str, side: Side) -> Verdict: ...


@dataclass(frozen=True)
class Ruling:
    """What all rails say of one text together."""

    text: str
    """The text as it may pass."""
    verdicts: tuple[Verdict, ...]

    @property
    def stopped(self) -> Verdict | None:
        """The verdict for which the text may not pass, if there is one."""
        return next((each for each in self.verdicts if each.outcome in ("block", "unavailable")), None)


def check(guards: Sequence[Guard], text: str, side: Side) -> Ruling:
    """Asks the rails in order, each about the wording that the ones before it left. The first that stops ends it."""
    verdicts: list[Verdict] = []
    for guard in guards:
        try:
            verdict = guard(text, side)
        except Exception as error:  # whatever a rail raises, it did not say that the text may pass
            log.exception("the rail %r failed", guard.name)
            verdict = Verdict(guard.name, side, "unavailable", type(error).__name__)
        verdicts.append(verdict)
        if verdict.outcome == "change":
            assert verdict.text is not None, verdict
            text = verdict.text
        elif verdict.outcome != "pass":
            break
    return Ruling(text, tuple(verdicts))
