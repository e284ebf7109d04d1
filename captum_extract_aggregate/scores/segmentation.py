"""The classes of a part of a segmented picture."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._engine.outputs import find_scores
from captum_extract_aggregate.scores.base import Model, Score
from captum_extract_aggregate.scores.indices import indices_or_none

_WAYS = {2: "bilinear", 3: "trilinear"}  # by the number of the positions' dimensions


class SegmentationRegion(Score):
    r"""The mean score of each class over a region of a segmentation: a pixel, an object's mask.

    The class scores are brought to the input's size first (bilinearly, as segmentations are read; of volumes
    trilinearly).

    Args:
        model: gives class scores at every place, `N x classes x h x w`: torchvision's (`{"out": ...}`), SegFormer, ...;
            or of volumes, `N x classes x d x h x w`.
        pixel: (row, column) of the input; of a volume (slice, row, column).
        mask: which pixels of the input count, `H x W` (`D x H x W`): True or False, or weights of at least 0. With
            neither pixel nor mask, every example has a mask of its own, `N x H x W`, the last of
            `additional_forward_args`.

    Returns:
        From the call `N x classes`: `target=c` explains class c in the region.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.scores import SegmentationRegion
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1))
        >>> x = torch.randn(1, 3, 16, 16)
        >>> of_pixel = SegmentationRegion(model, pixel=(5, 9))
        >>> cea.GradCAM(of_pixel, "1").attribute(x, target=2).shape
        torch.Size([1, 1, 8, 8])
        >>> masks = torch.zeros(1, 16, 16, dtype=torch.bool)
        >>> masks[:, 4:12, 2:9] = True
        >>> cea.GradCAM(SegmentationRegion(model), "1").attribute(x, target=2, additional_forward_args=masks).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(self, model: Model, *, pixel: tuple[int, ...] | None = None, mask: Tensor | None = None) -> None:
        super().__init__(model)
        if pixel is not None and mask is not None:
            raise InvalidValueError("pixel and mask are both given; expected one of them")
        place = indices_or_none(pixel)
        if pixel is not None and (place is None or len(place) not in _WAYS or min(place) < 0):
            raise InvalidValueError(
                f"pixel is {pixel!r}; expected (row, column) of the input, or (slice, row, column), each at least 0"
            )
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim not in _WAYS):
            got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise InvalidTypeError(f"mask is {got}; expected a tensor H x W of the input's pixels, or D x H x W")
        self.keep(pixel=place, mask=mask)

    def own_arguments(self) -> int:
        return int(self.kept.pixel is None and self.kept.mask is None)

    def score(self, output: Any, inputs: tuple[Any, ...], *own: Any) -> Tensor:
        scores = find_scores(output)
        size = tuple(inputs[0].shape[2 - scores.ndim :])
        if scores.ndim - 2 not in _WAYS:
            raise InvalidValueError(
                f"model gives scores of shape {tuple(scores.shape)}; expected N x classes x h x w of a segmentation "
                "(of volumes N x classes x d x h x w)"
            )
        full = interpolate(scores, size, mode=_WAYS[len(size)], align_corners=False)
        if self.kept.pixel is not None:
            place = tuple(self.kept.pixel)
            if len(place) != len(size) or any(at >= end for at, end in zip(place, size)):
                raise InvalidValueError(f"pixel is {place}; expected one of an input of {_by(size)}")
            return full.permute(*range(2, full.ndim), 0, 1)[place]
        (mask,) = own or (self.kept.mask[None],)
        weights = _checked(mask, len(scores), size).to(scores)
        positions = tuple(range(1, len(size) + 1))
        return (full * weights[:, None]).sum([at + 1 for at in positions]) / weights.sum(positions)[:, None]


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))


def _checked(mask: Any, examples: int, size: tuple[int, ...]) -> Tensor:
    """Returns the weights of each example's pixels (or of one for all), or our error."""
    if not isinstance(mask, Tensor) or tuple(mask.shape[1:]) != size or len(mask) not in (1, examples):
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise InvalidTypeError(
            f"mask is {got}; expected a value for each pixel of the input: {_by(size)} (or as the last of "
            f"additional_forward_args {examples} x {_by(size)})"
        )
    if bool((mask < 0).any()) or not bool((mask != 0).flatten(1).any(1).all()):
        raise InvalidValueError("mask is empty, or has values below 0; expected at least one pixel that counts")
    return mask
