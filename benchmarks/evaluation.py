"""What evaluation's figures are worth: published ones made again, intervals that hold, a judge, time per task.

    python benchmarks/evaluation.py published DATA     figures that others published, from their files
    python benchmarks/evaluation.py intervals          how often equal models differ beyond the interval, by items
    python benchmarks/evaluation.py judge [DATA]       the bundled judge on pairs whose better answer is known
    python benchmarks/evaluation.py times              seconds of each task, and the bundled model's figures

DATA holds `codexglue`, `alpaca_eval`, `llmbar_cases` and `hh_rlhf_harmless`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measure import table, write_section

from plumbline.evaluate import TASKS
from plumbline.evaluate.bench import Bench
from plumbline.evaluate.helpful import CRITERION
from plumbline.evaluate.run import JUDGE, Order, evaluate, load_task
from plumbline.evaluate.statistics import at_equal_length, compare, judge_figures, mean, measure
from plumbline.evaluate.text import corpus_bleu, exact_match
from plumbline.models.preference import Case, load_preference

PAIRS = 60
"""Of a data set, for the judge."""
RUNS = 1000
"""Pairs of equal models for each number of items."""
LEADERBOARD = {"text_davinci_001": 20.57, "phi-2": 29.82}
"""Length-controlled win rates as published, over all 805 instructions."""


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---- published figures


def published(data: Path) -> None:
    rows = [*codexglue(data / "codexglue"), *alpaca(data / "alpaca_eval"), *llmbar(data / "llmbar_cases")]
    body = "Win rates are those that others computed of the same rows; the rest was published.\n\n"
    body += table(["what", "by others", "here"], rows)
    write_section("Evaluation: figures that others published", command(), body)


def codexglue(folder: Path) -> list[list[str]]:
    texts, references = (
        (folder / f"refine_toy.{name}.txt").read_text().splitlines() for name in ("predictions", "references")
    )
    bleu = corpus_bleu(texts, [[each] for each in references], smooth=True)
    right = np.mean([exact_match(text, [each]) for text, each in zip(texts, references, strict=True)])
    return [
        ["CodeXGLUE, refinement pair: BLEU", "79.03", f"{100 * bleu:.2f}"],
        ["CodeXGLUE, refinement pair: exact match", "40.0%", f"{right:.1%}"],
    ]


def alpaca(folder: Path) -> list[list[str]]:
    rows = []
    for model, percent in (("text_davinci_001", 15.036), ("phi-2", 31.876)):
        said = [row for row in lines(folder / f"v1_gpt4.{model}.jsonl") if row["preference"] is not None]
        points = [{1: 0.0, 2: 1.0}.get(row["preference"], 0.5) for row in said]
        longer = [len(row["output_2"]) - len(row["output_1"]) for row in said]
        plain = measure(mean, np.array(points)[:, None])
        even = measure(at_equal_length, np.column_stack([points, longer]))
        rows.append(
            [f"AlpacaEval v1, {model}: win rate of the {plain.n} rows at hand", f"{percent:.3f}%", f"{plain.value:.3%}"]
        )
        rows.append(
            [
                f"AlpacaEval v1, {model}: length-controlled (published over 805)",
                f"{LEADERBOARD[model]:.2f}%",
                f"{even.value:.2%} ({even.low:.1%} to {even.high:.1%})",
            ]
        )
    return rows


def llmbar(folder: Path) -> list[list[str]]:
    rows = []
    for case in ("case_base_9", "case_base_10"):
        for judge in ("GPT-4", "ChatGPT"):
            verdicts = [
                (row["label"], row["results"][0]) for row in lines(folder / f"{case}.judge_{judge}_Vanilla.jsonl")
            ]
            orders = [[said[f"swap = {swap}"]["winner"] for _, said in verdicts] for swap in (False, True)]
            found = judge_figures([str(label) for label, _ in verdicts], *orders)
            known = json.loads((folder / f"{case}.judge_{judge}_Vanilla.statistics.json").read_text())
            accuracy = float(known["correct_average"].rstrip("%"))
            rows.append([f"LLMBar {case}, {judge}: accuracy", f"{accuracy:.1f}%", f"{found.accuracy:.1%}"])
            rows.append(
                [
                    f"LLMBar {case}, {judge}: kappa of the orders",
                    f"{known['kappa_agreement']:.3f}",
                    f"{found.kappa:.3f}",
                ]
            )
    return rows


# ---- intervals


def intervals() -> None:
    """Equal models on items that are hard or easy for both: their difference lies beyond the interval too often?"""
    numbers = np.random.default_rng(0)
    rows = []
    for items in (10, 20, 40, 80, 160):
        beyond = {"means": 0, "shares": 0}
        for run in range(RUNS):
            hard = numbers.normal(size=(items, 1))
            both = [hard + numbers.normal(size=(items, 1)) for _ in range(2)]
            for name, (mine, theirs) in (("means", both), ("shares", [(each > 0).astype(float) for each in both])):
                found = compare(mean, mine, theirs, f"{name} {run}")
                beyond[name] += not found.low <= 0 <= found.high
        rows.append([items, *(f"{beyond[name] / RUNS:.1%}" for name in beyond)])
    body = f"{RUNS:,} pairs of equal models each; nominal is 5 %.\n\n" + table(["items", "means", "shares"], rows)
    write_section("Evaluation: equal models beyond the interval", command(), body)


# ---- the bundled judge


def judge(data: Path | None) -> None:
    """Which of two answers is better, by the bundled model's labels: each answer alone, and both in both orders."""
    sets = {"our own hhh items": load_task("hhh").items()}
    if data is not None:
        sets["hh_rlhf_harmless"] = load_task("hhh").items(data / "hh_rlhf_harmless" / "pairs.jsonl", PAIRS)
    rows = []
    for way in ("alone", "pair"):
        prefer = load_preference(JUDGE, way)  # type: ignore[arg-type]
        for name, items in sets.items():
            said = prefer([Case(each.prompt, each.chosen, each.rejected) for each in items], CRITERION)
            right = measure(mean, np.array([each.points for each in said])[:, None])
            agreed = np.mean([each.winner != "tie" for each in said])
            share = f"{right.value:.1%} ({right.low:.1%} to {right.high:.1%})"
            rows.append([name, way, right.n, share, f"{agreed:.1%}"])
            print(rows[-1], flush=True)
    body = table(["pairs of", "asked", "n", "names the better answer", "the same in both orders"], rows)
    write_section("Evaluation: the bundled judge", command(), body)


