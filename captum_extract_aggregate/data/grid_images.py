"""Grids of pictures of different classes, in which the cell that a map should mark is known without annotations.

Source: Bohle et al., Convolutional Dynamic Alignment Networks for Interpretable Classifications (CVPR 2021), 4.2.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._engine.model_state import without_gradients
from captum_extract_aggregate._engine.recording import record
from captum_extract_aggregate.data.pointing_pairs import PointingPairs


class GridImages(Dataset[tuple[Tensor, PointingPairs]]):
    """Holds `n x n` grids of pictures of different classes, made of any labelled data.

    An item is a pair of a grid `C x nH x nW`, and its `PointingPairs`: the class of each cell, row by row, and the cell
    as its mask. So measures that need objects take grids, in plans too, which make them of any data (`kind =
    "grid"`). The network has to take larger pictures, as one with global pooling does; or see `enlarge`.

    Args:
        data: pairs of a tensor `C x H x W`, all of one size, and a class index; below 0 it is unknown, and the picture
            is left out.
        model: pictures that it classifies wrongly, or with a probability (softmax) below `confidence`, are left out;
            None: all are taken. A map can be expected to mark a cell only where the network knows its picture.
        n: how many cells a side has. count: how many grids.
        confidence: see `model`.
        seed: of the draws: `n * n` classes for each grid, and a picture of each.
        batch_size: how many pictures the model gets at once.
        enlarge: the model is asked about pictures that are enlarged to a grid's size (bilinearly), as a network needs
            that takes one size alone, a transformer say, and gets pictures of an n-th of it here.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected; for fewer than `n * n` classes
            that are left.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.data import GridImages
        >>> grids = GridImages([(torch.full((1, 4, 4), float(c)), c) for c in range(10)], n=2, count=3)
        >>> grid, pairs = grids[0]
        >>> grid.shape, len(pairs.classes), pairs.masks.shape
        (torch.Size([1, 8, 8]), 4, torch.Size([4, 8, 8]))
    """

    def __init__(
        self,
        data: Sequence[tuple[Tensor, int]] | Dataset[Any],
        model: Callable[..., Any] | None = None,
        n: int = 3,
        count: int = 100,
        confidence: float = 0.9,
        seed: int = 0,
        batch_size: int = 32,
        enlarge: bool = False,
    ) -> None:
        for name, number in (("n", n), ("count", count), ("batch_size", batch_size)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise InvalidValueError(f"{name} is {number!r}; expected an integer of at least 1")
        if isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not 0 <= confidence <= 1:
            raise InvalidValueError(f"confidence is {confidence!r}; expected a probability")
        self.data, self.n = data, n
        by_class = _by_class(data, model, confidence, batch_size, n if enlarge else 1)
        classes = sorted(by_class)
        if len(classes) < n * n:
            raise InvalidValueError(
                f"n is {n}, and pictures of {len(classes)} classes are left; expected {n * n} or more classes: a "
                "smaller n, a lower confidence, or more data"
            )
        generator = torch.Generator().manual_seed(seed)
        self.cells = [_drawn(by_class, classes, n * n, generator) for _ in range(count)]

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, index: int) -> tuple[Tensor, PointingPairs]:
        items = [self.data[i] for i in self.cells[index]]
        pictures = [picture for picture, _ in items]
        if len({p.shape for p in pictures}) > 1:
            raise InvalidValueError(
                f"data holds pictures of {sorted({tuple(p.shape) for p in pictures})}; expected one size: crop them"
            )
        rows = [torch.cat(pictures[i : i + self.n], 2) for i in range(0, len(pictures), self.n)]
        _, height, width = pictures[0].shape
        masks = torch.zeros(len(items), self.n * height, self.n * width, dtype=torch.bool)
        for cell in range(len(items)):
            top, left = cell // self.n * height, cell % self.n * width
            masks[cell, top : top + height, left : left + width] = True
        return torch.cat(rows, 1), PointingPairs([int(label) for _, label in items], masks, [False] * len(items))


def _by_class(
    data: Any, model: Callable[..., Any] | None, confidence: float, batch_size: int, scale: int
) -> dict[int, list[int]]:
    """Returns the indices of the pictures that may be taken, for each class."""
    found: dict[int, list[int]] = defaultdict(list)
    for start in range(0, len(data), batch_size):
        indices = range(start, min(start + batch_size, len(data)))
        items = [data[i] for i in indices]
        if not all(isinstance(p, Tensor) and p.ndim == 3 for p, _ in items):
            raise InvalidTypeError(
                "data holds pictures that are no tensors C x H x W; expected such, with class indices"
            )
        labels = [int(label) for _, label in items]
        taken = [True] * len(items) if model is None else _is_sure(model, items, labels, confidence, scale)
        for i, label, keep in zip(indices, labels, taken):
            if keep and label >= 0:
                found[label].append(i)
    return dict(found)


@without_gradients
def _is_sure(
    model: Callable[..., Any], items: Sequence[Any], labels: Sequence[int], confidence: float, scale: int
) -> list[bool]:
    """Tells which pictures the model classifies rightly, and surely, at so many times their size."""
    pictures = torch.stack([picture for picture, _ in items])
    if scale > 1:
        pictures = F.interpolate(pictures, scale_factor=scale, mode="bilinear", align_corners=False)
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    scores = record(model, pictures if parameter is None else pictures.to(parameter.device), ()).output
    sure = scores.softmax(1).max(1)
    right = sure.indices == torch.tensor(labels, device=scores.device)
    return (right & (sure.values >= confidence)).tolist()  # type: ignore[no-any-return]


def _drawn(by_class: dict[int, list[int]], classes: Sequence[int], cells: int, generator: torch.Generator) -> list[int]:
    """Returns a picture of each of so many different classes."""
    chosen = [classes[i] for i in torch.randperm(len(classes), generator=generator)[:cells].tolist()]
    return [by_class[c][int(torch.randint(len(by_class[c]), (), generator=generator))] for c in chosen]
