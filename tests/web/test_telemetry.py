"""Requests are counted and timed, by a clock of the test."""

from __future__ import annotations

from starlette.testclient import TestClient

from plumbline.web.telemetry import Telemetry
from sites import Clock


def test_counts_and_percentiles(clock: Clock) -> None:
    telemetry = Telemetry(clock)
    assert telemetry.report()["median_ms"] is None
    for number in range(1, 101):
        telemetry.add(500 if number == 100 else 200, number / 1000)
    clock.now += 60
    assert telemetry.report() == {
        "status": "ok",
        "seconds_up": 60.0,
        "requests": 100,
        "failed": 1,
        "median_ms": 51.0,
        "p95_ms": 96.0,
    }


def test_health_is_open_to_all_and_counts(client: TestClient) -> None:
    client.get("/nothing")
    client.get("/bug")
    report = client.get("/health").json()
    assert (report["status"], report["requests"], report["failed"]) == ("ok", 2, 1)


def test_every_request_has_its_own_id(client: TestClient) -> None:
    assert client.get("/health").headers["x-request-id"] != client.get("/health").headers["x-request-id"]
