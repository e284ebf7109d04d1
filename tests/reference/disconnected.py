"""Reference versions of DiFull and DiPart: each cell cropped and run by itself, activations put side by side.

A network is given as stages, functions of `1 x C x H x W`, and a head, a function of the last of them. Cells are
counted row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Stage = Callable[[Tensor], Tensor]


def crop(x: Tensor, n: int, cell: int) -> Tensor:
    """Returns the cell of a grid `1 x C x H x W`."""
    row, column = divmod(cell, n)
    height, width = x.shape[2] // n, x.shape[3] // n
    return x[:, :, row * height : (row + 1) * height, column * width : (column + 1) * width]


def run(stages: Sequence[Stage], x: Tensor) -> Tensor:
    for stage in stages:
        x = stage(x)
    return x


def difull(
    stages: Sequence[Stage], head: Stage, x: Tensor, n: int, cell: int, target: int, layer: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns what the first `layer` stages give of the cells, side by side; the gradient there of the score of the
    cell's own head; and the scores."""
    rows = []
    for row in range(n):
        columns = [run(stages[:layer], crop(x, n, row * n + column)) for column in range(n)]
        rows.append(torch.cat(columns, 3))
    activation = torch.cat(rows, 2).detach().requires_grad_()
    scores = head(run(stages[layer:], crop(activation, n, cell)))
    (gradient,) = torch.autograd.grad(scores[0, target], activation)
    return activation.detach(), gradient, scores.detach()


def dipart(
    stages: Sequence[Stage], head: Stage, x: Tensor, n: int, cell: int, target: int, layer: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the same of a network whose features are those of the whole grid, and whose head sees one cell of
    them."""
    activation = run(stages[:layer], x).detach().requires_grad_()
    scores = head(crop(run(stages[layer:], activation), n, cell))
    (gradient,) = torch.autograd.grad(scores[0, target], activation)
    return activation.detach(), gradient, scores.detach()
