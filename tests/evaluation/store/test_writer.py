"""Batches are there whole or not at all: kills, exceptions, full disks, two runs at once."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from captum_extract_aggregate.evaluation import Results, plan_from, run, runner
from captum_extract_aggregate.evaluation.store import ResultsError
from tests.evaluation.plans import content, dump, evaluated
from tests.evaluation.store.cases import QUICK

ROOT = Path(__file__).parents[3]


def killed(plain, *folders_and_places):
    """The exit statuses of processes that run the plan and are killed; see killed.py."""
    folder = Path(folders_and_places[0]).parent
    (folder / "plan.json").write_text(json.dumps(plain))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).with_name("killed.py")), str(folder / "plan.json")]
    done = subprocess.run(
        command + [str(part) for part in folders_and_places],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return [int(status) for status in done.stdout.split()]


PLACES = ["creating", "writing:1", "writing:3", "between:1", "between:3"]


@pytest.fixture(scope="module")
def killed_folders(tmp_path_factory):
    """A folder for each place at which its writer died."""
    base = tmp_path_factory.mktemp("killed")
    folders = {place: base / place.replace(":", "-") for place in PLACES}
    statuses = killed(content(**QUICK), *(part for place in PLACES for part in (folders[place], place)))
    assert statuses == [-signal.SIGKILL] * len(PLACES)
    return folders


@pytest.mark.parametrize("place", PLACES)
def test_killed_at_an_instant(place, killed_folders, whole, tmp_path):
    folder = shutil.copytree(killed_folders[place], tmp_path / "results")
    if not place.startswith("between"):  # what was half written is on the disk
        assert (folder / "part-0000.sqlite-journal").stat().st_size
        assert (folder / "part-0000.sqlite").stat().st_size > 50_000
    assert dump(evaluated(folder, **QUICK)) == dump(whole)


@pytest.mark.parametrize("place", PLACES)
def test_reading_what_a_killed_run_left(place, killed_folders, whole, tmp_path):
    folder = shutil.copytree(killed_folders[place], tmp_path / "results")
    if place == "creating":
        with pytest.raises(ResultsError, match="holds no results"):
            Results(folder)
        return
    found = Results(folder)
    assert (len(found.images()), found.expected, found.complete) == (4 if place.endswith("3") else 0, 9, False)
    rows = Results(whole).rows("pointing_game")
    assert found.rows("pointing_game") == [row for row in rows if row.image < len(found.images())]


@pytest.mark.slow
def test_killed_at_random_instants(tmp_path):
    plain = content(**QUICK | {"data": QUICK["data"] | {"arguments": {"count": 60}}})
    folder = tmp_path / "results"
    statuses = killed(plain, *(part for seed in range(5) for part in (folder, f"anywhere:{seed}")))
    assert statuses.count(-signal.SIGKILL) >= 2  # a fast machine may have ended before the last ones
    assert set(statuses) <= {0, -signal.SIGKILL}
    found = run(plan_from(plain), folder, show_progress=False)
    assert found.complete
    assert dump(found) == dump(run(plan_from(plain), tmp_path / "whole", show_progress=False))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_exceptions_leave_the_folder_usable(error, whole, tmp_path, monkeypatch):
    evaluate = runner.evaluate_batch

    def failing_batch(prepared, images, device):
        if images.start == 4:
            raise error("in the middle")
        return evaluate(prepared, images, device)

    monkeypatch.setattr(runner, "evaluate_batch", failing_batch)
    with pytest.raises(error, match="in the middle") as caught:
        evaluated(tmp_path, **QUICK)
    monkeypatch.undo()
    assert len(Results(tmp_path).images()) == 4
    assert dump(evaluated(tmp_path, **QUICK)) == dump(whole)
    assert caught.value.args  # the exception, with all that its frames hold, was alive meanwhile


def test_an_exception_inside_a_method(whole, tmp_path, monkeypatch):
    from captum_extract_aggregate.attr import NormGrad

    original, calls = NormGrad.all_maps, []

    def failing(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(NormGrad, "all_maps", failing)
    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path, **QUICK)
    monkeypatch.undo()
    assert dump(evaluated(tmp_path, **QUICK)) == dump(whole)


class Full(sqlite3.Connection):
    """A file that cannot grow beyond some pages."""

    pages = 10**9

    def execute(self, statement, *arguments):
        if statement.startswith("BEGIN"):
            super().execute(f"PRAGMA max_page_count = {Full.pages}")
        return super().execute(statement, *arguments)


@pytest.fixture
def disk(monkeypatch):
    original = sqlite3.connect

    def connect(path, **options):
        is_part = str(path).endswith(".sqlite")
        return original(path, **options, **({"factory": Full} if is_part else {}))

    def limited(pages):
        Full.pages = pages

    monkeypatch.setattr(sqlite3, "connect", connect)
    yield limited
    Full.pages = 10**9


LARGE = QUICK | {"data": QUICK["data"] | {"arguments": {"count": 40}}}


def test_a_disk_that_gets_full(disk, tmp_path):
    whole = dump(evaluated(tmp_path / "whole", **LARGE))
    pages = (tmp_path / "whole" / "part-0000.sqlite").stat().st_size // 4096
    folder = tmp_path / "full"
    disk(pages - 2)
    with pytest.raises(
        ResultsError, match=r"part-0000.sqlite cannot be written .*full.* make room, and run again"
    ) as e:
        evaluated(folder, **LARGE)
    partial = Results(folder)
    assert 0 < len(partial.images()) < 40
    assert len(partial.images()) % 2 == 0
    for name, rows in dump(partial).items():
        if name.startswith(("rows", "images", "targets")):
            assert set(rows) <= set(whole[name]), name
    with pytest.raises(ResultsError, match="make room"):
        evaluated(folder, **LARGE)
    disk(10**9)
    assert dump(evaluated(folder, **LARGE)) == whole
    assert e.value.args


def test_a_disk_that_is_full_from_the_start(disk, tmp_path):
    disk(3)
    with pytest.raises(ResultsError, match=r"part-0000.sqlite cannot be written .*make room") as caught:
        evaluated(tmp_path, **QUICK)
    disk(10**9)
    assert evaluated(tmp_path, **QUICK).complete
    assert caught.value.args  # alive until here


@pytest.fixture
def impatient(monkeypatch):
    """Whoever waits for another run's lock gives up at once, where it takes seconds otherwise."""
    original = sqlite3.connect

    def connect(path, **options):
        return original(path, **options | ({"timeout": 0.05} if str(path).endswith(".lock") else {}))

    monkeypatch.setattr(sqlite3, "connect", connect)


