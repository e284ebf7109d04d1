"""Measures on maps that are undefined, or constant but for rounding."""

import math

import pytest
import torch
from torch import nn

from captum_extract_aggregate.data.pointing_pairs import PointingPairs
from captum_extract_aggregate.evaluation.explained import Column, ImageBatch
from captum_extract_aggregate.evaluation.images import Sample
from captum_extract_aggregate.evaluation.measures import contrast, pointing
from captum_extract_aggregate.metrics import removal_contrast


class Weighted(nn.Module):
    def forward(self, x):
        score = (x.flatten(1) * torch.linspace(0, 1, x[0].numel())).sum(1)
        return torch.stack([score, torch.full_like(score, 30.0)], 1)


def batch(n):
    x = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(0)) + 0.5
    model = Weighted()
    pairs = PointingPairs([0], torch.zeros(1, 16, 16, dtype=torch.bool), [False])
    samples = [Sample(i, str(i), x[i], 0, pairs) for i in range(n)]
    return ImageBatch(model, x, samples, model(x), torch.tensor([[0, 1]] * n), 3)


def by_detail(values, n):
    found = {}
    for example, _, detail, value in values:
        found.setdefault(detail, [math.nan] * n)[example] = value
    return found


def test_undefined_maps_are_not_drawn():
    some = batch(4)
    maps = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    maps[1] = torch.nan
    found = by_detail(contrast(some, Column("m", "l", [maps]), baselines=0.0, step=8, n_shuffles=1), 4)
    kept = [0, 2, 3]
    expected = removal_contrast(some.model, some.x[kept], maps[kept], step=8, seed=3)
    for name in ("delta_minus", "delta_plus", "delta"):
        assert math.isnan(found[name][1])
        assert [found[name][i] for i in kept] == pytest.approx(getattr(expected, name).tolist())
    assert [found["e_minus"][i] for i in kept] == pytest.approx(expected.own_minus.e.tolist())
    assert math.isnan(found["flipped_plus"][1])


def test_too_few_to_draw_from_is_undefined_and_counted():
    some = batch(1)
    found = by_detail(
        contrast(some, Column("m", "l", [torch.rand(1, 1, 16, 16)]), baselines=0.0, step=8, n_shuffles=1), 1
    )
    assert len(found) == 10
    assert all(math.isnan(values[0]) for values in found.values())


def test_pointing_at_an_undefined_map():
    some = batch(2)
    maps = torch.stack([torch.full((1, 16, 16), torch.nan), torch.rand(1, 16, 16)])
    values = [value for *_, value in pointing(some, Column("m", "l", [maps]), 3)]
    assert math.isnan(values[0])
    assert values[1] == 0
