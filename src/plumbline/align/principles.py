"""A constitution: the principles by which answers are criticised, revised and compared, as a YAML file.

    name: house rules
    version: "1"
    principles:
      - id: no-crime                  unique in the file
        domain: harmless              a word to choose principles by
        critique: ...                 what the critic is asked about an answer
        revision: ...                 how it is asked to write a better one
        comparison: ...               what a judge is asked about two answers
        labels: [safe, harmful]       what one answer is called that keeps to it, and one that does not
        openings: [...]               optional: how a revision may begin, where the critic can be held to it
    examples:                         optional: solved cases, which small models follow better than orders
      - principle: no-crime
        prompt: ...
        answer: ...
        critique: ...
        revision: ...

`constitution.yaml` beside this file is the one that ships: helpful, honest, harmless.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from plumbline.errors import BadRecord, UserError
from plumbline.files import parse, shown

SHIPPED = Path(__file__).with_name("constitution.yaml")

Text = Annotated[str, Field(min_length=1)]


class Entry(BaseModel):
    """What every part of a constitution has in common."""

    model_config = ConfigDict(frozen=True, extra="allow", str_strip_whitespace=True)


class Principle(Entry):
    """One principle, with the three requests that put it to work."""

    id: Text
    domain: Text
    critique: Text
    revision: Text
    comparison: Text
    labels: tuple[Text, Text]
    openings: tuple[Text, ...] = ()


class Worked(Entry):
    """An answer that breaks a principle, what is wrong with it, and a better one."""

    principle: Text
    prompt: Text
    answer: Text
    critique: Text
    revision: Text


class Constitution(Entry):
    """Principles and worked examples, in the order of their file."""

    name: Text
    version: Annotated[Text, Field(coerce_numbers_to_str=True)]
    principles: tuple[Principle, ...]
    examples: tuple[Worked, ...] = ()

    @property
    def digest(self) -> str:
        """The SHA-256 of all it says."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def within(self, domains: Sequence[str]) -> Constitution:
        """The same with the principles of those domains alone; of all without any."""
        known = list(dict.fromkeys(principle.domain for principle in self.principles))
        for domain in domains:
            if domain not in known:
                raise UserError(f"the constitution {self.name!r} has no domain {domain!r}: it has {', '.join(known)}")
        chosen = [each for each in self.principles if not domains or each.domain in domains]
        return self.model_copy(update={"principles": tuple(chosen)})

    def choose(self, seed: int, prompt_id: str, turn: int = 0) -> Principle:
        """The principle for a prompt in a round: a draw that hangs on nothing but these three."""
        draw = hashlib.sha256(f"{seed} {turn} {prompt_id}".encode()).digest()
        return self.principles[int.from_bytes(draw[:8], "big") % len(self.principles)]

    def examples_for(self, principle: Principle, most: int) -> tuple[Worked, ...]:
        """At most that many worked examples: of the principle, then of its domain, then any."""
        domain = {each.id: each.domain for each in self.principles}

        def distance(example: Worked) -> int:
            return (
                0
                if example.principle == principle.id
                else 1
                if domain.get(example.principle) == principle.domain
                else 2
            )

        return tuple(sorted(self.examples, key=distance)[:most])


# ---- read from its file


def read_constitution(path: str | Path = "") -> Constitution:
    """The constitution in a YAML file, the one that ships without a path. BadRecord names file, entry and field."""
    import yaml  # type: ignore[import-untyped]

    file = Path(path) if path else SHIPPED
    try:
        given = yaml.safe_load(file.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read the constitution {str(file)!r}: {error.strerror}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise BadRecord(f"{str(file)!r} is not YAML: {getattr(error, 'problem', error)}{line}") from error
    if not isinstance(given, Mapping):
        raise BadRecord(f"{str(file)!r} holds {shown(given)}: a constitution has name, version and principles")
    entries = {part: read_entries(given, part, kind, file) for part, kind in PARTS.items()}
    constitution = read_entry({**given, **entries}, Constitution, f"{str(file)!r}")
    check(constitution, file)
    return constitution


PARTS: dict[str, type[Principle] | type[Worked]] = {"principles": Principle, "examples": Worked}

E = TypeVar("E", bound=Entry)


def read_entries(given: Mapping[str, Any], part: str, kind: type[E], file: Path) -> list[E]:
    """The entries of one list of the file."""
    listed = given.get(part) or []
    if not isinstance(listed, list):
        raise BadRecord(f"{str(file)!r}: `{part}` is {shown(listed)}: it must be a list")
    return [read_entry(entry, kind, f"{str(file)!r}: {place(part, n, entry)}") for n, entry in enumerate(listed, 1)]


def place(part: str, number: int, entry: object) -> str:
    name = entry.get("id") if isinstance(entry, Mapping) else None
    return f"{part.removesuffix('s')} {number}" + (f" ({name!r})" if name else "")


def read_entry(given: object, kind: type[E], where: str) -> E:
    """The entry, or one sentence about what is wrong with it."""
    if not isinstance(given, Mapping):
        raise BadRecord(
            f"{where} is {shown(given)}: it must hold {', '.join(f'`{name}`' for name in kind.model_fields)}"
        )
    try:
        entry = parse(kind, given)
    except BadRecord as error:
        raise BadRecord(f"{where}: {error}") from None
    for name in entry.model_extra or ():
        near = get_close_matches(name, kind.model_fields, 1)
        hint = f"is `{near[0]}` meant?" if near else f"there are {', '.join(f'`{each}`' for each in kind.model_fields)}"
        raise BadRecord(f"{where}: `{name}` is no field of it: {hint}")
    return entry


def check(constitution: Constitution, file: Path) -> None:
    """What the entries must be to each other."""
    if not constitution.principles:
        raise BadRecord(f"{str(file)!r} holds no principle: list at least one under `principles`")
    ids = [principle.id for principle in constitution.principles]
    if twice := repeated(ids):
        raise BadRecord(f"{str(file)!r}: two principles are called {twice!r}: rename one")
    for number, example in enumerate(constitution.examples, 1):
        if example.principle not in ids:
            near = get_close_matches(example.principle, ids, 1)
            hint = f"is {near[0]!r} meant?" if near else f"there are {', '.join(ids)}"
            raise BadRecord(
                f"{str(file)!r}: example {number}: `principle` is {example.principle!r}, which is none of them: {hint}"
            )


def repeated(names: Iterable[str]) -> str | None:
    """The first name that comes more than once."""
    return next((name for name, count in Counter(names).items() if count > 1), None)
