"""AggAtt: means in bins, by hand and by sorting; what is undefined; the picture."""

import math

import numpy as np
import pytest
import torch

from captum_extract_aggregate.metrics import aggregated_attributions


def drawn(n):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 2, 4, 6, generator=generator, dtype=torch.float64), torch.rand(n, generator=generator)


def test_bins_hold_the_sorted_maps():
    maps, scores = drawn(40)
    scores[7] = scores[3]  # the first comes first
    found = aggregated_attributions(maps, scores)
    order = sorted(range(40), key=lambda i: (-scores[i].item(), i))
    bins = [order[:1], order[1:2], order[2:20], order[20:38], order[38:39], order[39:]]
    assert found.edges == (0, 2, 5, 50, 95, 98, 100)
    assert found.counts.tolist() == [len(b) for b in bins]
    summed = maps.sum(1).numpy()
    for got, chosen in zip(found.maps, bins):
        expected = np.mean([summed[i] / np.abs(summed[i]).max() for i in chosen], axis=0)
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)
    scale = torch.logspace(-9, 6, 40, dtype=torch.float64).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(aggregated_attributions(maps * scale, scores).maps, found.maps)


def test_what_is_undefined_is_in_no_bin():
    maps, scores = drawn(5)
    expected = aggregated_attributions(maps[[0, 3, 4]], scores[[0, 3, 4]], [50])
    maps[1, 0, 0, 0], scores[2] = math.inf, math.nan
    found = aggregated_attributions(maps, scores, [50])
    assert torch.equal(found.maps, expected.maps)
    assert found.counts.sum() == 3
    zero = aggregated_attributions(torch.zeros(1, 4, 4), torch.ones(1), [50])
    assert zero.counts.tolist() == [0, 1]
    assert zero.maps[0].isnan().all()
    assert not zero.maps[1].any()
    axes = zero.plot()
    assert [ax.get_title() for ax in axes] == ["0 to 50 %", "50 to 100 %"]


def test_wrong_uses():
    maps, scores = drawn(3)
    with pytest.raises(ValueError, match="scores has 2 values for 3 maps"):
        aggregated_attributions(maps, scores[:2])
    for edges in ([50, 50], [0], [100], [60, 40]):
        with pytest.raises(ValueError, match=r"edges is .* ascending per cent"):
            aggregated_attributions(maps, scores, edges)
