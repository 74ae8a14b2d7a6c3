"""`plumb feedback agreement`, `consensus`, `labelers`: what the rankings say of answers and of each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from plumbline.cli.terminal import AsJson, note, print_json, screen, table, waiting
from plumbline.errors import UserError

if TYPE_CHECKING:
    from plumbline.feedback.agreement import Agreement, Figure
    from plumbline.feedback.consensus import Method
    from plumbline.feedback.labelers import LabelerScore
    from plumbline.feedback.store import Exclusion, Store
    from plumbline.records import Ranking

Criterion = Annotated[str | None, typer.Option("--criterion", help="Only what was ranked by this one.", metavar="NAME")]
Excluded = Annotated[bool, typer.Option("--include-excluded", help="Count labelers who are excluded, too.")]
MethodName = Annotated[
    str, typer.Option("--method", help="ranked-pairs, kemeny, bradley-terry or plackett-luce.", metavar="NAME")
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option("--database", help="Another database than the project's, by its URL.", metavar="URL"),
]


@contextmanager
def opened(database: str | None) -> Iterator[Store]:
    """The store of the project that the command runs in, or the one at the URL."""
    from plumbline.feedback.store import Store
    from plumbline.project import Project

    with Store.open(Project.require(), url=database) as store:
        yield store


# ---- how far people agree


def agreement(include_excluded: Excluded = False, database: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Show how far labelers agree, for each criterion.

    Shares of pairs of answers on which two labelers say the same, and Krippendorff's alpha, which is 0 for guessing and
    1 for full agreement. Intervals are 95 %, by bootstrap over sets.
    """
    from plumbline.feedback.agreement import agreement_by_criterion

    with opened(database) as store, waiting("comparing labelers"):
        found = agreement_by_criterion(store.rankings(include_excluded=include_excluded))
    if as_json:
        print_json({str(name): asdict(each) for name, each in found.items()})
        return
    if not found:
        note("nobody has ranked anything yet")
    for name, each in found.items():
        show_agreement(name, each)


def show_agreement(criterion: str | None, found: Agreement) -> None:
    rows = table(criterion or "", ">value", "95 %", ">sets")
    for label, figure in (
        ("same choice, ties apart", found.without_ties),
        ("same outcome, ties included", found.with_ties),
        ("alpha, of choices and ties", found.alpha),
        ("alpha, of flags", found.flags),
    ):
        rows.add_row(label, *cells(figure))
    screen().print(rows)
    note(
        f"{found.shared:,} of {found.sets:,} sets were ranked by more than one of {found.labelers:,} labelers: "
        f"{found.comparisons:,} comparisons"
    )


def cells(figure: Figure) -> tuple[str, str, str]:
    """A figure in three columns: value, interval, n."""
    if figure.value is None:
        return "–", figure.why, f"{figure.n:,}"
    interval = figure.why if figure.low is None else f"{figure.low:.2f} to {figure.high:.2f}"
    return f"{figure.value:.2f}", interval, f"{figure.n:,}"


# ---- what they say together


def consensus(
    method: MethodName = "ranked-pairs",
    criterion: Criterion = None,
    include_excluded: Excluded = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the merged rankings here, as JSON Lines.", metavar="FILE")
    ] = None,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show each set's ranking as all of its labelers make it together.

    A set's ranks stand in the order of its answers; equal ranks are ties, – is an answer that most found senseless.
    """
    from plumbline.feedback.consensus import consensus as merge
    from plumbline.records import write_jsonl

    with opened(database) as store, waiting("merging rankings"):
        rankings = store.rankings(criterion=criterion, include_excluded=include_excluded)
        merged = merge(rankings, method=cast("Method", method))
        if out is not None:
            note(f"{write_jsonl(out, merged):,} sets are in {out}")
            return
        found = list(merged)
    if as_json:
        print_json([as_data(each) for each in found])
        return
    if not found:
        note("nobody has ranked anything yet")
        return
    rows = table("set", "ranks", ">labelers", "prompt")
    for each in found:
        ranks = " ".join("–" if rank is None else str(rank) for rank in each.ranks)
        rows.add_row(plain(each.set_id), ranks, str(getattr(each, "n_votes", "")), begin_of(each))
    screen().print(rows)


def as_data(merged: Ranking) -> dict[str, object]:
    fields = ("set_id", "prompt_id", "ranks", "flags", "n_votes", "method", "criterion")
    return {name: getattr(merged, name, None) for name in fields}


def begin_of(ranking: Ranking, letters: int = 40) -> str:
    """The prompt's first words, on one line."""
    prompt = ranking.prompt if isinstance(ranking.prompt, str) else ranking.prompt[-1]["content"] or ""
    text = " ".join(prompt.split())
    return plain(text if len(text) <= letters else f"{text[: letters - 1]}…")


