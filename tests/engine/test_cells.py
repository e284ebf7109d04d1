"""Grids as a batch of cells, and back, in every layout."""

import pytest
import torch

from captum_extract_aggregate._engine.cells import cut, from_cells, into_cells, on_tensors, stitched


@pytest.mark.parametrize("size", [(12,), (6, 8), (4, 6, 2)])
def test_there_and_back(size):
    grid = torch.randn(3, 2, *size)
    cells = into_cells(grid, 2)
    assert cells.shape == (3 * 2 ** len(size), 2, *(side // 2 for side in size))
    assert torch.equal(from_cells(cells, 2), grid)
    first = grid[(0, slice(None), *(slice(side // 2) for side in size))]
    last = grid[(2, slice(None), *(slice(side // 2, None) for side in size))]
    assert torch.equal(cells[0], first)
    assert torch.equal(cells[-1], last)
    with pytest.raises(ValueError, match="n is 5"):
        into_cells(grid, 5)


LAYOUTS = {
    "first": lambda t: t,
    "last": lambda t: t.permute(0, 3, 1, 2),
    "tokens": lambda t: t[:, 1:].unflatten(1, (2, 3)).permute(0, 3, 1, 2),
}
VALUES = {"first": (8, 5, 2, 3), "last": (8, 2, 3, 5), "tokens": (8, 7, 5)}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name):
    value, arrange = torch.randn(VALUES[name]), LAYOUTS[name]
    grid, back = stitched(value, arrange, 2)
    first = from_cells(arrange(value), 2)
    assert torch.equal(grid.mT.unflatten(2, (4, 6)) if name == "tokens" else arrange(grid), first)
    assert torch.equal(back(grid), value)
    changed = back(grid + 1)
    assert torch.equal(arrange(changed), arrange(value) + 1)
    if name == "tokens":
        assert torch.equal(changed[:, 0], value[:, 0])  # the class token stands where it stood

    def of_grid(t):
        return t[:, 1:].unflatten(1, (4, 6)).permute(0, 3, 1, 2)

    whole = torch.cat([torch.zeros(2, 1, 5), grid], 1) if name == "tokens" else grid
    part = cut(whole, of_grid if name == "tokens" else arrange, 2, 3)
    expected = arrange(value)[3::4]
    assert torch.equal(arrange(part), expected)
    assert part.shape[1:] == value.shape[1:]


def test_tensors_in_what_layers_give():
    t = torch.ones(2)
    assert on_tensors(lambda x: x + 1, (t, None, "a"), "it")[1:] == (None, "a")
    assert on_tensors(lambda x: x + 1, [t], "it")[0].tolist() == [2, 2]
    with pytest.raises(TypeError, match="it gives a dict"):
        on_tensors(lambda x: x, {"a": t}, "it")
