"""Maps that the page would wait for."""

import pytest
import torch

from captum_extract_aggregate.insights import input_maps


def test_maps_that_the_page_would_wait_for():
    x = torch.rand(2, 3, 4, 4)
    for map_ in (torch.zeros(2, 1, 2, 2), torch.full((2, 3, 4, 4), torch.nan), torch.full((2, 1, 1, 1), 1e-38)):
        found = input_maps.like_input(map_, x)
        assert found.shape == x.shape
        assert found.count_nonzero() == 6
    mixed = torch.stack([torch.zeros(1, 2, 2), torch.tensor([[[1.0, -4.0], [0.0, torch.inf]]])])
    found = input_maps.like_input(mixed, x)
    assert found[0].count_nonzero() == 3
    assert found[1].abs().max() == 1
    with pytest.raises(ValueError, match="cannot be drawn on an input"):
        input_maps.like_input(torch.zeros(2, 1, 5), torch.zeros(2, 3, 9))
