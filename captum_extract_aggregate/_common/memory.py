"""How much memory a work takes, and how much is free: of the device, or of this process and what it may have. And what
is freed stays at hand."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

_STEP = 0.005  # seconds between two looks
_STATM, _MEMINFO = Path("/proc/self/statm"), Path("/proc/meminfo")
_FREED = 2**25 - 2**16  # bytes; of blocks beyond 2**25 glibc learns nothing
_LIMIT, _USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


@dataclass
class Peak:
    """Holds what a work took at most, in bytes, beyond what was there before; 0 where nobody can tell."""

    bytes: int = 0


@contextlib.contextmanager
def peak_of(device: torch.device) -> Iterator[Peak]:
    """Measures the work inside: exactly on a GPU; on the CPU by looks at the process (Linux), which may miss some."""
    peak = Peak()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    before, ended = _resident(), threading.Event()

    def look() -> None:
        while not ended.wait(_STEP):
            peak.bytes = max(peak.bytes, _resident() - before)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
        peak.bytes = max(peak.bytes, _resident() - before)


def free(device: torch.device) -> int | None:
    """Returns how many bytes are left; None where nobody can tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
        left = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        left = min(left, int(_LIMIT.read_text()) - int(_USED.read_text()))
    return left


def keep_what_is_freed() -> None:
    """Lets glibc's malloc keep what is freed, up to 64 MB for a thread, instead of handing it back to the system.

    It raises the limit by itself, to twice the largest block that it saw freed; so one is freed that is never written
    to. Activations are freed and asked for all the time, and to get new pages from the system each time takes a fifth
    of a small network's forward. Where malloc is another one, or is told otherwise (MALLOC_TRIM_THRESHOLD_), nothing
    changes.
    """
    torch.empty(_FREED, dtype=torch.uint8, device="cpu")


def _resident() -> int:
    try:
        return int(_STATM.read_text().split()[1]) * 4096
    except (OSError, IndexError, ValueError):
        return 0
