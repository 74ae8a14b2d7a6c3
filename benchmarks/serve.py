"""Serving: the gateway alone, a real model behind it, and kills while it works.

    python benchmarks/serve.py [--part NAME ...] [--full | --quick] [--kills N]

gateway   a scripted model, keys and rails on, the log durable: requests at 500 and at 1,000 a second, however long each
          takes (an open loop, so a slow server is not asked less), from a process on the same cores; and as a bare
          line the same with the database out of the way
model     the bundled model at 1, 8 and 32 clients against the bare engine: tokens a second, time to the first piece
kills     SIGKILL at random moments while eight clients ask and say what they think: what was acknowledged and is gone

About ten minutes; `--full` is 60 s for each rate, 5 rounds of the model and 200 kills; `--quick` is a look at whether
everything runs, which writes no result.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from databases import free_port
from measure import machine, rate, table, write_section

from plumbline.feedback.store import Store
from plumbline.models import Sampling
from plumbline.project import Project

PROMPT = "My house is too hot. What can I do?"
ANSWER = "Open the windows at night, keep them shut by day, and hang wet towels before them. " * 3
PLUMB = [sys.executable, "-c", "from plumbline.cli.main import main; main()", "serve"]


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    seconds: float
    rates: tuple[int, ...]
    clients: tuple[int, ...]
    rounds: int
    tokens: int
    kills: int


SIZES = {
    "quick": Size(3.0, (100,), (1, 4), 1, 16, 3),
    "": Size(20.0, (500, 1000), (1, 8, 32), 3, 64, 20),
    "full": Size(60.0, (500, 1000), (1, 8, 32), 5, 64, 200),
}


# ---- the server


class Server:
    """`plumb serve` over a folder, on a fixed port, as a process of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.arguments = arguments
        self.log = folder / "server.log"
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            command = [*PLUMB, "--port", str(self.port), *self.arguments]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True)
        while True:
            try:
                # It listens before its model is there, so the wait for the answer is the wait for the model.
                if httpx.get(f"{self.address}/health", timeout=600).status_code == 200:
                    return self.process
            except httpx.TransportError:
                assert self.process.poll() is None, self.log.read_text()[-2000:]
                time.sleep(0.02)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def write_script(folder: Path) -> str:
    path = folder / "script.jsonl"
    path.write_text(json.dumps({"prompt": PROMPT, "completion": ANSWER}) + "\n")
    return f"scripted:{path}"


def body(**more: Any) -> dict[str, Any]:
    return {"model": "plumbline", "messages": [{"role": "user", "content": PROMPT}], **more}


# ---- the gateway alone


