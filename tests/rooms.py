"""A ranking room that runs on this machine over a store, for tests to sign people in and see what was stored."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import uvicorn

from plumbline.feedback.queue import Queue
from plumbline.feedback.room.app import create_app
from plumbline.feedback.store import Overlap, Store
from plumbline.records import ComparisonSet, Ranking
from plumbline.web.server import listen

HOT = "My house is too hot. What can I do?"
HOT_ANSWERS = ("Heat is a form of energy.", "Open the windows at night.", "Buy an air conditioner.")
TEXT = "Prefer what helps.\n\n- Ties are fine.\n"


class Room:
    """A server over a store; it can be stopped and started again at the same address."""

    def __init__(self, file: Path) -> None:
        self.store = Store.open(file)
        self.queue = Queue(self.store, Overlap(each=2, gold_share=0.0))
        self.store.add_criterion("helpful", TEXT)
        self.port: int | None = 0
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        listener = listen("127.0.0.1", self.port)
        self.port = listener.getsockname()[1]
        app = create_app(self.store, self.queue)
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        self._thread = threading.Thread(target=self._server.run, args=([listener],))
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def close(self) -> None:
        self.stop()
        self.store.close()

    def add(self, set_id: str, prompt: str, *answers: str) -> None:
        completions = [{"text": text, "model": f"secret-{place}"} for place, text in enumerate(answers)]
        given = {"set_id": set_id, "prompt_id": set_id, "prompt": prompt, "completions": completions}
        self.store.add_sets([ComparisonSet.model_validate(given)])

    def link(self, name: str) -> str:
        """A new sign-in link of that labeler, who is added if need be; "mia" is a manager."""
        there = {each.name: each for each in self.store.labelers()}
        labeler = there.get(name) or self.store.add_labeler(name, "manager" if name == "mia" else "labeler")
        return f"{self.address}/sign-in/{self.store.new_link(labeler.labeler_id, timedelta(hours=1))}"

    def said(self, **which: Any) -> list[Ranking]:
        return list(self.store.rankings(**which))
