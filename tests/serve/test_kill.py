"""The whole command: it serves, drains on SIGTERM, and when it is killed nothing acknowledged is gone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from plumbline.feedback.store import Store
from plumbline.project import Project
from serving import KNOCK, PATIENCE, WHO, write_script

PLUMB = [sys.executable, "-c", "from plumbline.cli.main import main; main()", "serve", "--port"]


class Command:
    """`plumb serve` as a process of its own."""

    def __init__(self, folder: Path, model: str, port: int = 0, *more: str) -> None:
        self.process = subprocess.Popen(
            [*PLUMB, str(port), "--model", model, *more],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.address = line.split()[1].removesuffix("/v1") if line else ""
        self.playground = self.process.stdout.readline().split()[-1] if line else ""

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def end(self, with_signal: signal.Signals) -> int:
        self.process.send_signal(with_signal)
        return self.process.wait(PATIENCE)

    def children(self) -> list[int]:
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True)
        return [int(each) for each in found.stdout.split()]


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    Project.create(tmp_path)
    opened: list[Command] = []

    def start(model: str, port: int = 0, *more: str) -> Command:
        opened.append(Command(tmp_path, model, port, *more))
        return opened[-1]

    yield start
    for each in opened:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()
        assert each.process.stdout is not None
        each.process.stdout.close()


def ask(address: str, prompt: str = KNOCK) -> httpx.Response:
    body = {"model": "", "messages": [{"role": "user", "content": prompt}]}
    return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=PATIENCE)


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_what_runs_come_to_its_end(
    command: Callable[..., Command], gate: Any, tmp_path: Path, with_signal: signal.Signals
) -> None:
    server = command(gate.model)
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(ask(server.address, "Hi")))
    asking.start()
    gate.wait_for(1)
    server.process.send_signal(with_signal)
    end = time.monotonic() + PATIENCE
    while True:  # nothing new is accepted any more
        assert time.monotonic() < end
        try:
            httpx.get(f"{server.address}/health")
        except httpx.TransportError:
            break
    gate.open.set()
    asking.join()
    assert answers[0].json()["choices"][0]["message"]["content"] == "You said: Hi"
    assert server.process.wait(PATIENCE) == 0
    with Store.open(tmp_path) as store:
        assert [row.status for row in store.exchanges()] == ["answered"]


def test_what_was_acknowledged_outlives_a_kill_at_any_moment(command: Callable[..., Command], tmp_path: Path) -> None:
    """Clients ask and say what they think as fast as they can while the server is killed; then all is compared."""
    model = write_script(tmp_path)
    server = command(model)
    port, random_moment = server.port, random.Random(5)
    answered: list[str] = []
    thumbed: list[str] = []
    over = threading.Event()

    def client(number: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as http:
            while not over.is_set():
                body = {"model": "", "user": str(number), "messages": [{"role": "user", "content": KNOCK}]}
                try:
                    reply = http.post("/v1/chat/completions", json=body)
                    if reply.status_code != 200:
                        continue
                    name = reply.json()["id"]
                    answered.append(name)
                    if http.post("/v1/feedback", json={"id": name, "edit": f"Better than {name}"}).status_code == 200:
                        thumbed.append(name)
                except httpx.TransportError:
                    over.wait(0.01)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for each in clients:
        each.start()
    for _ in range(3):
        before = len(answered)
        while len(answered) < before + 10 + random_moment.randrange(20):
            assert server.process.poll() is None
        engines = server.children()
        server.process.kill()
        server.process.wait()
        end = time.monotonic() + PATIENCE
        while any(Path(f"/proc/{pid}").exists() for pid in engines):  # an engine does not outlive its server
            assert time.monotonic() < end, engines
        server = command(model, port)
    over.set()
    for each in clients:
        each.join()
    assert server.end(signal.SIGTERM) == 0
    with Store.open(tmp_path) as store:
        stored = {row.exchange_id: row for row in store.exchanges()}
        edits = {edit.edited.removeprefix("Better than ") for edit in store.edits()}
    assert len(answered) >= 30 and set(answered) <= set(stored) and set(thumbed) <= edits
    assert all(stored[name].answers == [{"text": WHO, "tool_calls": []}] for name in answered)


def test_what_cannot_be_served_is_said_in_a_line(tmp_path: Path) -> None:
    Project.create(tmp_path)
    for arguments, said in (
        (["0", "--model", "scripted:none.jsonl"], "there is no file 'none.jsonl'"),
        (["0", "--host", "0.0.0.0"], "'0.0.0.0' is an address for others and there is no key that works"),
        (["0", "--keys"], "make one with `plumb keys add NAME`"),
        (["0", "--share", "0.5"], "a share of 0.5 needs the version that gets it"),
        (["0", "--model", "scripted:s", "--rail", "magic"], "there is no rail 'magic'"),
    ):
        ran = subprocess.run([*PLUMB, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
        assert (ran.returncode, said in ran.stderr, "Traceback" in ran.stderr) == (2, True, False), ran.stderr
    assert os.listdir(tmp_path / "models") == []
