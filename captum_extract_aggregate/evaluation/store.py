"""Results as they come: SQLite files in a folder, one for each process, that survive a kill at any instant.

Images go in batches; each batch is one transaction, so that it is there whole or not at all. Every process writes a
file of its own, and reading joins them, sorted: it cannot be told from the result who computed what, or when.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import platform
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import captum
import numpy
import torch
import torchvision

import captum_extract_aggregate
from captum_extract_aggregate.evaluation.plan import Plan, plan_from

_APPLICATION = 0x43454131  # "CEA1"
_TABLES = ("plan", "runs", "batches", "images", "targets", "maps", "rows")
_CURE = "expected a results file of this plan: move it away, or choose another --results"
_SCHEMA = """
CREATE TABLE digest (value TEXT);
CREATE TABLE plan (hash TEXT, plan TEXT, images INTEGER, inputs TEXT);
CREATE TABLE runs (id INTEGER PRIMARY KEY, environment TEXT);
CREATE TABLE batches (batch INTEGER PRIMARY KEY, run INTEGER);
CREATE TABLE images (image INTEGER PRIMARY KEY, name TEXT, label INTEGER, skipped TEXT);
CREATE TABLE targets (image INTEGER, target INTEGER, score REAL, present INTEGER, difficult INTEGER, classes INTEGER,
    role TEXT, PRIMARY KEY (image, target)) WITHOUT ROWID;
CREATE TABLE maps (method TEXT, layer TEXT, position INTEGER, height INTEGER, width INTEGER, image_height INTEGER,
    image_width INTEGER, image INTEGER, PRIMARY KEY (method, layer, image)) WITHOUT ROWID;
CREATE TABLE rows (image INTEGER, target INTEGER, method TEXT, layer TEXT, measure TEXT, detail TEXT, value REAL,
    run INTEGER, plan TEXT, PRIMARY KEY (image, target, method, layer, measure, detail)) WITHOUT ROWID;
"""


class ImageRow(NamedTuple):
    """One image: its name, class (-1: none is known), and why it was skipped ("": it was not)."""

    image: int
    name: str
    label: int
    skipped: str


class TargetRow(NamedTuple):
    """One explained class of an image.

    `present`: the class is in the image; `difficult`: as an object (see `PointingPairs`); `classes`: how many classes
    are in the image; `role`: "best" or "worst" for its highest and its lowest scoring class, else "".
    """

    image: int
    target: int
    score: float
    present: bool
    difficult: bool
    classes: int
    role: str


class MapRow(NamedTuple):
    """A method's map at a layer: its size, and that of the image it belongs to (of the first image seen)."""

    method: str
    layer: str
    position: int
    height: int
    width: int
    image_height: int
    image_width: int
    image: int = 0


class Row(NamedTuple):
    """One number; `detail` tells those of one measure apart (such as `delta_minus` and `delta_plus`)."""

    image: int
    target: int
    method: str
    layer: str
    measure: str
    detail: str
    value: float


class BatchRows(NamedTuple):
    """What one batch of images gives."""

    images: list[ImageRow]
    targets: list[TargetRow]
    maps: list[MapRow]
    rows: list[Row]


class ResultsError(ValueError):
    """A results folder that cannot be used, with its cure."""


def environment(plan: Plan) -> dict[str, Any]:
    """What the numbers were made with."""
    return {
        "plan": plan.hash(),
        "seed": plan.run.seed,
        "captum_extract_aggregate": captum_extract_aggregate.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "captum": captum.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if plan.run.device.startswith("cuda") else "cpu",
    }


def part_paths(folder: Path) -> list[Path]:
    """The files of all processes."""
    return sorted(folder.glob("part-*.sqlite"))


