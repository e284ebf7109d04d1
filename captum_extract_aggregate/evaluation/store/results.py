"""Reading results: the files of all processes, joined."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_extract_aggregate.evaluation.measure_spec import Interpretation, find_interpretation
from captum_extract_aggregate.evaluation.plan import MeasurePlan
from captum_extract_aggregate.evaluation.plan_differences import differences
from captum_extract_aggregate.evaluation.store.files import newest_record, part_paths, reading, works_of
from captum_extract_aggregate.evaluation.store.records import (
    Cell,
    ImageRow,
    MapRow,
    Record,
    ResultsError,
    Row,
    TargetRow,
)

# The same tables, joined: without what only says how they came to be.
_JOINED = """
CREATE TABLE images (image INTEGER PRIMARY KEY, name TEXT, label INTEGER, skipped TEXT);
CREATE TABLE targets (image INTEGER, target INTEGER, score REAL, present INTEGER, difficult INTEGER, classes INTEGER,
    role TEXT, PRIMARY KEY (image, target)) WITHOUT ROWID;
CREATE TABLE maps (method TEXT, layer TEXT, position INTEGER, height INTEGER, width INTEGER, image_height INTEGER,
    image_width INTEGER, image INTEGER, PRIMARY KEY (method, layer, image)) WITHOUT ROWID;
CREATE TABLE rows (image INTEGER, target INTEGER, method TEXT, layer TEXT, measure TEXT, detail TEXT, value REAL,
    PRIMARY KEY (image, target, method, layer, measure, detail)) WITHOUT ROWID;
