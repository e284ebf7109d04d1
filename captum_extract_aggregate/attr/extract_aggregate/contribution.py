"""A contribution at every position, as blocks of outer products that are never multiplied out.

The gradient of a spatially shared parameter is a sum over positions; its summand at position u always is a family of
outer products `p_b q_b^T`, one per block b, where p comes from the gradient and q from a window of the activation:
one block of all channels for a convolution, one per group for a grouped one, one per channel for a depthwise one (of a
scaling or a bias the second factor is 1).
Every aggregate can be had from a few sums and extremes of p and of q, so that O(K) numbers per position suffice.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_extract_aggregate._common.chunks import channel_chunks
from captum_extract_aggregate._common.tensors import on_cpu

Elementwise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Window:
    """Describes the patch of positions that a kernel sees, one number per spatial dimension in each field.

    `spread` inserts `spread - 1` zeros between neighbours first, which turns a transposed convolution into a plain one.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    padding_mode: str = "zeros"
    spread: tuple[int, ...] | None = None

    @classmethod
    def centred(cls, size: int, dims: int) -> Window:
        """Returns an odd window of `size` in each of `dims` dimensions around every position, zeros beyond the
        border."""
        half = (size - 1) // 2
        return cls((size,) * dims, (1,) * dims, (1,) * dims, ((half, half),) * dims)

    def prepare(self, t: Tensor) -> Tensor:
        """Returns zeros between positions, then the border. `t` is `N x B x *S`."""
        if self.spread is not None and max(self.spread) > 1:
            sizes = [(n - 1) * step + 1 for n, step in zip(t.shape[2:], self.spread)]
            spread = t.new_zeros(*t.shape[:2], *sizes)
            index = [slice(None), slice(None), *(slice(None, None, step) for step in self.spread)]
            spread[tuple(index)] = t
            t = spread
        if any(side for pair in self.padding for side in pair):
            last_dim_first = [side for pair in reversed(self.padding) for side in pair]
            t = F.pad(t, last_dim_first, mode="constant" if self.padding_mode == "zeros" else self.padding_mode)
        return t

    def _taps(self, t: Tensor, axis: int) -> list[Tensor]:
        """Returns the shifted, strided views of `t` along spatial dimension `axis`, one per kernel position."""
        size, stride, dilation = self.size[axis], self.stride[axis], self.dilation[axis]
        reach = (t.shape[axis + 2] - dilation * (size - 1) - 1) // stride * stride + 1
        index = [slice(None)] * t.ndim
        taps = []
        for start in range(0, dilation * size, dilation):
            index[axis + 2] = slice(start, start + reach, stride)
            taps.append(t[tuple(index)])
        return taps

    def reduce(self, t: Tensor, combine: Callable[..., Tensor]) -> Tensor:
        """Combines each window's values (`torch.add`, `torch.maximum`, ...), one dimension after the other.

        `t` is prepared.
        """
        for axis in range(len(self.size)):
            first, *others = self._taps(t, axis)
            if others:
                first = combine(first, others[0])
            for tap in others[1:]:  # in place: fresh memory would take longer than the numbers
                first = combine(first, tap, out=None if first.requires_grad else first)
            t = first
        return t

    def unfold(self, t: Tensor) -> Tensor:
        """Returns each window's values side by side: `N x B x *S` to `N x B x W x *S`. For materialised summands
        only."""
        t = self.prepare(t)
        patches = [t]
        for axis in range(len(self.size)):
            patches = [tap for patch in patches for tap in self._taps(patch, axis)]
        return torch.stack(patches, 2)


