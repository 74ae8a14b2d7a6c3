"""`plumb feedback`: what people said, in and out of the project; how far they agree, and whom to look at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from plumbline.cli.agreement import (
    Criterion,
    DatabaseUrl,
    Excluded,
    MethodName,
    agreement,
    consensus,
    labelers,
    opened,
)
from plumbline.cli.asked import prompts
from plumbline.cli.erasing import erase
from plumbline.cli.help import STYLE, Command, Group
from plumbline.cli.terminal import AsJson, note, print_json, screen, table, waiting
from plumbline.errors import UserError
from plumbline.files import BAD_LINES_SHOWN

if TYPE_CHECKING:
    from plumbline.feedback.consensus import Method
    from plumbline.feedback.exchange import Exported
    from plumbline.feedback.privacy import Replacer
    from plumbline.feedback.selection import Selection
    from plumbline.feedback.split import Report
    from plumbline.feedback.store import Store
    from plumbline.records import Record, Split

app = typer.Typer(cls=Group, add_completion=False, no_args_is_help=True, **STYLE)


@app.callback()
def feedback() -> None:
    """Bring what people said in and out, and see how far they agree."""


Replace = Annotated[
    bool,
    typer.Option("--replace-personal-data", help="Write [EMAIL], [PHONE] and so on in the place of personal data."),
]
FinderName = Annotated[
    str,
    typer.Option("--finder", help="What finds it: forms, or presidio for Presidio's patterns as well.", metavar="NAME"),
]
PartName = Annotated[str | None, typer.Option("--split", help="Only train, validation or test.", metavar="PART")]
Hits = Annotated[
    Path | None,
    typer.Option("--hits", help="Write what was taken for personal data here, for review.", metavar="FILE"),
]


def replacer_of(wanted: bool, finder: str) -> Replacer | None:
    from plumbline.feedback.privacy import Replacer
    from plumbline.personal_data import FINDERS

    if finder not in FINDERS:
        raise UserError(f"there is no finder {finder!r}: take {' or '.join(FINDERS)}")
    if not wanted and finder != "forms":
        raise UserError(f"--finder {finder} goes with --replace-personal-data: nothing is looked for without it")
    return Replacer(FINDERS[finder]()) if wanted else None


# ---- in


@app.command("import", cls=Command)
def import_(
    data: Annotated[Path, typer.Argument(help="A file, or a folder as `datasets` lays it out.", metavar="FILE")],
    source: Annotated[
        str | None, typer.Option("--source", help="Where it comes from; the file's name unless given.", metavar="NAME")
    ] = None,
    criterion: Annotated[
        str, typer.Option("--criterion", help="What its sets are ranked by, where they do not say.", metavar="NAME")
    ] = "helpful",
    bad: Annotated[
        Path | None, typer.Option("--bad", help="Write every bad line's place and reason here.", metavar="FILE")
    ] = None,
    replace_personal_data: Replace = False,
    finder: FinderName = "forms",
    hits: Hits = None,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Bring in what people said elsewhere.

    Sets, rankings, pairs, thumbs and answers to learn, in our shapes or those of TRL, HH-RLHF, OASST and LLaMA-Factory;
    each line is told by its fields. Bad lines are left out and reported, the good ones are kept. A pair becomes the
    votes that it stands for. The same file again adds nothing.
    """
    from plumbline.formats import AnyLine, read_lines

    replacer = replacer_of(replace_personal_data, finder)
    left_out: list[str] = []
    try:
        with opened(database) as store, waiting(f"reading {data}"):
            begin_criterion(store, criterion)
            records = (record for line in read_lines([data], AnyLine, left_out) for record in line.records)
            intake = Intake(store, source or data.name.partition(".")[0], criterion, data, left_out)
            intake.take(map(replacer, records) if replacer else records)
    finally:
        tell_bad(left_out, bad)
    write_hits(replacer, hits)
    if as_json:
        print_json({"added": intake.added, "left_out": left_out, "hits": dict(replacer.kinds()) if replacer else None})
        return
    rows = table("", ">new", ">known")
    for kind, (new, known) in intake.added.items():
        rows.add_row(kind, f"{new:,}", f"{known:,}" if known is not None else "–")
    screen().print(rows)
    tell_hits(replacer, hits)


