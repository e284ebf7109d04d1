"""Of what the tables of a GPU are made: networks, batches, cases, and what failed."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.performance import floor
from benchmarks.performance.timing import Row


@dataclass(frozen=True)
class Failure:
    """Holds what was raised in place of a row, and where: the last line of the package, and the whole traceback."""

    section: str
    case: str
    error: str
    where: str
    trace: str = ""

    @classmethod
    def of(cls, section: str, case: str, error: BaseException) -> Failure:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "captum_extract_aggregate" in f.filename] or frames
        where = f"{ours[-1].filename.rpartition('captum_extract_aggregate/')[2]}:{ours[-1].lineno}"
        text = " ".join(str(error).split())[:300]
        return cls(section, case, f"{type(error).__name__}: {text}", where, "".join(traceback.format_exception(error)))


class Case(NamedTuple):
    """Names a table, or a part of one, and how it is measured."""

    section: str
    name: str
    run: Callable[[], Iterator[Row | Failure]]


@dataclass(frozen=True)
class Setting:
    """Holds what is measured, and how long; a test takes less of everything."""

    networks: tuple[str, ...] = ("resnet50", "mobilenet_v2", "vit_b_16", "vgg16")
    small: str = "resnet18"  # for what is looked at, not timed
    batches: tuple[int, ...] = (1, 32)
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    size: int = 224
    rounds: int = 5
    most: float = 1.2  # seconds of a group of sides
    fill: float = 0.02  # seconds of a side's turn
    stream_images: int = 50_000
    stream_batch: int = 250
    stream_blocks: int = 10
    maps: int = 32  # of a measure
    steps: int = 9  # of a curve
    targets: tuple[int, ...] = (5, 20)

    @property
    def how(self) -> dict[str, float]:
        return {"rounds": self.rounds, "most": self.most, "fill": self.fill}

    def network(self, name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
        return _network(name, dtype)

    def images(self, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return floor.images(n, self.size).to(dtype)


@functools.cache
def _network(name: str, dtype: torch.dtype) -> nn.Module:
    return floor.network(name).to(dtype)


def short(dtype: torch.dtype) -> str:
    return {torch.float32: "float32", torch.bfloat16: "bf16"}[dtype]


def working(
    section: str, case: str, sides: Mapping[str, Callable[[], object]]
) -> tuple[dict[str, Callable[[], object]], list[Failure]]:
    """Returns the sides that run, each of which has then run once, and what the others raise."""
    running, failures = {}, []
    for name, side in sides.items():
        try:
            side()
            running[name] = side
        except Exception as error:  # the other sides may work
            failures.append(Failure.of(section, f"{name}, {case}", error))
    return running, failures
