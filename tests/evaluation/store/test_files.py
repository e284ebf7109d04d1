"""Files that are damaged or foreign are refused, and left as they are."""

import os
import random
import shutil
import sqlite3
import struct

import pytest

from captum_extract_aggregate.evaluation import Results, plan_from, store
from captum_extract_aggregate.evaluation.store import ResultsError
from tests.evaluation.plans import content, dump, evaluated
from tests.evaluation.store.cases import QUICK


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
