"""Blind A/B: two models' answers go to the ranking room, and what people said of them comes back as a win rate."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from plumbline.cli.terminal import note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plumbline.evaluate.bench import Bench
    from plumbline.evaluate.records import Asked
    from plumbline.records import Evaluation


def ask_people(bench: Bench, other: Bench, items: Sequence[Asked], command: str) -> Evaluation:
    """Adds the sets that are not in the room yet, and gives what people have said of them so far."""
    from plumbline import __version__
    from plumbline.evaluate.people import INSTRUCTIONS, blind_sets, criterion_of, win_rate
    from plumbline.feedback.store import Store
    from plumbline.project import Project
    from plumbline.records import Evaluation

    sets, equal = blind_sets(bench, other, items)
    criterion, ids = criterion_of(bench, other), {each.set_id for each in sets}
    with Store.open(Project.require()) as store:
        store.add_criterion(criterion, INSTRUCTIONS)
        added = store.add_sets(sets, criterion=criterion)
        found = win_rate((each for each in store.rankings() if each.set_id in ids), equal, command)
        ranked = len({each.set_id for each in store.rankings() if each.set_id in ids})
    note(f"{len(sets)} sets are in the ranking room, {added.new} of them new; {equal} prompts have two equal answers")
    note(f"{ranked} of {len(sets)} sets are ranked: `plumb label --labelers NAMES` opens the room; then run this again")
    return Evaluation(
        version=bench.source.name,
        against=other.source.name,
        measured=(found,) if found is not None else (),
        code_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
