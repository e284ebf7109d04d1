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
_HIDDEN, _LEAST = 0.01, 1e-3  # of the noise, what need not be exact, and of the solution, what has to be
_TRUST = 0.1  # of the square of the error, what a step is trusted to leave at least
_HOLD = 0.9  # of what holds the pixels holds a coarse cell: all of it is too much where they differ
_MOST_EXPONENT = 120  # of 2, whose inverse is a number, too
_COARSEST, _COARSEST_STEPS = 8, 4  # cells along a side, and steps of Jacobi's method
_TOGETHER = 2**21  # numbers at most, by which memory is bounded on a CPU
_FULL = 8  # examples that fill a CPU's vectors
_STEPS_UNSEEN = 8  # of conjugate gradients on a device between two questions whether all are done
_CONVOLUTION = {2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {2: F.conv_transpose2d, 3: F.conv_transpose3d}
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def linear_imputation(x: Tensor, gone: Tensor, noise: float = 0.0, seed: int = 0) -> Tensor:
    r"""Returns inputs in which every pixel that is gone is the weighted mean of its neighbours.

    :math:`\sum_n w_n u_p = \sum_n w_n u_n` over the neighbours n of p inside the image, with those that are there as
    they are. A neighbour that differs in k coordinates weighs :math:`2^{-k}`: in the plane, 1/6 for the four next to p
    and 1/12 for the four at its corners, of a sum of 1. Where nothing is left to interpolate from, pixels are 0.

    The systems of all examples and channels are solved together, on the inputs' device, by conjugate gradients with
    multigrid, to an error of about 1e-5 of the solution (in float64 1e-12), or of a hundredth of the noise.

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
    parts = min(len(x), math.ceil(x.numel() / _TOGETHER)) if on_cpu(x) else 1
    found = [_interpolated(at_least_float32(a), g, noise) for a, g in zip(x.chunk(parts), gone.chunk(parts))]
    out = (torch.cat(found) if parts > 1 else found[0]).to(x.dtype)
    if not noise:
        return out
    generator = torch.Generator().manual_seed(seed)
    field = noise * torch.randn(x.shape[1:], generator=generator, dtype=torch.float32)  # of doubles: ten times as long
    return out.addcmul_(field.to(x), gone.to(x.dtype))


def _interpolated(x: Tensor, gone: Tensor, noise: float) -> Tensor:
    """Returns pixels that are there and the solution where they are gone; a dimension of one pixel is none."""
    size = [n for n in x.shape[2:] if n > 1] or [1]
    known = x.masked_fill(gone, 0)
    rows, holes = known.reshape(*x.shape[:2], *size), gone.reshape(len(x), 1, *size)
    found = _on_a_line(rows, holes) if len(size) == 1 else _solve(rows, holes, _precision(rows, holes, noise))
    return known.add_(found.reshape(x.shape))


def _precision(known: Tensor, gone: Tensor, noise: float) -> Tensor:
    """Returns the error, as a share of the solution, to which each example and channel is solved, `N x C x 1..`: with
    noise, in float32, a hundredth of it is hidden."""
    dims, own = tuple(range(2, known.ndim)), _PRECISION[known.dtype]
    if not noise or known.dtype == torch.float64:
        return known.new_full((*known.shape[:2], *(1 for _ in dims)), own)
    there = (~gone).sum(dims, keepdim=True).clamp(min=1)
    scale = (known.square().sum(dims, keepdim=True) / there).sqrt()
    return (_HIDDEN * abs(noise) / scale).clamp(own, _LEAST)


def _on_a_line(known: Tensor, gone: Tensor) -> Tensor:
    """Returns, where pixels are gone, what lies on the line between the nearest ones that are there, 0 elsewhere."""
    n = gone.shape[2]
    at = torch.arange(n, device=gone.device)
    before = torch.where(gone, -1, at).cummax(2).values
    behind = torch.where(gone, n, at).flip(2).cummin(2).values.flip(2)
    left, right = torch.where(before < 0, behind, before), torch.where(behind == n, before, behind)
    ends = [known.gather(2, place.clamp(0, n - 1).expand_as(known)) for place in (left, right)]
    share = (at - left).to(known.dtype) / (right - left).clamp(min=1)
    return torch.lerp(ends[0], ends[1], share).masked_fill(~gone | (left == n), 0)


# --- The systems of some examples: conjugate gradients ---------------------------------------------------------------


def _solve(known: Tensor, gone: Tensor, precision: Tensor) -> Tensor:
    """Returns the solution where pixels are gone, 0 elsewhere, by conjugate gradients for each example and channel.

    Whoever is done is left as it is, so that no example's solution depends on its batch-mates. A step is trusted to
    achieve what the last one did, within limits, as measuring it takes most of a step. A device is asked after some
    steps at a time whether all are done, for which it need not wait. Memory is written again where it can be: on a CPU,
    new pages cost more than the arithmetic.
    """
    fold = _Fold(known)
    grids = _grids(gone.to(known.dtype), fold)
    finest = grids[0]
    unit = fold.folded(_unit(known))  # as squares of very large and very small numbers are none
    rest = finest.neighbours(fold.folded(_padded(known, finest.size))).mul_(finest.open).div_(unit)
    spare, steps = torch.empty_like(rest), 1 if on_cpu(known) else _STEPS_UNSEEN
    along = _cycle(grids, rest, spare)
    u, slope = torch.zeros_like(rest), _dot(rest, along, spare)
    limit, before = slope * fold.folded(precision).square(), slope
    going = slope > limit
    for i in range(_MOST_ITERATIONS):
        image = finest.applied(along, spare)
        step = _spread(torch.where(going, slope / _dot(along, image, spare), 0), rest)
        u, rest = u.addcmul_(step, along), rest.addcmul_(step, image, value=-1)
        going = going & (slope * (slope / before).clamp(min=_TRUST) > limit)
        if i % steps == 0 and not going.any():
            break
        improved = _cycle(grids, rest, spare)
        before, slope = slope, _dot(rest, improved, spare)
        going = going & (slope > limit)
        along = improved.addcmul_(_spread(torch.where(going, slope / before, 0), rest), along)
    return fold.unfolded(_cut(u.mul_(unit), known.shape[2:]))


def _unit(known: Tensor) -> Tensor:
    """Returns the power of 2 by which each example and channel is divided, which changes no digit: `N x C x 1..`."""
    positions = tuple(range(2, known.ndim))
    size = torch.maximum(known.amax(positions, keepdim=True), -known.amin(positions, keepdim=True))
    return torch.exp2(size.log2().floor().clamp(-_MOST_EXPONENT, _MOST_EXPONENT).nan_to_num(0))


def _dot(a: Tensor, b: Tensor, spare: Tensor) -> Tensor:
    return torch.mul(a, b, out=spare).sum(tuple(range(2, a.ndim)), keepdim=True)


def _spread(factors: Tensor, like: Tensor) -> Tensor:
    """Returns factors repeated along a row, for which a CPU's loops over channels that are last need not stop."""
    if not on_cpu(like):
        return factors
    row = factors.expand(*factors.shape[:-1], like.shape[-1])
    return row.contiguous(memory_format=_LAST[like.ndim])


class _Fold:
    """Lays examples side by side in memory, where a CPU takes them in one stroke: as channels, so that an example's own
    channels share its system. Of few examples the channels lie side by side too."""

    def __init__(self, x: Tensor) -> None:
        self.batch, self.shares = x.shape[:2], len(x) >= _FULL
        self.groups = len(x) if self.shares else len(x) * x.shape[1]
        self._format = _LAST[x.ndim] if on_cpu(x) else torch.contiguous_format

    def folded(self, t: Tensor) -> Tensor:
        aside = t.transpose(0, 1) if self.shares else t.expand(*self.batch, *t.shape[2:]).flatten(0, 1)[None]
        return aside.contiguous(memory_format=self._format)

    def unfolded(self, t: Tensor) -> Tensor:
        return t.transpose(0, 1) if self.shares else t.reshape(*self.batch, *t.shape[2:])


# --- One system at all resolutions: multigrid ------------------------------------------------------------------------


class _Grid(NamedTuple):
    """Holds the system at one resolution: how open each cell is (how much of it is gone), the diagonal, its inverse
    where it has one, else 0, and that times how open the cell is.

    Cells are joined by the weights of their offsets times how open both are, and held by what neighbours are there.
    """

    kernels: _Kernels
    open: Tensor
    diagonal: Tensor
    inverse: Tensor
    open_inverse: Tensor

    @property
    def size(self) -> torch.Size:
        return self.open.shape[2:]

    def neighbours(self, u: Tensor) -> Tensor:
        return self.kernels.neighbours(u)

    def applied(self, u: Tensor, spare: Tensor) -> Tensor:
        """Returns the finest system's left side."""
        image = self.neighbours(u)
        return torch.addcmul(torch.mul(self.diagonal, u, out=spare), self.open, image, value=-1, out=image)


def _grids(gone: Tensor, fold: _Fold) -> list[_Grid]:
    """Returns the system at all resolutions, the finest first; every second pixel is the middle of a coarse cell, and
    sides are filled up with what is there."""
    own, dims = tuple(gone.shape[2:]), gone.ndim - 2
    levels = math.ceil(math.log2(max(1, (max(own) - 1) / (_COARSEST - 1))))
    while levels and math.prod(_filled(own, levels)) > 2 * math.prod(own):  # of long and narrow ones fewer
        levels -= 1
    size, kernels = _filled(own, levels), _Kernels(gone, fold.groups)
    open_, held = (fold.folded(_padded(t, size)) for t in (gone, 1 - gone))
    held = kernels.neighbours(held).mul_(open_)
    grids: list[_Grid] = []
    for level in range(levels + 1):
        if level:  # where a linear function costs as much
            whole = kernels.coarse(torch.ones_like(open_))
            open_, held = 2 ** (dims / 2 - 1) * kernels.coarse(open_) / whole, _HOLD * kernels.coarse(held)
        diagonal = kernels.neighbours(open_).mul_(open_).add_(held)
        inverse = (diagonal > 0) / (diagonal + (diagonal <= 0))
        grids.append(_Grid(kernels, open_, diagonal, inverse, inverse * open_))
    return grids


def _filled(size: Sequence[int], levels: int) -> tuple[int, ...]:
    """Returns sides that, but for their first pixel, can be halved so often."""
    return tuple(-(-(n - 1) // 2**levels) * 2**levels + 1 for n in size)


def _cycle(grids: Sequence[_Grid], right: Tensor, spare: Tensor) -> Tensor:
    """Returns an approximate solution of the finest system, linear and symmetric in the right side: one V-cycle.

    A step of Jacobi's method leaves a third at most of what is rough; what is smooth is solved on the coarser grid.
    """
    grid = grids[0]
    start = torch.mul(grid.inverse, right, out=spare)  # cells that are not open have none
    u = start
    if len(grids) > 1:
        rest = grid.neighbours(start).mul_(grid.open)
        u = grid.kernels.fine(_coarse_cycle(grids[1:], grid.kernels.coarse(rest)))
        u = torch.addcmul(start, u, grid.open, out=u)
    u = grid.neighbours(u)
    return torch.addcmul(start, u, grid.open_inverse, out=u)


def _coarse_cycle(grids: Sequence[_Grid], right: Tensor) -> Tensor:
    grid = grids[0]
    start = grid.inverse * right
    u, steps = start, _COARSEST_STEPS
    if len(grids) > 1:
        rest = grid.neighbours(start * grid.open).mul_(grid.open)
        u, steps = grid.kernels.fine(_coarse_cycle(grids[1:], grid.kernels.coarse(rest))).add_(start), 1
    for _ in range(steps):
        u = torch.addcmul(start, grid.neighbours(u * grid.open), grid.open_inverse)
    return u


class _Kernels:
    """Convolves every channel by itself, by kernels that are products of weights along each dimension."""

    def __init__(self, like: Tensor, groups: int) -> None:
        dims, self._groups = like.ndim - 2, groups
        self._convolved, self._transposed = _CONVOLUTION[dims], _TRANSPOSED[dims]
        along = like.new_tensor((0.5, 1.0, 0.5))
        kernel = along
        for _ in range(dims - 1):
            kernel = kernel[..., None] * along
        around = kernel.clone()
        around[(1,) * dims] = 0
        self._linear, self._around = (k.repeat(groups, 1, *(1,) * dims) for k in (kernel, around))

    def neighbours(self, t: Tensor) -> Tensor:
        """Returns the weighted sum of each pixel's neighbours."""
        return self._convolved(t, self._around, None, 1, 1, 1, self._groups)

    def coarse(self, t: Tensor) -> Tensor:
        """Returns each value shared out among the coarse cells around it, by their distance."""
        return self._convolved(t, self._linear, None, 2, 1, 1, self._groups)

    def fine(self, t: Tensor) -> Tensor:
        """Returns the transpose of that: each pixel interpolated linearly from the coarse cells around it."""
        return self._transposed(t, self._linear, None, 2, 1, 0, self._groups)


def _cut(t: Tensor, size: Sequence[int]) -> Tensor:
    for dim, n in enumerate(size, 2):
        t = t.narrow(dim, 0, n)
    return t


def _padded(t: Tensor, size: Sequence[int]) -> Tensor:
    """Returns a tensor filled up with 0 to a size."""
    return F.pad(t, [n for old, new in zip(reversed(t.shape[2:]), reversed(size)) for n in (0, new - old)])


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
