"""The machine's limits: the arithmetic by hand, and that more work is not taken for a faster machine."""

from __future__ import annotations

import os

import pytest

from plumbline.models.machine import WEIGHT_BYTES, cores, decode_ceiling, matrix_rate, read_bandwidth


def test_the_ceiling_is_bandwidth_over_the_bytes_of_one_token() -> None:
    assert decode_ceiling(100_000_000, "f32", 20e9) == 50.0  # 400 MB per token
    assert decode_ceiling(100_000_000, "bf16", 20e9) == 100.0
    assert decode_ceiling(32_000_000, "int8", 34e6) == 1.0  # 32 weights and their scale are 34 bytes
    assert decode_ceiling(32_000_000, "int4", 18e6) == 1.0


def test_every_mode_of_every_engine_has_its_bytes() -> None:
    from plumbline.models.engines import openvino
    from plumbline.models.generate import MODES

    assert {*openvino.MODES, *MODES} == set(WEIGHT_BYTES)


def test_cores_are_those_of_this_process() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_machine_reads_and_multiplies() -> None:
    """No machine that runs this is a thousand times slower or faster than those it was written on."""
    assert 1e8 < read_bandwidth(0.0, size=1 << 24) < 1e13
    assert 1e8 < matrix_rate(0.0, size=256) < 1e14


@pytest.mark.parametrize("seconds", [0.0, 0.02])
def test_a_measurement_happens_however_short_its_time(seconds: float) -> None:
    assert read_bandwidth(seconds, size=1 << 16) > 0
