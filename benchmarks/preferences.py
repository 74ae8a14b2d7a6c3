"""Training from preferences: our reward model and DPO beside K forward passes and beside TRL, on the bundled model.

    python benchmarks/preferences.py [--full] [--only grid|dpo|memory|top]

One step (forward and backward) of equal comparisons of random tokens, with equal LoRA adapters on every linear layer,
everyone in turn, round after round. TRL (`pip install trl`, not a dependency) computes its own trainers' loss through
its own collator on token ids, in micro-batches of at most 4 pairs since 36 at once need more memory than there is;
they are alike, so one is timed and multiplied. Its reference log-probs are computed beforehand, as are ours.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from measure import machine, ratio, side_by_side, table, write_section

from plumbline.align.data import Pairs
from plumbline.align.dpo import dpo_loss
from plumbline.align.reward import reward_loss
from plumbline.models.adapters import Hats, LoRA
from plumbline.models.families import load_causal
from plumbline.models.grouped import Group, forward
from plumbline.models.heads import ScalarHead
from plumbline.models.logprobs import Head, token_logprobs
from plumbline.models.machine import matrix_rate
from plumbline.models.resolve import resolve
from plumbline.models.trunk import Trunk

KS, PROMPTS, COMPLETION = (2, 4, 9), (64, 256, 512), 48
RANK, ALPHA = 16, 32
AT_ONCE = 4
"""Pairs in a micro-batch of TRL."""
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FOLDER: Path = resolve("smollm2-135m").folder  # type: ignore[assignment]


def groups(prompts: int, k: int, prompt: int, completion: int = COMPLETION) -> list[Group]:
    """Random token ids; the same for everyone."""
    generator = torch.Generator().manual_seed(1000 * k + prompt)

    def some(count: int) -> list[int]:
        return torch.randint(100, 40_000, (count,), generator=generator).tolist()

    return [Group(some(prompt), [some(completion) for _ in range(k)]) for _ in range(prompts)]


def all_pairs(prompts: int, k: int) -> Pairs:
    """Each answer better than those after it, for every prompt; weights that make the loss a mean over prompts."""
    places = [(k * n + i, k * n + j) for n in range(prompts) for i, j in combinations(range(k), 2)]
    better, worse = torch.tensor(places).T
    weight = torch.full((len(places),), 1 / len(places))
    never = torch.zeros(len(places), dtype=torch.bool)
    return Pairs(better=better, worse=worse, tied=never, margin=torch.ones(len(places)), weight=weight, vote=weight)


class Ours:
    """Our learner's step: adapters over one frozen base."""

    def __init__(self, precision: str, *, lora: bool = True, top_layers: int = 0) -> None:
        self.precision = precision
        self.model: Any = load_causal(FOLDER, device="cpu", dtype="float32")
        self.trunk: Trunk | None = None
        if lora:
            self.hats = Hats(self.model)
            self.hats.add("policy", LoRA(rank=RANK, alpha=ALPHA, top_layers=top_layers))
            self.weights = self.hats.parameters("policy")
            if top_layers:
                self.trunk = Trunk(self.model, top_layers)
            assert self.trunk is None or self.trunk.works()
            if precision != "float32":
                self.hats.round_base(TYPES[precision])
        else:
            self.weights = list(self.model.requires_grad_(True).parameters())
        self.head = ScalarHead(self.model.config.hidden_size)

    def __call__(
        self, given: Sequence[Group], path: Any = "auto", *, dpo: bool = False, recompute: bool = False
    ) -> None:
        """One step's gradients."""
        for each in self.weights:
            each.grad = None
        pairs = all_pairs(len(given), len(given[0].completions))
        worn = self.hats.wearing("policy") if hasattr(self, "hats") else contextlib.nullcontext()
        with worn:
            with autocast(self.precision):
                answers = forward(self.model, given, path=path, trunk=self.trunk, recompute=recompute)
                if dpo:
                    head = Head.of(self.model)
                    logprobs, _ = token_logprobs(head, answers.states, answers.targets, entropy_gradient=False)
            if dpo:
                loss, _ = dpo_loss(answers.sums(logprobs), pairs, beta=0.1)
            else:
                loss, _ = reward_loss(self.head(answers.last), pairs)
            loss.backward()  # type: ignore[no-untyped-call]


