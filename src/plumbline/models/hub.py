"""Fetch models from a hub or a folder, and put them there.

The hub is Hugging Face's, or the one that HF_ENDPOINT names. It is asked once, with a time limit, before anything is
downloaded; what was fetched before is used without asking at all, until `pull` fetches it anew.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

from plumbline.errors import BadModel, HubUnreachable, UnknownModel, UserError
from plumbline.models.families import missing_files, refuse_incomplete

PATIENCE = 4.0
"""Seconds that the hub has for its first answer."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""The form of a hub id: organisation/name."""

MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "README.md",
    "LICENSE*",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)
"""What belongs to a model; nothing else of a folder is fetched or published."""

_Answer = TypeVar("_Answer")


def cached(hub_id: str) -> Path | None:
    """The folder of a hub model that was fetched before and is whole; asks nobody."""
    from huggingface_hub import constants

    store = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}"
    current = store / "refs" / "main"
    if not current.is_file():
        return None
    snapshot = store / "snapshots" / current.read_text(encoding="ascii").strip()
    return None if missing_files(snapshot) else snapshot


def cached_ids() -> list[str]:
    """The hub models that were fetched before and are whole."""
    from huggingface_hub import constants

    found = Path(constants.HF_HUB_CACHE).glob("models--*--*")
    names = ["/".join(folder.name.split("--", 2)[1:]) for folder in found]
    return sorted(name for name in names if cached(name))


def fetch(hub_id: str, *, patience: float = PATIENCE) -> Path:
    """The folder of a hub model, downloaded or brought up to date.

    HubUnreachable where the hub does not answer within `patience` seconds, UnknownModel where it does not know the
    model, BadModel where the model is there in a form that we do not load.
    """
    from huggingface_hub import HfApi, snapshot_download

    api = HfApi(endpoint=_endpoint(), library_name="plumbline")
    info = _ask(lambda: api.model_info(hub_id, timeout=patience), hub_id, patience)
    wanted = _wanted(hub_id, [sibling.rfilename for sibling in info.siblings or []])
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=wanted, endpoint=_endpoint(), library_name="plumbline"))
    except OSError as error:  # the library's own errors of this kind are OSErrors as well
        raise HubUnreachable(
            f"{_endpoint()} broke off while {hub_id!r} was fetched ({_first_line(error)}): what has arrived is kept, "
            "try again"
        ) from error
    refuse_incomplete(folder)
    return folder


def pull(name: str, folder: str | Path | None = None) -> Path:
    """Fetch a model, from the hub anew where it is a hub id; with `folder`, copy it there. Returns where it lies."""
    from plumbline.models.resolve import resolve

    hub_id = name.removeprefix("hub:")
    held = fetch(hub_id) if HUB_ID.fullmatch(hub_id) and not Path(name).exists() else resolve(name).folder
    if folder is None:
        return held
    return _copy(held, Path(folder))


def push(name_or_folder: str | Path, target: str | Path) -> str:
    """Put a model into a folder, or with `hub:organisation/name` onto the hub, as a private repository if it is new.

    Returns the folder or the address. The prefix is asked for so that a mistyped folder never publishes a model.
    """
    from plumbline.models.resolve import resolve

    source = resolve(str(name_or_folder))
    if source.kind != "folder":
        raise UserError(f"{source.name!r} is an endpoint: only a model that lies here can be pushed")
    hub_id = str(target).removeprefix("hub:")
    if hub_id == str(target):
        return str(_copy(source.folder, Path(target)))
    if not HUB_ID.fullmatch(hub_id):
        raise UserError(f"{target!r} does not name a place on the hub: write hub:organisation/name")
    from huggingface_hub import HfApi

    api = HfApi(endpoint=_endpoint(), library_name="plumbline")
    _ask(lambda: api.create_repo(hub_id, private=True, exist_ok=True), hub_id, PATIENCE)
    files = [str(file.relative_to(source.folder)) for file in model_files(source.folder)]
    try:
        api.upload_folder(
            repo_id=hub_id, folder_path=source.folder, allow_patterns=files, commit_message=f"Add {source.name}"
        )
    except OSError as error:
        raise HubUnreachable(f"{_endpoint()} broke off while {hub_id!r} was sent: {_first_line(error)}") from error
    return f"{_endpoint()}/{hub_id}"


def model_files(folder: Path) -> list[Path]:
    """The files of a folder that belong to a model."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return [file for file in files if _belongs(file.relative_to(folder).as_posix())]


def _belongs(name: str) -> bool:
    return any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in MODEL_FILES)


def _wanted(hub_id: str, names: Iterable[str]) -> list[str]:
    """The files to fetch; BadModel where what we need is not among them."""
    names = list(names)
    wanted = [name for name in names if _belongs(name)]
    if not any(name.endswith(".safetensors") for name in wanted):
        other = [name for name in names if name.endswith((".bin", ".pt", ".gguf", ".h5"))]
        raise BadModel(
            f"{hub_id!r} holds no safetensors on the hub"
            + (f" (but {', '.join(other[:3])})" if other else "")
            + ": choose a repository that does; a GGUF file can be downloaded and given by its path"
        )
    for needed in ("config.json", "tokenizer.json"):
        if needed not in wanted:
            raise BadModel(f"{hub_id!r} has no {needed} on the hub, and it is needed to run the model")
    return wanted


def _ask(question: Callable[[], _Answer], hub_id: str, patience: float) -> _Answer:
    """The hub's answer, or the error that says what it means for the model."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    endpoint = _endpoint()
    try:
        return _within(patience, question)
    except GatedRepoError as error:
        raise UserError(
            f"{hub_id!r} is given only to those who accepted its terms: accept them at {endpoint}/{hub_id} and set "
            "HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise UnknownModel(
            f"{endpoint} does not know {hub_id!r}: check the spelling, or set HF_TOKEN if it is private"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise UserError(f"{endpoint} refused {hub_id!r} ({status}): set HF_TOKEN to a token that may") from error
        raise HubUnreachable(f"{endpoint} answered {status} for {hub_id!r}: try again later") from error
    except OfflineModeIsEnabled as error:
        raise HubUnreachable(
            f"{hub_id!r} is not in the local cache, and HF_HUB_OFFLINE forbids asking the hub"
        ) from error
    except Exception as error:  # the library's HTTP client differs from version to version, and its errors with it
        reason = _first_line(error) or type(error).__name__
        raise HubUnreachable(
            f"{endpoint} did not answer for {hub_id!r} ({reason}): check the network, or give a local folder"
        ) from error


def _within(seconds: float, question: Callable[[], _Answer]) -> _Answer:
    """The answer, or TimeoutError. A thread, since a name server's silence heeds no client's time limit."""
    answers: list[_Answer] = []
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            answers.append(question())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"silent for {seconds:g} s")
    return answers[0]


def _copy(source: Path, target: Path) -> Path:
    """The model's files in a folder of their own, complete or not there at all."""
    target = target.expanduser().resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{str(target)!r} is there already: give a folder that does not exist or is empty")
    scratch = target.with_name(f".{target.name}.part-{os.getpid()}")
    try:
        for file in model_files(source):
            place = scratch / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
        scratch.replace(target)
    except OSError as error:
        raise UserError(f"the model could not be written to {str(target)!r}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _endpoint() -> str:
    """Read at each call, since huggingface_hub reads the variable when it is imported."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
