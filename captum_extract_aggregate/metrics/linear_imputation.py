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
_TOGETHER = 2**19  # numbers: of more, a CPU spends its time on memory, and of fewer on calls
_STEPS_UNSEEN = 8  # of conjugate gradients on a device between two questions whether all are done
_CONVOLUTION = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


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
    parts = min(len(x), math.ceil(x.numel() / _TOGETHER)) if on_cpu(x) else 1
    found = [_solve(at_least_float32(a), g) for a, g in zip(x.chunk(parts), gone.chunk(parts))]
    out = torch.where(gone, torch.cat(found).to(x.dtype), x)
    if not noise:
        return out
    generator = torch.Generator().manual_seed(seed)
    field = noise * torch.randn(x.shape[1:], generator=generator, dtype=torch.float64)
    return torch.where(gone, out + field.to(x), out)


# --- The systems of some examples: conjugate gradients ---------------------------------------------------------------


def _solve(x: Tensor, gone: Tensor) -> Tensor:
    """Returns the solution where pixels are gone, 0 elsewhere, by conjugate gradients for each example and channel.

    Whoever is done is left as it is, so that no example's solution depends on its batch-mates. A device is asked for it
    after some steps at a time, for which it need not wait.
    """
    size, own = x.shape[2:], _folded(gone.to(x.dtype).expand_as(x))
    grids = _grids(own)
    inside, known = (_padded(t, grids[0].size) for t in (own, _folded(x.masked_fill(gone, 0))))
    rest = inside * grids[0].kernels.neighbours(known)
    along = _cycle(grids, rest)
    u, slope = torch.zeros_like(rest), _dot(rest, along)
    first, steps = slope, 1 if on_cpu(x) else _STEPS_UNSEEN
    for i in range(_MOST_ITERATIONS):
        going = slope > _PRECISION[x.dtype] ** 2 * first
        if i % steps == 0 and not going.any():
            break
        image = grids[0].applied(along)
        step = torch.where(going, slope / _dot(along, image), 0)
        u, rest = u.addcmul_(step, along), rest.addcmul_(-step, image)
        improved = _cycle(grids, rest)
        before, slope = slope, _dot(rest, improved)
        along = improved.addcmul_(torch.where(going, slope / before, 0), along)
    return _cut(u, size).reshape(x.shape)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(tuple(range(2, a.ndim)), keepdim=True)


def _folded(t: Tensor) -> Tensor:
    """Returns all examples' channels as those of one, side by side in memory: on a CPU a convolution of each by itself
    takes them in one stroke."""
    one = t.reshape(1, -1, *t.shape[2:])
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return one.contiguous(memory_format=formats[t.ndim]) if on_cpu(t) and t.ndim in formats else one.contiguous()


# --- One system at all resolutions: multigrid ------------------------------------------------------------------------


class _Grid(NamedTuple):
    """Holds the system at one resolution: its size, its kernels, how open each cell is (how much of it is gone), the
    diagonal, its damped inverse, and where it has one (1, else 0).

    Cells are joined by the weights of their offsets times how open both are, and held by what neighbours are there.
    """

    size: tuple[int, ...]
    kernels: _Kernels
    open: Tensor
    diagonal: Tensor
    inverse: Tensor
    inside: Tensor

    def applied(self, u: Tensor) -> Tensor:
        """Returns the system's left side."""
        return torch.addcmul(self.diagonal * u, self.open, self.kernels.neighbours(self.open * u), value=-1)


def _grids(gone: Tensor) -> list[_Grid]:
    """Returns the system at all resolutions, the finest first; sides are filled up with what is there."""
    own, dims = tuple(gone.shape[2:]), gone.ndim - 2
    levels = math.ceil(math.log2(max(1, max(own) / _COARSEST)))
    while levels and math.prod(_filled(own, levels)) > 2 * math.prod(own):  # of long and narrow ones fewer
        levels -= 1
    size, kernels = _filled(own, levels), _Kernels(gone)
    open_ = _padded(gone, size)
    held = open_ * kernels.neighbours(_padded(1 - gone, size))
    grids = []
    for level in range(levels + 1):
        if level:  # where a linear function costs as much
            open_, held = kernels.pooled(open_) * 2 ** ((dims - 2) / 2 - dims), kernels.pooled(held)
            size = tuple(n // 2 for n in size)
        diagonal = open_ * kernels.neighbours(open_) + held
        inverse = torch.where(diagonal > 0, _DAMPING[dims] / diagonal, 0)
        grids.append(_Grid(size, kernels, open_, diagonal, inverse, (diagonal > 0).to(gone.dtype)))
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
        coarse = _cycle(grids[1:], grid.kernels.coarse(right - grid.applied(u)))
        u.addcmul_(grid.kernels.fine(coarse), grid.inside)
    for _ in range(1 if len(grids) > 1 else _COARSEST_STEPS):
        u = u.addcmul(grid.inverse, right - grid.applied(u))
    return u


class _Kernels:
    """Convolves every channel by itself, by kernels that are products of weights along each dimension."""

    def __init__(self, like: Tensor) -> None:
        dims, self.channels = like.ndim - 2, like.shape[1]
        self._convolved, self._transposed = _CONVOLUTION[dims], _TRANSPOSED[dims]
        self._around = self._kernel(like, (0.5, 1.0, 0.5), hollow=True)
        self._linear, self._two = self._kernel(like, (0.25, 0.75, 0.75, 0.25)), self._kernel(like, (1.0, 1.0))

    def _kernel(self, like: Tensor, weights: Sequence[float], hollow: bool = False) -> Tensor:
        along = like.new_tensor(weights)
        kernel = along
        for _ in range(like.ndim - 3):
            kernel = kernel[..., None] * along
        if hollow:
            kernel[(1,) * kernel.ndim] = 0
        return kernel.repeat(self.channels, 1, *(1,) * kernel.ndim)

    def neighbours(self, t: Tensor) -> Tensor:
        """Returns the weighted sum of each pixel's neighbours."""
        return self._convolved(t, self._around, None, 1, 1, 1, self.channels)

    def coarse(self, t: Tensor) -> Tensor:
        """Returns each value shared out among the coarse cells around it, by their distance."""
        return self._convolved(t, self._linear, None, 2, 1, 1, self.channels)

    def fine(self, t: Tensor) -> Tensor:
        """Returns the transpose of that: each cell interpolated linearly from the coarse ones around it."""
        return self._transposed(t, self._linear, None, 2, 1, 0, self.channels)

    def pooled(self, t: Tensor) -> Tensor:
        """Returns the sums over cells of two along each dimension."""
        return self._convolved(t, self._two, None, 2, 0, 1, self.channels)


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