class Theirs:
    """TRL's own trainer, asked for the loss of its collator's batch of token ids."""

    def __init__(self, precision: str, scratch: Path, *, dpo: bool = False, recompute: bool = False) -> None:
        import trl
        from datasets import Dataset
        from peft import LoraConfig
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

        self.precision, self.dpo = precision, dpo
        tokenizer: Any = AutoTokenizer.from_pretrained(FOLDER)
        kind, settings = (trl.DPOTrainer, trl.DPOConfig) if dpo else (trl.RewardTrainer, trl.RewardConfig)
        kind._prepare_dataset = lambda _, dataset, *__: dataset  # the rows are token ids already
        more = {"precompute_ref_log_probs": False} if dpo else {}
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        task = "CAUSAL_LM" if dpo else "SEQ_CLS"
        model: Any
        if dpo:
            model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype="float32")
        else:
            model = AutoModelForSequenceClassification.from_pretrained(FOLDER, num_labels=1, dtype="float32")
        model.config.pad_token_id = tokenizer.pad_token_id
        row = (
            {"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}
            if dpo
            else {"chosen_ids": [[1]], "rejected_ids": [[1]]}
        )
        self.trainer = kind(
            model,
            args=settings(
                output_dir=str(scratch),
                report_to="none",
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=recompute,
                max_length=None,
                **more,
            ),
            processing_class=tokenizer,
            train_dataset=Dataset.from_dict(row),
            peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, task_type=task),
        )
        self.trainer.precompute_ref_logps = True
        self.trainer.model.train()
        if recompute:  # what the trainer does when it begins to train
            self.trainer.model.enable_input_require_grads()
            self.trainer.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def __call__(self, given: Sequence[Group], pairs: Sequence[tuple[int, int]]) -> None:
        """The gradients of these pairs of the first group's answers."""
        model = self.trainer.model
        model.zero_grad()
        (group,) = given
        if self.dpo:
            prompt = {"prompt_ids": list(group.prompt), "ref_chosen_logps": -100.0, "ref_rejected_logps": -100.0}
            rows = [
                prompt | {"chosen_ids": group.completions[i], "rejected_ids": group.completions[j]} for i, j in pairs
            ]
        else:
            whole = [[*group.prompt, *completion] for completion in group.completions]
            rows = [{"chosen_ids": whole[i], "rejected_ids": whole[j]} for i, j in pairs]
        with autocast(self.precision):
            loss = self.trainer.compute_loss(model, self.trainer.data_collator(rows))
        loss.backward()


def autocast(precision: str) -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()


def grid(scratch: Path, rounds: int, has_trl: bool) -> str:
    """The reward model over K and the prompt's length."""
    rows = []
    for precision in TYPES:
        ours, theirs = Ours(precision), Theirs(precision, scratch) if has_trl else None
        for k in KS:
            for prompt in PROMPTS:
                print(f"{precision}, K = {k}, prompt {prompt}", flush=True)
                given = groups(1, k, prompt)
                pairs = list(combinations(range(k), 2))
                parts = math.ceil(len(pairs) / AT_ONCE)
                some = pairs[: math.ceil(len(pairs) / parts)]
                runs: dict[str, Callable[[], object]] = {
                    "ours": lambda ours=ours, given=given: ours(given),  # type: ignore[misc]
                    "plain": lambda ours=ours, given=given: ours(given, "plain"),  # type: ignore[misc]
                }
                if theirs:
                    runs["trl"] = lambda theirs=theirs, given=given, some=some: theirs(given, some)  # type: ignore[misc]
                seconds = side_by_side(runs, rounds)
                trl = [each * len(pairs) / len(some) for each in seconds.get("trl", [])]
                row = [precision, k, prompt, middle(seconds["ours"]), middle(seconds["plain"])]
                row += [ratio(seconds["ours"], seconds["plain"])]
                row += [middle(trl), ratio(seconds["ours"], trl)] if trl else ["not installed", ""]
                rows.append(row)
    head = ["", "K", "prompt", "ours, s", "K forward passes, s", "ours faster", "TRL's pairs, s", "ours faster"]
    return (
        table(head, rows)
        + f"\n\nOne set of K answers of {COMPLETION} tokens, LoRA of rank {RANK} on every linear layer, forward and "
        f"backward; median of {rounds} rounds (lowest–highest). K forward passes are our own plain path with our own "
        "adapters, not a peer's."
    )