def test_two_runs_at_once(impatient, tmp_path, monkeypatch):
    evaluate, refused = runner.evaluate_batch, []

    def meanwhile(prepared, images, device):
        if images.start == 4:
            monkeypatch.setattr(runner, "evaluate_batch", evaluate)
            with pytest.raises(ResultsError, match=r"is being written by another run, .*expected one run at a time"):
                evaluated(tmp_path / "results", **QUICK)
            refused.append(len(Results(tmp_path / "results").images()))  # reading is no harm
        return evaluate(prepared, images, device)

    monkeypatch.setattr(runner, "evaluate_batch", meanwhile)
    found = evaluated(tmp_path / "results", **QUICK)
    assert refused == [4]
    assert dump(found) == dump(evaluated(tmp_path / "whole", **QUICK))


def test_what_is_done_is_read_under_the_lock(impatient, whole, tmp_path, monkeypatch):
    """Nobody can add to a file between the reading of what is done and the writing of the rest."""
    original = runner.done_batches

    def interfering(folder, plan):
        monkeypatch.setattr(runner, "done_batches", original)
        with pytest.raises(ResultsError, match="is being written by another run"):
            run(plan, folder, show_progress=False)
        return original(folder, plan)

    monkeypatch.setattr(runner, "done_batches", interfering)
    assert dump(evaluated(tmp_path, **QUICK)) == dump(whole)
