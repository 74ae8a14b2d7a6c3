"""A model server on this machine over a project of its own, for tests to ask it and to look what was stored."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import httpx
from uvicorn import Server

from plumbline.feedback.store import Exchange, Store
from plumbline.project import Project
from plumbline.serve.app import Serving, run
from plumbline.serve.settings import Settings
from plumbline.web.server import listen

KNOCK, WHO = "Knock, knock", "Who is there? I did not expect you."
HOT = "My house is too hot. What can I do?"
HOT_ANSWERS = ("Open the windows at night.", "Buy an air conditioner.", "Heat is a form of energy.")
PATIENCE = 180
"""Seconds after which a server is taken to hang."""


def write_script(folder: Path, more: dict[str, list[str]] | None = None) -> str:
    """The name of a model that knows a few answers."""
    path = folder / "script.jsonl"
    answers = {KNOCK: [WHO], HOT: list(HOT_ANSWERS), "": ["nothing"], **(more or {})}
    lines = [{"prompt": prompt, "completion": text} for prompt, texts in answers.items() for text in texts]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return f"scripted:{path}"


class Running:
    """A server in a thread, over `folder` as its project. `model` may be None, as `plumb serve` without one."""

    def __init__(
        self, folder: Path, model: str | None, *, keys: bool = False, default: str = "", **settings: Any
    ) -> None:
        self.project = Project.create(folder)
        self.store = Store.open(self.project)
        self.settings = Settings(model=model, keys=keys, **settings)
        self._default = default or model or ""
        self._up, self._error = threading.Event(), None
        self.http = httpx.Client(timeout=PATIENCE)  # to make one takes longer than to ask it
        self._listener = listen("127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._up.wait(PATIENCE), "the server did not start"
        if self._error is not None:
            self._thread.join()
            self.http.close()
            self.store.close()
            raise self._error

    def _run(self) -> None:
        def make() -> Serving:
            made = Serving(
                self.store, self.project, self.settings, default=self._default, keys_needed=self.settings.keys
            )
            self.loop = asyncio.get_running_loop()
            return made

        def ready(serving: Serving) -> None:
            self.serving = serving
            self._up.set()

        def made(server: Server) -> None:
            self.server = server

        try:
            with self._listener:
                asyncio.run(run(make, self._listener, ready, made))
        except BaseException as error:  # raised again where the server was asked for
            self._error = error
            self._up.set()

    def stop(self) -> None:
        """Ends the server in good order."""
        self.server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the server did not end"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread.is_alive():
            self.stop()
        self.http.close()
        self.store.close()

    # ---- asking

    def client(self, key: str = "none needed", **more: Any) -> Any:
        """OpenAI's own client, with nothing but the base URL changed."""
        import openai

        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=key, max_retries=0, **more)

    def post(self, path: str, body: Any, key: str | None = None, **headers: str) -> httpx.Response:
        """The answer to a body: a value as JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {"Content-Type": "application/json", **headers}
        if key is not None:
            named["Authorization"] = f"Bearer {key}"
        return self.http.post(self.address + path, content=content, headers=named)

    def ask(self, prompt: str = KNOCK, key: str | None = None, **more: Any) -> httpx.Response:
        body = {"model": "plumbline", "messages": [{"role": "user", "content": prompt}], **more}
        return self.post("/v1/chat/completions", body, key)

    def stored(self) -> list[Exchange]:
        return list(self.store.exchanges())

    def settled(self, rows: int) -> list[Exchange]:
        """What was stored, as soon as it is that many rows: those that nobody waited for come a moment later."""
        end = time.monotonic() + PATIENCE
        while len(found := self.stored()) < rows:
            assert time.monotonic() < end, found
        return found

    def on_loop(self, work: Any) -> Any:
        """Runs a coroutine on the server's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)


def message_of(answer: httpx.Response) -> str:
    """What an answer says, or what a refusal says."""
    body = answer.json()
    return str(body["error"]["message"] if "error" in body else body["choices"][0]["message"]["content"])


def sign_in(server: Running, name: str, role: Any = "labeler") -> httpx.Client:
    """A client that is signed in as that person, who is added if need be, and knows the pages' token."""
    there = {each.name: each for each in server.store.labelers()}
    who = there.get(name) or server.store.add_labeler(name, role)
    http = httpx.Client(base_url=server.address, follow_redirects=True, timeout=PATIENCE)
    link = server.store.new_link(who.labeler_id, timedelta(hours=1))
    page = http.post(f"/sign-in/{link}").text
    found = re.search(r'name="csrf" content="(\w+)"', page)
    assert found, page[:500]
    http.headers["X-CSRF-Token"] = found[1]
    return http
