"""What a folder holds already, as far as going on needs to know."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from captum_extract_aggregate.evaluation.plan import Plan
from captum_extract_aggregate.evaluation.plan_differences import differences
from captum_extract_aggregate.evaluation.store.files import CURE, newest_record, part_paths, reading, works_of
from captum_extract_aggregate.evaluation.store.records import Cell, ContentRow, Record, ResultsError


@dataclass
class Done:
    """Knows what the files of a folder hold, as far as going on needs to know.

    Attributes:
        records: the newest of each file.
        cells: by a batch's key, what is there.
        images: by a batch's key, what every image was made of.
    """

    records: dict[Path, Record] = field(default_factory=dict)
    cells: dict[str, set[tuple[Cell, str]]] = field(default_factory=dict)
    images: dict[str, dict[int, ContentRow]] = field(default_factory=dict)

    @property
    def newest(self) -> Record | None:
        """What the folder shows; None if there is nothing."""
        return max(self.records.values(), key=lambda record: record.generation, default=None)

    def check_inputs(self, inputs: Mapping[str, str]) -> None:
        """Raises our error for weights or code that are others than those that results were begun with."""
        for path, record in self.records.items():
            changed = [name for name, mark in inputs.items() if record.inputs.get(name, mark) != mark]
            if changed:
                raise ResultsError(
                    f"{path} was written with other weights or data (changed since: {'; '.join(changed)}); expected "
                    "those it was begun with: bring them back, or choose another --results"
                )

    def missing(self, key: str, wanted: Mapping[Cell, str]) -> dict[Cell, str]:
        """Returns what a batch lacks."""
        there = self.cells.get(key, set())
        return {cell: mark for cell, mark in wanted.items() if (cell, mark) not in there}

    def next(self, record: Record) -> Record:
        """Returns a record with its generation: the newest's where it says the same, else the next."""
        newest = self.newest
        if newest is None:
            return record
        again = replace(record, generation=newest.generation)
        return again if again.row() == newest.row() else replace(record, generation=newest.generation + 1)


def done_batches(folder: Path, plan: Plan) -> Done:
    """Returns what is there, where it goes with a plan; our error, naming what differs, where it does not."""
    done = Done()
    for path in part_paths(folder):
        with reading(path) as db:
            if db is not None:
                record = newest_record(db)
                changed = [*differences(record.plan, plan)]
                if changed:
                    raise ResultsError(f"{path} holds results of another plan ({'; '.join(changed)}); {CURE}")
                done.records[path] = record
                _add_done(db, done, record)
    return done


def _add_done(db: sqlite3.Connection, done: Done, record: Record) -> None:
    keys = dict(db.execute("SELECT work, key FROM batches"))
    for work, cells in works_of(db, record.cells).items():
        done.cells.setdefault(keys[work], set()).update(cells)
    for *row, work in db.execute("SELECT * FROM contents"):
        done.images.setdefault(keys[work], {})[row[0]] = ContentRow(*row)
