"""Contributions as outer products that are never multiplied out: against multiplying them out."""

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.extract_aggregate import extract as ex
from captum_extract_aggregate.attr.extract_aggregate.aggregate import AGGREGATES, aggregate
from captum_extract_aggregate.attr.extract_aggregate.contribution import Factor, Summand
from tests.attr.extract_aggregate.cases import VIRTUAL, draw_tensor


@pytest.mark.parametrize("signs", ["both", "one"])
def test_a_few_channels_at_a_time_give_the_same(signs, monkeypatch):
    x, g = draw_tensor(0, 2, 7, 5, 6), draw_tensor(1, 2, 7, 5, 6)
    x = x.clamp(min=0) if signs == "one" else x
    names = [(extract, how) for extract in VIRTUAL for how in AGGREGATES]
    whole = [aggregate(ex.Pair(x, g).summand(extract), how) for extract, how in names]
    monkeypatch.setattr("captum_extract_aggregate._common.chunks._CHUNK", 130)  # two or three channels
    assert len(ex.Pair(x, g).summand("depthwise3x3").parts) == 4
    for (extract, how), expected in zip(names, whole):
        got = aggregate(ex.Pair(x, g).summand(extract), how)
        assert torch.allclose(got, expected, rtol=1e-12, atol=1e-13), (extract, how)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(6, 6, 3, 2, 1, groups=6),
        lambda: nn.Conv2d(6, 6, 5, groups=6),
        lambda: nn.Conv2d(6, 12, 3, padding=1, groups=6),
        lambda: nn.ConvTranspose2d(6, 6, 3, 2, 1, groups=6),
        lambda: nn.BatchNorm2d(6),
    ],
)
@pytest.mark.parametrize("piece", [60, 400, 1000])
def test_real_layers_a_few_channels_at_a_time(make, piece, monkeypatch):
    """The factors of a depthwise layer that changes the resolution are of different sizes."""
    torch.manual_seed(0)
    layer = make()
    net = nn.Sequential(layer, nn.Tanh(), nn.LazyConv2d(3, 1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net, x = net.double().eval(), draw_tensor(0, 3, 6, 11, 11)
    net(x)
    methods = {how: cea.ExtractAggregate(net, layer, extract="layer", aggregate=how) for how in AGGREGATES}
    whole = cea.attribute_together(methods, x, 1)
    monkeypatch.setattr("captum_extract_aggregate._common.chunks._CHUNK", piece)
    for how, map_ in cea.attribute_together(methods, x, 1).items():
        torch.testing.assert_close(map_, whole[how], rtol=1e-10, atol=1e-13)


def test_a_factor_of_one_for_many_blocks(monkeypatch):
    g = draw_tensor(0, 1, 8, 4, 4)
    summand = Summand(Factor(g.unsqueeze(2)), ex.one(g), (8,))
    monkeypatch.setattr("captum_extract_aggregate._common.chunks._CHUNK", 20)
    for how, expected in {"norm": g.norm(dim=1), "sum": g.sum(1), "max": g.amax(1), "max_abs": g.abs().amax(1)}.items():
        torch.testing.assert_close(aggregate(summand, how)[:, 0], expected)
