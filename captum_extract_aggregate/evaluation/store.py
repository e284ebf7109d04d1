"""Results as they come: SQLite files in a folder, one for each process, that survive a kill at any instant.

Images go in batches; each batch is one transaction, so that it is there whole or not at all. Every process writes a
file of its own, and reading joins them, sorted: it cannot be told from the result who computed what, or when.

A file knows what its numbers depend on (plan, weights, code, images). A plan with more methods, layers, measures or
images goes on with what is there; a plan with fewer hides the rest; any other difference is refused, by name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import platform
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import captum
import numpy
import torch
import torchvision

import captum_extract_aggregate
from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate.evaluation.plan import Plan, differences, plan_from

_APPLICATION = 0x43454131  # "CEA1"
_FORMAT = 2
_TABLES = ("plan", "runs", "sets", "batches", "images", "contents", "targets", "maps", "rows")
_CURE = "expected a results file of this plan: move it away, or choose another --results"
_SCHEMA = """
CREATE TABLE digest (value TEXT);
CREATE TABLE plan (hash TEXT, plan TEXT, images INTEGER, inputs TEXT, generation INTEGER, cells TEXT, keys TEXT);
CREATE TABLE runs (id INTEGER PRIMARY KEY, environment TEXT, began TEXT);
CREATE TABLE sets (id INTEGER PRIMARY KEY, cells TEXT);
CREATE TABLE batches (work INTEGER PRIMARY KEY, batch INTEGER, run INTEGER, key TEXT, cells INTEGER);
CREATE TABLE images (image INTEGER, name TEXT, label INTEGER, skipped TEXT, work INTEGER, PRIMARY KEY (image, work))
    WITHOUT ROWID;
CREATE TABLE contents (image INTEGER, name TEXT, content TEXT, stamp TEXT, work INTEGER, PRIMARY KEY (image, work))
    WITHOUT ROWID;
CREATE TABLE targets (image INTEGER, target INTEGER, score REAL, present INTEGER, difficult INTEGER, classes INTEGER,
    role TEXT, work INTEGER, PRIMARY KEY (image, target, work)) WITHOUT ROWID;
CREATE TABLE maps (method TEXT, layer TEXT, position INTEGER, height INTEGER, width INTEGER, image_height INTEGER,
    image_width INTEGER, image INTEGER, work INTEGER, PRIMARY KEY (method, layer, image, work)) WITHOUT ROWID;
CREATE TABLE rows (image INTEGER, target INTEGER, method TEXT, layer TEXT, measure TEXT, detail TEXT, value REAL,
    work INTEGER, PRIMARY KEY (image, target, method, layer, measure, detail, work)) WITHOUT ROWID;
