"""A transparency self-report: for each indicator of a list, what the project's records say, or that they say nothing.

The list is a CSV file with the columns Domain, Subdomain and Indicator, such as that of the Foundation Model
Transparency Index. It is not part of this package. The report is what a maker says of its own model: its team's scores
come from a process of their own, and this is none of them.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from plumbline.card import Facts, markdown_table
from plumbline.errors import BadRecord, UserError

COLUMNS = ("Domain", "Subdomain", "Indicator")


class Indicator(NamedTuple):
    """A line of the list."""

    domain: str
    subdomain: str
    name: str


class Reply(NamedTuple):
    """What the records say to an indicator."""

    text: str
    source: str
    """Where it is on record."""
    whole: bool = True
    """False where it covers what this project did, and not what the base model brought with it."""


def read_indicators(path: Path) -> list[Indicator]:
    """The indicators of a CSV file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                there = ", ".join(rows.fieldnames or ()) or "none"
                raise BadRecord(
                    f"{str(path)!r} has no column {missing[0]!r}: a list of indicators needs it (has {there})"
                )
            found = [Indicator(*(str(row[name] or "").strip() for name in COLUMNS)) for row in rows]
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadRecord(f"{str(path)!r} is no CSV file in UTF-8: {error}") from error
    if not found:
        raise BadRecord(f"{str(path)!r} lists no indicator")
    return found


def reply_to(indicator: Indicator, facts: Facts) -> Reply | None:
    """What is on record, None where nothing is."""
    answer = ANSWERS.get(" ".join(indicator.name.lower().split()))
    return answer(facts) if answer else None


def write_report(facts: Facts, indicators: list[Indicator]) -> str:
    """The self-report as Markdown, the indicators in the order of their list."""
    replies = [(each, reply_to(each, facts)) for each in indicators]
    whole = sum(reply is not None and reply.whole for _, reply in replies)
    part = sum(reply is not None and not reply.whole for _, reply in replies)
    parts = [
        f"# Transparency self-report of {facts.version.ref}",
        f"Of {len(replies)} indicators {whole} are answered from records, {part} in part, and "
        f"{len(replies) - whole - part} are unanswered. This is a report of the makers on themselves; it is no score "
        "of any index, and nobody else has checked it. In part means: for what was done in this project, not for the "
        "base model.",
    ]
    for (domain, subdomain), group in groupby(replies, key=lambda each: each[0][:2]):
        rows = [(each.name, *told(reply)) for each, reply in group]
        parts += [f"## {domain}: {subdomain}", markdown_table(("indicator", "answer", "on record in"), rows)]
    return "\n\n".join(parts) + "\n"


def told(reply: Reply | None) -> tuple[str, str]:
    if reply is None:
        return "unanswered", ""
    return reply.text if reply.whole else f"in part: {reply.text}", reply.source


# ---- what the records say


def data_size(facts: Facts) -> Reply | None:
    rows = sum(file.rows or 0 for file in facts.files)
    return Reply(f"{rows:,} rows in {len(facts.files)} files", "version.json, the files", False) if rows else None


def data_sources(facts: Facts) -> Reply | None:
    named = ", ".join(f"{file.path} (SHA-256 {file.digest[:16]})" for file in facts.files)
    return Reply(named, "version.json", False) if named else None


def human_labor(facts: Facts) -> Reply | None:
    people, sets = len(facts.ids("labeler_id")), len(facts.ids("set_id"))
    return Reply(f"{people} labelers ranked {sets:,} sets of answers", "the data files' ids", False) if people else None


def instructions(facts: Facts) -> Reply | None:
    criterion = facts.project.config.criterion
    return Reply(criterion, "plumb.toml", False) if criterion else None


def stages(facts: Facts) -> Reply | None:
    names = list(dict.fromkeys(node.name for node in facts.lineage.walk()))
    return Reply(" ← ".join(names), "version.json", False) if len(names) > 1 else None


def architecture(facts: Facts) -> Reply | None:
    kinds = ", ".join(facts.architecture.get("architectures") or [])
    return Reply(kinds, "config.json") if kinds else None


def text_only(facts: Facts) -> Reply | None:
    known = facts.architecture.get("architectures")
    return Reply("text", "config.json") if known and all("ForCausalLM" in each for each in known) else None


def size(facts: Facts) -> Reply | None:
    return Reply(f"{facts.parameters:,} parameters", "the safetensors files") if facts.parameters else None


def measured(*tasks: str) -> Callable[[Facts], Reply | None]:
    """The figures of those tasks, with n and interval."""

    def answer(facts: Facts) -> Reply | None:
        found = [
            f"{each.task} {each.metric} {each.value:.3g} (95 % {each.low:.3g} to {each.high:.3g}, n {each.n})"
            for each, _ in facts.figures
            if each.task in tasks
        ]
        return Reply("; ".join(found), "evaluations/") if found else None

    return answer


def repeatable(*tasks: str) -> Callable[[Facts], Reply | None]:
    """The commands that measured those tasks, and the items' hashes."""

    def answer(facts: Facts) -> Reply | None:
        commands = dict.fromkeys(each.command for each, _ in facts.figures if each.task in tasks and each.command)
        named = "; ".join(f"`{command}`" for command in commands)
        return Reply(f"{named}; the items' SHA-256 are kept with the figures", "evaluations/") if named else None

    return answer


def decision(facts: Facts) -> Reply | None:
    guarded = ", ".join(facts.project.config.guarded)
    if not guarded:
        return None
    said = (
        f"a version is not put in force where it is worse than the one in force on {guarded}, beyond the 95 % interval"
    )
    return Reply(said, "plumb.toml, promoted.json")


def changes(facts: Facts) -> Reply | None:
    log = "; ".join(f"{each.at[:10]} {each.version or 'nothing'} in force" for each in facts.promotions)
    return Reply(log, "promoted.json") if log else None


CAPABLE = ("hhh", "win_rate", "exact_match", "bleu", "rouge", "codebleu", "pass_at_k", "perplexity")
UNINTENDED, INTENDED = ("toxicity", "bias"), ("refusal",)
TRUSTED = ("truthfulness", "truthful_answers", "calibration")

ANSWERS: dict[str, Callable[[Facts], Reply | None]] = {
    "data size": data_size,
    "data sources": data_sources,
    "use of human labor": human_labor,
    "instructions for creating data": instructions,
    "model stages": stages,
    "core frameworks": lambda facts: Reply(
        f"Plumbline {facts.version.code_version} over PyTorch and transformers", "version.json"
    ),
    "input modality": text_only,
    "output modality": text_only,
    "model size": size,
    "model architecture": architecture,
    "centralized model documentation": lambda facts: Reply("the model card beside this report", "plumb report"),
    "evaluation of capabilities": measured(*CAPABLE),
    "external reproducibility of capabilities evaluation": repeatable(*CAPABLE),
    "unintentional harm evaluation": measured(*UNINTENDED),
    "external reproducibility of unintentional harm evaluation": repeatable(*UNINTENDED),
    "intentional harm evaluation": measured(*INTENDED),
    "external reproducibility of intentional harm evaluation": repeatable(*INTENDED),
    "trustworthiness evaluation": measured(*TRUSTED),
    "external reproducibility of trustworthiness evaluation": repeatable(*TRUSTED),
    "release decision-making": decision,
    "versioning protocol": lambda facts: Reply(
        f"name@number, never changed; this is {facts.version.ref}, SHA-256 {facts.version.digest[:16]}", "version.json"
    ),
    "change log": changes,
}
"""What can be answered from records, by the indicator's name in small letters."""
