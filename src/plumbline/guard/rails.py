"""The rails that come with the package.

    personal-data          replaces personal data, with [EMAIL] and so on
    personal-data=block    refuses a text that has any
    secrets                refuses a text that has keys, tokens or passwords in it
    length=8000            refuses a longer text, in characters
    blocklist=FILE         refuses a text with a word or phrase of the file, one a line
    toxicity=0.9           refuses a text that is toxic with that probability; its card says how often it is wrong

What finds personal data and secrets knows forms, not names; `plumbline.personal_data` says what was measured of it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline import personal_data
from plumbline.errors import UserError
from plumbline.guard import Guard, Side, Verdict
from plumbline.personal_data import Finding

if TYPE_CHECKING:
    from plumbline.models import Score

INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\U000e0000-\U000e007f]")
"""Characters that change nothing that a person sees: they would split a word for a program."""


def plain(text: str) -> str:
    """The text in the one spelling that rails look at: compatible forms, nothing invisible, small letters."""
    return INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).casefold()


@lru_cache(maxsize=64)
def findings(text: str) -> tuple[Finding, ...]:
    """What is in a text; two rails ask for it one after the other."""
    return tuple(personal_data.find(text))


class PersonalData:
    """Finds e-mail addresses, numbers of cards, accounts and telephones, and street addresses."""

    name = "personal-data"

    def __init__(self, *, block: bool = False) -> None:
        self.block = block

    def __call__(self, text: str, side: Side) -> Verdict:
        found = [each for each in findings(text) if each.kind != "secret"]
        if not found:
            return Verdict(self.name, side, "pass")
        kinds = ", ".join(dict.fromkeys(each.kind for each in found))
        if self.block:
            return Verdict(self.name, side, "block", f"it holds personal data ({kinds})")
        return Verdict(self.name, side, "change", kinds, personal_data.replace(text, found))


class Secrets:
    """Finds keys, tokens and passwords."""

    name = "secrets"

    def __call__(self, text: str, side: Side) -> Verdict:
        if any(each.kind == "secret" for each in findings(text)):
            return Verdict(self.name, side, "block", "it holds what looks like a key or a password")
        return Verdict(self.name, side, "pass")


class Length:
    """Refuses what is longer than a number of characters."""

    name = "length"

    def __init__(self, most: int) -> None:
        if most < 1:
            raise UserError(f"length={most}: the most characters of a text are at least 1")
        self.most = most

    def __call__(self, text: str, side: Side) -> Verdict:
        if len(text) > self.most:
            return Verdict(self.name, side, "block", f"it has {len(text):,} characters and {self.most:,} are allowed")
        return Verdict(self.name, side, "pass")


class Blocklist:
    """Refuses texts with one of these words or phrases, however they are spelled in Unicode."""

    name = "blocklist"

    def __init__(self, phrases: Iterable[str]) -> None:
        words = [r"\s+".join(map(re.escape, plain(each).split())) for each in phrases if each.strip()]
        if not words:
            raise UserError("the blocklist is empty: give a word or a phrase on each line")
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)")

    @classmethod
    def read(cls, path: Path) -> Blocklist:
        """The list in a file, one phrase a line; lines that begin with # are for people."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the blocklist {str(path)!r}: {error}") from error
        return cls(line for line in lines if not line.startswith("#"))

    def __call__(self, text: str, side: Side) -> Verdict:
        if self._pattern.search(plain(text)):
            return Verdict(self.name, side, "block", "it holds a phrase of the blocklist")
        return Verdict(self.name, side, "pass")


class Scored:
    """Refuses texts that a classifier gives at least this probability."""

    def __init__(self, score: Score, most: float) -> None:
        if not 0.0 < most < 1.0:
            raise UserError(f"{score.name}={most}: the probability lies between 0 and 1")
        self.name = score.name
        self.score = score
        self.bound = math.log(most / (1.0 - most))

    def __call__(self, text: str, side: Side) -> Verdict:
        (logit,) = self.score([""], [text])
        if math.isnan(logit):
            raise ValueError(f"{self.name} gave no number")
        if logit >= self.bound:
            return Verdict(self.name, side, "block", f"the classifier {self.name!r} says so")
        return Verdict(self.name, side, "pass")


def toxicity(value: str) -> Guard:
    from plumbline.models.score import load_scorer

    return Scored(load_scorer("toxicity"), float(value or 0.9))


GUARDS: dict[str, Callable[[str], Guard]] = {
    "personal-data": lambda value: PersonalData(block=one_of(value, "replace", "block") == "block"),
    "secrets": lambda value: Secrets(),
    "length": lambda value: Length(int(value or 32_000)),
    "blocklist": lambda value: Blocklist.read(Path(value)),
    "toxicity": toxicity,
}
"""Rails by name, each made from what stands after its equals sign."""


def one_of(value: str, *allowed: str) -> str:
    if value and value not in allowed:
        raise UserError(f"{value!r} is not one of: {', '.join(allowed)}")
    return value or allowed[0]


def make_guards(named: Sequence[str]) -> list[Guard]:
    """The rails that are named, as NAME or NAME=VALUE, in that order."""
    made: list[Guard] = []
    for each in named:
        name, _, value = each.partition("=")
        if name not in GUARDS:
            raise UserError(f"there is no rail {name!r}: take some of {', '.join(GUARDS)}")
        try:
            made.append(GUARDS[name](value))
        except ValueError:
            raise UserError(f"the rail {each!r}: what stands after the equals sign must be a number") from None
    return made