"""
_STATEMENTS = [statement.strip() for statement in _SCHEMA.split(";")[:-1]]
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
Cell = tuple[str, str, str]  # method, layer, measure


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


class ContentRow(NamedTuple):
    """What an image was made of: its name, a digest of its contents, and the state of its files ("": unknown)."""

    image: int
    name: str
    content: str
    stamp: str


class BatchRows(NamedTuple):
    """What one batch of images gives: to which images (`key`) and measures at layers (`cells`; None: whatever there is)
    it belongs is as in the record."""

    images: list[ImageRow]
    targets: list[TargetRow]
    maps: list[MapRow]
    rows: list[Row]
    contents: Sequence[ContentRow] = ()
    key: str = ""
    cells: Mapping[Cell, str] | None = None


@dataclass(frozen=True)
class Record:
    """A plan, and what it stands for on this machine.

    Attributes:
        plan: the plan. images: how many it has.
        inputs: a digest of each thing that the plan only names, by what to call it.
        cells: for each method, layer and measure a digest of what its numbers depend on; empty: whatever is there.
        keys: for each batch a digest of which images are in it; empty: whatever is there.
        generation: of several plans that a folder was written with, the highest is the one it shows.
    """

    plan: Plan
    images: int
    inputs: Mapping[str, str] = field(default_factory=dict)
    cells: Mapping[Cell, str] = field(default_factory=dict)
    keys: Sequence[str] = ()
    generation: int = 1

    def row(self) -> tuple[Any, ...]:
        """As it is stored."""
        cells = [[*cell, mark] for cell, mark in self.cells.items()]
        parts = (json.dumps(part) for part in (dict(self.inputs), cells, list(self.keys)))
        inputs, cells_, keys = parts
        return self.plan.hash(), json.dumps(self.plan.as_dict()), self.images, inputs, self.generation, cells_, keys


def _record(row: Sequence[Any]) -> Record:
    _, plan, images, inputs, generation, cells, keys = row
    marks = {(method, layer, measure): mark for method, layer, measure, mark in json.loads(cells)}
    return Record(plan_from(json.loads(plan)), images, json.loads(inputs), marks, json.loads(keys), generation)


class ResultsError(InvalidValueError):
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
    """One process's file, to which batches are added; a second writer of the same file is refused.

    It is open once it has a record of what is being computed: given a plan, at once, else by `begin`.
    """

    def __init__(self, folder: Path, rank: int, plan: Plan | None = None, images: int = 0) -> None:
        self.path = folder / f"part-{rank:04d}.sqlite"
        self._lock = _locked(folder / f"part-{rank:04d}.lock")
        try:
            self._db = _opened(self.path)
        except BaseException:
            self._lock.close()
            raise
        self._run = 0
        try:
            with self._transaction():
                if _is_new(self._db):
                    self._create()
            check_part(self._db, self.path)
            if plan is not None:
                self.begin(Record(plan, images))
        except BaseException:
            self.close()
            raise

    def _create(self) -> None:
        """All of it in one transaction: a kill leaves an empty file, not half a schema."""
        for statement in _STATEMENTS:
            self._db.execute(statement)
        self._db.execute("INSERT INTO digest VALUES ('0')")
        self._db.execute(f"PRAGMA user_version = {_FORMAT}")
        self._db.execute(f"PRAGMA application_id = {_APPLICATION}")

    def begin(self, record: Record) -> None:
        """Notes what is computed from now on."""
        with self._transaction():
            newest = self._db.execute("SELECT * FROM plan ORDER BY generation DESC LIMIT 1").fetchone()
            if newest is None or tuple(newest) != record.row():
                self._insert("plan", [record.row()])
            (runs,) = self._db.execute("SELECT COUNT(*) FROM runs").fetchone()
            self._run = runs + 1
            now = datetime.now(timezone.utc).isoformat(" ", "minutes")
            self._insert("runs", [(self._run, json.dumps(environment(record.plan)), now)])

    def add(self, batch: int, found: BatchRows) -> None:
        """Adds a batch, all of it or (killed, disk full) nothing."""
        first = {(m.method, m.layer): m for m in reversed(found.maps)}  # of several sizes of images, the first
        with self._transaction():
            (before,) = self._db.execute("SELECT COUNT(*) FROM batches").fetchone()
            work = before + 1
            self._insert("batches", [(work, batch, self._run, found.key, self._set(found.cells))])
            self._insert("images", [(*row, work) for row in found.images])
            self._insert("contents", [(*row, work) for row in found.contents])
            targets = [tuple(int(v) if isinstance(v, bool) else v for v in row) for row in found.targets]
            self._insert("targets", [(*row, work) for row in targets])
            self._insert("maps", [(*row, work) for row in first.values()])
            values = [(*row[:6], None if math.isnan(row.value) else float(row.value)) for row in found.rows]
            self._insert("rows", [(*value, work) for value in values])

    def _set(self, cells: Mapping[Cell, str] | None) -> int:
        """The number of a set of cells in this file; 0: all there are."""
        if cells is None:
            return 0
        content = json.dumps([[*cell, mark] for cell, mark in cells.items()])
        found = self._db.execute("SELECT id FROM sets WHERE cells = ?", (content,)).fetchone()
        if found is None:
            (count,) = self._db.execute("SELECT COUNT(*) FROM sets").fetchone()
            found = (count + 1,)
            self._insert("sets", [(count + 1, content)])
        return int(found[0])

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
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # SQLite's words on damage may hold damaged text
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


def check_part(db: sqlite3.Connection, path: Path) -> None:
    """Our error for a file that is damaged or not ours."""
    try:
        application = db.execute("PRAGMA application_id").fetchone()[0]
        if application != _APPLICATION:
            raise ResultsError(f"{path} was not written by an evaluation; {_CURE}")
        damage = " ".join(db.execute("PRAGMA quick_check").fetchone()[0].split())
        db.execute("SELECT COUNT(*) FROM plan")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version != _FORMAT:
            raise ResultsError(
                f"{path} is damaged or no results file of this version of the package (format {version}, not "
                f"{_FORMAT}); {_CURE}"
            )
        if damage != "ok" or _schema(db) != _STATEMENTS or not _is_whole(db):
            what = damage if damage != "ok" else "what it holds is not what was written"
            raise ResultsError(f"{path} is damaged ({what}); {_CURE}, and its batches are computed again")
    except (sqlite3.Error, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, ResultsError):
            raise
        raise ResultsError(f"{path} is damaged or no results file ({error}); {_CURE}") from None


def _schema(db: sqlite3.Connection) -> list[str]:
    """How the tables were made: a changed word there would change what is written next."""
    return [statement for (statement,) in db.execute("SELECT sql FROM sqlite_master ORDER BY rowid")]


def _is_whole(db: sqlite3.Connection) -> bool:
    total = sum(_digest(table, db.execute(f"SELECT * FROM {table}")) for table in _TABLES)
    return int(db.execute("SELECT value FROM digest").fetchone()[0]) == total % 2**64


@dataclass
class Done:
    """What the files of a folder hold, as far as going on needs to know.

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
        """Our error for weights or code that are others than those that results were begun with."""
        for path, record in self.records.items():
            changed = [name for name, mark in inputs.items() if record.inputs.get(name, mark) != mark]
            if changed:
                raise ResultsError(
                    f"{path} was written with other weights or data (changed since: {'; '.join(changed)}); expected "
                    "those it was begun with: bring them back, or choose another --results"
                )

    def missing(self, key: str, wanted: Mapping[Cell, str]) -> dict[Cell, str]:
        """What a batch lacks."""
        there = self.cells.get(key, set())
        return {cell: mark for cell, mark in wanted.items() if (cell, mark) not in there}

    def next(self, record: Record) -> Record:
        """A record with its generation: the newest's where it says the same, else the next."""
        newest = self.newest
        if newest is None:
            return record
        again = replace(record, generation=newest.generation)
        return again if again.row() == newest.row() else replace(record, generation=newest.generation + 1)