# ---- time


def times() -> None:
    """Each task of the bundled model from nothing: seconds, and its figures."""
    rows, figures = [], []
    alone = [name for name in TASKS if name not in NEEDY]
    with tempfile.TemporaryDirectory() as folder:
        for name in alone:
            bench = Bench("smollm2-135m", Path(folder) / name)
            begin = time.perf_counter()
            found = evaluate(bench, None, Order(tasks=(name,)))
            rows.append([name, len(found.done[0].outcomes), f"{time.perf_counter() - begin:.0f}"])
            figures += [
                [f"{name}: {each.metric}", f"{each.value:.4g} ({each.low:.4g} to {each.high:.4g})", each.n]
                for each in found.evaluation.measured
            ]
            print(rows[-1], flush=True)
    body = table(["task", "outcomes", "seconds, loading included"], rows)
    body += "\n\n" + table(["figure of smollm2-135m", "value", "n"], figures)
    write_section("Evaluation: time and figures of the bundled model", command(), body)


NEEDY = ("win_rate", "kl", "exact_match", "bleu", "rouge", "codebleu", "pass_at_k")
"""Tasks that take another model, or data."""


def command() -> str:
    return f"python benchmarks/evaluation.py {sys.argv[1]}" + (" DATA" if len(sys.argv) > 2 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["published", "intervals", "judge", "times"])
    parser.add_argument("data", nargs="?", type=Path)
    asked = parser.parse_args()
    if asked.what == "judge":
        judge(asked.data)
    elif asked.what == "published":
        published(asked.data or parser.error("published takes DATA"))
    else:
        {"intervals": intervals, "times": times}[asked.what]()


if __name__ == "__main__":
    main()
