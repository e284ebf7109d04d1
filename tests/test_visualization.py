"""Pictures of any map."""

import numpy as np
import pytest
import torch

from captum_extract_aggregate.visualization import grid

IMAGE = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


@pytest.mark.parametrize(
    "map_",
    [
        torch.rand(1, 3, 4),
        torch.rand(24, 32),
        -torch.rand(1, 3, 4),
        torch.randn(1, 3, 4).half(),
        torch.zeros(1, 3, 4),
        torch.ones(1, 3, 4),
        torch.full((1, 3, 4), torch.nan),
        torch.full((1, 3, 4), torch.inf),
        torch.rand(1, 3, 4) * 1e-30,
    ],
)
def test_any_map_makes_a_picture(map_):
    figure = grid(IMAGE, {"method": {"layer": map_}}, "title")
    assert pixels(figure).std() > 1


def test_rows_and_columns_are_where_they_are_named():
    corner = torch.zeros(1, 4, 4)
    corner[0, 0, 0] = 1
    figure = grid(
        IMAGE,
        {
            "first": {"a": corner, "a.very.long.dotted.layer_name": corner},
            "second": {"a": -corner, "a.very.long.dotted.layer_name": corner},
        },
        boxes=torch.tensor([[2.0, 3, 10, 12]]),
    )
    axes = figure.axes
    assert [a.get_title() for a in axes[:3]] == ["input", "a", "a.very.long.dotted.\nlayer_name"]
    assert [t.get_text() for a in axes for t in a.texts] == ["first", "second"]
    assert len(axes[0].patches) == 1
    maps = [a.images[-1] for a in (axes[1], axes[2], axes[4], axes[5])]
    assert [m.get_cmap().name for m in maps] == ["inferno", "inferno", "PuOr_r", "PuOr_r"]  # one scale per row
    assert [m.get_array().argmax() for m in maps[:2]] == [0, 0]
    assert maps[2].get_array().argmin() == 0
    assert maps[2].get_clim() == (-1, 1)