def done_batches(folder: Path, plan: Plan) -> Done:
    """What is there, where it goes with a plan; our error, naming what differs, where it does not."""
    done = Done()
    for path in part_paths(folder):
        with _read(path) as db:
            if db is not None:
                record = _newest(db)
                changed = [*differences(record.plan, plan)]
                if changed:
                    raise ResultsError(f"{path} holds results of another plan ({'; '.join(changed)}); {_CURE}")
                done.records[path] = record
                _add_done(db, done, record)
    return done


def _newest(db: sqlite3.Connection) -> Record:
    return _record(db.execute("SELECT * FROM plan ORDER BY generation DESC LIMIT 1").fetchone())


def _add_done(db: sqlite3.Connection, done: Done, record: Record) -> None:
    keys = dict(db.execute("SELECT work, key FROM batches"))
    for work, cells in _works(db, record.cells).items():
        done.cells.setdefault(keys[work], set()).update(cells)
    for *row, work in db.execute("SELECT * FROM contents"):
        done.images.setdefault(keys[work], {})[row[0]] = ContentRow(*row)


def _works(db: sqlite3.Connection, everything: Mapping[Cell, str]) -> dict[int, set[tuple[Cell, str]]]:
    """The batches of a file, each with the cells it gave."""
    sets = {0: set(everything.items())}
    for number, content in db.execute("SELECT id, cells FROM sets"):
        sets[number] = {((a, b, c), mark) for a, b, c, mark in json.loads(content)}
    return {work: sets[cells] for work, cells in db.execute("SELECT work, cells FROM batches")}


