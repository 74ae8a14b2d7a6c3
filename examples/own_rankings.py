"""Your own rankings as a file that `plumb train dpo` and `plumb train reward` learn from.

    python own_rankings.py FILE rankings.jsonl

The form of FILE says what it is:

    rankings.csv    a row an answer: prompt, answer, rank (1 is the best, empty makes no sense), labeler
    Argilla         what `dataset.records.to_json(FILE)` writes: one ranking question over text fields
    Label Studio    its JSON export: a List with a Ranker, or a Pairwise over two texts

The names below are those of their templates. Change them to yours.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plumbline.records import Ranking, prompt_id, write_jsonl

ARGILLA_PROMPT, ARGILLA_QUESTION = "prompt", "ranking"
STUDIO_PROMPT, STUDIO_ITEMS, STUDIO_TEXT = "prompt", "items", "body"
STUDIO_LEFT, STUDIO_RIGHT = "answer1", "answer2"


def from_csv(path: Path) -> Iterator[Ranking]:
    answers: dict[str, dict[str, None]] = {}  # of each prompt, in the order in which they first come
    ranks: dict[tuple[str, str], dict[str, int | None]] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            answers.setdefault(row["prompt"], {})[row["answer"]] = None
            rank = int(row["rank"]) if row["rank"].strip() else None
            ranks.setdefault((row["prompt"], row["labeler"]), {})[row["answer"]] = rank
    for (prompt, labeler), its in ranks.items():
        ranked = [answer for answer in answers[prompt] if answer in its]
        yield ranking(prompt, ranked, [its[answer] for answer in ranked], labeler)


def from_argilla(records: list[dict[str, Any]]) -> Iterator[Ranking]:
    for record in records:
        fields = record["fields"]
        for response in record["responses"].get(ARGILLA_QUESTION, []):
            names = sorted(response["value"])  # the value lists field names, the best first
            ranks = [response["value"].index(name) + 1 for name in names]
            yield ranking(fields[ARGILLA_PROMPT], [fields[name] for name in names], ranks, response["user_id"])


def from_label_studio(tasks: list[dict[str, Any]]) -> Iterator[Ranking]:
    for task in tasks:
        data = task["data"]
        for annotation in task["annotations"]:
            for result in annotation["result"] if not annotation.get("was_cancelled") else []:
                if result["type"] == "ranker":
                    (order,) = result["value"]["ranker"].values()  # one column; buckets are no ranking
                    texts = {item["id"]: item[STUDIO_TEXT] for item in data[STUDIO_ITEMS]}
                    ranks = [order.index(name) + 1 for name in texts]
                elif result["type"] == "pairwise":
                    texts = {"left": data[STUDIO_LEFT], "right": data[STUDIO_RIGHT]}
                    ranks = [1 if name == result["value"]["selected"] else 2 for name in texts]
                else:
                    continue
                yield ranking(data[STUDIO_PROMPT], list(texts.values()), ranks, str(annotation["completed_by"]))


def ranking(prompt: str, completions: list[str], ranks: list[int | None], labeler: str) -> Ranking:
    """Rankings of one prompt and the same answers are one set, whoever made them."""
    set_id = prompt_id("\n".join([prompt, *completions]))
    flags = [rank is None for rank in ranks]
    return Ranking(
        set_id=set_id,
        prompt_id=prompt_id(prompt),
        prompt=prompt,
        completions=completions,
        ranks=ranks,
        flags=flags,
        labeler_id=labeler,
        instruction_version="imported",
    )


def rankings_of(path: Path) -> Iterator[Ranking]:
    if path.suffix == ".csv":
        return from_csv(path)
    entries = json.loads(path.read_text(encoding="utf-8"))
    return from_argilla(entries) if "fields" in entries[0] else from_label_studio(entries)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    print(write_jsonl(target, rankings_of(source)), "rankings")
