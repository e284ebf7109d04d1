"""What many methods do with tensors: one size, one scale, enough precision, signs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from captum_extract_aggregate._common.errors import InvalidValueError

_ROUNDING = 1e-5  # relative to an example's largest magnitude
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
_SUMMED = 64  # roundings that a sum over channels may gather


def upsample(map_: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Returns `N x C x *S` linearly (1-D, 2-D or 3-D) at another resolution."""
    dims = map_.ndim - 2
    if len(size) != dims:
        raise InvalidValueError(
            f"a map with {dims} position dimensions cannot be brought to the size {tuple(size)} of the input; "
            "expected as many: choose layers whose positions are the input's"
        )
    if tuple(map_.shape[2:]) == tuple(size):
        return map_
    return F.interpolate(map_, tuple(size), mode=_MODES[dims], align_corners=align_corners)


def min_max(map_: Tensor, eps: float = 0) -> Tensor:
    """Returns each example from 0 (its smallest value) to 1 (its largest, but for `eps`); a constant map is 0."""
    low, spread = low_and_spread(map_)
    return map_.sub(low).div_(spread + eps)


def low_and_spread(map_: Tensor) -> tuple[Tensor, Tensor]:
    """Returns each example's smallest value, and how far its largest is from it: `N x 1 x ...`; infinitely far in a
    constant map, whose rounding then is no map either."""
    low, high = (t.reshape(-1, *(1,) * (map_.ndim - 1)) for t in extremes(map_))
    return low, spread_between(low, high)


def spread_between(low: Tensor, high: Tensor) -> Tensor:
    """Returns how far smallest and largest values are apart; infinitely far where they differ by rounding alone."""
    return torch.where(_is_rounding(low, high), torch.inf, high - low)


def is_constant(map_: Tensor) -> Tensor:
    """Returns which examples have the same value everywhere, but for rounding: `N` booleans."""
    return _is_rounding(*extremes(map_))


def _is_rounding(low: Tensor, high: Tensor) -> Tensor:
    """Tells whether two numbers, each a sum over many channels, differ by no more than their last digits.

    In front of global pooling a gradient is the same everywhere, and yet its sums over channels may differ by that.
    """
    eps = torch.finfo(at_least_float32(low).dtype).eps * _SUMMED + torch.finfo(low.dtype).eps
    return high - low <= eps * torch.maximum(-low, high)


def extremes(t: Tensor) -> tuple[Tensor, Tensor]:
    """Returns each example's smallest and largest number: `N` each (a tensor without dimensions is one example)."""
    if t.ndim == 0 or t.shape[0] == 1:
        low, high = ends(t)
        return low.reshape(1), high.reshape(1)
    rest = tuple(range(1, t.ndim))
    return (t.amin(rest), t.amax(rest)) if rest else (t, t)


def ends(t: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the smallest and the largest number of all. On a CPU two looks take two thirds of the time of one for
    both, but in half precision three times as long."""
    return (t.amin(), t.amax()) if on_cpu(t) and t.element_size() > 2 else torch.aminmax(t)


def are_finite(t: Tensor) -> Tensor:
    """Returns which examples hold finite numbers alone: `N` booleans, in a tenth of the time of a look at each."""
    low, high = extremes(t)
    return torch.isfinite(low) & torch.isfinite(high)


def magnitudes(t: Tensor) -> Tensor:
    """Returns each example's largest magnitude: `N`."""
    low, high = extremes(t)
    return torch.maximum(-low, high)


def read_magnitudes(t: Tensor) -> list[float]:
    """Returns each example's largest magnitude as a number (of NaNs NaN), for which the host waits."""
    if t.ndim and t.shape[0] > 1:
        return magnitudes(t).tolist()  # type: ignore[no-any-return]
    low, high = map(Tensor.item, ends(t))
    return [max(-low, high)]


def on_cpu(t: Tensor) -> bool:
    """Tells whether looking at a tensor's numbers costs little: the host would have to wait for any other device.

    Whatever works differently there asks this one function, so that the tests can go those ways on a CPU.
    """
    return t.device.type == "cpu"


def moved(t: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor on a device. The host does not wait for a GPU: it copies from memory that the GPU can read."""
    if device.type == "cuda" and on_cpu(t):
        t = t.pin_memory()
    return t.to(device, non_blocking=True)


def same_everywhere(g: Tensor) -> bool:
    """Tells whether each example's gradient `N x K x *S` is the same at all positions but for rounding, and not all
    zero.

    Looked for on a CPU alone: elsewhere looking would wait for the device.
    """
    if not on_cpu(g) or math.prod(g.shape[2:]) < 2 or not g.numel():
        return False
    positions = g.ndim - 2
    first, last = (g[(slice(1), slice(None)) + (i,) * positions] for i in (0, -1))
    if not torch.allclose(first, last, rtol=_ROUNDING):  # which settles it nearly always
        return False
    first = g[(slice(None), slice(None)) + (slice(1),) * positions]
    size = magnitudes(first)
    return bool((magnitudes(g - first) <= _ROUNDING * size).all() and size.any())


def are_tame(magnitudes: Sequence[float]) -> bool:
    """Tells whether numbers of these magnitudes can be squared, and multiplied, in float32 without a second thought."""
    return min(magnitudes) > 1e-6 and max(magnitudes) < 1e6


def where_positive(t: Tensor, chooser: Tensor) -> Tensor:
    """Returns `t` where `chooser` is above 0, else 0: a ReLU's backward. On a CPU a mask takes up to thirty times as
    long."""
    return torch.ops.aten.threshold_backward(t, chooser, 0)  # type: ignore[no-any-return]


def at_least_float32(t: Tensor) -> Tensor:
    """Returns half precision as float32, for sums over many channels or positions."""
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def plain(t: Tensor) -> Tensor:
    """Returns a tensor without the ways of a subclass (an image's, a medical volume's) that keeps its numbers as
    tensors do."""
    if type(t) in (Tensor, nn.Parameter) or is_traceable_wrapper_subclass(t):
        return t
    with torch._C.DisableTorchFunctionSubclass():
        return t.as_subclass(Tensor)
