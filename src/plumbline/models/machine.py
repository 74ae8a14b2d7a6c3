"""What this machine can do at best: how fast it reads memory, how fast it multiplies matrices. With numpy alone.

Writing one token reads every weight once, so a batch of one is bound by memory:

    ceiling (tokens/s) = read bandwidth (bytes/s) / weights (bytes)

Reading a prompt multiplies, about two operations per weight and token, so it is bound by the matrix rate.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

ARRAY_BYTES = 1 << 30
"""More than any last-level cache keeps for one process."""

WEIGHT_BYTES = {"f32": 4.0, "bf16": 2.0, "f16": 2.0, "int8": 34 / 32, "int4": 18 / 32}
"""What a mode reads for one weight. Weights stored in 16 bits are widened when they are loaded, if the mode computes in
32; the integer modes keep blocks of 32 weights with one 16-bit scale."""

MATRIX = 2048
"""Rows and columns of the matrices multiplied: past the size at which the rate stops growing."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def read_bandwidth(seconds: float = 1.0, *, size: int = ARRAY_BYTES) -> float:
    """Bytes per second that all cores together read from memory: the best of what fits into `seconds`."""
    import numpy as np

    words = np.ones(size // 8, np.uint64)
    parts = np.array_split(words, cores())
    with ThreadPoolExecutor(len(parts)) as pool:  # numpy reduces without holding the interpreter's lock
        best = _best_time(lambda: sum(1 for _ in pool.map(np.bitwise_or.reduce, parts)), seconds)
    return words.nbytes / best


def matrix_rate(seconds: float = 1.0, *, size: int = MATRIX) -> float:
    """Float32 operations per second in a square matrix product: the best of what fits into `seconds`."""
    import numpy as np

    a = np.full((size, size), 0.5, np.float32)
    product = np.empty_like(a)
    best = _best_time(lambda: np.matmul(a, a, out=product), seconds)
    return 2 * size**3 / best


def decode_ceiling(parameters: int, mode: str, bandwidth: float) -> float:
    """Most tokens per second that one answer can be written with."""
    return bandwidth / (parameters * WEIGHT_BYTES[mode])


def _best_time(work: Callable[[], object], seconds: float) -> float:
    """The quickest of repeated runs: what disturbs a measurement only ever makes it slower."""
    work()
    best = float("inf")
    end = time.perf_counter() + seconds
    while True:
        begin = time.perf_counter()
        work()
        now = time.perf_counter()
        best = min(best, now - begin)
        if now >= end:
            return best
