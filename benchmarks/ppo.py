"""A whole PPO iteration, ours beside a textbook arrangement, and rollouts beside `transformers.generate`.

    python benchmarks/ppo.py [--full] [--only iteration|rollouts]

Textbook: four separate models (policy, reference, value, reward), the prompt computed again for each sample, sampling
by `generate`, logits over the whole vocabulary, the same number of passes, mini-batches and tokens, the same adapters
on the same layers of policy and value, the same precision. Each contestant runs in a process of its own, in turn, so
that its memory can be told; an iteration that warms up is not counted. Answers end where they end: what is compared is
their tokens per second of everything together.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import machine, table, write_section

MODEL = "smollm2-135m"
PROMPTS, SAMPLES, PASSES, STEPS, NEW, TOP = 16, 4, 4, 4, 48, 10
SENTENCE = "My house number {n} is too hot in summer, and I would rather not buy an air conditioner. "
CASES = {"prompt 64": 3, "prompt 192": 9}
"""How many sentences a prompt has; a sentence is about 20 tokens."""


def prompts(sentences: int, count: int = PROMPTS) -> list[str]:
    return ["".join(SENTENCE.format(n=n + k) for k in range(sentences)) + "What can I do?" for n in range(count)]


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ---- ours


def ours(sentences: int, rounds: int, folder: Path, sampler: str, mode: str) -> dict[str, Any]:
    import torch
    import transformers  # noqa: F401

    from plumbline.align import ppo

    before = peak()
    data = folder / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": each}) + "\n" for each in prompts(sentences)))
    reward_model(folder / "reward")
    config = ppo.Config(
        data=(str(data),), model=MODEL, out=str(folder / "run"), reward=str(folder / "reward"), held_out=0.0,
        prompts=PROMPTS, samples=SAMPLES, passes=PASSES, batch_size=PROMPTS // STEPS, max_new_tokens=NEW,
        top_layers=TOP, iterations=rounds + 1, every=1000, sampler=sampler, sampler_mode=mode, lr=1e-6,
    )  # fmt: skip
    ppo.train(config)
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()][1:]
    stages = ("sampling", "scoring", "looking", "learning")
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {
        "rates": [row["tokens_per_second"] for row in rows],
        "stages": {stage: statistics.median(row[f"seconds_{stage}"] for row in rows) for stage in stages},
        "memory": peak() - before,
        "engine": children if sampler == "openvino" else 0,
        "gap": statistics.median(row["sampler_gap"] for row in rows),
        "first_ratio": max(row["first_ratio"] for row in rows),
        "threads": torch.get_num_threads(),
    }


def reward_model(folder: Path) -> None:
    """A reward model as an adapter on the bundled model, untrained: what it says costs what any would."""
    import torch

    from plumbline.models.adapters import Hats, LoRA
    from plumbline.models.families import load_causal
    from plumbline.models.heads import ScalarHead
    from plumbline.models.resolve import resolve

    torch.manual_seed(0)
    model: Any = load_causal(resolve(MODEL).folder, device="cpu", dtype="float32")
    hats = Hats(model)
    hats.add("reward", LoRA(top_layers=TOP))
    hats.save("reward", folder / "adapter")
    ScalarHead(model.config.hidden_size).save(folder)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (folder / name).symlink_to(Path(model.name_or_path).resolve() / name)


# ---- the textbook


def textbook(sentences: int, rounds: int, folder: Path, *_: str) -> dict[str, Any]:
    import torch
    import transformers  # noqa: F401

    from plumbline.models.chat import encode_prompt
    from plumbline.models.families import load_causal
    from plumbline.models.resolve import resolve
    from plumbline.models.tokenizer import Tokenizer
    from plumbline.training.devices import pick_precision

    before = peak()
    place = resolve(MODEL).folder
    tokenizer = Tokenizer(place)  # type: ignore[arg-type]
    precision = pick_precision("auto", torch.device("cpu"))
    torch.manual_seed(0)

    def load(adapters: bool) -> Any:
        from peft import LoraConfig, get_peft_model

        model: Any = load_causal(place, device="cpu", dtype="float32")  # type: ignore[arg-type]
        model.requires_grad_(False)
        if not adapters:
            return model
        count, layers = model.config.num_hidden_layers, "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"
        top = list(range(count - TOP, count))
        return get_peft_model(
            model, LoraConfig(r=16, lora_alpha=32, target_modules=layers.split(), layers_to_transform=top)
        )

    policy, reference, value, reward = load(True), load(False), load(True), load(False)
    heads = [torch.nn.Linear(policy.config.hidden_size, 1) for _ in range(2)]
    weights = [each for model in (policy, value, heads[0]) for each in model.parameters() if each.requires_grad]
    adam = torch.optim.AdamW(weights, lr=1e-6)
    encoded = [encode_prompt(tokenizer, each) for each in prompts(sentences)]
    longest = max(map(len, encoded))
    ids = torch.tensor([[2] * (longest - len(each)) + each for each in encoded])
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in encoded])

    def cast() -> Any:
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16")

    def states(model: Any, rows: Any, seen: Any) -> Any:
        base = model.base_model.model if hasattr(model, "peft_config") else model
        positions = (seen.cumsum(-1) - 1).clamp(min=0)
        return base.model(input_ids=rows, attention_mask=seen, position_ids=positions).last_hidden_state

    def logprobs(model: Any, rows: Any, seen: Any) -> Any:
        base = model.base_model.model if hasattr(model, "peft_config") else model
        positions = (seen.cumsum(-1) - 1).clamp(min=0)
        logits = base(input_ids=rows, attention_mask=seen, position_ids=positions).logits[:, longest - 1 : -1].float()
        return logits.log_softmax(-1).gather(-1, rows[:, longest:, None])[..., 0]

    rates, stages = [], {name: [] for name in ("sampling", "scoring", "looking", "learning")}
    for _ in range(rounds + 1):
        clock = [time.perf_counter()]
        with torch.no_grad():
            rows = policy.generate(
                input_ids=ids, attention_mask=mask, do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
                max_new_tokens=NEW, num_return_sequences=SAMPLES, pad_token_id=2,
            )  # fmt: skip
            answer = rows[:, longest:]
            ended = (answer == tokenizer.eos_id).cumsum(1)
            real = ended - (answer == tokenizer.eos_id).long() == 0
            seen = torch.cat([mask.repeat_interleave(SAMPLES, 0), real.long()], 1)
            clock.append(time.perf_counter())
            with cast():
                score = heads[1](states(reward, rows, seen)[torch.arange(len(rows)), seen.shape[1] - 1])[:, 0].float()
            clock.append(time.perf_counter())
            with cast():
                old = torch.cat([logprobs(policy, rows[i : i + 16], seen[i : i + 16]) for i in range(0, len(rows), 16)])
                ref = torch.cat(
                    [logprobs(reference, rows[i : i + 16], seen[i : i + 16]) for i in range(0, len(rows), 16)]
                )
                values = heads[0](states(value, rows, seen)[:, longest - 1 : -1])[..., 0].float()
            advantage = score[:, None] - 0.05 * (old - ref) - values
            clock.append(time.perf_counter())
        for _ in range(PASSES):
            order = torch.randperm(len(rows))
            for part in order.chunk(STEPS):
                with cast():
                    ratio = (logprobs(policy, rows[part], seen[part]) - old[part]).exp()
                    now = heads[0](states(value, rows[part], seen[part])[:, longest - 1 : -1])[..., 0].float()
                gain, keep = advantage[part], real[part]
                loss = torch.maximum(-gain * ratio, -gain * ratio.clamp(0.8, 1.2))[keep].mean()
                loss = loss + 0.1 * (now - values[part] - gain).square()[keep].mean()
                loss.backward()
                adam.step()
                adam.zero_grad()
        clock.append(time.perf_counter())
        rates.append(int(real.sum()) / (clock[-1] - clock[0]))
        for name, begin, end in zip(stages, clock, clock[1:], strict=False):
            stages[name].append(end - begin)
    middle = {name: statistics.median(each[1:]) for name, each in stages.items()}
    return {"rates": rates[1:], "stages": middle, "memory": peak() - before, "engine": 0}


# ---- the runs


CONTESTANTS = {
    "ours, exact engine (f32)": ("ours", "openvino", "f32"),
    "ours, 16-bit engine, corrected": ("ours", "openvino", "bf16"),
    "ours, sampling by the model in training": ("ours", "own", ""),
    "textbook, four models": ("textbook", "", ""),
}


def alone(which: tuple[str, str, str], sentences: int, rounds: int) -> dict[str, Any]:
    """A contestant in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--alone", json.dumps([*which, sentences, rounds, folder])]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
        assert done.returncode == 0, done.stderr[-3000:]
        return dict(json.loads(done.stdout.splitlines()[-1]))


