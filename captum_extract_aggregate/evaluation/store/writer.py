"""Adding results to a file, a batch at a time, each whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import platform
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import captum
import numpy
import torch
import torchvision

import captum_extract_aggregate
from captum_extract_aggregate.evaluation.plan import Plan
from captum_extract_aggregate.evaluation.store.files import (
    APPLICATION,
    CURE,
    FORMAT,
    STATEMENTS,
    check_part,
    digest_of,
    is_new,
    open_file,
)
from captum_extract_aggregate.evaluation.store.records import BatchRows, Cell, Record, ResultsError


def environment(plan: Plan) -> dict[str, Any]:
    """Returns what the numbers were made with."""
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


class Writer:
    """Writes one process's file, to which batches are added; a second writer of the same file is refused.

    It is open once it has a record of what is being computed: given a plan, at once, else by `begin`.
    """

    def __init__(self, folder: Path, rank: int, plan: Plan | None = None, images: int = 0) -> None:
        self.path = folder / f"part-{rank:04d}.sqlite"
        self._lock = _locked(folder / f"part-{rank:04d}.lock")
        try:
            self._db = open_file(self.path)
        except BaseException:
            self._lock.close()
            raise
        self._run = 0
        try:
            with self._transaction():
                if is_new(self._db):
                    self._create()
            check_part(self._db, self.path)
            if plan is not None:
                self.begin(Record(plan, images))
        except BaseException:
            self.close()
            raise

    def _create(self) -> None:
        """Makes all of it in one transaction: a kill leaves an empty file, not half a schema."""
        for statement in STATEMENTS:
            self._db.execute(statement)
        self._db.execute("INSERT INTO digest VALUES ('0')")
        self._db.execute(f"PRAGMA user_version = {FORMAT}")
        self._db.execute(f"PRAGMA application_id = {APPLICATION}")

    def begin(self, record: Record) -> None:
        """Notes what is computed from now on."""
        with self._transaction():
            newest = self._db.execute("SELECT * FROM plan ORDER BY generation DESC LIMIT 1").fetchone()
            if newest is None or tuple(newest) != record.row():
                self._insert("plan", [record.row()])
            (runs,) = self._db.execute("SELECT COUNT(*) FROM runs").fetchone()
            self._run = runs + 1
            now = datetime.now(timezone.utc).isoformat(" ", "minutes")
            told = {"measures": record.told} if record.told else {}
            self._insert("runs", [(self._run, json.dumps(environment(record.plan) | told), now)])

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
        """Returns the number of a set of cells in this file; 0: all there are."""
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
        self._db.execute("UPDATE digest SET value = ?", (str((int(before) + digest_of(table, rows)) % 2**64),))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commits all that is done within, or nothing."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # SQLite's words on damage may hold damaged text
            self._roll_back()
            if not isinstance(error, sqlite3.OperationalError):
                raise ResultsError(f"{self.path} is damaged or no results file ({error}); {CURE}") from None
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


def _locked(path: Path) -> sqlite3.Connection:
    """Returns a lock that goes with the process, however it ends: an open transaction on a file of its own."""
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
