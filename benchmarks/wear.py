"""What an adapter costs inside the fast engine: seconds until a new policy answers, and tokens per second while worn.

    python benchmarks/wear.py [--full]

Adapters of rank 16 with random numbers, on all layers and on the top ten, beside the same model without one and beside
one with the adapter merged into its weights, which is the limit: a merged model computes what a plain one does. Every
round asks every engine in turn for 64 new tokens to prompts of 64 (random ids, greedy, end-of-text ignored).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure import rate, ratio, side_by_side, table, write_section
from numpy.typing import NDArray

from models import NEW, prompts
from plumbline.models import Sampling
from plumbline.models.engines.openvino import OpenVINO
from plumbline.models.resolve import resolve
from plumbline.models.weights import read_weights

Tensors = dict[str, NDArray[np.float32]]

RANK, SCALE = 16, 2.0
BATCHES = (1, 32, 64)
GREEDY = Sampling(temperature=0.0, max_new_tokens=NEW, ignore_eos=True)


def adapter(folder: Path, lowest: int, seed: int) -> Tensors:
    """Random matrices for every linear layer of the decoder blocks from `lowest` on, under PEFT's names."""
    random = np.random.default_rng(seed)
    made: Tensors = {}
    for name, weight in read_weights(folder).items():
        if "_proj." in name and int(name.split(".")[2]) >= lowest:
            place, (out, width) = f"base_model.model.{name.removesuffix('.weight')}", weight.shape
            made[f"{place}.lora_A.weight"] = random.normal(0, width**-0.5, (RANK, width)).astype(np.float32)
            made[f"{place}.lora_B.weight"] = random.normal(0, 0.01, (out, RANK)).astype(np.float32)
    return made


def merge(folder: Path, tensors: Tensors, to: Path) -> Path:
    """The model with the adapter merged into its weights, as a folder of its own."""
    from safetensors.numpy import save_file

    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors*"))
    weights = {name: stored.read().astype(np.float32) for name, stored in read_weights(folder).items()}
    for name in weights:
        place = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{place}.lora_A.weight" in tensors:
            change = tensors[f"{place}.lora_B.weight"] @ tensors[f"{place}.lora_A.weight"]
            weights[name] += np.float32(SCALE) * change
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    return to


def seconds_of(run: Callable[..., object], *given: Any, **named: Any) -> float:
    begin = time.perf_counter()
    run(*given, **named)
    return time.perf_counter() - begin


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f}–{max(seconds):.3f})"


def until_worn(folder: Path, scratch: Path, mode: str, rounds: int) -> list[list[str]]:
    """Seconds from a policy's numbers to an engine that answers with them."""
    lowest = {"all layers": 0, "top 10": 20}
    rows = []
    engine = OpenVINO(folder, mode=mode)
    for name, layer in lowest.items():
        policies = [adapter(folder, layer, seed) for seed in range(rounds + 1)]
        first, again, off = [], [], []
        for number in range(rounds):
            first.append(seconds_of(engine.wear, policies[0], scale=SCALE))
            again.append(seconds_of(engine.wear, policies[number + 1], scale=SCALE))
            off.append(seconds_of(engine.wear, None))
        rows.append([f"{mode}, {name}", spread(again), spread(first), spread(off), ""])
    engine.close()

    def merged_engine(number: int) -> None:
        OpenVINO(merge(folder, adapter(folder, 0, number), scratch / f"{mode}-{number}"), mode=mode).close()

    merged = [seconds_of(merged_engine, number) for number in range(rounds)]
    rows.append([f"{mode}, merged, exported and read", "", "", "", spread(merged)])
    return rows


def throughput(folder: Path, merged: Path, mode: str, rounds: int) -> list[list[str]]:
    """Tokens per second at every batch, with what is worn."""
    engines = {
        "no adapter": OpenVINO(folder, mode=mode),
        "top 10 layers": OpenVINO(folder, mode=mode),
        "all layers": OpenVINO(folder, mode=mode),
        "merged weights": OpenVINO(merged, mode=mode),
    }
    engines["top 10 layers"].wear(adapter(folder, 20, 0), scale=SCALE)
    engines["all layers"].wear(adapter(folder, 0, 0), scale=SCALE)
    rows = [[f"{mode}, {name}"] for name in engines]
    for batch in BATCHES:
        print(f"{mode}, batch {batch}")
        ids = prompts(batch)
        seconds = side_by_side(
            {name: lambda engine=engine, ids=ids: engine(ids, GREEDY) for name, engine in engines.items()},  # type: ignore[misc]
            rounds,
        )
        for row, name in zip(rows, engines, strict=True):
            row += [rate(batch * NEW, seconds[name])[1], ratio(seconds[name], seconds["no adapter"])]
    for engine in engines.values():
        engine.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more rounds")
    given = parser.parse_args()
    rounds = 9 if given.full else 3
    source = resolve("smollm2-135m")
    assert source.folder is not None
    waits: list[list[str]] = []
    speeds: list[list[str]] = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["PLUMBLINE_CACHE"] = f"{scratch}/cache"  # the graphs of merged models are of no use later
        merged = merge(source.folder, adapter(source.folder, 0, 0), Path(scratch, "merged"))
        for mode in ("f32", "bf16"):
            waits += until_worn(source.folder, Path(scratch), mode, rounds)
            speeds += throughput(source.folder, merged, mode, rounds)
    head = ["", "again, same layers", "first, or other layers", "taken off", "a new engine"]
    batches = [cell for batch in BATCHES for cell in (f"tokens/s, batch {batch}", "to no adapter")]
    body = "\n\n".join(
        [
            "Seconds until the bundled model answers with another policy:",
            table(head, waits),
            "New tokens per second of whole calls, 64 tokens in and 64 out:",
            table(["", *batches], speeds),
            f"Rank {RANK}; median of {rounds} rounds (lowest–highest). The merged model is the limit for any way of "
            "wearing: it computes what the model without an adapter does.",
        ]
    )
    command = "python benchmarks/wear.py" + (" --full" if given.full else "")
    write_section("An adapter worn by the fast engine", command, body)


if __name__ == "__main__":
    main()