def shares(rounds: int) -> str:
    """How much of the machine's matrix rate a step reaches, by the least work that it could be."""
    given = groups(1, 9, 256)
    rows = []
    for precision, type_ in TYPES.items():
        limit = matrix_rate() if precision == "float32" else rate_of(type_)
        for lora in (True, False):
            ours = Ours(precision, lora=lora)
            runs: dict[str, Callable[[], object]] = {
                path: lambda ours=ours, path=path: ours(given, path)  # type: ignore[misc]
                for path in ("grouped", "plain")
            }
            for path, seconds in side_by_side(runs, rounds).items():
                least = flops(ours.model.config, given[0], path == "grouped", trained=not lora)
                reached = least / sorted(seconds)[len(seconds) // 2]
                what = f"{'LoRA' if lora else 'all weights'}, {'one pass of each' if path == 'plain' else 'grouped'}"
                rows.append([precision, what, f"{least / 1e9:,.0f}", f"{reached / 1e9:,.0f}"])
                rows[-1] += [f"{limit / 1e9:,.0f}", f"{reached / limit:.0%}"]
    head = ["", "", "GFLOP, least", "GFLOP/s", "matrix rate, GFLOP/s", "share"]
    return table(head, rows) + (
        "\n\nK = 9, prompt 256, completion 48. The least work: two operations per weight and token forward, two more "
        "for the gradient of what goes in, two more for a trained weight; attention's products; the adapters' own are "
        "left out. The matrix rate is that of square matrices of 2,048, in the same run."
    )


def rate_of(type_: torch.dtype, size: int = 2048, rounds: int = 7) -> float:
    """Operations per second of a product of square matrices of this type: the best of some."""
    a = torch.randn(size, size).to(type_)
    seconds = side_by_side({"product": lambda: a @ a}, rounds)["product"]
    return 2 * size**3 / min(seconds)


def flops(config: Any, group: Group, grouped: bool, *, trained: bool) -> float:
    """The least work of one set's step."""
    k, prompt, completion = len(group.completions), len(group.prompt), len(group.completions[0])
    width = config.hidden_size // config.num_attention_heads
    layer = config.hidden_size * (2 * config.num_attention_heads + 2 * config.num_key_value_heads) * width
    layer += 3 * config.hidden_size * config.intermediate_size
    tokens = prompt + k * completion if grouped else k * (prompt + completion)
    own = k * completion * (prompt + completion / 2)
    met = own + (prompt if grouped else k * prompt) * prompt / 2  # pairs of a token and one that it attends to
    products = 2 * layer * tokens * (3 if trained else 2)
    attention = 2 * 2 * config.num_attention_heads * width * met * 3
    return float(config.num_hidden_layers * (products + attention))


def dpo(scratch: Path, rounds: int, has_trl: bool) -> str:
    """Pairs whose prompt is four times as long as an answer."""
    rows = []
    for precision in TYPES:
        ours, theirs = Ours(precision), Theirs(precision, scratch, dpo=True) if has_trl else None
        for prompt, completion in ((192, 48), (512, 128), (64, 64)):
            print(f"{precision}, prompt {prompt}, completion {completion}", flush=True)
            given = groups(1, 2, prompt, completion)
            runs: dict[str, Callable[[], object]] = {"ours": lambda ours=ours, given=given: ours(given, dpo=True)}  # type: ignore[misc]
            if theirs:
                runs["trl"] = lambda theirs=theirs, given=given: theirs(given, [(0, 1)])  # type: ignore[misc]
            seconds = side_by_side(runs, 2 * rounds)
            row = [precision, prompt, completion, middle(seconds["ours"])]
            rows.append(
                [*row, *([middle(seconds["trl"]), ratio(seconds["ours"], seconds["trl"])] if theirs else ["", ""])]
            )
    head = ["", "prompt", "completion", "ours, s", "TRL, s", "ours faster"]
    return table(head, rows) + f"\n\nDPO, one pair; the rest as above. Median of {2 * rounds} rounds (lowest–highest)."


CONTESTANTS = {
    "ours": (True, False),
    "ours, recomputing": (True, True),
    "TRL": (False, False),
    "TRL, gradient checkpointing": (False, True),
}


def memory(scratch: Path, has_trl: bool) -> str:
    """Peak memory of a DPO step at 1,024 tokens, each contestant in a process of its own."""
    rows = []
    for name, (us, _) in CONTESTANTS.items():
        if us or has_trl:
            done = subprocess.run(
                [sys.executable, __file__, "--one", name, "--scratch", str(scratch)],
                check=True,
                capture_output=True,
                text=True,
            )
            found = json.loads(done.stdout.splitlines()[-1])
            rows.append([name, f"{found['model'] / 1e6:,.0f}", f"{found['peak'] / 1e6:,.0f}"])
    head = ["DPO, one pair of 896 + 128 tokens, float32", "MB above the imports, model loaded", "MB at the peak"]
    return table(head, rows) + "\n\nThe highest resident memory of three steps, less what the imports hold."


def one(name: str, scratch: Path) -> None:
    """Prints what one contestant's process holds."""
    us, recompute = CONTESTANTS[name]
    if not us:
        import peft  # noqa: F401
        import trl  # noqa: F401
        from transformers import AutoModelForSequenceClassification  # noqa: F401
    imports = held()
    given = groups(1, 2, 896, 128)
    if us:
        ours = Ours("float32")
        model = held()
        for _ in range(3):
            ours(given, dpo=True, recompute=recompute)
    else:
        theirs = Theirs("float32", scratch, dpo=True, recompute=recompute)
        model = held()
        for _ in range(3):
            theirs(given, [(0, 1)])
    print(json.dumps({"model": model - imports, "peak": peak() - imports}))


def held() -> int:
    """Bytes that are resident now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    """The most bytes that were resident; getrusage would tell of the process that started this one, too."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def top(rounds: int) -> str:
    """Adapters on the top ten layers against adapters on all, in the first epoch and with the trunk kept."""
    given = groups(4, 4, 256)
    rows = []
    for precision in TYPES:
        everywhere, ten, kept = Ours(precision), Ours(precision, top_layers=10), Ours(precision, top_layers=10)
        assert kept.trunk is not None
        kept.trunk.keep = 1 << 30
        kept.trunk.forget()
        seconds = side_by_side(
            {
                "LoRA on all 30 layers": lambda run=everywhere: run(given),  # type: ignore[misc]
                "on the top 10, first epoch": lambda run=ten: run(given),  # type: ignore[misc]
                "on the top 10, trunk kept": lambda run=kept: run(given),  # type: ignore[misc]
            },
            rounds,
        )
        for name, each in seconds.items():
            rows.append([precision, name, middle(each), ratio(each, seconds["LoRA on all 30 layers"])])
    head = ["", "reward model, 4 sets of K = 4, prompt 256", "seconds a step", "to all layers"]
    return table(head, rows) + f"\n\nMedian of {rounds} rounds (lowest–highest)."


def middle(seconds: Sequence[float]) -> str:
    return f"{sorted(seconds)[len(seconds) // 2]:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more rounds")
    parser.add_argument("--only", choices=("grid", "shares", "dpo", "memory", "top"), help="one section")
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one, given.scratch)
        return
    rounds = 7 if given.full else 3
    command = "python benchmarks/preferences.py" + (" --full" if given.full else "")
    print(machine())
    try:
        import trl

        version, has_trl = f"TRL {trl.__version__}.", True
    except ImportError:
        version, has_trl = "TRL was not installed: `pip install trl` for its columns.", False
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        sections: dict[str, tuple[str, Callable[[], str]]] = {
            "grid": (
                "Reward model: a prompt with K answers",
                lambda: version + "\n\n" + grid(scratch, rounds, has_trl),
            ),
            "shares": ("Reward model: share of the machine's matrix rate", lambda: shares(rounds)),
            "dpo": ("DPO: pairs", lambda: dpo(scratch, rounds, has_trl)),
            "memory": ("DPO: memory", lambda: memory(scratch, has_trl)),
            "top": ("Adapters on the top layers", lambda: top(rounds)),
        }
        for key, (title, make) in sections.items():
            if given.only in (None, key):
                write_section(title, command, make())


if __name__ == "__main__":
    main()
