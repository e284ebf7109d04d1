"""How much of a map lies where it should: on the object, or in the right cell of a grid of pictures.

One number per example (float64), NaN where it is undefined. A map of noise, and a constant one, score what the mask's
share of the image is (an AUC of one half; one of the cells). With masks of photographs a map that is highest in the
middle scores more, by rank and AUC more than many methods on some networks; in grids it scores what noise does, and so
does an edge detector.

Sources: Kohlbrenner et al., Towards Best Practice in Explaining Neural Network Decisions with LRP (IJCNN 2020); Arras
et al., CLEVR-XAI (Information Fusion 2022), section 3.2; Bohle et al., Convolutional Dynamic Alignment Networks (CVPR
2021), section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._engine.input_positions import Size, check_size
from captum_extract_aggregate.metrics.map_rows import Maps, map_positions, resized, sorted_rows, with_masks
from captum_extract_aggregate.metrics.similarity import centred_ranks


def relevance_mass_accuracy(maps: Maps, masks: Maps) -> Tensor:
    r"""Returns the share of the positive attribution that lies in the mask; `N`, in [0, 1].

    :math:`\sum_{u \in M} (a_u)_+ / \sum_u (a_u)_+`, with the channels summed before their positive part is taken. NaN
    where the mask is empty, where nothing is positive, and for maps that are not finite. A factor above 0 changes
    nothing.

    Args:
        maps: `N x C x *S` or `N x *S` at any resolution (brought to the masks' linearly), or a list of maps.
        masks: `N x *S` booleans (or `N x 1 x *S`), of one to three dimensions, or a list of masks of a size each.
            Boxes and polygons are made to masks by `data.mask_from_boxes` and `data.mask_from_polygons`; an image with
            several labels has a map and a mask for each.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import relevance_mass_accuracy
        >>> maps, masks = torch.tensor([[[3.0, -2.0], [1.0, 0.0]]]), torch.tensor([[[True, True], [False, False]]])
        >>> relevance_mass_accuracy(maps, masks).item()
        0.75
    """
    return with_masks(_mass, maps, masks)


def _mass(rows: Tensor, inside: Tensor) -> Tensor:
    positive = rows.clamp(min=0)
    within = torch.where(inside, positive, 0).sum(1, dtype=torch.float64)
    return _share(within, positive.sum(1, dtype=torch.float64)).masked_fill(~inside.any(1), torch.nan)


def relevance_rank_accuracy(maps: Maps, masks: Maps) -> Tensor:
    r"""Returns the share of the :math:`|M|` largest positions that lie in the mask M; `N`, in [0, 1].

    Of positions that tie for the last places each counts by its chance to have one, so that no order of the pixels
    matters and a constant map scores the mask's share of the image. Signed values are ranked as they are. NaN where the
    mask is empty, and for maps that are not finite. Nothing that keeps the order changes it.

    Args:
        maps, masks: as for `relevance_mass_accuracy`.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import relevance_rank_accuracy
        >>> maps, masks = torch.tensor([[[3.0, -2.0], [1.0, 0.0]]]), torch.tensor([[[True, True], [False, False]]])
        >>> relevance_rank_accuracy(maps, masks).item()
        0.5
    """
    return with_masks(_rank, maps, masks)


def _rank(rows: Tensor, inside: Tensor) -> Tensor:
    count = inside.sum(1, keepdim=True)
    last = (rows.shape[1] - count).clamp(max=rows.shape[1] - 1)
    smallest = sorted_rows(rows).gather(1, last)
    above, level = rows > smallest, rows == smallest
    places = (count - above.sum(1, keepdim=True)).double() / level.sum(1, keepdim=True)
    hits = (above & inside).sum(1) + (level & inside).sum(1) * places[:, 0]
    return torch.where(rows[:, 0].isnan(), torch.nan, _share(hits, count[:, 0].double()))


def localisation_auc(maps: Maps, masks: Maps) -> Tensor:
    """Returns the area under the ROC curve of the map as a classifier of the mask's pixels; `N`, in [0, 1].

    It is the share of the pairs of a pixel in the mask and one outside of which the first is larger; a draw counts one
    half. NaN where the mask is empty or everything, and for maps that are not finite.

    Args:
        maps, masks: as for `relevance_mass_accuracy`.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import localisation_auc
        >>> maps, masks = torch.tensor([[[3.0, -2.0], [1.0, 0.0]]]), torch.tensor([[[True, True], [False, False]]])
        >>> localisation_auc(maps, masks).item()
        0.5
    """
    return with_masks(_auc, maps, masks)


def _auc(rows: Tensor, inside: Tensor) -> Tensor:
    ranks = torch.where(inside, centred_ranks(rows), 0).sum(1)
    pairs = inside.sum(1) * (~inside).sum(1)
    return torch.where(rows[:, 0].isnan(), torch.nan, _share(ranks, pairs.double()) + 0.5)


def grid_pointing_game(maps: Tensor, cells: Tensor | Sequence[int], n: int = 3, size: Size | None = None) -> Tensor:
    r"""Returns the share of the positive attribution that lies in the right cell of a grid of pictures; `N`, in [0, 1].

    A grid holds `n x n` pictures of different classes, and a map explains the class of one of them. :math:`\sum_{u \in
    cell} (a_u)_+ / \sum_u (a_u)_+`: 1 at best, :math:`1 / n^2` by chance, NaN where nothing is positive and for maps
    that are not finite. Compare methods at equal layers: low resolutions blur over the cells' borders.

    Args:
        maps: `N x C x H x W` or `N x H x W`; channels are summed before their positive part is taken.
        cells: for each map its right cell, counted row by row from 0.
        n: how many cells a side has.
        size: of the grids, which `n` has to divide; maps are brought to it linearly. None: the maps' own. Its length
            tells how many dimensions positions have, if maps are not of pictures (`n` cells of a signal).

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import grid_pointing_game
        >>> maps = torch.tensor([[[3.0, 1.0], [-2.0, 0.0]]])
        >>> grid_pointing_game(maps, [0], n=2).item(), grid_pointing_game(maps, [1], n=2).item()
        (0.75, 0.25)
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise InvalidValueError(f"n is {n!r}; expected an integer of at least 1: how many cells a side has")
    size = check_size(size)
    own = map_positions(maps, None if size is None else len(size))
    own = resized(own, own.shape[1:] if size is None else size)
    if any(side % n for side in own.shape[1:]):
        raise InvalidValueError(
            f"n is {n}, which does not divide the maps' size {tuple(own.shape[1:])}; expected the grids' size="
        )
    right = _checked_cells(cells, len(own), n ** (own.ndim - 1)).to(own.device)
    split = own.clamp(min=0).reshape(len(own), *(part for side in own.shape[1:] for part in (n, side // n)))
    sums = split.sum(tuple(range(2, split.ndim, 2)), dtype=torch.float64).flatten(1)
    return _share(sums.gather(1, right[:, None])[:, 0], sums.sum(1))


def _checked_cells(cells: Any, examples: int, count: int) -> Tensor:
    indices = torch.as_tensor(cells)
    if indices.is_floating_point() or indices.dtype == torch.bool:
        raise InvalidTypeError(f"cells holds {indices.dtype}; expected one index for each map")
    if indices.shape != (examples,) or ((indices < 0) | (indices >= count)).any():
        raise InvalidValueError(
            f"cells is {indices.tolist()} for {examples} maps; expected one index below {count} for each"
        )
    return indices.long()


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole == 0, torch.nan, part / whole)
