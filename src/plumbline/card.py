"""A model card from what the project recorded, in the form of the Hugging Face hub: a YAML head and Markdown below.

A card says what is on record, and lists by name what nobody recorded: an empty heading would look like an answer.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plumbline.lineage import DataFile, Node, lineage
from plumbline.project import Project, Promotion, Version

if TYPE_CHECKING:
    from plumbline.records import Evaluation, Measured

NOT_RECORDED = (
    "the licence",
    "the languages it is fit for",
    "who trained it and who pays for it",
    "uses that are out of scope",
    "the energy that training took",
    "what the base model was trained on",
)
"""What a card is asked for and a project keeps no record of."""


@dataclass(frozen=True)
class Facts:
    """All that a project knows of a version."""

    project: Project
    version: Version
    lineage: Node
    evaluations: tuple[Evaluation, ...]
    promotions: tuple[Promotion, ...]
    """Those that put this version in force or undid that."""
    architecture: dict[str, Any]
    """What its config.json says."""
    parameters: int

    @property
    def files(self) -> list[DataFile]:
        """Every data file of the lineage, each once."""
        return list({file.digest: file for node in self.lineage.walk() for file in node.data}.values())

    @property
    def figures(self) -> list[tuple[Measured, Evaluation]]:
        """The latest figure of each task, metric and other model, with the evaluation that it is from."""
        latest = {
            (each.task, each.metric, evaluation.against): (each, evaluation)
            for evaluation in self.evaluations
            for each in evaluation.measured
        }
        return list(latest.values())

    def ids(self, name: str) -> set[str]:
        """The different ids of that name in all rows."""
        return {row[name] for file in self.files for row in file.ids if name in row}


def gather(project: Project, ref: str) -> Facts:
    """What is known of the version."""
    version = project.version(ref)
    config = version.folder / "config.json"
    return Facts(
        project=project,
        version=version,
        lineage=lineage(project, version.ref),
        evaluations=tuple(project.evaluations(version.ref)),
        promotions=tuple(each for each in project.promotions() if version.ref in (each.version, each.undoes)),
        architecture=json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {},
        parameters=count_parameters(version),
    )


def count_parameters(version: Version) -> int:
    """The numbers in a version's safetensors files, from their headers alone."""
    total = 0
    for path in sorted(version.folder.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        total += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total


def write_card(facts: Facts) -> str:
    """The card as Markdown with its YAML head."""
    version = facts.version
    parts = [
        f"---\n{head(facts)}\n---",
        f"# {version.ref}",
        f"Made on {version.created[:10]} with Plumbline {version.code_version}"
        + (f" from {version.base}" if version.base else "")
        + f". SHA-256 of its files: `{version.digest}`.",
        *section("What it is for", purpose(facts)),
        *section("What it is", description(facts)),
        *section("How it was made", "\n".join(steps(facts.lineage))),
        *section("Data", data_table(facts.files)),
        *section(
            "Settings", f"```json\n{json.dumps(version.config, indent=2, default=str)}\n```" if version.config else ""
        ),
        *section("Evaluation", evaluation_table(facts.figures)),
        *section("Release", "\n".join(release(facts))),
        *section("Not recorded", not_recorded(facts)),
    ]
    return "\n\n".join(parts) + "\n"


def section(title: str, text: str) -> list[str]:
    return [f"## {title}", text or "Nothing is on record."]


def head(facts: Facts) -> str:
    """The YAML that the hub reads, checked by its own library."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=measured.task,
            dataset_name=measured.task,
            metric_type=measured.metric,
            metric_name=f"{measured.metric} (95 % {measured.low:.3g} to {measured.high:.3g}, n {measured.n})",
            metric_value=measured.value,
        )
        for measured, _ in facts.figures
    ]
    card = ModelCardData(
        base_model=facts.version.base or None,
        library_name="transformers" if facts.architecture else None,
        tags=["plumbline"],
        model_name=facts.version.name,
        eval_results=results or None,
    )
    return str(card.to_yaml()).strip()


def purpose(facts: Facts) -> str:
    criterion = facts.project.config.criterion
    return f"Its answers were judged by this: {criterion}" if criterion else ""


def description(facts: Facts) -> str:
    kinds = ", ".join(facts.architecture.get("architectures") or [])
    parts = [f"{facts.parameters:,} numbers in its files"] if facts.parameters else []
    parts += [f"architecture {kinds}"] if kinds else []
    parts += [f"answers sampled with {facts.version.engine_mode}"] if facts.version.engine_mode else []
    return "; ".join(parts) + "." if parts else ""


def steps(node: Node, depth: int = 0) -> list[str]:
    """The lineage as a nested list."""
    role = f"{node.role}: " if node.role else ""
    data = ", ".join(f"`{file.path}`" for file in node.data)
    learned = f", learned {data}" if data else ""
    own = "  " * depth + f"- {role}**{node.name}**{learned}" + ("" if node.version else " (not made in this project)")
    return [own, *(line for parent in node.parents for line in steps(parent, depth + 1))]


def data_table(files: Sequence[DataFile]) -> str:
    rows = [
        (
            f"`{file.path}`",
            f"`{file.digest[:16]}`",
            "" if file.rows is None else f"{file.rows:,}",
            held(file),
            file.state,
        )
        for file in files
    ]
    return markdown_table(("file", "SHA-256", "rows", "ids", "today"), rows) if rows else ""


def held(file: DataFile) -> str:
    """How many different ids of each kind a file holds."""
    names = dict.fromkeys(name for row in file.ids for name in row)
    counts = {name: len({row[name] for row in file.ids if name in row}) for name in names}
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def evaluation_table(figures: Sequence[tuple[Measured, Evaluation]]) -> str:
    rows = [
        (
            f"{each.task}: {each.metric}",
            f"{each.value:.3g}",
            f"{each.low:.3g} to {each.high:.3g}",
            f"{each.n:,}",
            f"{each.verdict} than {of.against}" if each.verdict in ("better", "worse") else of.against or "",
            f"`{each.command}`" if each.command else "",
        )
        for each, of in figures
    ]
    return markdown_table(("task", "value", "95 %", "n", "beside", "command"), rows) if rows else ""


def release(facts: Facts) -> list[str]:
    """When it was put in force and taken back, by whom, and what was overridden."""
    lines = []
    for each in facts.promotions:
        what = "taken back" if each.undoes == facts.version.ref else "put in force"
        by = f" by {each.by}" if each.by else ""
        lines.append(f"- {each.at[:16]}: {what}{by}" + (f", because: {each.why}" if each.why else ""))
        lines += [f"  - against it spoke: {said}" for said in each.overrode]
    guarded = ", ".join(facts.project.config.guarded)
    return [*lines, f"- guarded at promotion: {guarded}"] if guarded else lines


def not_recorded(facts: Facts) -> str:
    missing = [f"- {each}" for each in NOT_RECORDED]
    missing += [f"- rows of `{file.path}`, which {WHY[file.state]}" for file in facts.files if file.state in WHY]
    return "\n".join(missing)


WHY = {"changed": "has changed since", "gone": "is gone"}


def markdown_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; what a cell may not hold is written so that it can."""
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines)


def cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