def plain(text: str) -> str:
    """Text from elsewhere that neither steers the terminal nor is read as markup."""
    from rich.markup import escape

    from plumbline.cli.terminal import printable

    return escape(printable(text))


# ---- whom to look at


def labelers(
    exclude: Annotated[
        str | None, typer.Option("--exclude", help="Leave this labeler's rankings out from now on.", metavar="NAME")
    ] = None,
    because: Annotated[
        str | None, typer.Option("--because", help="Why, in a sentence that is kept.", metavar="TEXT")
    ] = None,
    include: Annotated[str | None, typer.Option("--include", help="Take an exclusion back.", metavar="NAME")] = None,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show how each labeler agrees with the others, with known sets and with themselves, and exclude or include one.

    Nobody is excluded by a number: a suggestion comes with its evidence, a person decides. An exclusion deletes
    nothing, and it can be taken back.
    """
    from plumbline.feedback.labelers import judge_labelers
    from plumbline.feedback.room.figures import gold_rankings, themselves

    if (exclude is None) != (because is None):
        raise UserError("--exclude NAME and --because TEXT go together: who reads it later wants to know why")
    with opened(database) as store, waiting("comparing labelers"):
        scores = judge_labelers(store.rankings(include_excluded=True), gold=gold_rankings(store))
        if exclude is not None:
            who = store.person(exclude).labeler_id
            said = next((score.evidence for score in scores if score.labeler_id == who), "")
            store.exclude(who, {"note": because, "said": said}, by="the command line")
        if include is not None:
            store.include(store.person(include).labeler_id, by="the command line")
        again = themselves(store)
        excluded = store.excluded()
        names = {each.labeler_id: each.name for each in store.labelers()}
    if as_json:
        out = {
            who: {**asdict(each), "evidence": dict(each.evidence), "at": str(each.at)} for who, each in excluded.items()
        }
        same = {who: asdict(figure) for who, figure in again.items()}
        print_json({"labelers": [asdict(score) for score in scores], "themselves": same, "excluded": out})
        return
    show_labelers(scores, again, names, excluded)


def called(labeler_id: str, names: Mapping[str, str]) -> str:
    """The name, with the id where an import brought somebody of the same name."""
    name = names.get(labeler_id, labeler_id)
    return name if list(names.values()).count(name) < 2 else f"{name} ({labeler_id})"


def show_labelers(
    scores: list[LabelerScore],
    again: Mapping[str, Figure],
    names: Mapping[str, str],
    excluded: Mapping[str, Exclusion],
) -> None:
    if not scores:
        note("nobody has ranked anything yet")
        return
    rows = table("labeler", ">sets", ">with others", "95 %", ">with gold", "95 %", "")
    for score in scores:
        who = score.labeler_id
        mark = "[yellow]excluded" if who in excluded else f"[red]{score.suggestion}?" if score.suggestion else ""
        others, gold = cells(score.others), cells(score.gold) if score.gold.n else ("–", "", "")
        rows.add_row(plain(called(who, names)), f"{score.sets:,}", *others[:2], *gold[:2], mark)
    screen().print(rows)
    for score in scores:
        if score.suggestion and score.labeler_id not in excluded:
            note(f"{called(score.labeler_id, names)}: {score.evidence}")
    for who, figure in again.items():
        share, interval, sets = cells(figure)
        note(f"{called(who, names)} said the same again of {share} ({interval}), sets: {sets}")
    for each in excluded.values():
        note(f"{called(each.labeler_id, names)} is excluded: {each.evidence.get('note', '')}")
