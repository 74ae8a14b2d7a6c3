"""The project folder: its settings, its model versions and which of them is promoted.

    plumb.toml                    the settings, `Config`
    promoted.json                 the promotions, the last one in force
    models/NAME/N/                the version NAME@N: its weights, and
    models/NAME/N/version.json    what it was made of, `Version`
    runs/NAME/                    what a run leaves
    evaluations/NAME/N/K.json     the Kth evaluation of the version NAME@N

A version appears whole or not at all, is never written over, and its number is its own, whatever processes record at
once and whenever they are killed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.errors import BadProject, BadRecord, UserError
from plumbline.files import replaced, sync

if TYPE_CHECKING:
    from plumbline.records import Evaluation

SETTINGS, PROMOTIONS, RECORD = "plumb.toml", "promoted.json", "version.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NUMBER = re.compile(r"[1-9][0-9]*")


@dataclass(frozen=True)
class Config:
    """What plumb.toml may say. A command's own option goes before it."""

    model: str = "smollm2-135m"
    """The model that a command takes when none is named."""
    embedder: str = "minilm"
    """The embedder that a command takes when none is named."""
    criterion: str = ""
    """What makes one answer better than another, in a sentence that labelers and reports show."""
    database: str = ""
    """The URL of the database that keeps what people say; `plumb.db` in this folder unless it is named."""
    cache: str = ""
    """The URL of a Redis in which servers over one database share their answers at temperature 0; "" shares none."""
    traces: str = ""
    """The URL of a collector that is told of a server's requests as spans of OpenTelemetry; "" tells none."""
    similar: float = 0.0
    """From which cosine on a question gets the stored answer of one that is alike; 0 gives it to none."""
    guarded: tuple[str, ...] = ()
    """Tasks on which a version must not be worse than the promoted one: a task, or task:metric."""
    route: Mapping[str, Any] = field(default_factory=dict)
    """Which requests a served model leaves to a larger one, as `serve.route` reads it."""
    prices: Mapping[str, Any] = field(default_factory=dict)
    """By model, what a million tokens cost that it reads and that it writes."""


TABLES = ("route", "prices")
"""Settings that are tables."""

NEW_SETTINGS = """\
# A Plumbline project. Every setting may be left out.

# The model that a command takes when none is named.
model = "smollm2-135m"

# The embedder that a command takes when none is named.
embedder = "minilm"

# What makes one answer better than another, in a sentence that labelers and reports show.
criterion = ""

# The URL of the database that keeps what people say; plumb.db in this folder unless it is named.
database = ""

# The URL of a Redis, redis://127.0.0.1:6379/0 say, in which servers over one database share answers at temperature 0.
cache = ""

# The URL of a collector, http://127.0.0.1:4318 say, that is told of a server's requests as spans of OpenTelemetry.
traces = ""

# From which cosine on (0.97, say) a question gets the stored answer of one that is alike; 0 gives it to none.
similar = 0.0

# Tasks of `plumb evaluate` on which a version must not be worse than the promoted one, for example
# ["refusal", "toxicity", "hhh:better"]. A version that is worse, or was not compared, is not promoted.
guarded = []
"""


@dataclass(frozen=True)
class Promotion:
    """A line of promoted.json: a version was put in force, or the last promotion was undone."""

    version: str
    """What is in force since; "" where nothing is."""
    at: str
    """When, in UTC."""
    by: str = ""
    """Who did it."""
    why: str = ""
    """The reason that was given."""
    overrode: tuple[str, ...] = ()
    """What spoke against it, where it was forced."""
    undoes: str = ""
    """The version whose promotion this undoes."""


ANYTHING = "*"
"""For `promote`: whatever is in force."""


@dataclass(frozen=True)
class Version:
    """A model version and what it was made of. Two versions with the same digest have the same files."""

    name: str
    number: int
    folder: Path
    base: str
    """The model that training started from, as it was named."""
    parents: tuple[str, ...]
    """The versions of this project that went into it."""
    data: dict[str, str]
    """The SHA-256 of each data file."""
    config: dict[str, Any]
    engine_mode: str
    """The engine and mode that its answers were sampled with, for example `openvino:f16`."""
    created: str
    """When, in UTC."""
    code_version: str
    digest: str
    """The SHA-256 over its files, version.json apart."""

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.number}"


