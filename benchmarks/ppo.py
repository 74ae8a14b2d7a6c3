"""A whole PPO iteration, ours beside a textbook arrangement.

    python benchmarks/ppo.py [--full]

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
        "first_log_ratio": max(row["first_log_ratio"] for row in rows),
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


class Textbook:
    """Four models, rows of left-padded prompts with their answers, and a whole vocabulary of logits for each token."""

    def __init__(self, sentences: int) -> None:
        import torch

        from plumbline.models.chat import encode_prompt
        from plumbline.models.resolve import resolve
        from plumbline.models.tokenizer import Tokenizer
        from plumbline.training.devices import pick_precision

        torch.manual_seed(0)
        self.place: Any = resolve(MODEL).folder
        self.tokenizer = Tokenizer(self.place)
        self.half = pick_precision("auto", torch.device("cpu")) == "bfloat16"
        self.policy, self.value = self.model(adapters=True), self.model(adapters=True)
        self.reference, self.reward = self.model(adapters=False), self.model(adapters=False)
        self.heads = [torch.nn.Linear(self.policy.config.hidden_size, 1) for _ in range(2)]
        trained = [each for part in (self.policy, self.value, self.heads[0]) for each in part.parameters()]
        self.adam = torch.optim.AdamW([each for each in trained if each.requires_grad], lr=1e-6)
        encoded = [encode_prompt(self.tokenizer, each) for each in prompts(sentences)]
        self.longest = max(map(len, encoded))
        self.ids = torch.tensor([[2] * (self.longest - len(each)) + each for each in encoded])
        self.mask = torch.tensor([[0] * (self.longest - len(each)) + [1] * len(each) for each in encoded])

    def model(self, *, adapters: bool) -> Any:
        from peft import LoraConfig, get_peft_model

        from plumbline.models.families import load_causal

        model: Any = load_causal(self.place, device="cpu", dtype="float32")
        model.requires_grad_(False)
        if not adapters:
            return model
        count, layers = model.config.num_hidden_layers, "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"
        top = list(range(count - TOP, count))
        return get_peft_model(
            model, LoraConfig(r=16, lora_alpha=32, target_modules=layers.split(), layers_to_transform=top)
        )

    def cast(self) -> Any:
        import torch

        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.half)

    def numbers(self, model: Any, head: Any, rows: Any, seen: Any) -> Any:
        """A head's numbers (rows, time) of the states."""
        base = model.base_model.model if hasattr(model, "peft_config") else model
        positions = (seen.cumsum(-1) - 1).clamp(min=0)
        with self.cast():
            states = base.model(input_ids=rows, attention_mask=seen, position_ids=positions).last_hidden_state
            return head(states)[..., 0].float()

    def logprobs(self, model: Any, rows: Any, seen: Any) -> Any:
        positions = (seen.cumsum(-1) - 1).clamp(min=0)
        with self.cast():
            logits = model(input_ids=rows, attention_mask=seen, position_ids=positions).logits
        chosen = logits[:, self.longest - 1 : -1].float().log_softmax(-1)
        return chosen.gather(-1, rows[:, self.longest :, None])[..., 0]

    def iteration(self) -> tuple[int, list[float]]:
        """The answers' tokens, and the seconds of each stage."""
        import torch

        begin, answers = self.longest - 1, slice(self.longest - 1, -1)
        clock = [time.perf_counter()]
        with torch.no_grad():
            rows = self.policy.generate(
                input_ids=self.ids, attention_mask=self.mask, do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
                max_new_tokens=NEW, num_return_sequences=SAMPLES, pad_token_id=2,
            )  # fmt: skip
            end = rows[:, self.longest :] == self.tokenizer.eos_id
            real = end.cumsum(1) - end.long() == 0
            seen = torch.cat([self.mask.repeat_interleave(SAMPLES, 0), real.long()], 1)
            clock.append(time.perf_counter())
            last = begin + real.sum(1)
            score = self.numbers(self.reward, self.heads[1], rows, seen)[torch.arange(len(rows)), last]
            clock.append(time.perf_counter())
            pieces = list(zip(rows.split(16), seen.split(16), strict=True))
            old = torch.cat([self.logprobs(self.policy, *piece) for piece in pieces])
            reference = torch.cat([self.logprobs(self.reference, *piece) for piece in pieces])
            values = self.numbers(self.value, self.heads[0], rows, seen)[:, answers]
            gains = score[:, None] - 0.05 * (old - reference) - values
            clock.append(time.perf_counter())
        for _ in range(PASSES):
            for part in torch.randperm(len(rows)).chunk(STEPS):
                ratio = (self.logprobs(self.policy, rows[part], seen[part]) - old[part]).exp()
                now = self.numbers(self.value, self.heads[0], rows[part], seen[part])[:, answers]
                gain, keep = gains[part], real[part]
                loss = torch.maximum(-gain * ratio, -gain * ratio.clamp(0.8, 1.2))[keep].mean()
                loss = loss + 0.1 * (now - values[part] - gain).square()[keep].mean()
                loss.backward()
                self.adam.step()
                self.adam.zero_grad()
        clock.append(time.perf_counter())
        return int(real.sum()), [after - before for before, after in zip(clock, clock[1:], strict=False)]


def textbook(sentences: int, rounds: int, *_: Any) -> dict[str, Any]:
    import transformers  # noqa: F401

    before = peak()
    book = Textbook(sentences)
    done = [book.iteration() for _ in range(rounds + 1)][1:]
    names = ("sampling", "scoring", "looking", "learning")
    return {
        "rates": [tokens / sum(seconds) for tokens, seconds in done],
        "stages": {name: statistics.median(seconds[place] for _, seconds in done) for place, name in enumerate(names)},
        "memory": peak() - before,
        "engine": 0,
    }


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
