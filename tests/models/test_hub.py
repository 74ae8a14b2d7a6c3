"""The hub: asked once and briefly, fetched whole, and nothing published by accident."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from plumbline.errors import BadModel, HubUnreachable, UnknownModel, UserError
from plumbline.models import hub
from plumbline.models.families import load_causal, missing_files
from plumbline.models.resolve import resolve


class FakeHub:
    """The few endpoints of a hub that fetching and sending use, over a real socket."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.commit = "c" * 40
        self.refusals: dict[str, tuple[int, dict[str, str]]] = {}
        """Status and headers for paths that end like the key."""
        self.asked: list[str] = []
        self.created: list[dict[str, object]] = []
        self.sent: dict[str, bytes] = {}
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def holds(self, folder: Path) -> None:
        self.files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.iterdir()}


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.hub.asked.append(path)
        for ending, (status, headers) in self.hub.refusals.items():
            if path.endswith(ending):
                return self.answer(b"{}", status, headers)
        if path.startswith("/api/models/org/model/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.hub.files.items()
            ]
            return self.json(entries)
        if path in ("/api/models/org/model", "/api/models/org/model/revision/main"):
            names = [{"rfilename": name} for name in self.hub.files]
            return self.json({"id": "org/model", "modelId": "org/model", "sha": self.hub.commit, "siblings": names})
        name = path.partition(f"/org/model/resolve/{self.hub.commit}/")[2]
        if name in self.hub.files:
            data = self.hub.files[name]
            return self.answer(
                data, 200, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": self.hub.commit}
            )
        return self.answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.split("?")[0]
        if path == "/api/repos/create":
            self.hub.created.append(json.loads(body))
            return self.json({"url": f"{self.hub.url}/org/new", "name": "org/new"})
        if path.endswith("/preupload/main"):
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return self.json({"files": [{**file, "shouldIgnore": False} for file in files]})
        if path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.hub.sent[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.json(
                {"commitUrl": f"{self.hub.url}/org/new/commit/{self.hub.commit}", "commitOid": self.hub.commit}
            )
        return self.answer(b"{}", 404, {})

    def json(self, value: object) -> None:
        self.answer(json.dumps(value).encode(), 200, {"Content-Type": "application/json"})

    def answer(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """The test's output stays clean."""


@pytest.fixture
def fake(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub on the loopback that holds the tiny Llama as org/model, with an empty cache on our side."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    fake = FakeHub()
    fake.holds(tiny_llama)
    thread = threading.Thread(target=fake.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", fake.url)
    yield fake
    fake.server.shutdown()
    fake.server.server_close()
    thread.join()


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


# Fetching


def test_a_model_is_fetched_once_and_then_used_without_asking(fake: FakeHub, tiny_llama: Path) -> None:
    folder = resolve("org/model").folder
    assert missing_files(folder) == []
    assert (folder / "model.safetensors").read_bytes() == (tiny_llama / "model.safetensors").read_bytes()
    assert load_causal(folder)
    fake.asked.clear()
    assert resolve("org/model").folder == folder
    assert fake.asked == []


def test_pull_brings_what_changed_on_the_hub(fake: FakeHub) -> None:
    first = resolve("org/model").folder
    fake.files["generation_config.json"] = b'{"eos_token_id": 5}'
    fake.commit = "d" * 40
    assert resolve("org/model").folder == first
    assert (hub.pull("org/model") / "generation_config.json").read_bytes() == fake.files["generation_config.json"]
    assert resolve("org/model").folder != first


def test_only_what_belongs_to_a_model_is_fetched(fake: FakeHub) -> None:
    fake.files |= {"pytorch_model.bin": b"0", "consolidated.safetensors": b"0", "onnx/model.onnx": b"0", "run.py": b"0"}
    fake.files |= {"1_Pooling/config.json": b"{}", "README.md": b"---\nlicense: mit\n---\n"}
    folder = hub.fetch("org/model")
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert names >= {"1_Pooling/config.json", "README.md", "chat_template.jinja"}
    assert not names & {"pytorch_model.bin", "consolidated.safetensors", "onnx/model.onnx", "run.py"}


def test_a_silent_hub_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", url)
        with pytest.raises(HubUnreachable, match=f"{url} did not answer for 'org/model'"):
            hub.fetch("org/model", patience=0.3)
    assert hub.PATIENCE < 5


def test_a_name_server_that_never_answers_is_given_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name resolution heeds no client's time limit, so the whole question has one."""
    hanging = threading.Event()
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: hanging.wait())
    try:
        with pytest.raises(HubUnreachable, match=r"silent for 0\.1 s"):
            hub.fetch("org/model", patience=0.1)
    finally:
        hanging.set()


@pytest.mark.parametrize(
    ("status", "headers", "kind", "said"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, UnknownModel, "does not know 'org/model': check the spelling"),
        (401, {"X-Error-Code": "RepoNotFound"}, UnknownModel, "does not know 'org/model'"),
        (401, {}, UserError, r"refused 'org/model' \(401\): set HF_TOKEN"),
        (403, {"X-Error-Code": "GatedRepo"}, UserError, "accept them at .*/org/model and set HF_TOKEN"),
        (403, {}, UserError, r"refused 'org/model' \(403\): set HF_TOKEN"),
        (503, {}, HubUnreachable, "answered 503 for 'org/model': try again later"),
        (429, {}, HubUnreachable, "answered 429"),
    ],
)
def test_each_refusal_says_what_to_do(
    status: int, headers: dict[str, str], kind: type[Exception], said: str, fake: FakeHub
) -> None:
    fake.refusals["/org/model"] = (status, headers)
    with pytest.raises(kind, match=said):
        resolve("org/model")


def test_a_download_that_breaks_off_is_taken_up_again(fake: FakeHub) -> None:
    fake.refusals["model.safetensors"] = (410, {})
    with pytest.raises(HubUnreachable, match="broke off while 'org/model' was fetched"):
        resolve("org/model")
    assert hub.cached("org/model") is None
    fake.refusals.clear()
    assert missing_files(resolve("org/model").folder) == []


@pytest.mark.parametrize(
    ("lacking", "other", "said"),
    [
        ("model.safetensors", "pytorch_model.bin", r"holds no safetensors on the hub \(but pytorch_model\.bin\)"),
        ("tokenizer.json", "tokenizer.model", r"has no tokenizer\.json on the hub"),
    ],
)
def test_a_model_in_another_form_is_refused_before_it_is_fetched(
    lacking: str, other: str, said: str, fake: FakeHub
) -> None:
    fake.files[other] = fake.files.pop(lacking)
    with pytest.raises(BadModel, match=said):
        resolve("org/model")
    assert not any("/resolve/" in path for path in fake.asked)


# Folders


def test_pull_copies_into_a_folder(tiny_llama: Path, tmp_path: Path) -> None:
    folder = hub.pull(str(tiny_llama), tmp_path / "mine")
    assert folder == tmp_path / "mine" and missing_files(folder) == []
    assert resolve(str(folder)).folder == folder


def test_push_copies_the_model_and_nothing_else(tiny_llama: Path, tmp_path: Path) -> None:
    source = tmp_path / "run"
    shutil.copytree(tiny_llama, source)
    (source / "optimizer.pt").write_bytes(b"0")
    (source / ".env").write_text("HF_TOKEN=secret")
    assert hub.push(source, tmp_path / "out" / "model") == str(tmp_path / "out" / "model")
    assert {file.name for file in (tmp_path / "out" / "model").iterdir()} == {
        file.name for file in tiny_llama.iterdir()
    }


def test_push_never_writes_over_anything(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "keep").touch()
    (tmp_path / "file").touch()
    for target in ("full", "file"):
        with pytest.raises(UserError, match="is there already: give a folder that does not exist or is empty"):
            hub.push(tiny_llama, tmp_path / target)
    (tmp_path / "empty").mkdir()
    hub.push(tiny_llama, tmp_path / "empty")
    assert missing_files(tmp_path / "empty") == []


def test_an_endpoint_cannot_be_pushed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only a model that lies here can be pushed"):
        hub.push("openai:gpt-x", tmp_path / "out")


# Sending


def test_push_to_the_hub_makes_a_private_repository(fake: FakeHub, tiny_llama: Path, tmp_path: Path) -> None:
    source = tmp_path / "run"
    shutil.copytree(tiny_llama, source)
    (source / ".env").write_text("HF_TOKEN=secret")
    assert hub.push(source, "hub:org/new") == f"{fake.url}/org/new"
    # Version 1 of huggingface_hub asks for the first, version 2 for the second.
    assert fake.created[0].get("private") is True or fake.created[0].get("visibility") == "private"
    assert set(fake.sent) == names(tiny_llama)
    assert fake.sent["model.safetensors"] == (tiny_llama / "model.safetensors").read_bytes()


def test_a_target_without_the_prefix_is_a_folder_and_never_the_hub(
    fake: FakeHub, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub.push(tiny_llama, "org/new") == str(tmp_path / "org" / "new")
    assert fake.created == [] and fake.sent == {}
    with pytest.raises(UserError, match="write hub:organisation/name"):
        hub.push(tiny_llama, "hub:new")
