"""Runs here are for what they learn; their pages, which take longer than the rest, are proved with the curves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Inside, torch computes with one thread: a second one costs a tiny model more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process draw no curves."""
    monkeypatch.setattr("plumbline.training.metrics.draw", lambda *_, **__: None)
