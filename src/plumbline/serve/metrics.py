"""What Prometheus reads: counts, gauges and histograms in memory, written in its text format.

Written here and not by its client library: seven numbers and three kinds are less than a dependency.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Seconds."""
KIND = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]

HELP = {
    "plumbline_requests_total": "Requests by kind, version and how they ended.",
    "plumbline_tokens_total": "Tokens read and written.",
    "plumbline_rails_total": "What rails said.",
    "plumbline_cache_total": "Requests that could be in the cache, by whether they were.",
    "plumbline_feedback_total": "Feedback by kind.",
    "plumbline_routes_total": "Routed requests by who answered.",
    "plumbline_cost_total": "What exchanges cost, by the prices in plumb.toml.",
    "plumbline_answer_seconds": "From the request to the end of the answer.",
    "plumbline_first_piece_seconds": "From the request to the first piece of a stream.",
}


class Metrics:
    """Used from the server's event loop alone."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, Labels]] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._sums: Counter[str] = Counter()
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Counts up."""
        assert name in HELP, name
        self._counts[name, tuple(sorted(labels.items()))] += amount  # type: ignore[assignment]

    def observe(self, name: str, seconds: float) -> None:
        """Puts a time into its bucket."""
        assert name in HELP, name
        buckets = self._buckets.setdefault(name, [0] * (len(BUCKETS) + 1))
        buckets[bisect_left(BUCKETS, seconds)] += 1
        self._sums[name] += seconds  # type: ignore[assignment]

    def watch(self, name: str, help: str, read: Callable[[], float]) -> None:
        """A number that is read when somebody asks."""
        self._gauges[name] = (help, read)

    def text(self) -> str:
        """All of it."""
        lines: list[str] = []
        for name in sorted({name for name, _ in self._counts}):
            lines += [f"# HELP {name} {HELP[name]}", f"# TYPE {name} counter"]
            for (of, labels), value in sorted(self._counts.items()):
                if of == name:
                    lines.append(f"{name}{{{written(labels)}}} {value:g}")
        for name, buckets in sorted(self._buckets.items()):
            lines += [f"# HELP {name} {HELP[name]}", f"# TYPE {name} histogram"]
            total = 0
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), buckets, strict=True):
                total += count
                lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
            lines += [f"{name}_sum {self._sums[name]:g}", f"{name}_count {total}"]
        for name, (help, read) in sorted(self._gauges.items()):
            lines += [f"# HELP {name} {help}", f"# TYPE {name} gauge", f"{name} {read():g}"]
        return "\n".join(lines) + "\n"


def written(labels: Labels) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    return ",".join(f'{name}="{escaped(value)}"' for name, value in labels)