def begin_criterion(store: Store, name: str) -> None:
    from plumbline.feedback.instructions import FIRST
    from plumbline.project import Project

    if not store.criteria():
        said = Project.require().config.criterion
        store.add_criterion(name, f"{said}\n\n{FIRST}".strip())


class Intake:
    """Puts records of any kind into the store, a run of one kind at a time, and counts them."""

    def __init__(self, store: Store, source: str, criterion: str, path: Path, left_out: list[str]) -> None:
        self.store, self.source, self.criterion, self.path, self.left_out = store, source, criterion, path, left_out
        self.added: dict[str, tuple[int, int | None]] = {}
        self._nobodies = 0

    def take(self, records: Iterator[Record]) -> None:
        takers = {"ComparisonSet": self._sets, "Ranking": self._rankings, "Pair": self._pairs}
        for kind, run in groupby(records, key=lambda record: type(record).__name__):
            takers.get(kind, self._one_by_one)(run)

    def _sets(self, sets: Iterator[Any]) -> None:
        added = self.store.add_sets(sets, criterion=self.criterion, on_bad=self._bad)
        self._count("sets", added.new, added.known)

    def _rankings(self, rankings: Iterator[Any]) -> None:
        added = self.store.add_rankings(rankings, self.source, criterion=self.criterion, on_bad=self._bad)
        self._count("rankings", added.new, added.known)

    def _pairs(self, pairs: Iterator[Any]) -> None:
        self._rankings(self._votes(pairs))

    def _one_by_one(self, records: Iterator[Any]) -> None:
        for record in records:
            self._add_one(record)

    def _votes(self, pairs: Iterator[Any]) -> Iterator[Record]:
        from plumbline.errors import BadRecord
        from plumbline.feedback.exchange import votes_of

        for pair in pairs:
            try:
                yield from votes_of(pair, self.source)
            except BadRecord as error:
                self._bad(pair, str(error))

    def _add_one(self, record: Any) -> None:
        """A thumb, or an answer to learn. Whose it is matters: without a user each is somebody of its own."""
        from plumbline.records import Rating

        self._nobodies += 1
        user = str(getattr(record, "user_id", None) or f"{self.source}-{self._nobodies}")
        try:
            if isinstance(record, Rating):
                self.store.add_rating(record, user)
                self._count("thumbs", 1)
            else:
                *asked, answer = record.messages
                if not answer["content"]:
                    raise UserError("it ends with a call of tools, and an answer has text")
                self.store.add_edit(asked, None, answer["content"], user)
                self._count("answers to learn", 1)
        except UserError as error:
            self._bad(record, str(error))

    def _count(self, kind: str, new: int, known: int | None = None) -> None:
        before, known_before = self.added.get(kind, (0, None))
        self.added[kind] = (before + new, known_before if known is None else (known_before or 0) + known)

    def _bad(self, record: Any, reason: str) -> None:
        name = getattr(record, "set_id", None) or record.prompt_id
        self.left_out.append(f"{self.path}: {type(record).__name__.lower()} of {name!r}: {reason}")


def tell_bad(left_out: list[str], path: Path | None) -> None:
    if path is not None:
        path.write_text("".join(f"{line}\n" for line in left_out), encoding="utf-8")
    if left_out:
        shown = left_out if path is None and len(left_out) <= BAD_LINES_SHOWN else left_out[:BAD_LINES_SHOWN]
        for line in shown:
            note(line)
        rest = f", all in {path}" if path else ", --bad FILE writes all of them" if len(left_out) > len(shown) else ""
        note(f"{len(left_out):,} left out{rest}")


def write_hits(replacer: Replacer | None, path: Path | None) -> None:
    """What was found, for its owner's eyes alone."""
    from plumbline.records import write_jsonl

    if path is not None:
        if replacer is None:
            raise UserError(f"--hits {str(path)!r} writes what --replace-personal-data found: give both")
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        write_jsonl(path, replacer.hits)