class Writer:
    """One process's file, to which batches are added; a second writer of the same file is refused."""

    def __init__(self, folder: Path, rank: int, plan: Plan, images: int, inputs: str = "") -> None:
        self.path = folder / f"part-{rank:04d}.sqlite"
        self._lock = _locked(folder / f"part-{rank:04d}.lock")
        self._db = _opened(self.path)
        self._plan = plan.hash()
        try:
            with self._transaction():
                if _is_new(self._db):
                    self._create(plan, images, inputs)
            check_part(self._db, self.path, plan)
            self._check_inputs(inputs)
            with self._transaction():
                (runs,) = self._db.execute("SELECT COUNT(*) FROM runs").fetchone()
                self._run = runs + 1
                self._insert("runs", [(self._run, json.dumps(environment(plan)))])
        except BaseException:
            self.close()
            raise

    def _check_inputs(self, inputs: str) -> None:
        (before,) = self._db.execute("SELECT inputs FROM plan").fetchone()
        if before != inputs:
            raise ResultsError(
                f"{self.path} was written with other weights or data ({before}, not {inputs}); expected those it "
                "was begun with: bring them back, or choose another --results"
            )

    def _create(self, plan: Plan, images: int, inputs: str) -> None:
        """All of it in one transaction: a kill leaves an empty file, not half a schema."""
        for statement in _SCHEMA.split(";")[:-1]:
            self._db.execute(statement)
        self._db.execute("INSERT INTO digest VALUES ('0')")
        self._insert("plan", [(plan.hash(), json.dumps(plan.as_dict()), images, inputs)])
        self._db.execute(f"PRAGMA application_id = {_APPLICATION}")

    def add(self, batch: int, found: BatchRows) -> None:
        """Adds a batch, all of it or (killed, disk full) nothing."""
        first = {(m.method, m.layer): m for m in reversed(found.maps)}  # of several sizes of images, the first
        with self._transaction():
            self._insert("batches", [(batch, self._run)])
            self._insert("images", found.images)
            targets = [tuple(int(v) if isinstance(v, bool) else v for v in row) for row in found.targets]
            self._insert("targets", targets)
            self._insert("maps", list(first.values()))
            values = [(*row[:6], None if math.isnan(row.value) else float(row.value)) for row in found.rows]
            self._insert("rows", [(*value, self._run, self._plan) for value in values])

    def _insert(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        """Adds rows, and what they contribute to the digest of the whole file."""
        if not rows:
            return
        marks = ", ".join("?" * len(rows[0]))
        self._db.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        (before,) = self._db.execute("SELECT value FROM digest").fetchone()
        self._db.execute("UPDATE digest SET value = ?", (str((int(before) + _digest(table, rows)) % 2**64),))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            self._roll_back()
            if not isinstance(error, sqlite3.OperationalError):
                raise ResultsError(f"{self.path} is damaged or no results file ({error}); {_CURE}") from None
            raise ResultsError(
                f"{self.path} cannot be written ({error}); what is there is whole: make room, and run again to continue"
            ) from None
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def close(self) -> None:
        """Gives the file free."""
        self._db.close()
        self._lock.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _digest(table: str, rows: Iterable[Sequence[Any]]) -> int:
    """A sum over rows that their order does not change, and any other change does."""
    return sum(
        int.from_bytes(hashlib.blake2b(repr((table, *row)).encode(), digest_size=8).digest(), "big") for row in rows
    )


def _is_new(db: sqlite3.Connection) -> bool:
    """Whether a file holds nothing at all, be it that a kill left it so."""
    (tables,) = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    return bool(tables == 0 and application == 0)


def _locked(path: Path) -> sqlite3.Connection:
    """A lock that goes with the process, however it ends: an open transaction on a file of its own."""
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=5)
    except sqlite3.Error as error:
        raise ResultsError(f"{path} cannot be opened ({error}); expected a folder that can be written") from None
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        connection.close()
        raise ResultsError(
            f"{path.parent} is being written by another run, or cannot be written ({error}); expected one run at a "
            "time, or another --results"
        ) from None
    return connection


def check_part(db: sqlite3.Connection, path: Path, plan: Plan | None = None) -> None:
    """Our error for a file that is damaged, not ours, or of another plan."""
    try:
        application = db.execute("PRAGMA application_id").fetchone()[0]
        if application != _APPLICATION:
            raise ResultsError(f"{path} was not written by an evaluation; {_CURE}")
        damage = " ".join(db.execute("PRAGMA quick_check").fetchone()[0].split())
        if damage != "ok" or not _is_whole(db):
            what = damage if damage != "ok" else "what it holds is not what was written"
            raise ResultsError(f"{path} is damaged ({what}); {_CURE}, and its batches are computed again")
        found = db.execute("SELECT hash FROM plan").fetchone()[0]
    except (sqlite3.Error, TypeError, ValueError) as error:
        if isinstance(error, ResultsError):
            raise
        raise ResultsError(f"{path} is damaged or no results file ({error}); {_CURE}") from None
    if plan is not None and found != plan.hash():
        raise ResultsError(f"{path} holds results of another plan ({found}, not {plan.hash()}); {_CURE}")


def _is_whole(db: sqlite3.Connection) -> bool:
    total = sum(_digest(table, db.execute(f"SELECT * FROM {table}")) for table in _TABLES)
    return int(db.execute("SELECT value FROM digest").fetchone()[0]) == total % 2**64


