"""Real runs on preferences of people: what a reward model and DPO learn of them, with n and intervals, good or bad.

    python benchmarks/people.py [--only NAME ...]        PLUMBLINE_TEST_DATA names the folder of data sets

Five folds by conversation: every comparison is predicted once, by a model that saw no conversation with its opening.
With --folds some of the folds only. The interval is over comparison sets, pooled over the folds (Wilson, 95 %). What a
rule that counts tokens would reach on the same sets stands beside; a reward model that does not beat it has learned
nothing that is worth its price.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from measure import machine, table, write_section

from plumbline.align import dpo, reward
from plumbline.formats import read_comparisons
from plumbline.records import Pair, Ranking, write_jsonl

FOLDS = 5
DATA = Path(os.environ.get("PLUMBLINE_TEST_DATA", "data"))
FILES = {
    "HH-RLHF, harmless": "hh_rlhf_harmless/pairs.jsonl",
    "OpenAssistant ranks": "oasst_trees/trees.jsonl",
    "instructions (DPO sample)": "instructions/dpo_en_demo.jsonl",
}
REWARD = reward.Config(top_layers=10, batch_size=16, held_out=0.0)
DPO = dpo.Config(top_layers=10, batch_size=16, held_out=0.0)
Comparisons = list[Ranking | Pair]


def comparisons(name: str) -> Comparisons:
    """The comparisons of one of the files, sets of one preference apart from each other."""
    left_out: list[str] = []
    found: Comparisons = list(read_comparisons([DATA / FILES[name]], left_out))
    print(f"{name}: {len(found)} comparison sets, {len(left_out)} lines left out", flush=True)
    return found


def fold_of(record: Ranking | Pair) -> int:
    """By the opening of the conversation, so that a later turn of it is never learned elsewhere."""
    opening = record.prompt if isinstance(record.prompt, str) else str(record.prompt[0]["content"])
    return hashlib.sha256(opening.encode()).digest()[0] % FOLDS


def by_folds(
    method: Any, config: Any, records: Comparisons, *, training: str = "as they are", folds: int = FOLDS
) -> dict[str, Any]:
    """Trains on four folds and predicts the fifth, for each of the first `folds`; counts pooled."""
    begin, found = time.perf_counter(), []
    for fold in range(folds):
        with tempfile.TemporaryDirectory() as scratch:
            apart = [each for each in records if fold_of(each) != fold]
            learn: Iterable[Any] = apart if training == "as they are" else as_single_pairs(apart)
            file = Path(scratch) / "data.jsonl"
            write_jsonl(file, [marked(each, "train") for each in learn])
            write_jsonl(file, [marked(each, "validation") for each in records if fold_of(each) == fold], append=True)
            method.train(replace(config, data=(str(file),), out=f"{scratch}/run"))
            found.append(json.loads((Path(scratch) / "run" / "accuracy.json").read_text()))
            shutil.rmtree(f"{scratch}/run")
            print(f"  fold {fold}: {found[-1]['right']}", flush=True)
    return pooled(found) | {"minutes": (time.perf_counter() - begin) / 60, "folds": folds}


def marked(record: Any, split: str) -> Any:
    return record.model_copy(update={"split": split})


def as_single_pairs(records: Comparisons) -> list[Pair]:
    """Every pair of a ranking as a comparison of its own, as most trainers see it: shuffled apart from the others."""
    pairs = []
    for record in records:
        if isinstance(record, Pair):
            pairs.append(record)
            continue
        ranked = [(rank, text) for rank, text in zip(record.ranks, record.completions, strict=True) if rank is not None]
        for (first, one), (second, other) in combinations(ranked, 2):
            if first != second and one != other:
                chosen, rejected = (one, other) if first < second else (other, one)
                name = f"{record.set_id}-{len(pairs)}"
                pairs.append(
                    Pair(
                        prompt=record.prompt, chosen=chosen, rejected=rejected, prompt_id=record.prompt_id, set_id=name
                    )
                )
    return pairs


def pooled(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The shares of all folds as one share of all sets."""
    result: dict[str, Any] = {"pairs": sum(each["pairs"] for each in found)}
    for key in ("right", "longer", "shorter", "longer_wins"):
        sets = sum(each[key][3] for each in found)
        hits = sum(each[key][0] * each[key][3] for each in found)
        result[key] = (hits, sets)
    weights = [each["right"][3] for each in found]
    result["log_loss"] = sum(each["log_loss"] * n for each, n in zip(found, weights, strict=True)) / sum(weights)
    return result


