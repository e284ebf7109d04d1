"""Measures on a GPU: rank correlation against bare sorts, curves against bare forwards, and what a CPU does of HOG."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.performance.floor import DEVICE
from benchmarks.performance.gpu_setting import Case, Failure, Setting, working
from benchmarks.performance.timing import Row, in_turns, row, rows_in_turns


def cases(setting: Setting) -> Iterator[Case]:
    yield Case("Measures", "similarities", lambda: _similarities(setting))
    yield Case("Measures", "curves", lambda: _curves(setting))


def _similarities(setting: Setting) -> Iterator[Row | Failure]:
    from captum_extract_aggregate import metrics  # where scikit-image and SciPy are

    generator = torch.Generator().manual_seed(0)
    size = max(setting.size, 48)
    a, b = (torch.randn(setting.maps, 1, size, size, generator=generator).to(DEVICE) for _ in range(2))
    case = f"{setting.maps} pairs of {size} x {size}"
    sides: dict[str, Callable[[], object]] = {
        "two sorts": lambda: (a.flatten(1).sort(dim=1), b.flatten(1).sort(dim=1)),
        "Spearman": lambda: metrics.spearman(a, b),
    }
    running, failures = working("Measures", case, sides)
    yield from failures
    yield from rows_in_turns("Measures", case, running, **setting.how)
    for name, measure in (("Spearman", metrics.spearman), ("HOG", metrics.hog_spearman), ("SSIM", metrics.ssim)):
        found = in_turns({name: partial(measure, a, b)}, rounds=3, most=0.3, fill=0)[name]
        yield row("Measures", f"{name}, a pair", sorted(1000 * s / setting.maps for s in found), unit="ms")


def _curves(setting: Setting) -> Iterator[Row | Failure]:
    from captum_extract_aggregate import metrics

    model, shares = setting.network(setting.networks[0]), [i / 10 for i in range(1, 1 + setting.steps)]
    x = setting.images(min(8, setting.batches[-1]))
    maps = torch.rand(len(x), 1, 7, 7, generator=torch.Generator().manual_seed(0)).to(DEVICE)

    def bare() -> None:
        with torch.no_grad():
            for _ in shares:
                model(x)

    sides: dict[str, Callable[[], object]] = {"bare forwards": bare}
    for imputer in ("constant", "road"):
        given = {"fractions": shares, "imputer": imputer}
        sides[f"curve, {imputer}"] = partial(metrics.perturbation_curve, model, x, maps, 3, **given)
    case = f"{setting.networks[0]}, batch {len(x)}, {len(shares)} steps"
    running, failures = working("Measures", case, sides)
    yield from failures
    yield from rows_in_turns("Measures", case, running, **setting.how)
