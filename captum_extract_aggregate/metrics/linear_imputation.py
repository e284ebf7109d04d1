"""Pixels that are gone, interpolated from their neighbours: a sparse system for each picture, solved for all at
once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.tensors import at_least_float32, on_cpu

_MOST_ITERATIONS = 10_000
_PRECISION = {torch.float32: 1e-5, torch.float64: 1e-12}
_COARSEST, _COARSEST_STEPS = 8, 4  # cells along a side, and steps of Jacobi's method
_DAMPING = {1: 2 / 3, 2: 0.9, 3: 0.9}  # of Jacobi's method, below what would amplify anything
_TOGETHER = 2**18  # numbers, which a CPU's cache holds
_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def linear_imputation(x: Tensor, gone: Tensor, noise: float = 0.0, seed: int = 0) -> Tensor:
    r"""Returns inputs in which every pixel that is gone is the weighted mean of its neighbours.

    :math:`\sum_n w_n u_p = \sum_n w_n u_n` over the neighbours n of p inside the image, with those that are there as
    they are. A neighbour that differs in k coordinates weighs :math:`2^{-k}`: in the plane, 1/6 for the four next to p
    and 1/12 for the four at its corners, of a sum of 1. Where nothing is left to interpolate from, pixels are 0.

    The systems of all examples and channels are solved together, on the inputs' device, by conjugate gradients with
    multigrid, to an error of 1e-5 of the solution (in float64 1e-12).

    Args:
        x: `N x C x *S`, of one to three position dimensions.
        gone: `N x 1 x *S` booleans (or `N x *S`): which pixels are gone.
        noise: the standard deviation of what is added to them, 0.01 in ROAD. It is the same field for every example, so
            that an example alone has what it has in company.
        seed: of the noise.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import linear_imputation
        >>> x, gone = torch.tensor([[[1.0, 9.0, 9.0, 4.0]]]), torch.tensor([[False, True, True, False]])
        >>> linear_imputation(x, gone).round(decimals=3)
        tensor([[[1., 2., 3., 4.]]])
    """
    x, gone = _checked(x, gone)
    together = max(1, _TOGETHER // x[:1].numel()) if on_cpu(x) else len(x)
    found = [_solve(at_least_float32(a), g) for a, g in zip(x.split(together), gone.split(together))]
    out = torch.where(gone, torch.cat(found).to(x.dtype), x)
    if not noise:
        return out
    generator = torch.Generator().manual_seed(seed)
    field = noise * torch.randn(x.shape[1:], generator=generator, dtype=torch.float64)
    return torch.where(gone, out + field.to(x), out)


# --- The systems of some examples: conjugate gradients ---------------------------------------------------------------


def _solve(x: Tensor, gone: Tensor) -> Tensor:
    """Returns the solution where pixels are gone, 0 elsewhere, by conjugate gradients for each example and channel.

    Whoever is done is left as it is, so that no example's solution depends on its batch-mates.
    """
    size = x.shape[2:]
    grids = _grids(gone.to(x.dtype))
    inside, known = (_spared(t, grids[0].size) for t in (gone.to(x.dtype), x.masked_fill(gone, 0)))
    rest = inside * _neighbours(known)
    along = _cycle(grids, rest)
    u, slope = torch.zeros_like(rest), _dot(rest, along)
    first = slope
    for _ in range(_MOST_ITERATIONS):
        going = slope > _PRECISION[x.dtype] ** 2 * first
        if not going.any():
            break
        image = grids[0].applied(along)
        step = torch.where(going, slope / _dot(along, image), 0)
        u, rest = u.addcmul_(step, along), rest.addcmul_(-step, image)
        improved = _cycle(grids, rest)
        before, slope = slope, _dot(rest, improved)
        along = improved.addcmul_(torch.where(going, slope / before, 0), along)
    return _cut(u, size)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(tuple(range(2, a.ndim)), keepdim=True)


# --- One system at all resolutions: multigrid ------------------------------------------------------------------------


class _Grid(NamedTuple):
    """Holds the system at one resolution: its size, how open each cell is (how much of it is gone), the diagonal, its
    damped inverse, and where it has one (1, else 0).

    Cells are joined by the weights of their offsets times how open both are, and held by what neighbours are there.
    Tensors have a spare cell at the end of each dimension, where they are 0.
    """

    size: tuple[int, ...]
    open: Tensor
    diagonal: Tensor
    inverse: Tensor
    inside: Tensor

    def applied(self, u: Tensor) -> Tensor:
        """Returns the system's left side."""
        return _neighbours(self.open * u).mul_(self.open).neg_().addcmul_(self.diagonal, u)


