"""Grids of pictures of which a network is sure."""

import torch

from captum_extract_aggregate.evaluation.choice.sure_cells import grids_of
from captum_extract_aggregate.evaluation.images import Images, Sample


class Brightest(torch.nn.Module):
    def forward(self, x):
        return 50 * x.mean((2, 3))


def images(classes):
    found = [torch.eye(5)[c][:, None, None].expand(5, 8, 8).contiguous() for c in classes]

    def read(i):
        return Sample(i, f"{i}", found[i])

    return Images(len(found), read, str, lambda i: None, False, (), ((0.0,), (1.0,)))


def test_cells_are_half_as_large_and_of_the_class_that_is_said():
    grids = grids_of(Brightest(), images([0, 1, 2, 3, 4, 0]), range(6), 0, "cpu")
    assert len(grids) == 6
    grid, pairs = grids[0]
    assert grid.shape == (5, 8, 8)
    for c, mask in zip(pairs.classes, pairs.masks):
        assert bool((grid[c][mask] == 1).all())
    assert len(grids_of(Brightest(), images([0, 1, 2, 3]), range(4), 0, "cpu", count=9)) == 9


def test_why_there_are_none():
    assert "of pictures of 3 classes, and a grid takes 4" in grids_of(
        Brightest(), images([0, 1, 2, 3]), [0, 1, 2], 0, "cpu"
    )