def iteration(rounds: int, repeats: int) -> None:
    from plumbline.models.machine import matrix_rate

    rows = []
    for case, sentences in CASES.items():
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
        for number in range(repeats):
            for name, which in CONTESTANTS.items():
                found[name].append(alone(which, sentences, rounds))
                print(f"  {case}, {name}, {number + 1} of {repeats}: {found[name][-1]}", flush=True)
        base = statistics.median(rate for each in found["textbook, four models"] for rate in each["rates"])
        for name, runs in found.items():
            rates = sorted(rate for each in runs for rate in each["rates"])
            stages = {stage: statistics.median(each["stages"][stage] for each in runs) for stage in runs[0]["stages"]}
            memory = statistics.median(each["memory"] for each in runs) / 1e6
            engine = statistics.median(each["engine"] for each in runs) / 1e6
            rows.append(
                [
                    f"{case}: {name}",
                    f"{statistics.median(rates):.0f} ({rates[0]:.0f}–{rates[-1]:.0f})",
                    f"{statistics.median(rates) / base:.2f}×",
                    *(f"{seconds:.1f}" for seconds in stages.values()),
                    f"{memory:,.0f}",
                    f"{engine:,.0f}" if engine else "",
                ]
            )
    head = ["", "tokens/s", "to the textbook", "sampling s", "scoring s", "looking s", "learning s", "MB", "engine MB"]
    body = (
        f"An iteration of {PROMPTS} prompts × {SAMPLES} answers of at most {NEW} tokens, {PASSES} passes of {STEPS} "
        f"mini-batches, adapters of rank 16 on the top {TOP} layers. MB: the process's peak above its imports; the "
        f"engine's process is told apart. The machine's matrix rate in this run: {matrix_rate() / 1e9:,.0f} GFLOP/s, "
        "float32.\n\n"
    )
    write_section("A PPO iteration", "python benchmarks/ppo.py", body + table(head, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more repeats")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        kind, sampler, mode, sentences, rounds, folder = json.loads(given.alone)
        print(json.dumps(globals()[kind](sentences, rounds, Path(folder), sampler, mode)))
        return
    print(machine())
    iteration(rounds=3, repeats=3 if given.full else 1)


if __name__ == "__main__":
    main()
