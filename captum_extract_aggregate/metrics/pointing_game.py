"""Does the map's maximum lie on the object?

Objects lie in the middle of most photographs: the centre is better than most methods on some networks, and so is an
edge detector.

Source: Zhang et al., Top-down Neural Attention by Excitation Backprop (ECCV 2016); the restricted game: Khakzar et al.,
Rethinking Positive Aggregation and Propagation (2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.tensors import upsample

Masks = Tensor | Sequence[Tensor]


def pointing_game(attributions: Tensor | Sequence[Tensor], masks: Masks, tolerance: float = 15) -> Tensor:
    """Tells whether each map's maximum lies less than `tolerance` pixels (Euclidean) from its mask; `N` booleans.

    The map is resized linearly to the mask's size, which is the original image's. The first of several maxima counts
    (row by row). An empty mask is a miss. Of signals and volumes likewise, in samples and voxels.

    Args:
        attributions: `N x 1 x h x w` (or `N x h x w`), or a list of N such maps of a size each; channels are summed.
        masks: `N x H x W` booleans, or a list of N masks `H x W`, of a size each; `N x L` or `N x D x H x W` where maps
            are `N x 1 x l` or `N x 1 x d x h x w`.
        tolerance: a distance of exactly this is a miss.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import pointing_game
        >>> attributions, masks = torch.zeros(2, 1, 5, 5), torch.zeros(2, 5, 5, dtype=torch.bool)
        >>> attributions[:, :, 2, 2] = 1
        >>> masks[0, 2, 4] = True
        >>> pointing_game(attributions, masks, tolerance=3).tolist()
        [True, False]
    """
    if len(attributions) != len(masks):
        raise InvalidValueError(f"{len(attributions)} maps for {len(masks)} masks; expected one mask for each map")
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 < tolerance < math.inf:
        raise InvalidValueError(f"tolerance is {tolerance!r}; expected a number of pixels above 0")
    return torch.tensor([_hit(a, m, tolerance) for a, m in zip(attributions, masks)], dtype=torch.bool)


def _hit(attribution: Tensor, mask: Tensor, tolerance: float) -> bool:
    if not isinstance(mask, Tensor) or not 1 <= mask.ndim <= 3:
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise InvalidTypeError(
            f"a mask is {got}; expected a tensor, height x width (or a length; or depth x height x width)"
        )
    peak = _maximum(attribution, tuple(mask.shape))
    reach = math.ceil(tolerance)
    window = tuple(slice(max(0, at - reach), at + reach + 1) for at in peak)
    near = torch.nonzero(mask[window])
    offsets = near - torch.tensor([min(at, reach) for at in peak], device=near.device)
    if not len(offsets):
        return False
    # A whole number's root by the machine's correctly rounded one: vectorized roots differ in the last bit.
    return math.sqrt(int(offsets.square().sum(1).min())) < tolerance


def _maximum(attribution: Tensor, size: tuple[int, ...]) -> list[int]:
    """Returns where the first maximum of a map lies that is resized to an image's (signal's, volume's) size."""
    dims = len(size)
    if isinstance(attribution, Tensor) and attribution.shape[:2] == (1, 1) and attribution.ndim == dims + 2:
        attribution = attribution[0]  # a batch of one
    if not isinstance(attribution, Tensor) or attribution.ndim not in (dims, dims + 1):
        got = tuple(attribution.shape) if isinstance(attribution, Tensor) else type(attribution).__name__
        raise InvalidTypeError(
            f"a map is {got} for a mask of shape {size}; expected a tensor with the mask's dimensions, such as 1 x "
            "height x width"
        )
    if attribution.ndim == dims > 1 and attribution.shape[0] == 1 < size[0]:
        raise InvalidValueError(
            f"a map is {tuple(attribution.shape)} for a mask of shape {size}: one row, or the map of a sequence; "
            "expected a map with the mask's dimensions (N x 1 x height x width for several)"
        )
    single = attribution.detach().double().reshape(-1, *attribution.shape[-dims:]).sum(0)
    if not torch.isfinite(single).all():
        raise InvalidValueError("a map holds NaN or infinite values, so it has no maximum; expected finite ones")
    single = upsample(single[None, None], size)[0, 0]
    # Maxima that were equal before they were resized may differ by rounding.
    highest = single >= single.max() - 1e-12 * (single.max() - single.min())
    first: list[int] = torch.nonzero(highest)[0].tolist()  # row by row
    return first


def centre_map(size: Sequence[int]) -> Tensor:
    """Returns the map of the centre baseline, `1 x 1 x H x W`: highest in the image's middle, pixel `H // 2, W // 2`.

    In 1-D and 3-D likewise, `1 x 1 x *size`.
    """
    if isinstance(size, Tensor) or not 1 <= len(size) <= 3:
        got = f"a tensor {tuple(size.shape)}" if isinstance(size, Tensor) else repr(size)
        raise InvalidValueError(f"size is {got}; expected the image's height and width, such as image.shape[-2:]")
    squares = [(torch.arange(n, dtype=torch.float64) - n // 2).square() for n in size]
    return -torch.stack(torch.meshgrid(*squares, indexing="ij")).sum(0)[None, None]
