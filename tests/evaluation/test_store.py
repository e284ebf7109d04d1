"""Results on the disk: kills, damage, full disks, foreign files and two runs at once."""

import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from captum_extract_aggregate.evaluation import Results, plan_from, run, store
from captum_extract_aggregate.evaluation import run as run_function
from captum_extract_aggregate.evaluation.store import ResultsError
from tests.evaluation.plans import HERE, content, dump, evaluated

run_module = sys.modules["captum_extract_aggregate.evaluation.runner"]
ROOT = Path(__file__).parent.parent.parent
NET = {"model": {"name": f"{HERE}:tiny_net"}, "layers": ["conv1", "conv2"]}
QUICK = NET | {
    "data": {"kind": "custom", "dataset": f"{HERE}:tensors_with_pairs", "arguments": {"count": 9}},
    "measures": [{"measure": "pointing_game"}, {"measure": "class_sensitivity"}],
    "run": {"batch_size": 2},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder of results that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    evaluated(folder, **QUICK)
    return folder


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


# --- Kills -----------------------------------------------------------------------------------------------------------


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
    evaluate = run_module.evaluate_batch

    def failing_batch(prepared, images, device):
        if images.start == 4:
            raise error("in the middle")
        return evaluate(prepared, images, device)

    monkeypatch.setattr(run_module, "evaluate_batch", failing_batch)
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


def test_nothing_is_computed_twice(whole, tmp_path, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / "copy")
    monkeypatch.setattr(run_module, "evaluate_batch", lambda *args: pytest.fail("computed again"))
    assert dump(evaluated(folder, **QUICK)) == dump(whole)
    runs = Results(folder).environments
    assert len(runs) == 2
    assert {r["plan"] for r in runs} == {plan_from(content(**QUICK)).hash()}
    assert {"torch", "captum", "numpy", "python", "seed", "device"} <= set(runs[0])


# --- Damage ----------------------------------------------------------------------------------------------------------


def damaged(whole, tmp_path, how):
    folder = shutil.copytree(whole, tmp_path / "damaged")
    path = folder / "part-0000.sqlite"
    path.write_bytes(how(path.read_bytes()))
    return folder, path


DAMAGE = {
    "cut in the first page": lambda b: b[:700],
    "cut in the header": lambda b: b[:50],
    "cut in half": lambda b: b[: len(b) // 2],
    "cut by a page": lambda b: b[:-4096],
    "cut within a page": lambda b: b[:-1000],
    "garbage": lambda b: random.Random(0).randbytes(len(b)),
    "text": lambda b: b"image,value\n1,2\n",
    "zeros": lambda b: bytes(len(b)),
    "garbage behind the first page": lambda b: b[:4096] + random.Random(0).randbytes(len(b) - 4096),
    "a page of zeros": lambda b: b[:8192] + bytes(4096) + b[12288:],
    "the header's magic": lambda b: b"X" + b[1:],
    "the first page's tree": lambda b: b[:100] + bytes([b[100] ^ 0xFF]) + b[101:],
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_files_are_refused(case, whole, tmp_path):
    folder, path = damaged(whole, tmp_path, DAMAGE[case])
    before = path.read_bytes()
    for use in (lambda: evaluated(folder, **QUICK), lambda: Results(folder)):
        with pytest.raises(ResultsError, match="move it away, or choose another --results") as caught:
            use()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    path.rename(tmp_path / "away")  # the cure
    assert dump(evaluated(folder, **QUICK)) == dump(whole)


def test_flipped_bytes_never_change_a_result(whole, tmp_path):
    """Either the file is refused, or what it holds is what was written: also for going on with it."""
    expected, draw, silent, wrong = dump(whole), random.Random(1), [], []
    plan = plan_from(content(**QUICK))
    done = vars(store.done_batches(whole, plan)) | {"records": None}
    content_ = (whole / "part-0000.sqlite").read_bytes()
    folder = tmp_path / "flipped"
    folder.mkdir()
    written = [at for at, byte in enumerate(content_) if byte]  # most of a small file is space between what it holds
    for place in [*draw.choices(written, k=120), *draw.choices(range(len(content_)), k=20)]:
        at, bit = place, draw.randrange(8)
        flipped = bytearray(content_)
        flipped[at] ^= 1 << bit
        (folder / "part-0000.sqlite").write_bytes(flipped)
        try:
            found = dump(Results(folder))
            again = vars(store.done_batches(folder, plan)) | {"records": None}
        except ResultsError as error:
            assert "part-0000.sqlite" in str(error)  # noqa: PT017
            continue
        except Exception as error:
            wrong.append((at, bit, repr(error)))
            continue
        if found != expected or again != done:
            silent.append((at, bit, [name for name in expected if expected[name] != found.get(name)]))
    assert not wrong
    assert not silent


def test_a_schema_that_is_no_text(whole, tmp_path):
    """SQLite then says what is wrong in bytes that are no text."""
    folder = shutil.copytree(whole, tmp_path / "changed")
    path = folder / "part-0000.sqlite"
    path.write_bytes(path.read_bytes().replace(b"PRIMARY KEY (image, work)", b"PRIMARY KE\xd9 (image, work)"))
    for use in (lambda: evaluated(folder, **QUICK), lambda: Results(folder)):
        with pytest.raises(ResultsError, match=r"part-0000.sqlite is damaged"):
            use()


def test_what_is_no_file(whole, tmp_path):
    for name, make in (
        ("folder", lambda path: path.mkdir()),
        ("pipe", os.mkfifo),
        ("link", lambda path: path.symlink_to(tmp_path / "nowhere" / "part.sqlite")),
        ("link to nothing here", lambda path: path.symlink_to("nothing.sqlite")),
    ):
        folder = shutil.copytree(whole, tmp_path / name)
        for part in ("part-0000.sqlite", "part-0001.sqlite"):
            (folder / part).unlink(missing_ok=True)
            make(folder / part)
            for use in (lambda: evaluated(folder, **QUICK), lambda: Results(folder)):  # noqa: B023
                with pytest.raises(ResultsError, match=rf"{part} (is a|cannot be opened)") as caught:
                    use()
                assert "\n" not in str(caught.value)
            assert not (folder / "nothing.sqlite").exists()
            (folder / part).rmdir() if name == "folder" else (folder / part).unlink()
            shutil.copy(whole / "part-0000.sqlite", folder)


def test_a_changed_number_is_noticed(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "changed")
    path = folder / "part-0000.sqlite"
    with sqlite3.connect(path) as db:
        (value,) = db.execute("SELECT value FROM rows WHERE measure = 'class_sensitivity' LIMIT 1").fetchone()
    db.close()
    stored = struct.pack(">d", value)
    content_ = path.read_bytes()
    assert content_.count(stored) == 1
    path.write_bytes(content_.replace(stored, stored[:2] + bytes([stored[2] ^ 0x10]) + stored[3:]))
    for use in (lambda: evaluated(folder, **QUICK), lambda: Results(folder)):
        with pytest.raises(ResultsError, match="damaged"):
            use()


def test_text_that_is_no_text(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "changed")
    path = folder / "part-0000.sqlite"
    path.write_bytes(path.read_bytes().replace(b"class_sensitivity", b"class_\xff\xfensitivity"))
    for use in (lambda: evaluated(folder, **QUICK), lambda: Results(folder)):
        with pytest.raises(ResultsError, match=r"part-0000.sqlite"):
            use()


def test_an_empty_file_is_a_new_one(whole, tmp_path):
    folder, _ = damaged(whole, tmp_path, lambda b: b"")
    with pytest.raises(ResultsError, match="holds no results"):
        Results(folder)
    assert dump(evaluated(folder, **QUICK)) == dump(whole)


def test_foreign_files(tmp_path):
    path = tmp_path / "part-0000.sqlite"

    def foreign(*statements):
        path.unlink(missing_ok=True)
        db = sqlite3.connect(path)
        for statement in statements:
            db.execute(statement)
        db.commit()
        db.close()

    for statements, message in (
        (["CREATE TABLE people (name TEXT)"], "was not written by an evaluation"),
        (["CREATE TABLE plan (hash TEXT)", "INSERT INTO plan VALUES ('x')"], "was not written by an evaluation"),
        ([f"PRAGMA application_id = {0x43454131}", "CREATE TABLE a (b TEXT)"], "no such table: plan"),
        ([f"PRAGMA application_id = {0x43454131}", "CREATE TABLE plan (hash TEXT)"], "damaged or no results file"),
    ):
        foreign(*statements)
        before = path.read_bytes()
        for use in (lambda: evaluated(tmp_path, **QUICK), lambda: Results(tmp_path)):
            with pytest.raises(ResultsError, match=message) as caught:
                use()
            assert str(path) in str(caught.value)
            assert "move it away" in str(caught.value)
        assert path.read_bytes() == before


def test_another_plans_results(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "copy")
    before = dump(folder)
    message = r"holds results of another plan \(run.batch_size is 3, was 2\).*move it away"
    with pytest.raises(ResultsError, match=message) as caught:
        evaluated(folder, **QUICK | {"run": {"batch_size": 3}})
    assert "part-0000.sqlite" in str(caught.value)
    assert dump(folder) == before
    evaluated(folder, **QUICK | {"title": "only another title"})
    assert dump(folder) == before
    evaluated(tmp_path / "other", **QUICK | {"run": {"batch_size": 3}})
    shutil.copy(tmp_path / "other" / "part-0000.sqlite", folder / "part-0001.sqlite")
    with pytest.raises(ResultsError, match=r"part-0001.sqlite holds results of another plan"):
        evaluated(folder, **QUICK)
    with pytest.raises(ResultsError, match="results of several plans"):
        Results(folder)


def test_folders_without_results(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ResultsError, match="holds no results"):
            Results(folder)
    (tmp_path / "file").write_text("a file")
    with pytest.raises((ValueError, OSError), match="file"):
        evaluated(tmp_path / "file", **QUICK)


# --- A full disk -----------------------------------------------------------------------------------------------------


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


# --- Two at once -----------------------------------------------------------------------------------------------------


def test_two_runs_at_once(tmp_path, monkeypatch):
    evaluate, refused = run_module.evaluate_batch, []

    def meanwhile(prepared, images, device):
        if images.start == 4:
            monkeypatch.setattr(run_module, "evaluate_batch", evaluate)
            with pytest.raises(ResultsError, match=r"is being written by another run, .*expected one run at a time"):
                evaluated(tmp_path / "results", **QUICK)
            refused.append(len(Results(tmp_path / "results").images()))  # reading is no harm
        return evaluate(prepared, images, device)

    monkeypatch.setattr(run_module, "evaluate_batch", meanwhile)
    found = evaluated(tmp_path / "results", **QUICK)
    assert refused == [4]
    assert dump(found) == dump(evaluated(tmp_path / "whole", **QUICK))


def test_what_is_done_is_read_under_the_lock(whole, tmp_path, monkeypatch):
    """Nobody can add to a file between the reading of what is done and the writing of the rest."""
    original = run_module.done_batches

    def interfering(folder, plan):
        monkeypatch.setattr(run_module, "done_batches", original)
        with pytest.raises(ResultsError, match="is being written by another run"):
            run_function(plan, folder, show_progress=False)
        return original(folder, plan)

    monkeypatch.setattr(run_module, "done_batches", interfering)
    assert dump(evaluated(tmp_path, **QUICK)) == dump(whole)


def test_joined_parts_are_in_order(whole, tmp_path):
    """Batches scattered over the files of many processes read as one process's."""
    plan, folder = plan_from(content(**QUICK)), tmp_path / "scattered"
    folder.mkdir()
    results = Results(whole)
    for rank, batches in ((2, [3, 0]), (0, [2]), (1, [1])):
        with store.Writer(folder, rank, plan, 9) as writer:
            for batch in batches:
                images = range(2 * batch, 9 if batch == 3 else 2 * batch + 2)
                chosen = store.BatchRows(
                    [i for i in results.images() if i.image in images],
                    [t for t in results.targets().values() if t.image in images],
                    [m._replace(image=images.start) for m in results.maps()],
                    [r for m in ("pointing_game", "class_sensitivity") for r in results.rows(m) if r.image in images],
                )
                writer.add(batch, chosen)
    assert dump(folder) == dump(whole)


def test_reading_rows(whole):
    results = Results(whole)
    some = results.rows("pointing_game", method="normgrad", layer="conv2")
    assert {(r.method, r.layer, r.detail) for r in some} == {("normgrad", "conv2", "")}
    assert len(some) == 9 * 2
    assert [r[:2] for r in some] == sorted(r[:2] for r in some)
    assert results.rows("pointing_game", layer="conv9") == []
    assert results.rows("no such measure") == []
    assert {r.method for r in results.rows("pointing_game")} == {"centre", "normgrad"}


# --- Other inputs under the same plan ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_reading_while_it_is_written(whole, tmp_path):
    """A reader sees one state of the file, whatever is added meanwhile."""
    plan, results, stop = plan_from(content(**QUICK)), Results(whole), threading.Event()
    one = [i for i in results.images() if i.image == 0]

    def write():
        with store.Writer(tmp_path, 0, plan, 9) as writer:
            for batch in itertools.count():
                image = one[0]._replace(image=batch)
                row = store.Row(batch, 0, "normgrad", "conv2", "class_sensitivity", "", 0.5)
                writer.add(batch, store.BatchRows([image], [], [], [row]))
                ready.set()
                if stop.is_set():
                    return

    ready = threading.Event()
    writing = threading.Thread(target=write)
    writing.start()
    try:
        assert ready.wait(60)
        seen = []
        while len(seen) < 20:
            found = Results(tmp_path)
            assert len(found.images()) == len(found.rows("class_sensitivity"))
            seen.append(len(found.images()))
    finally:
        stop.set()
        writing.join()
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


def test_other_weights_are_refused(tmp_path):
    from captum_extract_aggregate.data.scene_models import build_scene_model

    model = tmp_path / "model.py"
    code = "from captum_extract_aggregate.data.scene_models import build_scene_model"
    model.write_text(f"{code}\nbuild = lambda: build_scene_model('vgg')\n")
    weights = tmp_path / "weights.pth"
    changes = {"model": {"name": f"{model}:build", "weights": str(weights)}, "layers": ["features.8"]}
    changes |= {"data": {"kind": "custom", "dataset": f"{HERE}:tensors", "arguments": {"size": 96}}}
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(build_scene_model("vgg").state_dict(), weights)
        if seed == 0:
            first = dump(evaluated(tmp_path / "results", **changes))
            assert dump(evaluated(tmp_path / "results", **changes)) == first
        else:
            with pytest.raises(ResultsError, match=r"written with other weights or data .*bring them back"):
                evaluated(tmp_path / "results", **changes)


def test_skipping_may_come_later(tmp_path):
    """What the error of an unreadable image advises works, and keeps what is there."""
    data = {"kind": "custom", "dataset": f"{HERE}:tensors", "arguments": {"count": 6, "broken": [4]}}
    changes = {"data": data, "model": NET["model"], "layers": ["conv1"]}
    with pytest.raises(ValueError, match=r'image 4 cannot be read.*with on_error = "skip"'):
        evaluated(tmp_path, **changes)
    assert len(Results(tmp_path).images()) == 4
    found = evaluated(tmp_path, **changes, run={"batch_size": 2, "on_error": "skip"})
    assert [row.image for row in found.skipped()] == [4]
    assert found.complete
