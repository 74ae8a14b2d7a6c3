"""Runs here are for what they learn; their pages, which take longer than the rest, are proved with the curves."""

from __future__ import annotations

import pytest


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process draw no curves."""
    monkeypatch.setattr("plumbline.training.metrics.draw", lambda *_, **__: None)
