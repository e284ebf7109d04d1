"""The parts that a dimension is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Part(NamedTuple):
    """Is a factor of a dimension's size; the last part of a dimension runs fastest (row-major).

    `kind` is "batch", "channel", "feature" (channels as far as one linear layer tells), "axis" (positions), "unknown"
    (a dimension of the inputs that nothing has told of), "state" (a recurrent layer's final states) or "extra" (tokens
    without a position). `axis` orders positions, and begins alike for parts of one axis; those of the inputs' axes are
    below `FRESH`. Where `inner` is given, it is what lies behind `before` entries without a position (and before
    others, if it does not fill the part). `shift` tells by how many entries the whole axis was rolled.
    """

    kind: str
    size: int
    axis: tuple[int, ...] = ()
    inner: tuple[Part, ...] = ()
    before: int = 0
    shift: int = 0


Dim = tuple[Part, ...]
Dims = tuple[Dim, ...]  # a dimension of size 1 has no parts

FRESH = 1000
CHANNELS = {"channel", "feature"}


def kinds_of(dim: Dim) -> set[str]:
    """Returns the kinds of a dimension's parts."""
    return {part.kind for part in dim}


def size_of(dim: Dim) -> int:
    """Returns a dimension's number of entries."""
    return math.prod(part.size for part in dim)


def reshaped(dims: Dims, shape: Sequence[int]) -> Dims | None:
    """Returns the same parts, in the same order, in dimensions of other sizes; None where that cuts through a part."""
    rest = [part for dim in dims for part in dim]
    result = list[Dim]()
    for size in shape:
        taken = list[Part]()
        while (missing := size // math.prod(p.size for p in taken)) > 1:
            if not rest:
                return None
            part = rest.pop(0)
            if missing % part.size == 0:
                taken.append(part)
            elif part.size % missing == 0 and not part.inner:
                outer, inner = _cut(part, missing)
                taken.append(outer)
                rest.insert(0, inner)
            else:
                return None
        result.append(tuple(taken))
    return tuple(result) if not rest else None


def _cut(part: Part, size: int) -> tuple[Part, Part]:
    """Cuts a part into one of this size and the one that runs within it."""
    sizes = (size, part.size // size)
    outer, inner = (part._replace(size=n, axis=(*part.axis, i) if part.axis else ()) for i, n in enumerate(sizes))
    return outer, inner
