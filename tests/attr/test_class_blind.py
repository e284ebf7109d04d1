"""A map that cannot tell one class from another says so."""

import warnings

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from tests.conftest import relative_error


class Pooled(nn.Module):
    """A convolution, a ReLU, global average pooling and a linear head."""

    def __init__(self, pooling="mean", norm=False):
        super().__init__()
        torch.manual_seed(0)
        self.early = nn.Conv2d(3, 4, 3)
        self.last = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6) if norm else nn.ReLU())
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 5)
        self.pooling = pooling

    def forward(self, x):
        x = self.last(self.early(x).relu())
        pooled = {
            "mean": lambda: x.mean((2, 3)),
            "module": lambda: self.pool(x).flatten(1),
            "head first": lambda: self.head(x.permute(0, 2, 3, 1)).mean((1, 2)),
            "max": lambda: x.amax((2, 3)),
            "squares": lambda: x.square().mean((2, 3)),
        }[self.pooling]()
        return pooled if self.pooling == "head first" else self.head(pooled)


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def told(method, *args, **kwargs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        method.attribute(*args, **kwargs)
    return [str(w.message) for w in caught]


BLIND = {
    "NormGrad": cea.NormGrad,
    "gradient": cea.LayerGradient,
    "gradient, sum": lambda net, layer: cea.LayerGradient(net, layer, aggregate="sum"),
    "filter_norm": lambda net, layer: cea.ExtractAggregate(net, layer, extract="conv1x1", aggregate="filter_norm"),
    "conv3x3": lambda net, layer: cea.ExtractAggregate(net, layer, extract="conv3x3", aggregate="norm"),
    "abs_sum": lambda net, layer: cea.ExtractAggregate(net, layer, extract="conv1x1", aggregate="abs_sum"),
    "GradMid": cea.GradMid,
    "guided": cea.GuidedBackprop,
    "deconvolution": cea.Deconvolution,
    "cumulative": lambda net, layer: cea.CumulativeGradMid(net, [net.early, layer]),
    "combined": lambda net, layer: cea.LayerCombination(cea.NormGrad(net, [net.early, layer])),
    "meta": lambda net, layer: cea.MetaSaliency(cea.NormGrad(net, layer)),
}


SEEING = {
    "GradCAM": cea.GradCAM,
    "GradCAM_Pos": cea.GradCAMPos,
    "GradCAM++": cea.GradCAMPlusPlus,
    "linear": cea.LinearApproximation,
    "selective": cea.SelectiveNormGrad,
    "activity": cea.ActivityAttribution,
    "depthwise": lambda net, layer: cea.ExtractAggregate(net, layer, extract="depthwise3x3", aggregate="norm"),
    "RectGrad": lambda net, layer: cea.RectGrad(net, layer, percentile=10),
    "LRP": cea.LRP,
    "FullGrad": lambda net, layer: cea.FullGrad(net),
    "cumulative": lambda net, layer: cea.CumulativeGradCAM(net, [net.early, layer]),
}


@pytest.mark.parametrize("make", BLIND.values(), ids=BLIND)
def test_a_map_that_says_nothing_of_the_class_warns_once_for_a_layer(make, x):
    net = Pooled().eval()
    (text, *others) = told(make(net, net.last), x, target=1)
    assert "at 'last'" in text
    assert "does not depend on the class" in text
    assert "earlier layer" in text
    assert "LinearApproximation" in text
    assert not others
    assert not told(make(net, net.last), x, target=2)  # another object, the same layer
    again = Pooled().eval()
    assert told(make(again, again.last), x, target=1)  # another model's layer is another layer


@pytest.mark.parametrize("make", SEEING.values(), ids=SEEING)
def test_methods_that_weigh_channel_by_channel_do_not(make, x):
    net = Pooled().eval()
    assert not told(make(net, net.last), x, target=1)


@pytest.mark.parametrize("name", ["NormGrad", "filter_norm", "abs_sum", "conv3x3"])
def test_what_is_said_is_true(name, x):
    """The maps of two classes are each other's multiples; those of an earlier layer, and of another method, are not."""
    net = Pooled().eval().double()

    def shapes(make, layer):
        maps = make(net, layer).attribute_per_target(x.double(), [0, 1])
        return [m / m.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) for m in maps.unbind(1)]

    assert relative_error(*shapes(BLIND[name], net.last)) < 1e-12
    assert relative_error(*shapes(BLIND[name], net.early)) > 0.01
    assert relative_error(*shapes(cea.LinearApproximation, net.last)) > 0.01


def test_real_layers(x):
    net = Pooled(norm=True).eval()
    net.last[1].bias.data.normal_()
    assert told(cea.BiasAttribution(net, net.last[1]), x, target=1)
    assert told(cea.ExtractAggregate(net, net.last[1], extract="layer_bias"), x, target=1)
    assert told(cea.NormGrad(net, net.last[0], virtual_identity=False), x, target=1)
    assert not told(cea.NormGrad(net, net.last[1], virtual_identity=False), x, target=1)  # by channel
    net.last[0] = nn.Conv2d(4, 6, 3, padding=1, groups=2)
    assert not told(cea.NormGrad(net, net.last[0], virtual_identity=False), x, target=1)


@pytest.mark.parametrize("pooling", ["mean", "module", "head first"])
def test_however_the_pooling_is_written(pooling, x):
    net = Pooled(pooling).eval()
    assert told(cea.NormGrad(net, net.last), x, target=1)


@pytest.mark.parametrize("pooling", ["max", "squares"])
def test_not_where_the_gradient_varies(pooling, x):
    net = Pooled(pooling).eval()
    assert not told(cea.NormGrad(net, net.last), x, target=1)
    assert not told(cea.NormGrad(Pooled(), "early"), x, target=1)


def test_not_for_a_single_position_nor_for_a_gradient_of_zero(x):
    net, single = Pooled().eval(), Pooled("module").eval()
    assert not told(cea.NormGrad(single, single.pool), x, target=1)
    assert not told(cea.NormGrad(lambda x: net(x) * 0, net.last), x, target=1)


def test_of_several_layers_the_one_is_named(x):
    net = Pooled().eval()
    (text,) = told(cea.NormGrad(net, ["early", "last"]), x, target=1)
    assert "'last'" in text
    plain = Pooled().eval()
    together = {
        "one": cea.NormGrad(plain, "last"),
        "two": cea.GradMid(plain, "last"),
        "three": cea.GradCAM(plain, "last"),
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cea.attribute_together_per_target(together, x, [0, 1])
    assert [str(w.message).split(" at ")[0] for w in caught] == ["NormGrad", "GradMid"]