@dataclass
class Loaded:
    """What became of requests that came at a fixed rate."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    late: float = 0.0
    """The most by which the load itself came too late; beyond a few milliseconds the measurement says little."""


async def load(address: str, key: str, a_second: int, seconds: float) -> Loaded:
    """Requests at that rate over connections that stay open, written by hand so that the load costs little itself."""
    host, _, port = address.removeprefix("http://").partition(":")
    content = json.dumps(body()).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    request, done = head.encode() + content, Loaded()
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def one(due: float) -> None:
        try:
            reader, writer = free.pop() if free else await asyncio.open_connection(host, int(port))
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            free.append((reader, writer))
            done.statuses[int(answer[9:12])] += 1
        except (OSError, asyncio.IncompleteReadError):
            done.statuses[0] += 1
        done.seconds.append(time.perf_counter() - due)

    begun = time.perf_counter()
    tasks = set()
    for number in range(int(a_second * seconds)):
        due = begun + number / a_second
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        done.late = max(done.late, time.perf_counter() - due)
        tasks.add(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    for _, writer in free:
        writer.close()
    return done


def gateway(size: Size, folder: Path) -> str:
    """A row for each rate, with the rails on and off."""
    rows = []
    for name, rails in (("keys, no rails", ()), ("keys and rails", ("personal-data", "secrets", "length=8000"))):
        home = folder / name.replace(" ", "-")
        project = Project.create(home)
        with Store.open(project) as store:
            key, _ = store.add_key("bench")
            arguments = [argument for rail in rails for argument in ("--rail", rail)]
            server = Server(home, "--model", write_script(home), "--keys", "--at-once", "64", *arguments)
            asyncio.run(load(server.address, key, 100, 2.0))
            before = sum(1 for _ in store.exchanges())
            for a_second in size.rates:
                done = asyncio.run(load(server.address, key, a_second, size.seconds))
                failed = done.statuses.total() - done.statuses[200]
                now = sum(1 for _ in store.exchanges())
                missing, before = done.statuses[200] - (now - before), now
                rows.append(
                    [f"{a_second:,}/s, {name}", *spread(done.seconds), failed, missing, f"{1000 * done.late:.1f}"]
                )
                print(" ".join(map(str, rows[-1])), flush=True)
            server.close()
    head = ["", "requests", "p50 ms", "p99 ms", "slowest ms", "failed", "not stored", "load late by ms"]
    return table(head, rows)


def spread(seconds: Sequence[float]) -> list[object]:
    times = sorted(1000 * each for each in seconds)
    parts = [times[int(part * (len(times) - 1))] for part in (0.5, 0.99, 1.0)]
    return [f"{len(times):,}", *(f"{each:.2f}" for each in parts)]


# ---- a model behind it


def bare(model: Any, clients: int, tokens: int) -> float:
    """Seconds that the engine itself takes for as many answers at once."""
    sampling = Sampling(max_new_tokens=tokens, temperature=1.0, seed=1, ignore_eos=True)
    begun = time.perf_counter()
    model([PROMPT] * clients, sampling)
    return time.perf_counter() - begun


def through(address: str, clients: int, tokens: int) -> tuple[float, list[float], int]:
    """Seconds for as many streams at once, the time of each to its first piece, and the tokens of all."""
    firsts: list[float] = []
    written: list[int] = []

    def one(number: int) -> None:
        # A model ends when it will: seeds differ, and the tokens that came are counted.
        asked = body(
            stream=True, max_tokens=tokens, seed=number, temperature=1.0, stream_options={"include_usage": True}
        )
        begun = time.perf_counter()
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=asked, timeout=600) as reply:
            first = None
            for line in reply.iter_lines():
                if first is None and '"content":"' in line and '"content":""' not in line:
                    first = time.perf_counter() - begun
                if '"usage":{' in line:
                    written.append(json.loads(line[6:])["usage"]["completion_tokens"])
        firsts.append(first or 0.0)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(clients)]
    begun = time.perf_counter()
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return time.perf_counter() - begun, firsts, sum(written)


def model(size: Size, folder: Path) -> str:
    """A row for each number of clients: the bare engine, the server over it, and their ratio."""
    from plumbline.models import load as load_model

    Project.create(folder / "model")
    engine = load_model("smollm2-135m")
    alone = {
        clients: [bare(engine, clients, size.tokens) for _ in range(size.rounds + 1)][1:] for clients in size.clients
    }
    getattr(engine, "close", lambda: None)()
    server = Server(folder / "model", "--model", "smollm2-135m", "--no-cache", "--at-once", "64")
    rows = []
    for clients in size.clients:
        through(server.address, clients, size.tokens)
        runs = [through(server.address, clients, size.tokens) for _ in range(size.rounds)]
        ours = [tokens / seconds for seconds, _, tokens in runs]
        theirs, shown = rate(clients * size.tokens, alone[clients])
        firsts = sorted(1000 * first for _, each, _ in runs for first in each)
        middle = statistics.median(ours)
        told = f"{middle:,.0f} ({min(ours):,.0f}–{max(ours):,.0f})"
        ends = [f"{firsts[len(firsts) // 2]:.0f}", f"{firsts[int(0.99 * (len(firsts) - 1))]:.0f}"]
        rows.append([clients, shown, told, f"{middle / theirs:.2f}×", *ends])
        print(" ".join(map(str, rows[-1])), flush=True)
    server.close()
    return table(["clients", "bare engine, tokens/s", "served", "ratio", "first piece p50 ms", "p99 ms"], rows)


# ---- kills


@dataclass
class Told:
    """What clients were told."""

    answered: list[str] = field(default_factory=list)
    judged: list[str] = field(default_factory=list)
    streamed: list[str] = field(default_factory=list)
    cut: int = 0


def client(address: str, number: int, told: Told, over: threading.Event) -> None:
    """Asks, as a stream every second time, and says what it thinks of each answer, until it is over."""
    turn = 0
    with httpx.Client(base_url=address, timeout=60) as http:
        while not over.is_set():
            turn += 1
            try:
                if turn % 2:
                    reply = http.post("/v1/chat/completions", json=body(user=f"u{number}"))
                    if reply.status_code != 200:
                        continue
                    name = reply.json()["id"]
                else:
                    reply = http.post("/v1/chat/completions", json=body(user=f"u{number}", stream=True))
                    if "data: [DONE]" not in reply.text:
                        continue
                    name = json.loads(reply.text.splitlines()[0][6:])["id"]
                    told.streamed.append(name)
                told.answered.append(name)
                if http.post("/v1/feedback", json={"id": name, "edit": f"Better than {name}"}).status_code == 200:
                    told.judged.append(name)
            except httpx.TransportError:
                told.cut += 1
                over.wait(0.01)


def kills(size: Size, folder: Path) -> str:
    """One row: how often it was killed, and what was lost."""
    home = folder / "kills"
    Project.create(home)
    server, told, over = Server(home, "--model", write_script(home)), Told(), threading.Event()
    clients = [threading.Thread(target=client, args=(server.address, n, told, over)) for n in range(8)]
    for each in clients:
        each.start()
    random_moment, healthy = random.Random(7), []
    for number in range(size.kills):
        time.sleep(random_moment.uniform(0.05, 1.5))
        server.kill()
        begun = time.perf_counter()
        server.start()
        healthy.append(time.perf_counter() - begun)
        if (number + 1) % 10 == 0:
            print(f"  {number + 1} kills, {len(told.answered):,} answers acknowledged", flush=True)
    over.set()
    for each in clients:
        each.join()
    server.close()
    with Store.open(home) as store:
        stored = {row.exchange_id for row in store.exchanges() if row.answers}
        edits = {edit.edited.removeprefix("Better than ") for edit in store.edits()}
    lost = [len(set(told.answered) - stored), len(set(told.judged) - edits)]
    row = [size.kills, f"{len(told.answered):,}", f"{len(told.streamed):,}", lost[0], f"{len(told.judged):,}", lost[1]]
    times = f"{statistics.median(healthy):.2f} / {max(healthy):.2f}"
    head = ["kills", "answers acknowledged", "of them streams", "lost", "feedback acknowledged", "lost", "cut requests"]
    return table([*head, "healthy again after s: median / most"], [[*row, f"{told.cut:,}", times]])


PARTS: dict[str, Callable[[Size, Path], str]] = {"gateway": gateway, "model": model, "kills": kills}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--kills", type=int)
    given = parser.parse_args()
    size = SIZES["full" if given.full else "quick" if given.quick else ""]
    if given.kills:
        size = Size(**{**vars(size), "kills": given.kills})
    print(f"{machine()}; {os.cpu_count()} cores are shared by server, model and load", flush=True)
    for part in given.part or PARTS:
        with tempfile.TemporaryDirectory(prefix="plumbline-serve-") as folder:
            found = PARTS[part](size, Path(folder))
        if given.quick:
            print(found)
        else:
            command = f"python benchmarks/serve.py --part {part}{' --full' if given.full else ''}"
            write_section(f"Serving: {part}", command, found)


if __name__ == "__main__":
    main()
