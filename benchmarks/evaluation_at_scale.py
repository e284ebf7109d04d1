"""Where would 1,000,000 images on 64 processes of 8 machines wait? A simulation, of measured parts.

The network is a stub: explaining an image takes a time that is given. What the package does around it is measured here,
on stores of made-up rows, at two sizes, so that what does not grow linearly shows: writing a batch, reading all files
when a run ends or goes on, the report's statistics, and memory.

`python -m benchmarks.evaluation_at_scale [--images 1000000] [--processes 64] [--machines 8] [--seconds 0.05]`
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from captum_extract_aggregate.evaluation import MeasurePlan, MethodPlan, Plan
from captum_extract_aggregate.evaluation.statistics import summarize
from captum_extract_aggregate.evaluation.store import (
    BatchRows,
    ContentRow,
    ImageRow,
    MapRow,
    Record,
    Results,
    Row,
    TargetRow,
    Writer,
    done_batches,
)

LABEL = "class_sensitivity"
METHODS, LAYERS, BATCH = ("normgrad", "gradcam", "linear-approximation", "activity"), 4, 16
PLAN = Plan(
    tuple(MethodPlan(name) for name in METHODS),
    (MeasurePlan(LABEL),),
    layers=tuple(f"layer{i}" for i in range(1, LAYERS + 1)),
)


class Costs(NamedTuple):
    """Seconds and bytes of an image: `write` by its own process; `read`, `go_on` and `report` of all images by one."""

    write: float
    read: float
    go_on: float
    report: float
    stored: float
    held: float


def batch_of(start: int) -> BatchRows:
    """Returns what a batch of 16 images of 4 methods at 4 layers gives: 256 numbers."""
    images = range(start, start + BATCH)
    places = [(m, f"layer{i}") for m in METHODS for i in range(1, LAYERS + 1)]
    return BatchRows(
        [ImageRow(i, f"n{i:08d}.jpg", i % 1000, "") for i in images],
        [
            TargetRow(i, t, 1 / (i + t), False, False, 0, role)
            for i in images
            for t, role in enumerate(("best", "worst"), 1)
        ],
        [MapRow(m, layer, k, 14, 14, 224, 224, start) for k, (m, layer) in enumerate(places)],
        [Row(i, 1, *place, LABEL, "", (i * 31 + k * 7) % 997 / 997) for i in images for k, place in enumerate(places)],
        [ContentRow(i, f"n{i:08d}.jpg", f"{i:016x}", f"{i} 100000") for i in images],
        f"{start:016x}",
    )


def seconds(run: Callable[[], object]) -> tuple[float, object]:
    begin = time.process_time()
    found = run()
    return time.process_time() - begin, found


def resident() -> float:
    return float(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def costs(images: int, parts: int) -> Costs:
    """Measures a store of so many images in so many files."""
    with tempfile.TemporaryDirectory() as place:
        folder, batches = Path(place), [batch_of(start) for start in range(0, images, BATCH)]
        record = Record(PLAN, images, keys=[b.key for b in batches])
        write = 0.0
        for rank in range(parts):
            with Writer(folder, rank) as writer:
                writer.begin(record)
                for i in range(rank, len(batches), parts):
                    write += seconds(functools.partial(writer.add, i, batches[i]))[0]
        go_on, _ = seconds(lambda: done_batches(folder, PLAN))
        before = resident()
        read, results = seconds(lambda: Results(folder))
        held = resident() - before
        assert isinstance(results, Results)
        assert results.count() == images * LAYERS * len(METHODS)
        report, _ = seconds(lambda: summarize(results))
        stored = sum(path.stat().st_size for path in folder.glob("part-*.sqlite"))
    return Costs(*(value / images for value in (write, read, go_on, report, stored, held)))


def in_a_process_of_its_own(images: int) -> Costs:
    """Returns what is measured where no earlier measurement has left memory to be used again."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(costs, images, 8).result()


def timeline(
    found: Costs, images: int, processes: int, machines: int, explaining: float, cores: int
) -> dict[str, float]:
    """Returns seconds (and gigabytes) of a run, by what is done; a machine's processes share its cores.

    Every process explains and writes its own share, with nobody to wait for: there is a file for each. When all are
    done, the first alone reads all files and writes the report; a run that goes on begins with every process reading.
    """
    share, crowd = images / processes, max(1.0, processes / machines / cores)
    return {
        "explaining, each process": share * explaining * crowd,
        "writing, each process": share * found.write * crowd,
        "reading all files at the end, the first process": images * found.read,
        "statistics of the report, the first process": images * found.report,
        "going on, each process, before it begins": images * found.go_on * crowd,
        "GB stored": images * found.stored / 1e9,
        "GB of memory of the first process at the end": images * found.held / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("images", 1_000_000), ("processes", 64), ("machines", 8), ("cores", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=0.05, help="of explaining an image, given to the stub")
    parser.add_argument("--measured", type=int, default=4096, help="images of the larger of the two stores")
    given = parser.parse_args()
    small, large = (in_a_process_of_its_own(n) for n in (given.measured // 4, given.measured))
    print("| of an image | µs or bytes | growth from a quarter of the images (1: linear) |\n|---|---|---|")
    for name, a, b in zip(Costs._fields, small, large):
        unit = 1 if name in ("stored", "held") else 1e6
        print(f"| {name} | {unit * b:.0f} | {b / a:.2f} |")
    print(f"\n| {given.images:,} images, {given.processes} processes of {given.machines} machines | |\n|---|---|")
    parts = timeline(large, given.images, given.processes, given.machines, given.seconds, given.cores)
    for name, value in parts.items():
        print(f"| {name} | {value:,.1f}{'' if name.startswith('GB') else ' s'} |")


if __name__ == "__main__":
    main()
