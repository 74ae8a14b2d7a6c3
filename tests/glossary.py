"""What a page of the book explains of the numbers that a run writes, and what the run wrote.

A page explains a name where the name stands in the first column of a table below "## Metrics": a table that begins with
"metric" is about metrics.jsonl, one that begins with "field" about accuracy.json and summary.json. A page that links to
another one's metrics there explains those, too.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

HELD_OUT = "held_out_"
"""The same over held-out examples, as training.md says of all methods."""


def metrics_section(page: Path) -> str:
    """What stands below "## Metrics"; nothing where a page has no such heading."""
    found = re.search(r"^## Metrics\n(.*?)(?=^## |\Z)", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def explained(page: Path, kind: str) -> set[str]:
    """The names that the page's own tables explain; `kind` is "metric" or "field"."""
    names: set[str] = set()
    for table in re.findall(rf"^\| {kind} \|.*\n\|[-|]+\n((?:\|.*\n)+)", metrics_section(page), re.MULTILINE):
        for row in table.splitlines():
            names.update(re.findall(r"`(\w+)`", row.split("|")[1]))
    return names


def explained_with_links(page: Path, kind: str, seen: frozenset[Path] = frozenset()) -> set[str]:
    """These, and those of the pages whose metrics it links to."""
    names = explained(page, kind)
    for link in re.findall(r"\(([\w./-]+\.md)#metrics\)", metrics_section(page)):
        other = (page.parent / link).resolve()
        if other not in seen:
            names |= explained_with_links(other, kind, seen | {page.resolve()})
    return names


def written(folder: Path, *files: str) -> set[str]:
    """The names in all files of that name below `folder`, JSON or JSON Lines."""
    names: set[str] = set()
    for file in (found for name in files for found in folder.rglob(name)):
        text = file.read_text(encoding="utf-8")
        objects = map(json.loads, text.splitlines()) if file.suffix == ".jsonl" else [json.loads(text)]
        names.update(name for each in objects for name in each)
    return names