@contextlib.contextmanager
def _read(path: Path) -> Iterator[sqlite3.Connection | None]:
    """One state of a file, whoever writes to it meanwhile; None for one to which nothing was ever added."""
    with closing(_opened(path)) as db:
        try:
            db.execute("BEGIN")
            is_new = _is_new(db)
        except (sqlite3.Error, UnicodeDecodeError):
            is_new = False  # damaged, as will be said
        if is_new:
            yield None
            return
        check_part(db, path)
        is_begun = db.execute("SELECT COUNT(*) FROM plan").fetchone()[0] > 0
        yield db if is_begun else None


def _opened(path: Path) -> sqlite3.Connection:
    """A connection to a file, and to nothing but a file."""
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise ResultsError(f"{path} is a folder or a device, not a file; {_CURE}")
        if path.is_symlink() and not path.exists():
            raise ResultsError(f"{path} is a link to {str(path.readlink())!r}, which is not there; {_CURE}")
        return sqlite3.connect(path, isolation_level=None, timeout=30)
    except (sqlite3.Error, OSError) as error:
        raise ResultsError(
            f"{path} cannot be opened ({error}); expected a folder that can be read and written"
        ) from None


class Results:
    """What an evaluation found, complete or not.

    Attributes:
        plan: the plan. folder: where it lies. expected: how many images the plan has.
        environments: versions, device and seed of every run that wrote to it. date: when the last that added began.

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
        self._db = sqlite3.connect(":memory:", isolation_level=None)
        for statement in _JOINED.split(";")[:-1]:
            self._db.execute(statement)
        with contextlib.ExitStack() as stack:
            opened = {path: stack.enter_context(_read(path)) for path in part_paths(self.folder)}
            parts = {path: part for path, part in opened.items() if part is not None}
            if not parts:
                raise ResultsError(
                    f"{str(self.folder)!r} holds no results (part-*.sqlite); expected a folder that an evaluation wrote"
                )
            records = {path: _newest(part) for path, part in parts.items()}
            self._record = max(records.values(), key=lambda record: record.generation)
            self.plan, self.expected, self.date = self._record.plan, self._record.images, ""
            self._done: dict[str, set[Cell]] = {}
            for path, part in parts.items():
                self._check_record(path, records[path])
                self._take(part)

    def _check_record(self, path: Path, record: Record) -> None:
        """Our error for a file of another plan, that no run has added to the newest's."""
        is_another = record.plan.hash() != self.plan.hash()
        is_as_new = record.generation == self._record.generation
        if is_another and (is_as_new or any(differences(record.plan, self.plan))):
            raise ResultsError(
                f"{str(self.folder)!r} holds results of several plans ({record.plan.hash()} in {path.name}, and "
                f"{self.plan.hash()}); expected one"
            )

    def _take(self, part: sqlite3.Connection) -> None:
        environments = part.execute("SELECT environment FROM runs ORDER BY id")
        self.environments += [json.loads(e) for (e,) in environments]
        wanted, current = self._record.cells, set(self._record.keys)
        keys = dict(part.execute("SELECT work, key FROM batches"))
        given = {w: c for w, c in _works(part, wanted).items() if not current or keys[w] in current}
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

    def count(self) -> int:
        """How many numbers there are."""
        (count,) = self._db.execute("SELECT COUNT(*) FROM rows").fetchone()
        return int(count)

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
