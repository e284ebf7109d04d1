"""How much memory a work takes, and how much is free."""

import platform
import subprocess
import sys

import pytest
import torch

from captum_extract_aggregate._common import memory
from captum_extract_aggregate._common.memory import free, peak_of

CPU = torch.device("cpu")


def test_what_is_taken_and_given_back_counts():
    with peak_of(CPU) as peak:
        x = torch.ones(64 << 20)  # 256 MB, each touched
        float(x.sum())
        del x
    assert 200 << 20 < peak.bytes < 400 << 20


def test_what_is_free_is_no_more_than_a_container_may_have(tmp_path, monkeypatch):
    whole = free(CPU)
    assert whole is None or whole > 1 << 20
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    for name, value in (("max", "3000000"), ("current", "1000000")):
        (tmp_path / name).write_text(value)
    for name, file in (("_MEMINFO", "meminfo"), ("_LIMIT", "max"), ("_USED", "current")):
        monkeypatch.setattr(memory, name, tmp_path / file)
    assert free(CPU) == 2_000_000
    (tmp_path / "max").write_text("max\n")
    assert free(CPU) == 4000 * 1024
    (tmp_path / "meminfo").unlink()
    assert free(CPU) is None


FREED = """
import resource, torch
{}
def round():
    return [torch.ones(2**20) for _ in range(3)]  # 12 MB, new pages each time where they were handed back
round(), round()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    round()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc keeps what it keeps")
def test_importing_the_package_lets_what_is_freed_stay_at_hand():
    pages = [
        int(subprocess.run([sys.executable, "-c", FREED.format(line)], capture_output=True, check=True).stdout)
        for line in ("", "import captum_extract_aggregate")
    ]
    assert pages[0] > 1000 > 100 > pages[1], pages
