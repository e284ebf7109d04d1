"""Reading results: the files of all processes, joined."""

import itertools
import threading

import pytest

from captum_extract_aggregate.evaluation import Results, plan_from, store
from captum_extract_aggregate.evaluation.store import ResultsError
from tests.evaluation.plans import content, dump, evaluated
from tests.evaluation.store.cases import QUICK


def test_folders_without_results(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ResultsError, match="holds no results"):
            Results(folder)
    (tmp_path / "file").write_text("a file")
    with pytest.raises((ValueError, OSError), match="file"):
        evaluated(tmp_path / "file", **QUICK)


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


def test_results_are_read_when_asked(whole, tmp_path, monkeypatch):
    """As the other processes of a run do, of which none needs what all of them found."""
    read, opened = store.results.reading, []
    monkeypatch.setattr(store.results, "reading", lambda path: opened.append(path) or read(path))
    later = Results(whole, read=False)
    assert later.folder == whole
    assert not opened
    assert later.expected == 9
    assert later.complete
    assert later.rows("pointing_game") == Results(whole).rows("pointing_game")
    assert len(opened) == 2  # once each
    with pytest.raises(AttributeError, match="'Results' object has no attribute 'wors'"):
        later.wors  # noqa: B018
    with pytest.raises(ResultsError, match="holds no results"):
        Results(tmp_path, read=False).images()
