"""The store: the only thing that writes what people did. What it has acknowledged is on the disk.

    with Store.open(project) as store:
        store.add_sets(read_jsonl("sets.jsonl", ComparisonSet))
        ann = store.add_labeler("Ann")
        claim = Queue(store).claim(ann.labeler_id)

Its chapters lie beside it: `sets`, `sign_in`, `rankings`, `users`, `leaving`, `traffic`, `api_keys`; what they
stand on is in `database`.
"""

from __future__ import annotations

from plumbline.feedback.api_keys import ApiKey, ApiKeys
from plumbline.feedback.database import Clock
from plumbline.feedback.events import point_at_current
from plumbline.feedback.leaving import Leaving
from plumbline.feedback.places import Overlap, Progress, count_progress, overlap_in_force, put_in_force
from plumbline.feedback.rankings import Exclusion, Past, Rankings, Receipt, Submission, Written
from plumbline.feedback.sets import Added, Instruction, Ranks, Sets
from plumbline.feedback.sign_in import Labeler, Role, SignIn
from plumbline.feedback.traffic import Exchange, Hour, Traffic
from plumbline.feedback.users import Edit, Erased, Users

__all__ = [
    "Added",
    "ApiKey",
    "Clock",
    "Edit",
    "Erased",
    "Exchange",
    "Exclusion",
    "Hour",
    "Instruction",
    "Labeler",
    "Overlap",
    "Past",
    "Progress",
    "Ranks",
    "Receipt",
    "Role",
    "Store",
    "Submission",
    "Written",
]


class Store(Sets, SignIn, Rankings, Users, Leaving, Traffic, ApiKeys):
    """All that people said, in one database."""

    def overlap(self) -> Overlap:
        """How many people rank each set, as it was last set."""
        with self.read() as connection:
            return overlap_in_force(connection)

    def set_overlap(self, overlap: Overlap) -> None:
        """Changes it from now on, in every process."""
        with self.write("queue") as connection:
            put_in_force(connection, overlap, self.clock())

    def progress(self, *, criterion: str | None = None) -> Progress:
        """How many sets stand where."""
        with self.read() as connection:
            return count_progress(connection, overlap_in_force(connection), self.clock(), criterion)

    def rebuild(self) -> int:
        """Makes what is derived again from the events; returns how many rows were not as they should be."""
        with self.write("queue", "sets") as connection:
            return point_at_current(connection)
