"""Pixels that are gone, interpolated from their neighbours: a sparse system for each picture, solved for all at
once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.tensors import at_least_float32, on_cpu

_MOST_ITERATIONS = 1000
_PRECISION = {torch.float32: 1e-5, torch.float64: 1e-12}
_COARSEST_STEPS = 8
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


def _solve(x: Tensor, gone: Tensor) -> Tensor:
    """Returns the solution where pixels are gone, 0 elsewhere, by conjugate gradients for each example and channel.

    Whoever is done is left as it is, so that no example's solution depends on its batch-mates.
    """
    grids = _grids(gone.to(x.dtype))
    finest = grids[0]
    right = _padded(gone * _neighbours(x.masked_fill(gone, 0)), finest.open.shape)
    u, rest = torch.zeros_like(right), right
    along = _cycle(grids, rest)
    slope = first = _dot(rest, along)
    for _ in range(_MOST_ITERATIONS):
        going = slope > _PRECISION[x.dtype] ** 2 * first
        if not going.any():
            break
        image = finest.applied(along)
        step = torch.where(going, slope / _dot(along, image), 0)
        u, rest = u + step * along, rest - step * image
        improved = _cycle(grids, rest)
        before, slope = slope, _dot(rest, improved)
        along = improved + torch.where(going, slope / before, 0) * along
    return u[tuple(slice(n) for n in (len(x), x.shape[1], *x.shape[2:]))]


class _Grid(NamedTuple):
    """Holds the system at one resolution: how open each cell is (how much of it is gone), and the damped inverse of the
    diagonal.

    Cells are joined by the weights of their offsets times how open both are, and held by what neighbours are there.
    """

    open: Tensor
    diagonal: Tensor
    inverse: Tensor

    def applied(self, u: Tensor) -> Tensor:
        """Returns the system's left side."""
        return self.diagonal * u - self.open * _neighbours(self.open * u)


def _grids(gone: Tensor) -> list[_Grid]:
    """Returns the system at all resolutions, the finest first; sides are filled up with what is there."""
    held = gone * (_neighbours(torch.ones_like(gone)) - _neighbours(gone))
    dims = gone.ndim - 2
    damping = _DAMPING[dims]
    levels = max(0, max(gone.shape[2:]).bit_length() - 2)
    size = (*gone.shape[:2], *(-(-n // 2**levels) * 2**levels for n in gone.shape[2:]))
    open_, held = _padded(gone, size), _padded(held, size)
    grids = []
    for level in range(levels + 1):
        diagonal = open_ * _neighbours(open_) + held
        grids.append(_Grid(open_, diagonal, torch.where(diagonal > 0, damping / diagonal, 0)))
        if level < levels:  # a linear function costs as much on the coarser grid
            open_, held = _pooled(open_) / 2**dims * 2 ** ((dims - 2) / 2), _pooled(held)
    return grids


def _cycle(grids: Sequence[_Grid], right: Tensor) -> Tensor:
    """Returns an approximate solution, linear and symmetric in the right side: one V-cycle of multigrid.

    A damped step of Jacobi's method leaves little of what is rough; what is smooth is solved on the coarser grid.
    """
    grid, dims = grids[0], right.ndim - 2
    u = grid.inverse * right
    if len(grids) == 1:
        for _ in range(_COARSEST_STEPS):
            u = u + grid.inverse * (right - grid.applied(u))
        return u
    rest = right - grid.applied(u)
    coarse = _cycle(grids[1:], _pooled(_spread(rest)))
    up = _spread(F.interpolate(coarse, scale_factor=(2.0,) * dims, mode="nearest"))
    u = u + up * (grid.inverse > 0)
    return u + grid.inverse * (right - grid.applied(u))


def _spread(t: Tensor) -> Tensor:
    """Returns each value shared out among its neighbours and itself."""
    return (_neighbours(t) + t) / 2 ** (t.ndim - 2)


def _pooled(t: Tensor) -> Tensor:
    """Returns the sums over cells of two along each dimension."""
    dims = t.ndim - 2
    return _POOL[dims](t, 2) * 2**dims


def _padded(t: Tensor, size: Sequence[int]) -> Tensor:
    return F.pad(t, [n for old, new in zip(reversed(t.shape), reversed(size[2:])) for n in (0, new - old)])


def _neighbours(t: Tensor) -> Tensor:
    """Returns the weighted sum of each pixel's neighbours."""
    total = t
    for dim in range(2, t.ndim):
        wide = total.clone()
        n = t.shape[dim]
        wide.narrow(dim, 0, n - 1).add_(total.narrow(dim, 1, n - 1), alpha=0.5)
        wide.narrow(dim, 1, n - 1).add_(total.narrow(dim, 0, n - 1), alpha=0.5)
        total = wide
    return total - t


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(tuple(range(2, a.ndim)), keepdim=True)


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
    return x.detach(), gone