def tell_hits(replacer: Replacer | None, path: Path | None) -> None:
    if replacer is not None:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in replacer.kinds().most_common()) or "none"
        where = f"; look at them in {path}" if path else "; --hits FILE writes each for review"
        note(f"personal data replaced: {kinds}{where if replacer.hits else ''}")


# ---- out


@app.command(cls=Command)
def export(
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="rankings, trl-dpo, trl-reward, kto, sft, hh-rlhf, oasst, llama-factory or llama-factory-kto.",
            metavar="NAME",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="A .jsonl, .jsonl.gz or .parquet file; else a folder for `datasets`.", metavar="FILE"
        ),
    ],
    merge: Annotated[
        bool, typer.Option("--consensus", help="What labelers say together, and not each by themselves.")
    ] = False,
    method: MethodName = "ranked-pairs",
    split: PartName = None,
    criterion: Criterion = None,
    include_excluded: Excluded = False,
    replace_personal_data: Replace = False,
    finder: FinderName = "forms",
    hits: Hits = None,
    plain_ids: Annotated[
        bool, typer.Option("--plain-ids", help="Write the database's own ids of labelers and users, without an alias.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Write what people said as a file that training loads.

    Labelers who are excluded stay out. Labelers and users get aliases from a salt that stays in the project. Prompts
    carry the split that `plumb feedback split` gave them; those that it left out stay out.
    """
    from plumbline.feedback.exchange import format_of
    from plumbline.feedback.privacy import Aliases, salt_of
    from plumbline.feedback.selection import Selection, read_splits
    from plumbline.project import Project

    format_of(format)  # a misspelt one is told before anything else is done
    folder = Project.require().folder
    splits = read_splits(folder)
    replacer = replacer_of(replace_personal_data, finder)
    aliases = None if plain_ids else Aliases(salt_of(folder))
    with opened(database) as store, waiting(f"writing {out}"):
        chosen = Selection(
            store,
            splits=splits,
            part=checked_part(split, splits is not None),
            method=cast("Method", method) if merge else None,
            criterion=criterion,
            include_excluded=include_excluded,
            changes=tuple(change for change in (replacer, aliases) if change),
        )
        done = write_selection(chosen, out, format, force)
    write_hits(replacer, hits)
    show_export(done, chosen, as_json, replacer, hits)


def write_selection(chosen: Selection, out: Path, format: str, force: bool) -> Exported:
    """Writes the file, and notes in the store what each of its data files holds."""
    from plumbline.feedback.exchange import export, format_of
    from plumbline.project import file_digest

    done = export(chosen.records(format_of(format).holds), out, format, force=force)
    for path in done.files:
        if path.name not in ("README.md", "dataset_info.json"):
            chosen.store.mark_seen(file_digest(path), chosen.seen)
    return done


def checked_part(name: str | None, made: bool) -> Split | None:
    if name is not None and name not in ("train", "validation", "test"):
        raise UserError(f"there is no split {name!r}: take train, validation or test")
    if name is not None and not made:
        raise UserError(f"--split {name} needs a split, and none was made: run `plumb feedback split` first")
    return cast("Split | None", name)


def show_export(done: Exported, chosen: Selection, as_json: bool, replacer: Replacer | None, hits: Path | None) -> None:
    left_out = {f"prompts: {reason}": len(prompts) for reason, prompts in chosen.left_out.items()}
    left_out |= {f"rows: {reason}": count for reason, count in done.left_out.items()}
    if as_json:
        found = dict(replacer.kinds()) if replacer else None
        print_json({**asdict(done), "files": [str(path) for path in done.files], "left_out": left_out, "hits": found})
        return
    rows = table("split", ">rows")
    for part in ("train", "validation", "test", "none"):
        if part in done.splits:
            rows.add_row(part, f"{done.splits[part]:,}")
    screen().print(rows)
    for reason, count in left_out.items():
        note(f"left out: {count:,} {reason}")
    tell_hits(replacer, hits)
    for path in done.files:
        note(f"{path}")


# ---- what it says, beside this file

app.command(cls=Command)(agreement)
app.command(cls=Command)(consensus)
app.command(cls=Command)(labelers)


# ---- train, validation, test


@app.command(cls=Command)
def split(
    shares: Annotated[
        str, typer.Option("--shares", help="The parts of train, validation and test.", metavar="X,X,X")
    ] = "0.8,0.1,0.1",
    cap: Annotated[
        int, typer.Option("--cap", help="The most prompts of one user; 0 for no limit.", metavar="N", min=0)
    ] = 200,
    key: Annotated[
        str,
        typer.Option("--key", help="The field of a set that says who asked: user_id, organisation.", metavar="NAME"),
    ] = "user_id",
    alike: Annotated[
        float,
        typer.Option("--alike", help="Overlap from which prompts are near-duplicates; 0 to not look.", metavar="X"),
    ] = 0.7,
    beginning: Annotated[
        int,
        typer.Option(
            "--beginning", help="Equal first characters that make two prompts one; 0 to not look.", metavar="N"
        ),
    ] = 200,
    answer: Annotated[
        int,
        typer.Option("--answer", help="Length from which an equal answer joins prompts; 0 to not look.", metavar="N"),
    ] = 40,
    seed: Annotated[int, typer.Option("--seed", help="Decides among equals.", metavar="N")] = 0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget the split that is there, and what was tested on it.")
    ] = False,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Divide the prompts into train, validation and test, by user.

    No user, no prompt and no long answer stands on two sides, near-duplicates of prompts included; the report counts
    that afresh. What has a split keeps it. `plumb feedback export` writes the split into every row.
    """
    from plumbline.feedback import split as splitting
    from plumbline.feedback.duplicates import Nearness
    from plumbline.feedback.selection import answers_of, prompts_of, read_splits, write_splits
    from plumbline.project import Project

    plan = splitting.Plan(three_shares(shares), cap, key, seed, Nearness(alike, beginning), answer)
    folder = Project.require().folder
    before = {} if fresh else read_splits(folder) or {}
    with opened(database) as store, waiting("comparing prompts"):
        prompts = prompts_of(store, before, key)
        if not prompts:
            raise UserError("there is no prompt to split yet: bring some in with `plumb feedback import FILE`")
        answers = answers_of(store, plan.answer)
        done = splitting.split(prompts, plan, answers)
        report = splitting.check(done, plan, answers)
    write_splits(folder, done)
    if as_json:
        print_json({**asdict(report), "sound": report.sound})
    else:
        show_split(report, key)


def three_shares(text: str) -> tuple[float, float, float]:
    try:
        train, validation, test = map(float, text.split(","))
    except ValueError:
        raise UserError(f"--shares is {text!r}: write three numbers with commas between, 0.8,0.1,0.1") from None
    return train, validation, test


def show_split(report: Report, key: str) -> None:
    who = "users" if key == "user_id" else f"{key}s"
    rows = table("split", ">prompts", f">{who}")
    for part, count in report.prompts.items():
        rows.add_row(part, f"{count:,}", f"{report.users[part]:,}")
    screen().print(rows)
    proof = f"{report.shared_users} {who}, {report.shared_prompts} prompts, {report.shared_answers} long answers"
    note(f"on two sides, counted from the result: {proof} and {report.near_duplicates} near-duplicates")
    note(f"the most prompts of one of the {who}: {report.most_of_a_user:,}; left out over the cap: {report.left_out:,}")
    if report.of_nobody:
        note(f"prompts without `{key}`: {report.of_nobody:,}; whether those share {who}, nobody knows")
    if report.largest > 0.5:
        note(
            f"{report.largest:.0%} of the prompts hang together, so they are all on one side. Where that comes from a "
            "template that many share, --alike 0.9 or --beginning 0 makes fewer of them near-duplicates; where many "
            "have one answer, a refusal say, --answer 200 or --answer 0 lets them go"
        )


# ---- erasing, beside this file too

app.command(cls=Command)(erase)

# ---- what users asked, beside this file too

app.command(cls=Command)(prompts)
