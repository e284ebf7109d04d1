"""Ratios of two sides that run in turns, so that whatever else the machine does hits both."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

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


def _mean_seconds(side: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    return seconds(lambda: [side() for _ in range(repeats)], clock) / repeats


def row(section: str, case: str, found: list[float], **rest: object) -> Row:
    return Row(section, case, statistics.median(found), found[0], found[-1], len(found), **rest)  # type: ignore[arg-type]