def done_batches(folder: Path, plan: Plan) -> set[int]:
    """The batches that some process has finished."""
    done: set[int] = set()
    for path in part_paths(folder):
        with closing(_opened(path)) as db:
            db.execute("BEGIN")  # one state of the file, whoever writes to it meanwhile
            if not _holds_nothing(db):
                check_part(db, path, plan)
                done |= {batch for (batch,) in db.execute("SELECT batch FROM batches")}
    return done


def _holds_nothing(db: sqlite3.Connection) -> bool:
    """Whether a process was killed before it wrote anything."""
    try:
        return _is_new(db)
    except sqlite3.Error:
        return False  # damaged, as will be said


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=30)


class Results:
    """What an evaluation found, complete or not.

    Attributes:
        plan: the plan. folder: where it lies. expected: how many images the plan has.
        environments: versions, device and seed of every run that wrote to it.

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

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.environments: list[dict[str, Any]] = []
        self.expected = 0
        plans: dict[str, str] = {}
        self._db = sqlite3.connect(":memory:", isolation_level=None)
        for statement in _SCHEMA.split(";")[:-1]:
            self._db.execute(statement)
        for path in part_paths(self.folder):
            with closing(_opened(path)) as part:
                part.execute("BEGIN")  # one state of the file, whoever writes to it meanwhile
                if _holds_nothing(part):
                    continue
                check_part(part, path)
                hash_, content, self.expected, _ = part.execute("SELECT * FROM plan").fetchone()
                plans[hash_] = content
                self.environments += [
                    json.loads(e) for (e,) in part.execute("SELECT environment FROM runs ORDER BY id")
                ]
                self._take(part)
        if not plans:
            raise ResultsError(
                f"{str(self.folder)!r} holds no results (part-*.sqlite); expected a folder that an evaluation wrote"
            )
        if len(plans) > 1:
            raise ResultsError(
                f"{str(self.folder)!r} holds results of several plans ({', '.join(plans)}); expected one"
            )
        self.plan = plan_from(json.loads(next(iter(plans.values()))))

    def _take(self, part: sqlite3.Connection) -> None:
        for table, width in (("batches", 2), ("images", 4), ("targets", 7), ("maps", 8), ("rows", 9)):
            marks = ", ".join("?" * width)
            self._db.executemany(
                f"INSERT OR IGNORE INTO {table} VALUES ({marks})", part.execute(f"SELECT * FROM {table}")
            )

    @property
    def complete(self) -> bool:
        """Whether every image of the plan was looked at."""
        return len(self.images()) == self.expected

    def images(self) -> list[ImageRow]:
        """All images that were looked at, the skipped among them."""
        return [ImageRow(*row) for row in self._db.execute("SELECT * FROM images ORDER BY image")]

    def skipped(self) -> list[ImageRow]:
        """The images that could not be read."""
        return [row for row in self.images() if row.skipped]

    def targets(self) -> dict[tuple[int, int], TargetRow]:
        """The explained classes, by image and class."""
        query = "SELECT * FROM targets ORDER BY image, target"
        rows = (TargetRow(i, t, s, bool(p), bool(d), c, r) for i, t, s, p, d, c, r in self._db.execute(query))
        return {(row.image, row.target): row for row in rows}

    def maps(self) -> list[MapRow]:
        """Methods and layers in the order of the plan."""
        query = """SELECT method, layer, position, height, width, image_height, image_width, MIN(image) FROM maps
            GROUP BY method, layer ORDER BY position"""
        return [MapRow(*row) for row in self._db.execute(query)]

    def measures(self) -> list[tuple[str, str]]:
        """Which measures and details there are."""
        return list(self._db.execute("SELECT DISTINCT measure, detail FROM rows ORDER BY measure, detail"))

    def rows(
        self, measure: str, detail: str | None = None, method: str | None = None, layer: str | None = None
    ) -> list[Row]:
        """The numbers of a measure, sorted by image, class, method and layer; undefined ones are NaN."""
        return list(self._rows({"measure": measure, "detail": detail, "method": method, "layer": layer}))

    def _rows(self, wanted: dict[str, str | None]) -> Iterator[Row]:
        given = {key: value for key, value in wanted.items() if value is not None}
        where = " AND ".join(f"{key} = ?" for key in given)
        query = f"""SELECT image, target, method, layer, measure, detail, value FROM rows WHERE {where}
            ORDER BY image, target, method, layer, detail"""
        for row in self._db.execute(query, tuple(given.values())):
            yield Row(*row)._replace(value=math.nan if row[6] is None else row[6])
