"""Ratios of two sides that run in turns, so that whatever else the machine does hits both."""

from __future__ import annotations

import contextlib
import datetime
import gc
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """One line of the table: a ratio (or a plain number) with its spread, and what it must reach."""

    section: str
    case: str
    median: float
    low: float
    high: float
    pairs: int
    limit: float | None = None
    at_least: bool = False
    unit: str = "x"
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.limit is None:
            return None
        return self.median >= self.limit if self.at_least else self.median <= self.limit


def seconds(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    if torch.cuda.is_available():
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000
    begin = clock()
    run()
    return clock() - begin


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch compute with one thread inside, whose processor time can be told."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_SECONDS = 8.0  # for which pairs are measured beyond those that are asked for
_MOST = 61


def ratios(
    run: Callable[[], object],
    baseline: Callable[[], object],
    pairs: int = 15,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """`run` over `baseline`, sorted; each is called as often as it takes to fill a tenth of a second.

    At least `pairs` of them (seven where one of the calls takes more than half a second), and more while there is time:
    a shared machine disturbs single pairs by half. `clock`: of the process, where the machine is busy.
    """
    sides = [(side, _repeats(side), clock) for side in (run, baseline)]
    found: list[float] = []
    gc.collect()
    slow = max(seconds(run), seconds(baseline)) > 0.5
    least, begin = min(7, pairs) if slow else pairs, time.perf_counter()
    while len(found) < least or (len(found) < _MOST and time.perf_counter() - begin < _SECONDS):
        times = {k: _mean_seconds(*sides[k]) for k in ((0, 1) if len(found) % 2 == 0 else (1, 0))}
        found.append(times[0] / times[1])
    return sorted(found)


def _repeats(side: Callable[[], object]) -> int:
    side()
    return max(1, min(1000, int(0.1 / max(seconds(side), 1e-6))))


def _mean_seconds(side: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    return seconds(lambda: [side() for _ in range(repeats)], clock) / repeats


def in_turns(
    sides: Mapping[str, Callable[[], object]], rounds: int = 5, most: float = 1.5, fill: float = 0.03
) -> dict[str, list[float]]:
    """Seconds per call of each side, round by round: of many sides against one baseline, which runs once a round.

    At least `rounds` of them, and more until `most` seconds are over; each round begins with the next side, and fills
    `fill` seconds with calls of a side.
    """
    repeats = {name: max(1, int(fill / max(seconds(side), 1e-6))) for name, side in sides.items()}
    found: dict[str, list[float]] = {name: [] for name in sides}
    order, begin = list(sides), time.perf_counter()
    gc.collect()
    while len(found[order[0]]) < rounds or (len(found[order[0]]) < _MOST and time.perf_counter() - begin < most):
        for name in order:
            found[name].append(_mean_seconds(sides[name], repeats[name]))
        order = [*order[1:], order[0]]
    return found


def rows_in_turns(
    section: str, case: str, sides: Mapping[str, Callable[[], object]], limit: float | None = None, **how: Any
) -> Iterator[Row]:
    """Each side over the first of them, the baseline, whose milliseconds are noted."""
    found = in_turns(sides, **how)
    baseline, *others = found
    note = f"{baseline} {1000 * statistics.median(found[baseline]):.2f} ms"
    for name in others:
        ratios_found = sorted(a / b for a, b in zip(found[name], found[baseline]))
        yield row(section, f"{name}, {case}", ratios_found, limit=limit, note=note)


def row(section: str, case: str, found: list[float], **rest: object) -> Row:
    return Row(section, case, statistics.median(found), found[0], found[-1], len(found), **rest)  # type: ignore[arg-type]


def machine() -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "torchvision", "captum"))
    where = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} {platform.machine()} cores"
    )
    threads = torch.get_num_threads()
    return f"{datetime.date.today()}: {where}, {threads} threads, Python {platform.python_version()}, {versions}"


def cell(row: dict[str, object]) -> str:
    unit = "" if row["unit"] == "x" else f" {row['unit']}"
    if row["pairs"] == 1:
        return f"{row['median']:.3g}{unit}"
    return f"{row['median']:.4g}{unit} ({row['low']:.3g} - {row['high']:.3g})"