def wilson(hits: float, n: int) -> str:
    """A share with its interval, in per cent."""
    z, share = 1.96, hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return f"{share:.1%} ({middle - half:.1%}–{middle + half:.1%})"


def row(what: str, result: dict[str, Any]) -> list[object]:
    hits, sets = result["longer_wins"]
    rule = wilson(max(hits, sets - hits), sets) + (" longer" if hits > sets - hits else " shorter")
    return [
        what,
        result["folds"],
        result["right"][1],
        result["pairs"],
        wilson(*result["right"]),
        rule,
        wilson(*result["longer"]),
        wilson(*result["shorter"]),
        f"{result['log_loss']:.3f}",
        f"{result['minutes']:.1f}",
    ]


HEAD = ["", "folds", "sets", "pairs", "held-out accuracy", "best rule by length", "where the longer is better"]
HEAD += ["where the shorter is", "log loss (coin 0.693)", "minutes"]


def main() -> None:
    hh, oasst, sample = FILES
    runs: dict[str, tuple[str, Any, Any, str, str]] = {
        "hh": ("reward, top 10 layers", reward, REWARD, hh, "as they are"),
        "oasst": ("reward, top 10 layers", reward, REWARD, oasst, "as they are"),
        "dpo": ("DPO, top 10 layers", dpo, DPO, sample, "as they are"),
        "oasst-two": ("reward, two epochs", reward, replace(REWARD, epochs=2), oasst, "as they are"),
        "oasst-1": ("reward, top 10 layers, seed 1", reward, replace(REWARD, seed=1), oasst, "as they are"),
        "oasst-2": ("reward, top 10 layers, seed 2", reward, replace(REWARD, seed=2), oasst, "as they are"),
        "oasst-apart": ("reward, pairs shuffled apart", reward, REWARD, oasst, "apart"),
        "oasst-apart-two": ("reward, pairs apart, two epochs", reward, replace(REWARD, epochs=2), oasst, "apart"),
        "hh-all": ("reward, LoRA on all layers", reward, replace(REWARD, top_layers=0), hh, "as they are"),
        "hh-1": ("reward, top 10 layers, seed 1", reward, replace(REWARD, seed=1), hh, "as they are"),
        "hh-2": ("reward, top 10 layers, seed 2", reward, replace(REWARD, seed=2), hh, "as they are"),
        "hh-two": ("reward, two epochs", reward, replace(REWARD, epochs=2), hh, "as they are"),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=runs, default=list(runs), help="some of the runs")
    parser.add_argument("--folds", type=int, choices=range(1, FOLDS + 1), default=FOLDS, help="predict so many of them")
    parser.add_argument(
        "--keep", type=Path, default=Path("benchmarks/people.json"), help="where finished runs are kept"
    )
    parser.add_argument("--full", action="store_true", help="forget what was kept")
    given = parser.parse_args()
    print(machine())
    kept = json.loads(given.keep.read_text()) if given.keep.exists() and not given.full else {}
    for name in given.only:
        what, method, config, data, training = runs[name]
        print(f"{data}: {what}", flush=True)
        kept[name] = by_folds(method, config, comparisons(data), training=training, folds=given.folds)
        given.keep.write_text(json.dumps(kept, indent=1))
        rows = [row(f"{runs[done][3]}: {runs[done][0]}", kept[done]) for done in runs if done in kept]
        write_section("Reward model and DPO on preferences of people", "python benchmarks/people.py", table(HEAD, rows))


if __name__ == "__main__":
    main()
