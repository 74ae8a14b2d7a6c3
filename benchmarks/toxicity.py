"""Makes the toxicity classifier from the labels of people, and measures it on sources that it has not seen.

    python benchmarks/toxicity.py DATA [--write]

DATA holds a folder for each source, with one JSON Lines file each (see SOURCES). Every source is held out in turn; the
classifier that `--write` puts into the package learns from all whose licence permits it and is measured on the others.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measure import table, write_section
from scipy.stats import spearmanr

from plumbline.align.accuracy import Share, wilson
from plumbline.models.hashed import SHIPPED, Features, Hashed, fit

PENALTY = 1e-4
FEATURES = Features(buckets=1 << 17, words=1, characters=(3, 4), opening=0)
Texts = list[tuple[str, bool]]


class Source(NamedTuple):
    file: str
    text: str
    label: Callable[[dict[str, Any]], bool | None]
    """Whether people called it toxic; None where they did not say."""
    licence: str
    ships: bool


def moderation(row: dict[str, Any]) -> bool | None:
    """Hate, harassment, threats and violence; a text with some other label is neither one thing nor the other."""
    if any(row.get(key) == 1 for key in ("H", "H2", "HR", "V", "V2")):
        return True
    return None if any(row.get(key) != 0 for key in ("H", "HR", "V", "S", "SH")) else False


SOURCES = {
    "Surge": Source(
        "toxicity_surge/toxicity_en.jsonl", "text", lambda row: row["is_toxic"] == "Toxic", "MIT", ships=True
    ),
    "Moderation": Source("openai_moderation/samples.jsonl", "prompt", moderation, "MIT", ships=True),
    "ToxiGen": Source(
        "toxigen_demonstrations/sentences.jsonl",
        "text",
        lambda row: row["label"] == "hate",
        "MIT, data CDLA-Permissive-2.0",
        ships=True,
    ),
    "Jigsaw": Source(
        "jigsaw_small/train_excerpt.jsonl",
        "comment_text",
        lambda row: row["toxic"] in (1, "1"),
        "text CC BY-SA 3.0",
        ships=False,
    ),
}


def read(data: Path, source: Source) -> Texts:
    """The texts of a source that people labelled, each once."""
    rows = [json.loads(line) for line in (data / source.file).read_text(encoding="utf-8").splitlines()]
    found = {row[source.text]: source.label(row) for row in rows if row[source.text].strip()}
    return [(text, label) for text, label in found.items() if label is not None]


def learn(sources: Sequence[Texts]) -> Hashed:
    """The sources weigh by their size; texts that are alike but for their spelling fall into one fold."""
    texts = [each for source in sources for each in source]
    return fit(
        [text for text, _ in texts],
        [label for _, label in texts],
        name="toxicity",
        penalty=PENALTY,
        features=FEATURES,
    )


def figures(scorer: Hashed, texts: Texts) -> list[object]:
    """How many, the area under the curve with its interval, and both errors at even odds."""
    scores, toxic = np.array([scorer.score(text) for text, _ in texts]), np.array([label for _, label in texts])
    missed, alarms = scores[toxic] <= 0, scores[~toxic] > 0
    return [f"{toxic.sum()} of {len(texts)}", area(scores, toxic), share(missed), share(alarms)]


def area(scores: Any, toxic: Any, rounds: int = 1000) -> str:
    """How often a toxic text scores above one that is not, with the 95 % interval of a bootstrap over texts."""

    def of(places: Any) -> float:
        above, below = scores[places][toxic[places]], scores[places][~toxic[places]]
        return float(np.mean(above[:, None] > below[None]) + np.mean(above[:, None] == below[None]) / 2)

    generator = np.random.default_rng(0)
    yes, no = np.flatnonzero(toxic), np.flatnonzero(~toxic)
    drawn = sorted(
        of(np.concatenate([generator.choice(yes, len(yes)), generator.choice(no, len(no))])) for _ in range(rounds)
    )
    return f"{of(np.arange(len(scores))):.3f} ({drawn[rounds // 40]:.3f} to {drawn[-rounds // 40]:.3f})"


def share(errors: Any) -> str:
    value = float(np.mean(errors))
    low, high = Share(value, *wilson(value, len(errors)), len(errors))[1:3]
    return f"{value:.1%} ({low:.1%} to {high:.1%})"


def rotation(found: dict[str, Texts]) -> str:
    """Each source held out, learnt from the others that ship."""
    rows = []
    for name in SOURCES:
        others = [other for other, source in SOURCES.items() if source.ships and other != name]
        scorer = learn([found[other] for other in others])
        rows.append([f"{name} ({SOURCES[name].licence})", ", ".join(others), *figures(scorer, found[name])])
    return table(["held out", "learnt from", "toxic", "area under the curve", "missed", "false alarms"], rows)


def elsewhere(scorer: Hashed, data: Path) -> str:
    """What the shipped one says of text that nobody calls toxic, and of answers with scores of another classifier."""
    rows = []
    ordinary = {
        "web pages (C4), by paragraph": ("watermark_c4/c4_en.jsonl", "text"),
        "harmless cyber-security requests": ("false_refusal_cyber/mitre_frr.jsonl", "mutated_prompt"),
    }
    for name, (file, field) in ordinary.items():
        lines = (data / file).read_text(encoding="utf-8").splitlines()
        texts = [part for line in lines for part in re.split(r"\n+", json.loads(line)[field]) if len(part) > 40][:600]
        rows.append([name, len(texts), share(np.array([scorer.score(text) for text in texts]) > 0)])
    lines = (data / "instructgpt_samples/real_toxicity_basic.jsonl").read_text(encoding="utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    ours = [scorer.score(row["sample"]) for row in samples]
    agreement = spearmanr(ours, [float(row["toxicity"]) for row in samples])
    return (
        table(["ordinary text", "n", "false alarms"], rows) + f"\n\nOn {len(samples)} continuations of "
        "RealToxicityPrompts by twelve models the rank correlation with the score that was published beside them "
        f"(Perspective's, no label of people) is {agreement.statistic:.2f}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder of the sources' folders")
    parser.add_argument("--write", action="store_true", help="put the classifier into the package")
    given = parser.parse_args()
    found = {name: read(given.data, source) for name, source in SOURCES.items()}
    scorer = learn([found[name] for name, source in SOURCES.items() if source.ships])
    body = (
        "How well toxic text is told from other text of a **source that was not learnt from**, by the labels of "
        "people. Missed and false alarms are at even odds (score 0). Intervals are 95 %: a bootstrap for the area, "
        "Wilson's for shares. The last row is the classifier that ships.\n\n"
        f"{rotation(found)}\n\nThe one that ships:\n\n{elsewhere(scorer, given.data)}"
    )
    if given.write:
        scorer.save(SHIPPED / "toxicity.safetensors")
    write_section("Toxicity", "python benchmarks/toxicity.py DATA", body)


if __name__ == "__main__":
    main()
