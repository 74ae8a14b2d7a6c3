"""The semantic cache: how many questions get an answer of an earlier one, and how many of those get a wrong one.

    python benchmarks/cache.py [--pairs FILE] [--write]

Pairs of questions of $PLUMBLINE_TEST_DATA/similar_questions, which people have labelled as asking the same or not, are
asked one after the other, as of one tenant. A hit is wrong where the two are labelled as not the same; where it is the
question of another pair, nobody has labelled the two, and it is counted apart. Topics are
groups of near vectors; the threshold is chosen on half of the topics and reported on the other half. `--pairs` adds the
pairs of a larger file of the same shape (GPTCache's `similiar_qqp_full.json`), of which only those are embedded that
the second check lets through.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measure import table, write_section
from scipy.cluster.vq import kmeans2

from plumbline.evaluate.statistics import wilson
from plumbline.models.embed import load_embedder
from plumbline.serve.alike import agree, is_question, nearest

TITLE = "Questions that are alike"
DATA = Path(os.environ.get("PLUMBLINE_TEST_DATA", "data")) / "similar_questions"
TOPICS = 40
THRESHOLDS = (0.80, 0.85, 0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
DOCUMENTED = 0.97
"""What the documentation says to take."""


class Pair(NamedTuple):
    first: str
    then: str
    same: bool


class Hits(NamedTuple):
    """What came of asking every second question after every first one."""

    asked: int
    right: int
    wrong: int
    alike: int
    """Pairs that are labelled as the same."""
    unlabelled: int = 0
    """Hits at a question of another pair."""

    @property
    def share(self) -> float:
        return self.wrong / max(1, self.right + self.wrong)


def read_pairs(path: Path) -> list[Pair]:
    text = path.read_text(encoding="utf-8")
    rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    return [Pair(row["text_a"], row["text_b"], bool(row["label"])) for row in rows]


def vectors_of(embed: Any, pairs: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray]:
    rows = embed([text for pair in pairs for text in (pair.first, pair.then)])
    return rows[0::2], rows[1::2]


def halves(first: np.ndarray, then: np.ndarray) -> np.ndarray:
    """Whether each pair is in the half on which is chosen; pairs of one topic are in one half."""
    _, topics = kmeans2((first + then).astype(np.float64), TOPICS, minit="++", rng=np.random.default_rng(0))
    return np.asarray(topics % 2 == 0)


def replay(pairs: Sequence[Pair], first: np.ndarray, then: np.ndarray, least: float, *, check: bool = True) -> Hits:
    """Every first question is stored; then every second one is asked."""
    stored = [row.astype("<f4").tobytes() for row in first]
    right = wrong = unlabelled = 0
    for place, (pair, row) in enumerate(zip(pairs, then, strict=True)):
        if check and not is_question(pair.then):
            continue
        for found in nearest(row.astype("<f4").tobytes(), stored, least)[: None if check else 1]:
            if check and not (is_question(pairs[found].first) and agree(pair.then, pairs[found].first)):
                continue
            unlabelled += found != place
            right += found == place and pair.same
            wrong += found == place and not pair.same
            break
    return Hits(len(pairs), right, wrong, sum(pair.same for pair in pairs), unlabelled)


def line(name: str, hits: Hits) -> list[str]:
    given = hits.right + hits.wrong
    low, high = wilson(hits.share, given) if given else (0.0, 1.0)
    interval = f"{hits.share:.1%} ({low:.1%}–{high:.1%})"
    asked, wrong, unlabelled = f"{hits.asked:,}", str(hits.wrong), str(hits.unlabelled)
    return [name, asked, str(given), wrong, interval, unlabelled, f"{hits.right / hits.alike:.1%}"]


HEAD = ["", "asked", "hits", "wrong", "wrong among hits (95 %)", "no label", "of all that ask the same"]


def chosen(tried: Mapping[float, Hits]) -> float:
    """The threshold with the smallest share of wrong hits; of several, the lowest."""
    return min(tried, key=lambda least: (tried[least].share, least))


def choices(tried: Mapping[float, Hits]) -> str:
    return ", ".join(f"{least} {hits.wrong} of {hits.right + hits.wrong}" for least, hits in tried.items())


def measure(embed: Any) -> str:
    """The table of the shared pairs, one question after the other."""
    pairs = read_pairs(DATA / "qqp_pairs.jsonl")
    first, then = vectors_of(embed, pairs)
    chosen_on = halves(first, then)

    def half(mask: np.ndarray) -> tuple[list[Pair], np.ndarray, np.ndarray]:
        return [pair for pair, kept in zip(pairs, mask, strict=True) if kept], first[mask], then[mask]

    tried = {least: replay(*half(chosen_on), least) for least in THRESHOLDS}
    least, other = chosen(tried), half(~chosen_on)
    rows = [
        line(f"half of the topics, on which {least} was chosen", tried[least]),
        line("**the other half**", replay(*other, least)),
        line("the other half, by the vector alone", replay(*other, least, check=False)),
        line("the other half, by the check alone", replay(*other, -1.0)),
        line(f"all, at {DOCUMENTED}", replay(pairs, first, then, DOCUMENTED)),
    ]
    return f"{table(HEAD, rows)}\n\nWrong at each threshold where it was chosen: {choices(tried)}."


def measure_more(embed: Any, path: Path) -> str:
    """The same of a larger file, pair by pair, without the pairs that were measured before."""
    known = set(read_pairs(DATA / "qqp_pairs.jsonl"))
    pairs = [pair for pair in read_pairs(path) if pair not in known]
    passed = [pair for pair in pairs if is_question(pair.first) and is_question(pair.then) and agree(*pair[:2])]
    first, then = vectors_of(embed, passed)
    near = (first * then).sum(1)
    chosen_on = halves(first, then)
    alike = sum(pair.same for pair in pairs)

    def of(mask: np.ndarray, keep: Callable[[Pair], bool] = lambda pair: True) -> Hits:
        hits = [pair for pair, kept in zip(passed, mask, strict=True) if kept and keep(pair)]
        right = sum(pair.same for pair in hits)
        return Hits(len(pairs), right, len(hits) - right, alike)

    tried = {least: of(chosen_on & (near >= least)) for least in THRESHOLDS}
    least = chosen(tried)
    other = ~chosen_on & (near >= least)
    rows = [
        line(f"half of the topics, on which {least} was chosen", tried[least]),
        line("**the other half**", of(other)),
        line("of these, the same letters but for blanks and case", of(other, same_letters)),
        line("the other half, by the check alone", of(~chosen_on)),
        line(f"all, at {DOCUMENTED}", of(near >= DOCUMENTED)),
        line("of these, the same letters but for blanks and case", of(near >= DOCUMENTED, same_letters)),
    ]
    head = f"Of {len(pairs):,} more pairs of the same source, each by itself:"
    return f"{head}\n\n{table(HEAD, rows)}\n\nWrong at each threshold where it was chosen: {choices(tried)}."


def same_letters(pair: Pair) -> bool:
    return "".join(pair.first.lower().split()) == "".join(pair.then.lower().split())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=Path, help="a larger file of pairs")
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    given = parser.parse_args()
    embed = load_embedder("minilm")
    body = measure(embed)
    if given.pairs:
        body += "\n\n" + measure_more(embed, given.pairs)
    print(body)
    if given.write:
        write_section(TITLE, "python " + " ".join([*sys.argv[:1], "--pairs FILE" if given.pairs else ""]).strip(), body)


if __name__ == "__main__":
    main()
