"""The bundled model: tokens per second of our engines beside their peers, the cost of K samples, start-up.

    python benchmarks/models.py [--full] [--llama-server PATH]

Everything is measured in one run: every round asks every contestant in turn for the same tokens (random ids of
64-token prompts, 64 new tokens, end-of-text ignored, greedy), and the machine's limits stand beside. llama.cpp is its
real server with as many slots as prompts; without `--llama-server` its rows say so.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from measure import machine, rate, ratio, side_by_side, table, write_section

from plumbline.models import Sampling
from plumbline.models.engines.openvino import MODES, OpenVINO
from plumbline.models.engines.paged import Cached, Feed, PagedModel
from plumbline.models.generate import Reference
from plumbline.models.gguf import write_gguf
from plumbline.models.machine import cores, matrix_rate, read_bandwidth
from plumbline.models.parity import measure_folder
from plumbline.models.resolve import resolve

PROMPT, NEW = 64, 64
BASE = "transformers.generate, f32"
BYTES = {"f32": 4.0, "bf16": 2.0, "F16": 2.0, "int8": 34 / 32, "Q8_0": 34 / 32, "int4": 18 / 32}
"""Bytes read per weight and token. In mode f32 OpenVINO expands the 16-bit weights once, at loading."""


def prompts(batch: int, length: int = PROMPT) -> list[list[int]]:
    """Random token ids; the same for everyone."""
    random = np.random.default_rng(batch)
    return [random.integers(100, 40_000, length).tolist() for _ in range(batch)]


class Bare:
    """OpenVINO GenAI alone, as its own examples drive it."""

    def __init__(self, folder: Path, precision: str, scratch: Path) -> None:
        import openvino
        import openvino_genai

        self.tensor = openvino.Tensor
        self.config = openvino_genai.GenerationConfig
        file = scratch / "bare.gguf"
        if not file.exists():
            write_gguf(folder, file, "F16")
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size, scheduler.max_num_seqs, scheduler.max_num_batched_tokens = 1, 64, 4096
        options = {"INFERENCE_PRECISION_HINT": precision}
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(str(file), scheduler, "CPU", options)

    def __call__(self, ids: list[list[int]], new: int = NEW, samples: int = 1) -> None:
        config = self.config()
        config.max_new_tokens, config.ignore_eos = new, True
        if samples > 1:
            config.do_sample, config.num_return_sequences = True, samples
        self.pipeline.generate([self.tensor(np.array([row])) for row in ids], [config] * len(ids))


class LlamaServer:
    """llama.cpp's own server on loopback, with continuous batching."""

    def __init__(self, program: str, file: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [program, "-m", str(file), "--host", "127.0.0.1", "--port", str(self.port), "-np", "32"]
        command += ["-c", str(32 * 256), "-t", str(cores()), "--no-warmup", "-b", "2048", "-ub", "512"]
        # Its repacked Q8_0 kernels die with a segmentation fault on some processors with AMX.
        self.repacks = self._start(command)
        if not self.repacks and not self._start([*command, "--no-repack"]):
            raise RuntimeError("llama-server did not start")

    def _start(self, command: list[str]) -> bool:
        """Whether it came up."""
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while self.process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health").read()
                return True
            except OSError:
                time.sleep(0.1)
        return False

    def __call__(self, ids: list[list[int]], new: int = NEW) -> None:
        def ask(row: list[int]) -> None:
            body = {"prompt": row, "n_predict": new, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.port}/completion",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            answer = json.loads(urllib.request.urlopen(request).read())
            assert answer["tokens_predicted"] == new, answer["tokens_predicted"]

        with ThreadPoolExecutor(len(ids)) as pool:
            list(pool.map(ask, ids))

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


def transformers_generate(reference: Reference, ids: list[list[int]], new: int = NEW, samples: int = 1) -> None:
    """The library's own loop."""
    import torch

    rows = torch.tensor(ids)
    sampling = {"do_sample": True, "num_return_sequences": samples} if samples > 1 else {"do_sample": False}
    with torch.inference_mode():
        reference.model.generate(
            input_ids=rows,
            attention_mask=torch.ones_like(rows),
            max_new_tokens=new,
            min_new_tokens=new,
            **sampling,
        )


def paged_alone(model: PagedModel, ids: list[list[int]], new: int = NEW) -> None:
    """Our compiled model in a bare loop in this process: no sampler, no text, no pipe."""
    sequences = [Cached() for _ in ids]
    tokens = model.forward([Feed(each, row) for each, row in zip(sequences, ids, strict=True)]).argmax(-1)
    for _ in range(new - 1):
        feeds = [Feed(each, [int(token)]) for each, token in zip(sequences, tokens, strict=True)]
        tokens = model.forward(feeds).argmax(-1)
    for each in sequences:
        model.drop(each)


def contestants(
    folder: Path, scratch: Path, llama_server: str | None
) -> dict[str, Callable[[list[list[int]]], object]]:
    """Everyone who writes 64 tokens for each of some prompts, by name; the last word of a name is its mode."""
    from plumbline.models.engines.graph import graph

    greedy = Sampling(temperature=0.0, max_new_tokens=NEW, ignore_eos=True)
    reference, half = Reference.open(folder, mode="f32"), Reference.open(folder, mode="bf16")
    options: Any = {"precision": "f32", "kv_precision": "f32", "threads": 0, "cache_bytes": 1 << 30}
    alone = PagedModel(graph(folder, "F16"), **options)
    found: dict[str, Callable[[list[list[int]]], object]] = {
        "transformers.generate, f32": lambda ids: transformers_generate(reference, ids),
        "transformers.generate, bf16": lambda ids: transformers_generate(half, ids),
        "OpenVINO GenAI alone, f32": Bare(folder, "f32", scratch),
        "OpenVINO GenAI alone, bf16": Bare(folder, "bf16", scratch),
        "our compiled model alone, f32": lambda ids: paged_alone(alone, ids),
    }
    for kind in ("F16", "Q8_0") if llama_server else ():
        write_gguf(folder, scratch / f"{kind}.gguf", kind)
        server = LlamaServer(str(llama_server), scratch / f"{kind}.gguf")
        found[f"llama.cpp server{'' if server.repacks else ' (not repacked)'}, {kind}"] = server
    found["**ours**, transformers engine, f32"] = lambda ids: reference(ids, greedy)
    for mode in MODES:
        engine = OpenVINO(folder, mode=mode)
        found[f"**ours**, openvino engine, {mode}"] = lambda ids, engine=engine: engine(ids, greedy)  # type: ignore[misc]
    return found


def throughput(folder: Path, scratch: Path, llama_server: str | None, rounds: int) -> str:
    """Batch 1 and 32 on every engine, as a table."""
    parity = {row.mode: row for row in measure_folder(folder)}
    bandwidth, flops = read_bandwidth(), matrix_rate()
    found = contestants(folder, scratch, llama_server)
    seconds: dict[int, dict[str, list[float]]] = {}
    for batch in (1, 32):
        print(f"batch {batch}")
        ids = prompts(batch)
        seconds[batch] = side_by_side({name: lambda run=run, ids=ids: run(ids) for name, run in found.items()}, rounds)  # type: ignore[misc]
    for server in found.values():
        if isinstance(server, LlamaServer):
            server.close()
    weights = sum(math.prod(shape) for shape in shapes(folder))
    rows = []
    for name in found:
        mode = name.rsplit(", ", 1)[1]
        ceiling = bandwidth / (weights * BYTES[mode])
        one = rate(NEW, seconds[1][name])
        row = [name, one[1], ratio(seconds[1][name], seconds[1][BASE]), f"{one[0] / ceiling:.0%} of {ceiling:,.0f}"]
        row += [rate(32 * NEW, seconds[32][name])[1], ratio(seconds[32][name], seconds[32][BASE])]
        if name.startswith("**ours**, open"):
            row += [f"{parity[mode].mean_kl:.1e} / {parity[mode].worst_kl:.1e}", f"{parity[mode].greedy_agreement:.0%}"]
        rows.append([*row, "", ""][:8])
    head = ["", "tokens/s, batch 1", "to transformers", "of memory's limit", "tokens/s, batch 32", "to transformers"]
    body = table([*head, "KL mean / worst", "greedy equal"], rows)
    return f"{body}\n\n{notes(seconds, bandwidth, flops, rounds, llama_server)}"


def shapes(folder: Path) -> list[list[int]]:
    """The shapes of the model's weights."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "np") as file:
        return [file.get_slice(name).get_shape() for name in file.keys()]


def notes(
    seconds: dict[int, dict[str, list[float]]], bandwidth: float, flops: float, rounds: int, llama_server: str | None
) -> str:
    """What stands under the table."""
    ours = "**ours**, openvino engine, f32"
    overhead = [
        f"batch {batch}: {ratio(seconds[batch][ours], seconds[batch][against])} the speed of {against}"
        for batch in (1, 32)
        for against in ("OpenVINO GenAI alone, f32", "our compiled model alone, f32")
    ]
    lines = [
        f"New tokens per second of the whole call, its prompt included: median of {rounds} rounds (lowest–highest).",
        f"In the same run memory was read at {bandwidth / 1e9:.1f} GB/s and float32 matrices multiplied at",
        f"{flops / 1e9:,.0f} GFLOP/s. Memory's limit is that bandwidth over the bytes of weights read per token. KL is",
        "from the transformers engine in float32, in nats per token over 240 tokens.",
        "",
        "Through our `Generate` against what lies below it: " + "; ".join(overhead) + ".",
    ]
    if not llama_server:
        lines.append("\nllama.cpp was not measured: pass `--llama-server` with the path of its server.")
    return "\n".join(lines)


def samples(folder: Path, scratch: Path, rounds: int) -> str:
    """Eight samples of one 512-token prompt against the same engine's batch of eight separate prompts."""
    reference, fast = Reference.open(folder, mode="f32"), OpenVINO(folder)
    half, bare = OpenVINO(folder, mode="bf16"), Bare(folder, "f32", scratch)
    ids = prompts(1, 512)
    one = Sampling(temperature=1.0, max_new_tokens=NEW, ignore_eos=True, seed=1)
    eight = Sampling(temperature=1.0, max_new_tokens=NEW, ignore_eos=True, seed=1, n=8)
    different = prompts(8, 512)
    seconds = side_by_side(
        {
            "transformers.generate, 8 return sequences": lambda: transformers_generate(reference, ids, samples=8),
            "transformers engine: 8 separate": lambda: reference(different, one),
            "transformers engine: 8 of one": lambda: reference(ids, eight),
            "OpenVINO GenAI alone: 8 of one": lambda: bare(ids, samples=8),
            "openvino engine, f32: 8 separate": lambda: fast(different, one),
            "openvino engine, f32: 8 of one": lambda: fast(ids, eight),
            "openvino engine, bf16: 8 separate": lambda: half(different, one),
            "openvino engine, bf16: 8 of one": lambda: half(ids, eight),
        },
        rounds,
    )
    fast.close()
    half.close()
    rows = []
    for name, each in seconds.items():
        separate = name.replace("8 of one", "8 separate")
        rows.append(
            [
                name,
                f"{sorted(each)[len(each) // 2]:.2f}",
                ratio(each, seconds[separate]) if separate in seconds and separate != name else "",
            ]
        )
    return (
        table(["512 tokens in, 8 × 64 out, temperature 1", "seconds", "to 8 separate prompts"], rows)
        + f"\n\nMedian of {rounds} rounds (lowest–highest)."
    )


def startup(rounds: int) -> str:
    """Seconds of whole processes, from nothing to done."""
    ask = (
        "from plumbline import load, Sampling; "
        "load('smollm2-135m', engine={!r})(['Knock, knock'], Sampling(max_new_tokens=1))"
    )
    python, plumb = sys.executable, str(Path(sys.executable).with_name("plumb"))
    commands = {
        "python -c pass": [python, "-c", "pass"],
        "import plumbline": [python, "-c", "import plumbline"],
        "plumb --help": [plumb, "--help"],
        "plumb generate --help": [plumb, "generate", "--help"],
        "plumb train reward --help": [plumb, "train", "reward", "--help"],
        "import transformers": [python, "-c", "import transformers, torch; transformers.AutoModelForCausalLM"],
        "first token, openvino engine": [python, "-c", ask.format("openvino")],
        "first token, transformers engine": [python, "-c", ask.format("transformers")],
    }
    seconds = side_by_side(
        {
            name: lambda command=command: subprocess.run(command, check=True, capture_output=True)
            for name, command in commands.items()
        },
        rounds,
    )
    rows = [
        [name, f"{sorted(each)[len(each) // 2]:.2f}", f"{min(each):.2f}–{max(each):.2f}"]
        for name, each in seconds.items()
    ]
    return table(["from a new process", "seconds, median", "spread"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more rounds")
    parser.add_argument("--llama-server", default=os.environ.get("LLAMA_SERVER"), help="path of llama.cpp's server")
    given = parser.parse_args()
    rounds = 9 if given.full else 5
    command = "python benchmarks/models.py" + (" --full" if given.full else "")
    print(machine())
    source = resolve("smollm2-135m")
    assert source.folder is not None
    with tempfile.TemporaryDirectory() as scratch:
        body = throughput(source.folder, Path(scratch), given.llama_server, rounds)
        write_section("Tokens per second of the bundled model", command, body)
        write_section("Eight samples of one prompt", command, samples(source.folder, Path(scratch), rounds))
    write_section("Start-up", command, startup(rounds))


if __name__ == "__main__":
    main()
