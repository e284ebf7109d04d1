"""The tables of a GPU, made on the CPU: every case runs, what fails is listed, and time is kept."""

import json

import pytest
import torch

from benchmarks.performance import gpu
from benchmarks.performance.gpu_setting import Case, Failure, Setting
from benchmarks.performance.timing import Row

ROW = Row("first", "a case", 1.02, 1.0, 1.1, 5, limit=1.05)


class Clock:
    """Tells ten seconds more each time."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        self.now += 10
        return self.now


def _one():
    yield ROW


def _fails():
    yield Failure("second", "a side", "RuntimeError: no", "attr/base.py:1")
    raise NotImplementedError("not on\nthis device")


def test_what_fails_is_listed_and_the_next_case_runs(tmp_path):
    cases = [Case("second", "all", _fails), Case("first", "all", _one)]
    found = gpu.measured(cases, 1000, tmp_path / "new" / "gpu", Clock())
    assert found.rows == [ROW]
    assert [(f.case, f.error) for f in found.failures] == [
        ("a side", "RuntimeError: no"),
        ("all", "NotImplementedError: not on this device"),
    ]
    stored = json.loads((tmp_path / "new" / "gpu.json").read_text())
    assert stored["rows"][0]["median"] == 1.02
    assert "raise NotImplementedError" in stored["failures"][1]["trace"]
    page = (tmp_path / "new" / "gpu.md").read_text()
    assert "| a case | 1.02 (1 - 1.1) | ≤ 1.05 | yes |" in page
    assert "`NotImplementedError: not on this device` (" in page


def test_no_case_begins_when_time_is_over(tmp_path):
    cases = [Case("first", str(i), _one) for i in range(4)]
    found = gpu.measured(cases, 35, tmp_path / "gpu", Clock())  # a case takes two readings of the clock
    assert list(found.seconds) == ["first, 0", "first, 1"]
    assert found.left_out == ["first, 2", "first, 3"]
    assert "- first, 3" in (tmp_path / "gpu.md").read_text()


SMALL = Setting(
    networks=("resnet18",),
    small="squeezenet1_1",
    batches=(1,),
    dtypes=(torch.float32,),
    size=32,
    rounds=1,
    most=0,
    fill=0,
    stream_images=4,
    stream_batch=2,
    stream_blocks=2,
    maps=2,
    steps=2,
    targets=(2,),
)


def test_the_most_important_comes_first():
    sections = list(dict.fromkeys(case.section for case in gpu.cases(Setting())))
    assert sections[:2] == ["Hidden synchronisation", "Maps over the bare passes, 4 layer(s), float32"]
    assert len({(case.section, case.name) for case in gpu.cases(Setting())}) == len(gpu.cases(Setting()))


@pytest.mark.slow
def test_every_case_runs(tmp_path):
    found = gpu.main(["--seconds", "1000", "--output", str(tmp_path / "gpu")], SMALL)
    assert {f.where for f in found.failures if "ModuleNotFound" not in f.error} == set()
    assert found.left_out == []
    sections = {case.section for case in gpu.cases(SMALL)} - {"CUDA graphs"}  # a CPU has none
    assert {row.section for row in found.rows} >= sections
    by_case = {row.case: row for row in found.rows}
    assert by_case["graphs that explaining adds"].median == by_case["breaks that explaining adds"].median == 0
    assert by_case["graphs of the model itself"].median > 0
