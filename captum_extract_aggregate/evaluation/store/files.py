"""The SQLite files of results: their tables, what tells that one is whole, and how they are opened."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from captum_extract_aggregate.evaluation.store.records import Cell, Record, ResultsError, record_of

APPLICATION = 0x43454131  # "CEA1"
FORMAT = 2
_TABLES = ("plan", "runs", "sets", "batches", "images", "contents", "targets", "maps", "rows")
CURE = "expected a results file of this plan: move it away, or choose another --results"
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
STATEMENTS = [statement.strip() for statement in _SCHEMA.split(";")[:-1]]


def part_paths(folder: Path) -> list[Path]:
    """Returns the files of all processes."""
    return sorted(folder.glob("part-*.sqlite"))


def open_file(path: Path) -> sqlite3.Connection:
    """Returns a connection to a file, and to nothing but a file."""
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise ResultsError(f"{path} is a folder or a device, not a file; {CURE}")
        if path.is_symlink() and not path.exists():
            raise ResultsError(f"{path} is a link to {str(path.readlink())!r}, which is not there; {CURE}")
        return sqlite3.connect(path, isolation_level=None, timeout=30)
    except (sqlite3.Error, OSError) as error:
        raise ResultsError(
            f"{path} cannot be opened ({error}); expected a folder that can be read and written"
        ) from None


def is_new(db: sqlite3.Connection) -> bool:
    """Tells whether a file holds nothing at all, be it that a kill left it so."""
    (tables,) = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    return bool(tables == 0 and application == 0)


def digest_of(table: str, rows: Iterable[Sequence[Any]]) -> int:
    """Returns a sum over rows that their order does not change, and any other change does."""
    return sum(
        int.from_bytes(hashlib.blake2b(repr((table, *row)).encode(), digest_size=8).digest(), "big") for row in rows
    )


def check_part(db: sqlite3.Connection, path: Path) -> None:
    """Raises our error for a file that is damaged or not ours."""
    try:
        application = db.execute("PRAGMA application_id").fetchone()[0]
        if application != APPLICATION:
            raise ResultsError(f"{path} was not written by an evaluation; {CURE}")
        damage = " ".join(db.execute("PRAGMA quick_check").fetchone()[0].split())
        db.execute("SELECT COUNT(*) FROM plan")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version != FORMAT:
            raise ResultsError(
                f"{path} is damaged or no results file of this version of the package (format {version}, not "
                f"{FORMAT}); {CURE}"
            )
        if damage != "ok" or _schema(db) != STATEMENTS or not _is_whole(db):
            what = damage if damage != "ok" else "what it holds is not what was written"
            raise ResultsError(f"{path} is damaged ({what}); {CURE}, and its batches are computed again")
    except (sqlite3.Error, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, ResultsError):
            raise
        raise ResultsError(f"{path} is damaged or no results file ({error}); {CURE}") from None


def _schema(db: sqlite3.Connection) -> list[str]:
    """Returns how the tables were made: a changed word there would change what is written next."""
    return [statement for (statement,) in db.execute("SELECT sql FROM sqlite_master ORDER BY rowid")]


def _is_whole(db: sqlite3.Connection) -> bool:
    total = sum(digest_of(table, db.execute(f"SELECT * FROM {table}")) for table in _TABLES)
    return int(db.execute("SELECT value FROM digest").fetchone()[0]) == total % 2**64


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Shows one state of a file, whoever writes to it meanwhile; None for one to which nothing was ever added."""
    with closing(open_file(path)) as db:
        try:
            db.execute("BEGIN")
            holds_nothing = is_new(db)
        except (sqlite3.Error, UnicodeDecodeError):
            holds_nothing = False  # damaged, as will be said
        if holds_nothing:
            yield None
            return
        check_part(db, path)
        is_begun = db.execute("SELECT COUNT(*) FROM plan").fetchone()[0] > 0
        yield db if is_begun else None


def newest_record(db: sqlite3.Connection) -> Record:
    """Returns the record that a file shows."""
    return record_of(db.execute("SELECT * FROM plan ORDER BY generation DESC LIMIT 1").fetchone())


def works_of(db: sqlite3.Connection, everything: Mapping[Cell, str]) -> dict[int, set[tuple[Cell, str]]]:
    """Returns the batches of a file, each with the cells it gave."""
    sets = {0: set(everything.items())}
    for number, content in db.execute("SELECT id, cells FROM sets"):
        sets[number] = {((a, b, c), mark) for a, b, c, mark in json.loads(content)}
    return {work: sets[cells] for work, cells in db.execute("SELECT work, cells FROM batches")}