"""


class Results:
    """Reads what an evaluation found, complete or not.

    Attributes:
        plan: the plan. folder: where it lies. expected: how many images the plan has.
        environments: versions, device and seed of every run that wrote to it. date: when the last that added began.

    Args:
        folder: where they lie. read: at once, which takes a while of many images; False: when something is first asked.

    Example:
        >>> from captum_extract_aggregate.evaluation import MeasurePlan, MethodPlan, Plan, run
        >>> import tempfile
        >>> plan = Plan((MethodPlan("normgrad"),), (MeasurePlan("class_sensitivity"),), layers=("layer3",))
        >>> import dataclasses
        >>> plan = dataclasses.replace(plan, data=dataclasses.replace(plan.data, n=2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     results = run(plan, folder, show_progress=False)
        ...     len(results.rows("class_sensitivity"))
        2
    """

    def __init__(self, folder: str | Path, read: bool = True) -> None:
        self.folder = Path(folder)
        if read:
            self._read()

    if not TYPE_CHECKING:  # which knows the attributes from where they are set

        def __getattr__(self, name: str) -> Any:
            """Reads the files when something is first asked."""
            if name.startswith("__") or "_db" in vars(self):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self._read()
            return getattr(self, name)

    def _read(self) -> None:
        self.environments: list[dict[str, Any]] = []
        self._told: dict[str, dict[str, Any]] = {}
        self._db = sqlite3.connect(":memory:", isolation_level=None)
        for statement in _JOINED.split(";")[:-1]:
            self._db.execute(statement)
        with contextlib.ExitStack() as stack:
            opened = {path: stack.enter_context(reading(path)) for path in part_paths(self.folder)}
            parts = {path: part for path, part in opened.items() if part is not None}
            if not parts:
                raise ResultsError(
                    f"{str(self.folder)!r} holds no results (part-*.sqlite); expected a folder that an evaluation wrote"
                )
            records = {path: newest_record(part) for path, part in parts.items()}
            self._record = max(records.values(), key=lambda record: record.generation)
            self.plan, self.expected, self.date = self._record.plan, self._record.images, ""
            self._done: dict[str, set[Cell]] = {}
            for path, part in parts.items():
                self._check_record(path, records[path])
                self._take(part)

    def _check_record(self, path: Path, record: Record) -> None:
        """Raises our error for a file of another plan, that no run has added to the newest's."""
        is_another = record.plan.hash() != self.plan.hash()
        is_as_new = record.generation == self._record.generation
        if is_another and (is_as_new or any(differences(record.plan, self.plan))):
            raise ResultsError(
                f"{str(self.folder)!r} holds results of several plans ({record.plan.hash()} in {path.name}, and "
                f"{self.plan.hash()}); expected one"
            )

    def _take(self, part: sqlite3.Connection) -> None:
        for (content,) in part.execute("SELECT environment FROM runs ORDER BY id"):
            environment = json.loads(content)
            self._told |= environment.pop("measures", {})
            self.environments.append(environment)
        wanted, current = self._record.cells, set(self._record.keys)
        keys = dict(part.execute("SELECT work, key FROM batches"))
        given = {w: c for w, c in works_of(part, wanted).items() if not current or keys[w] in current}
        works = {work: {cell for cell, mark in cells if wanted.get(cell) == mark} for work, cells in given.items()}
        for work, cells in works.items():
            self._done.setdefault(keys[work], set()).update(cells)
        hides_some = wanted and any(len(works[work]) < len(given[work]) for work in works)
        seen = {work: {cell[:2] for cell in cells} for work, cells in works.items()}
        position = {place: i for i, place in enumerate(dict.fromkeys(cell[:2] for cell in wanted))}

        def chosen(table: str) -> Iterator[tuple[Any, ...]]:
            everything = part.execute(f"SELECT * FROM {table}")
            return everything if len(works) == len(keys) else (row for row in everything if row[-1] in works)

        maps = (row for row in chosen("maps") if not wanted or row[:2] in seen[row[-1]])
        rows = (row for row in chosen("rows") if row[2:5] in works[row[-1]]) if hides_some else chosen("rows")
        self._add("images", chosen("images"))
        self._add("targets", chosen("targets"))
        self._add("maps", ((*row[:2], position.get(row[:2], row[2]), *row[3:]) for row in maps))
        self._add("rows", rows)
        began = part.execute("SELECT work, began FROM batches JOIN runs ON run = id")
        self.date = max([self.date, *(when for work, when in began if work in works)])

    def _add(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Adds rows, of which the last column only says which work they are of."""
        width = {"images": 4, "targets": 7, "maps": 8, "rows": 7}[table]
        marks = ", ".join(f"?{i + 1}" for i in range(width))
        self._db.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", (row[:width] for row in rows))

    @property
    def complete(self) -> bool:
        """Whether every image of the plan was looked at, by every method and measure."""
        return len(self.images()) == self.expected and not self.lacking

    @property
    def lacking(self) -> int:
        """How many batches of images lack some of the plan's methods, layers or measures."""
        wanted = set(self._record.cells)
        return sum(not wanted <= self._done.get(key, set()) for key in self._record.keys)

    def images(self) -> list[ImageRow]:
        """Returns all images that were looked at, the skipped among them."""
        return [ImageRow(*row) for row in self._db.execute("SELECT * FROM images ORDER BY image")]

    def skipped(self) -> list[ImageRow]:
        """Returns the images that could not be read."""
        return [row for row in self.images() if row.skipped]

    def targets(self) -> dict[tuple[int, int], TargetRow]:
        """Returns the explained classes, by image and class."""
        query = "SELECT * FROM targets ORDER BY image, target"
        rows = (TargetRow(i, t, s, bool(p), bool(d), c, r) for i, t, s, p, d, c, r in self._db.execute(query))
        return {(row.image, row.target): row for row in rows}

    def maps(self) -> list[MapRow]:
        """Returns methods and layers in the order of the plan."""
        query = """SELECT method, layer, position, height, width, image_height, image_width, MIN(image) FROM maps
            GROUP BY method, layer ORDER BY position"""
        return [MapRow(*row) for row in self._db.execute(query)]

    def interpretation(self, measure: MeasurePlan) -> Interpretation:
        """Returns how a measure's numbers are read: as a user's own said when they were computed, the package's as is
        known."""
        return find_interpretation(measure, {label: Interpretation(**facts) for label, facts in self._told.items()})

    def count(self) -> int:
        """Returns how many numbers there are."""
        (count,) = self._db.execute("SELECT COUNT(*) FROM rows").fetchone()
        return int(count)

    def measures(self) -> list[tuple[str, str]]:
        """Returns which measures and details there are."""
        return list(self._db.execute("SELECT DISTINCT measure, detail FROM rows ORDER BY measure, detail"))

    def rows(
        self, measure: str, detail: str | None = None, method: str | None = None, layer: str | None = None
    ) -> list[Row]:
        """Returns the numbers of a measure, sorted by image, class, method and layer; undefined ones are NaN."""
        return list(self._rows({"measure": measure, "detail": detail, "method": method, "layer": layer}))

    def _rows(self, wanted: dict[str, str | None]) -> Iterator[Row]:
        given = {key: value for key, value in wanted.items() if value is not None}
        where = " AND ".join(f"{key} = ?" for key in given)
        query = f"""SELECT image, target, method, layer, measure, detail, value FROM rows WHERE {where}
            ORDER BY image, target, method, layer, detail"""
        for row in self._db.execute(query, tuple(given.values())):
            yield Row._make((*row[:6], math.nan if row[6] is None else row[6]))
