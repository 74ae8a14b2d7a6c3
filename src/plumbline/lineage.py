"""Where a version comes from: its parents, the data files of each, and the ids of the rows in them.

A file is known by its SHA-256. One that is no longer in its place is looked for in the project by that, and one whose
content is another one today is said to have changed: its ids would be those of other data.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from plumbline.project import Project, Version, file_digest

ID_FIELDS = ("set_id", "prompt_id", "labeler_id", "user_id", "item_id")
READ = (".jsonl", ".jsonl.gz")

State = Literal["there", "moved", "changed", "gone"]


@dataclass(frozen=True)
class DataFile:
    """A file that a version learned from."""

    path: str
    """Where it is, as seen from the project; where it was, if it is no longer found."""
    digest: str
    state: State
    rows: int | None = None
    """None where it is not there any more, or no JSON Lines."""
    ids: tuple[dict[str, str], ...] = ()
    """The ids of each row: of its set, its prompt, its labeler."""


@dataclass(frozen=True)
class Node:
    """A model in the lineage, with what it was made of."""

    name: str
    role: str
    """What it was to the one above it: model, reward, reference; "" for the one that was asked for."""
    version: Version | None = None
    """None for a model from elsewhere."""
    data: tuple[DataFile, ...] = ()
    parents: tuple[Node, ...] = ()

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for parent in self.parents:
            yield from parent.walk()


def lineage(project: Project, ref: str) -> Node:
    """The version with all that it came from."""
    versions = {version.ref: version for version in project.versions()}
    finder = Finder(project)

    def node(name: str, role: str, above: tuple[str, ...]) -> Node:
        version = versions.get(name)
        if version is None or name in above:
            return Node(name, role)
        parents = tuple(node(each, part, (*above, name)) for each, part in made_from(version, versions).items())
        data = tuple(finder.find(path, digest) for path, digest in version.data.items())
        return Node(name, role, version, data, parents)

    return node(project.version(ref).ref, "", ())


def made_from(version: Version, versions: dict[str, Version]) -> dict[str, str]:
    """The models that went into a version and what each was: its base, its parents, those that its settings name."""
    found = {version.base: "model"} if version.base else {}
    found |= {parent: "model" for parent in version.parents}
    for setting, value in version.config.items():
        named = value if isinstance(value, list) else [value]
        found |= {each: setting for each in named if isinstance(each, str) and each in versions and each not in found}
    return {name: role for name, role in found.items() if name != version.ref}


class Finder:
    """Finds data files by their content; the project is searched once, when a file is not in its place."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._by_digest: dict[str, Path] | None = None

    def find(self, path: str, digest: str) -> DataFile:
        place = self.project.folder / path  # an absolute path stays itself
        there = place.is_file()
        if there and file_digest(place) == digest:
            return self._read(place, path, digest, "there")
        moved = self._moved(digest)
        if moved is not None:
            return self._read(moved, str(moved.relative_to(self.project.folder)), digest, "moved")
        return DataFile(path, digest, "changed" if there else "gone")

    def _read(self, place: Path, path: str, digest: str, state: State) -> DataFile:
        if not place.name.endswith(READ):
            return DataFile(path, digest, state)
        ids = tuple(row_ids(place))
        return DataFile(path, digest, state, len(ids), ids)

    def _moved(self, digest: str) -> Path | None:
        if self._by_digest is None:
            files = [path for path in self.project.folder.rglob("*.jsonl*") if path.is_file()]
            self._by_digest = {file_digest(path): path for path in sorted(files)}
        return self._by_digest.get(digest)


def row_ids(path: Path) -> Iterator[dict[str, str]]:
    """The ids in each row of a JSON Lines file; none in a line that is no record, which training left out as well."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for line in file:
            if line.strip():
                yield ids_of(line)


def ids_of(line: bytes) -> dict[str, str]:
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return {name: str(row[name]) for name in ID_FIELDS if row.get(name) is not None} if isinstance(row, dict) else {}