class Project:
    """An open project; its settings are read once, its versions each time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.models = self.folder / "models"
        self.runs = self.folder / "runs"
        self.evaluated = self.folder / "evaluations"

    @cached_property
    def config(self) -> Config:
        return read_config(self.folder / SETTINGS)

    # ---- the folder

    @classmethod
    def create(cls, folder: str | os.PathLike[str]) -> Project:
        """Makes a project of a folder, new or not. What is there stays as it is, a project's settings too."""
        project = cls(Path(folder))
        try:
            for each in (project.models, project.runs):
                each.mkdir(parents=True, exist_ok=True)
            if not (project.folder / SETTINGS).exists():
                with replaced(project.folder / SETTINGS) as file:
                    file.write(NEW_SETTINGS.encode())
        except OSError as error:
            raise BadProject(f"cannot make a project in {str(folder)!r}: {error.strerror}") from error
        return project

    @classmethod
    def find(cls, start: str | os.PathLike[str] | None = None) -> Project | None:
        """The project that `start` (the working folder) lies in, the innermost if there are several."""
        begin = Path(start or Path.cwd()).resolve()
        return next((cls(each) for each in (begin, *begin.parents) if (each / SETTINGS).is_file()), None)

    @classmethod
    def require(cls, start: str | os.PathLike[str] | None = None) -> Project:
        project = cls.find(start)
        if project is None:
            where = str(Path(start or Path.cwd()).resolve())
            raise BadProject(f"{where!r} lies in no project: go into one, or make one with `plumb init .`")
        return project

    # ---- versions

    def versions(self) -> list[Version]:
        """All of them, by name and number."""
        found = sorted(self.models.glob(f"*/*/{RECORD}")) if self.models.is_dir() else []
        versions = [read_version(each) for each in found if NUMBER.fullmatch(each.parent.name)]
        return sorted(versions, key=lambda version: (version.name, version.number))

    def version(self, ref: str) -> Version:
        """The version `name@n`, or the newest of `name`."""
        known = {version.ref: version for version in self.versions()}
        named = {version.name: version for version in known.values()}
        if ref in known:
            return known[ref]
        if ref in named:
            return named[ref]
        if not known:
            raise BadProject(f"there is no version {ref!r}: {str(self.models)!r} holds none yet")
        near = get_close_matches(ref, [*known, *named], 1)
        hint = f"is {near[0]!r} meant?" if near else "`plumb versions` lists them"
        raise BadProject(f"there is no version {ref!r}: {hint}")

    def record_version(
        self,
        name: str,
        write: Callable[[Path], object],
        *,
        base: str = "",
        parents: Iterable[str] = (),
        data: Iterable[str | os.PathLike[str]] = (),
        config: Mapping[str, Any] | None = None,
        engine_mode: str = "",
    ) -> Version:
        """Records the next version of `name`: `write(folder)` puts its files into an empty folder, `data` names the
        files that it was trained on. Processes that record the same name take turns."""
        from plumbline import __version__

        if not NAME.fullmatch(name):
            raise BadProject(
                f"{name!r} cannot name a model: take letters, digits, dots, dashes and underscores, 100 at most"
            )
        made_of = {
            "base": base,
            "parents": [self.version(parent).ref for parent in parents],
            "data": {self._shortened(Path(path)): file_digest(Path(path)) for path in data},
            "config": dict(config or {}),
            "engine_mode": engine_mode,
            "code_version": __version__,
        }
        home = self.models / name
        with alone_in(home):
            place = home / str(next_number(home))
            with placed_whole(place) as folder:
                write(folder)
                if not any(folder.iterdir()):
                    raise BadProject(f"no file was written for a version of {name!r}: a version has weights")
                made = {"version": f"{name}@{place.name}", **made_of, "created": now(), "digest": folder_digest(folder)}
                (folder / RECORD).write_text(json.dumps(made, indent=2, default=str) + "\n", encoding="utf-8")
        return read_version(place / RECORD)

    # ---- what was measured of them

    def record_evaluation(self, ref: str, evaluation: Evaluation) -> Path:
        """Keeps an evaluation of the version; returns its file. It appears whole, and none is written over."""
        version = self.version(ref)
        home = self.evaluated / version.name / str(version.number)
        with alone_in(home):
            place = home / f"{next_number(home)}.json"
            with replaced(place) as file:
                file.write(evaluation.model_dump_json(indent=2).encode() + b"\n")
        return place

    def evaluations(self, ref: str) -> list[Evaluation]:
        """All evaluations of the version, the first one first."""
        from plumbline.records import Evaluation, parse

        version = self.version(ref)
        home = self.evaluated / version.name / str(version.number)
        files = [each for each in home.glob("*.json") if NUMBER.fullmatch(each.stem)] if home.is_dir() else []
        found = []
        for path in sorted(files, key=lambda path: int(path.stem)):
            try:
                found.append(parse(Evaluation, json.loads(path.read_text(encoding="utf-8"))))
            except (ValueError, OSError, BadRecord) as error:
                raise BadProject(f"{str(path)!r} is damaged ({error}): remove it and evaluate again") from error
        return found

    def _shortened(self, path: Path) -> str:
        path = path.resolve()
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)

    # ---- the promoted one

    def in_force(self) -> str:
        """The ref of the version in force, whether its files are there or gone; "" when none is."""
        standing = not_undone(self.promotions())
        return standing[-1] if standing else ""

    def promoted(self) -> Version | None:
        """The version in force, None when none is."""
        ref = self.in_force()
        return self._kept(ref) if ref else None

    def promote(
        self, ref: str, *, instead_of: str = ANYTHING, by: str = "", why: str = "", overrode: Iterable[str] = ()
    ) -> Version:
        """Puts a version in force; what was in force before comes back with `rollback`.

        With `instead_of`, only where that version ("": no version) is still in force: of two who decide at once, one
        wins and the other is told.
        """
        version = self.version(ref)
        with alone_in(self.models):
            log, now_in_force = self.promotions(), self.in_force()
            if instead_of not in (ANYTHING, now_in_force):
                raise BadProject(
                    f"{version.ref!r} is not promoted: it was held against {instead_of or 'nothing'!r}, and meanwhile "
                    f"{now_in_force or 'nothing'!r} is in force; look at that, then promote again"
                )
            if now_in_force != version.ref:
                self._write_promotions([*log, Promotion(version.ref, now(), by, why, tuple(overrode))])
        return version

    def rollback(self, *, by: str = "", why: str = "") -> Version | None:
        """Undoes the last promotion; returns the version that is in force again, None when it was the first."""
        with alone_in(self.models):
            log = self.promotions()
            standing = not_undone(log)
            if not standing:
                raise BadProject("nothing is promoted, so there is nothing to go back from")
            before = self._kept(standing[-2]) if len(standing) > 1 else None
            ref = before.ref if before else ""
            self._write_promotions([*log, Promotion(ref, now(), by, why, undoes=standing[-1])])
        return before

    def _kept(self, ref: str) -> Version:
        """A version that was promoted, as long as nobody removed it."""
        for version in self.versions():
            if version.ref == ref:
                return version
        raise BadProject(f"{ref!r} was promoted and is gone from {str(self.models)!r}: put it back or promote another")

    def promotions(self) -> list[Promotion]:
        """All that was ever put in force or undone, the last one last."""
        path = self.folder / PROMOTIONS
        try:
            history = json.loads(path.read_text(encoding="utf-8"))["history"] if path.exists() else []
            return [
                Promotion(**{**each, "version": str(each["version"]), "overrode": tuple(each.get("overrode", ()))})
                for each in history
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadProject(
                f"{str(path)!r} is damaged ({error!r}): mend it, or remove it and promote again"
            ) from error

    def _write_promotions(self, log: list[Promotion]) -> None:
        with replaced(self.folder / PROMOTIONS) as file:
            file.write(json.dumps({"history": [asdict(each) for each in log]}, indent=2).encode() + b"\n")


def not_undone(log: Iterable[Promotion]) -> list[str]:
    """The versions whose promotion was not undone, the one in force last."""
    standing: list[str] = []
    for each in log:
        if each.undoes:
            standing.pop()
        else:
            standing.append(each.version)
    return standing


def cache_folder() -> Path:
    """Where what can be made or fetched again is kept. It may not be there yet."""
    if given := os.environ.get("PLUMBLINE_CACHE"):
        return Path(given).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "plumbline"


def read_config(path: Path) -> Config:
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadProject(f"cannot read {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadProject(f"{str(path)!r} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise BadProject(f"{str(path)!r} is not TOML: {error}") from error
    known = [each.name for each in fields(Config)]
    for key, value in settings.items():
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"is `{near[0]}` meant?" if near else f"there are {', '.join(f'`{name}`' for name in known)}"
            raise BadProject(f"{str(path)!r} has `{key}`, which is no setting: {hint}")
        if key in TABLES:
            if not isinstance(value, dict):
                raise BadProject(
                    f"{str(path)!r} sets `{key}` to {value!r}: it must be a table, which begins with [{key}]"
                )
            continue
        if isinstance(getattr(Config, key), float):
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise BadProject(f"{str(path)!r} sets `{key}` to {value!r}: it must be a number")
            continue
        listed = isinstance(getattr(Config, key), tuple)
        if listed and not (isinstance(value, list) and all(isinstance(each, str) for each in value)):
            raise BadProject(f"{str(path)!r} sets `{key}` to {value!r}: it must be a list of texts in quotes")
        if not listed and not isinstance(value, str):
            raise BadProject(f"{str(path)!r} sets `{key}` to {value!r}: it must be text in quotes")
        settings[key] = tuple(value) if listed else value
    return Config(**settings)


def read_version(path: Path) -> Version:
    """What a version.json says; name and number are those of its place."""
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        name, number = path.parts[-3], int(path.parts[-2])
        stated = {
            each.name: made[each.name] for each in fields(Version) if each.name not in ("name", "number", "folder")
        }
        return Version(name, number, path.parent, **{**stated, "parents": tuple(stated["parents"])})
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise BadProject(
            f"{str(path)!r} is damaged ({error!r}): put it back from a backup or remove its folder"
        ) from error


def next_number(home: Path) -> int:
    """One above all numbers that were ever given here: that of a version someone removed is not given again."""
    last = home / ".last"
    names = [each.name.removesuffix(".json") for each in home.iterdir()]
    given = names + ([last.read_text(encoding="utf-8")] if last.exists() else [])
    number = 1 + max((int(each) for each in given if NUMBER.fullmatch(each)), default=0)
    with replaced(last) as file:
        file.write(str(number).encode())
    return number


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """The SHA-256 over the names and contents of all files below a folder, its version.json apart."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / RECORD:
            total.update(f"{path.relative_to(folder).as_posix()}\0{file_digest(path)}\n".encode())
    return total.hexdigest()


@contextmanager
def placed_whole(place: Path) -> Iterator[Path]:
    """An empty folder to fill that becomes `place` when the block ends well. One process at a time (`alone_in`)."""
    filling = place.with_name(".new")
    shutil.rmtree(filling, ignore_errors=True)  # what a process that was killed had begun
    filling.mkdir()
    try:
        yield filling
        for each in (*filling.rglob("*"), filling):
            sync(each)
        filling.rename(place)  # refused by the system where `place` has files
    except BaseException:
        shutil.rmtree(filling, ignore_errors=True)
        raise
    sync(place.parent)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def alone_in(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Keeps every other process that asks the same out of a folder; a process that dies lets go of it.

    Without `wait`, UserError where another one is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is writing into {str(folder)!r}: wait until it is done") from None
        yield
    finally:
        os.close(handle)