def _grids(gone: Tensor) -> list[_Grid]:
    """Returns the system at all resolutions, the finest first; sides are filled up with what is there."""
    own, dims = tuple(gone.shape[2:]), gone.ndim - 2
    levels = math.ceil(math.log2(max(1, max(own) / _COARSEST)))
    while levels and math.prod(_filled(own, levels)) > 2 * math.prod(own):  # of long and narrow ones fewer
        levels -= 1
    size = _filled(own, levels)
    there = _spared(1 - gone, size)
    open_ = _spared(gone, size)
    held = open_ * _neighbours(there)
    grids = []
    for level in range(levels + 1):
        if level:  # where a linear function costs as much
            open_, held = _pooled(open_, size) * 2 ** ((dims - 2) / 2 - dims), _pooled(held, size)
            size = tuple(n // 2 for n in size)
        diagonal = open_ * _neighbours(open_) + held
        inverse = torch.where(diagonal > 0, _DAMPING[dims] / diagonal, 0)
        grids.append(_Grid(size, open_, diagonal, inverse, (diagonal > 0).to(gone.dtype)))
    return grids


def _filled(size: Sequence[int], levels: int) -> tuple[int, ...]:
    """Returns sides that can be halved so often."""
    return tuple(-(-n // 2**levels) * 2**levels for n in size)


def _cycle(grids: Sequence[_Grid], right: Tensor) -> Tensor:
    """Returns an approximate solution, linear and symmetric in the right side: one V-cycle.

    A damped step of Jacobi's method leaves little of what is rough; what is smooth is solved on the coarser grid.
    """
    grid = grids[0]
    u = grid.inverse * right
    if len(grids) > 1:
        coarse = _cycle(grids[1:], _pooled(_spread(right - grid.applied(u)), grid.size))
        u.addcmul_(_spread(_doubled(coarse, grid.size)), grid.inside)
    for _ in range(1 if len(grids) > 1 else _COARSEST_STEPS):
        u = u.addcmul(grid.inverse, right - grid.applied(u))
    return u


def _spread(t: Tensor) -> Tensor:
    """Returns each value shared out among its neighbours and itself."""
    return _neighbours(t).add_(t).mul_(0.5 ** (t.ndim - 2))


def _pooled(t: Tensor, size: Sequence[int]) -> Tensor:
    """Returns the sums over cells of two along each dimension."""
    dims = len(size)
    cells = _POOL[dims](_cut(t, size), 2) * 2**dims
    return F.pad(cells, (0, 1) * dims)


def _doubled(t: Tensor, size: Sequence[int]) -> Tensor:
    """Returns every cell as two along each dimension."""
    cells = _cut(t, [n // 2 for n in size])
    return F.pad(F.interpolate(cells, scale_factor=(2.0,) * len(size), mode="nearest"), (0, 1) * len(size))


def _cut(t: Tensor, size: Sequence[int]) -> Tensor:
    for dim, n in enumerate(size, 2):
        t = t.narrow(dim, 0, n)
    return t


def _spared(t: Tensor, size: Sequence[int]) -> Tensor:
    """Returns a tensor filled up with 0 to a size, and a spare cell at the end of each dimension."""
    return F.pad(t, [n for old, new in zip(reversed(t.shape[2:]), reversed(size)) for n in (0, new + 1 - old)])


def _neighbours(t: Tensor) -> Tensor:
    """Returns the weighted sum of each pixel's neighbours; anything in spare cells.

    Along each dimension a pixel's neighbours lie a stride away in memory, whose spare cells keep rows apart: on a CPU
    shifts of the whole are many times as fast as shifts of rows.
    """
    total = t.contiguous().flatten()
    for stride in t.contiguous().stride()[2:]:
        wide = total.clone()
        wide[stride:].add_(total[:-stride], alpha=0.5)
        wide[:-stride].add_(total[stride:], alpha=0.5)
        total = wide
    return total.view(t.shape).sub_(t)


def _checked(x: Tensor, gone: Tensor) -> tuple[Tensor, Tensor]:
    if not isinstance(x, Tensor) or not 3 <= x.ndim <= 5 or not x.is_floating_point():
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise InvalidTypeError(f"x is {got}; expected a floating point tensor, N x C x H x W (or N x C x L, ...)")
    if isinstance(gone, Tensor) and gone.ndim == x.ndim - 1:
        gone = gone[:, None]
    if not isinstance(gone, Tensor) or gone.dtype != torch.bool or gone.shape != (len(x), 1, *x.shape[2:]):
        what = f"{gone.dtype} {tuple(gone.shape)}" if isinstance(gone, Tensor) else type(gone).__name__
        raise InvalidValueError(
            f"gone is {what} for inputs of {tuple(x.shape)}; expected booleans {(len(x), 1, *x.shape[2:])}"
        )
    return x.detach(), gone.to(x.device)