@dataclass(frozen=True)
class Factor:
    """One side of the outer products: `values` is `N x B x M x *S`, M entries in each of B blocks, then a window.

    Sums and extremes over blocks are kept for the other aggregates that need them.
    """

    values: Tensor
    window: Window | None = None
    is_one: bool = False
    _found: dict[Hashable, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def within(self, window: Window | None) -> Factor:
        """Returns the same entries seen through a window (if any); what is found without one is shared."""
        return self if window is None else replace(self, window=window)

    def total(self, f: Elementwise) -> Tensor:
        """Returns sum of `f(entry)` over each block's entries, `N x B x *S`; `f(0)` must be 0. To be read only."""

        def sums() -> Tensor:
            return functools.reduce(Tensor.add_, [f(piece).sum(2) for piece in channel_chunks(self.values, 2)])

        summed = f(self._bordered) if self.is_single else self._border(self._once(f, sums))
        return summed if self.window is None else self.window.reduce(summed, torch.add)

    def extremes(self) -> list[Tensor]:
        """Returns the largest entry of each block, `N x B x *S`, and the smallest (once where there is only one entry).

        A zero border counts as an entry. To be read only.
        """
        found = [self._bordered] if self.is_single else [self._extreme(torch.amax), self._extreme(torch.amin)]
        if self.window is None:
            return found
        return [self.window.reduce(found[0], torch.maximum), self.window.reduce(found[-1], torch.minimum)]

    def magnitude(self) -> Tensor:
        """Returns the largest magnitude in each block, `N x B x *S`."""
        if self.is_single:
            found = self._bordered.abs()
        else:
            found = torch.maximum(self._extreme(torch.amax).abs(), self._extreme(torch.amin).abs())
        return found if self.window is None else self.window.reduce(found, torch.maximum)

    @property
    def is_never_negative(self) -> bool:
        """Tells whether no entry is seen to be, as behind a ReLU. Looks on the CPU alone, where nobody waits for it."""
        if self.is_one:
            return True
        if not on_cpu(self.values) or not self.values.numel():
            return False
        return bool(self._once("smallest", lambda: self.values.amin()) >= 0)

    @property
    def is_single(self) -> bool:
        """Tells whether a block has one entry; then there are as many numbers as the activation has."""
        return self.values.shape[2] == 1

    @property
    def _bordered(self) -> Tensor:
        """Returns the entries of blocks of one, with the window's border."""
        return self._once(self.window, lambda: self._border(self.values[:, :, 0]))

    def _extreme(self, find: Callable[..., Tensor]) -> Tensor:
        return self._border(self._once(find, lambda: find(self.values, 2)))

    def _border(self, t: Tensor) -> Tensor:
        return t if self.window is None else self.window.prepare(t)

    def _once(self, how: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        if how not in self._found:
            self._found[how] = compute()
        return self._found[how]

    def entries(self) -> Tensor:
        """Returns all entries, multiplied out over the window: `N x B x M x W x *S`."""
        if self.window is None:
            return self.values.unsqueeze(3)
        unfolded = self.window.unfold(self.values.flatten(1, 2))
        return unfolded.unflatten(1, self.values.shape[1:3])


def one(like: Tensor) -> Factor:
    """Returns the constant factor 1, for contributions that are the gradient itself. `like` is `N x K x *S`."""
    return Factor(like.new_ones((1, 1, 1) + (1,) * (like.ndim - 2)), is_one=True)


@dataclass(frozen=True)
class Summand:
    """Holds what every position contributes to the gradient of a shared parameter: `p` outer `q`, block by block.

    `shape` is the parameter's shape; `arrange` brings a `... x B x P x M x W` tensor into that shape where a plain
    reshape does not. Sums are kept for the other aggregates that need them.
    """

    p: Factor
    q: Factor
    shape: tuple[int, ...]
    arrange: Callable[[Tensor], Tensor] | None = None
    _found: dict[Elementwise, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def total(self, f: Elementwise) -> Tensor:
        """Returns sum of `f(p) f(q)` over all entries, `N x *S`; `f(0)` must be 0, and `f(1)` 1. To be read only."""
        if f not in self._found:
            self._found[f] = functools.reduce(Tensor.add_, [part._total(f) for part in self.parts])
        return self._found[f]

    def _total(self, f: Elementwise) -> Tensor:
        if self.q.is_one:
            return self.p.total(f).sum(1)
        blocks = self.p.total(f) * self.q.total(f)
        return blocks[:, 0] if blocks.shape[1] == 1 else blocks.sum(1)

    @property
    def parts(self) -> list[Summand]:
        """Returns itself; or the same a few blocks at a time, where many blocks of one entry make large factors."""
        return self._split or [self]

    @cached_property  # without itself in it: a cycle would keep the tensors until the garbage collector comes by
    def _split(self) -> list[Summand]:
        p, q = self.p.values, self.q.values
        if not (self.p.is_single and self.q.is_single) or p.shape[1] != q.shape[1]:
            return []
        blocks = channel_chunks(max(p, q, key=Tensor.numel), 1)[0].shape[1]
        if blocks == p.shape[1]:
            return []
        factors = zip(p.split(blocks, 1), q.split(blocks, 1))
        return [replace(self, p=Factor(p), q=Factor(q, self.q.window), _found={}) for p, q in factors]

    def rows(self, limit: int) -> Iterator[Tensor]:
        """Yields the outer products multiplied out, `P x *shape`, at most `limit` numbers (or one position) at a
        time."""
        p, q = self.p.entries().squeeze(3), self.q.entries()
        q = q.expand(p.shape[0], *q.shape[1:4], *p.shape[3:])
        p = p.movedim((1, 2), (-2, -1)).flatten(0, -3)  # positions x B x P
        q = q.movedim((1, 2, 3), (-3, -2, -1)).flatten(0, -4)  # positions x B x M x W
        positions = max(1, limit // math.prod(self.shape))
        for p_rows, q_rows in zip(p.split(positions), q.split(positions)):
            product = p_rows[:, :, :, None, None] * q_rows[:, :, None]
            yield product.reshape(-1, *self.shape) if self.arrange is None else self.arrange(product)

    def materialize(self) -> Tensor:
        """Returns all of them, `N x *S x *shape`: K x K or more numbers per position. For tests and research."""
        positions = self.p.values.shape[:1] + self.p.values.shape[3:]
        return torch.cat(list(self.rows(sys.maxsize))).reshape(*positions, *self.shape)
