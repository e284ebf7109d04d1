"""Pictures for the cells of grids without annotations: those of which the network is sure at that size."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_extract_aggregate._engine.one_output import has_one_output
from captum_extract_aggregate.data.grid_images import GridImages
from captum_extract_aggregate.evaluation.images import Images, UnreadableError

SURE = 0.5  # the probability from which a picture is one of a grid's
CELLS = 2  # a side


def grids_of(
    model: nn.Module, images: Images, which: Iterable[int], seed: int, device: str, count: int | None = None
) -> GridImages | str:
    """Returns grids of those pictures of which the network is sure (`count`: None: as many as there are), or why there
    are none."""
    model = model.to(device).eval()
    cells = [cell for i in which if (cell := _cell(model, images, i, device)) is not None]
    kinds = len({c for _, c in cells})
    if kinds < CELLS**2:
        return (
            f"Grid pointing is not asked: at half their size the network is sure (p > {SURE}) of pictures of "
            f"{kinds} classes, and a grid takes {CELLS**2}."
        )
    return GridImages(cells, n=CELLS, count=len(cells) if count is None else count, seed=seed)


def _cell(model: nn.Module, images: Images, i: int, device: str) -> tuple[Tensor, int] | None:
    """Returns a picture at half its size and the class that the network sees in it there, if it is sure."""
    try:
        x = images.read(i).x
    except UnreadableError:
        return None
    size = x.shape[1] // CELLS, x.shape[2] // CELLS
    small = F.interpolate(x[None], size, mode="bilinear", antialias=True)
    with torch.no_grad():
        scores = model(F.interpolate(small, x.shape[1:], mode="bilinear").to(device)).float()
    if has_one_output(scores, 1):
        return None
    sure, said = scores.softmax(1).max(1)
    return (small[0], int(said)) if float(sure) > SURE else None
