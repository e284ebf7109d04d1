"""What every method has from its base: who is asked for a map, and what is said of maps that tell no class."""

import functools
import warnings

import pytest
import torch
from captum.attr import LayerActivation
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.base import CaptureAttribution
from captum_extract_aggregate.metrics import as_input_attribution, class_sensitivity
from captum_extract_aggregate.metrics.explanations import per_target_of
from captum_extract_aggregate.visualization.rows import maps_by_class, maps_by_layer, maps_by_target
from tests.conftest import relative_error


class Minus(cea.NormGrad):
    def attribute(self, inputs, target=None, additional_forward_args=None, attribute_to_layer_input=False):
        return -super().attribute(inputs, target, additional_forward_args, attribute_to_layer_input)


class Narrow(cea.NormGrad):
    def attribute(self, inputs, target):
        return -super().attribute(inputs, target)


class Wrapped(cea.NormGrad):
    """With everything that `functools.wraps` copies."""

    @functools.wraps(cea.NormGrad.attribute)
    def attribute(self, *args, **kwargs):
        return -super().attribute(*args, **kwargs)


class _Mixin(CaptureAttribution):
    def attribute(self, inputs, target=None, additional_forward_args=None, attribute_to_layer_input=False):
        return -super().attribute(inputs, target, additional_forward_args, attribute_to_layer_input)


class MixedInBelow(cea.ActivityAttribution, _Mixin):
    """Its first `attribute` is the package's, and calls the mixin's."""


def on_the_object(net, layer):
    method = cea.NormGrad(net, layer)
    plain = method.attribute
    method.attribute = lambda *args, **kwargs: -plain(*args, **kwargs)
    return method


def a_method_of_another_object(net, layer):
    method = cea.NormGrad(net, layer)
    method.attribute = cea.LinearApproximation(net, layer).attribute
    return method


MADE = [Minus, Narrow, Wrapped, MixedInBelow, on_the_object, a_method_of_another_object]


@pytest.mark.parametrize("make", MADE)
def test_every_way_to_several_maps_gives_what_attribute_gives(small_net, images, make):
    method = make(small_net, small_net.conv3)
    expected = [method.attribute(images, target=target) for target in (0, 2)]
    assert (expected[0] < 0).any()
    together = cea.attribute_together({"own": method, "plain": cea.NormGrad(small_net, small_net.conv1)}, images, 0)
    assert torch.equal(together["own"], expected[0])
    per_target = cea.attribute_together_per_target({"own": method}, images, [0, 2])
    assert all(torch.equal(got["own"], wanted) for got, wanted in zip(per_target, expected))
    assert torch.equal(method.attribute_per_target(images, [0, 2]), torch.stack(expected, 1))
    pairs = [[0, 2], [2, 0], [0, 0]]
    by_row = torch.stack([torch.stack([expected[t // 2][i] for t in pair]) for i, pair in enumerate(pairs)])
    torch.testing.assert_close(method.attribute_per_target(images, pairs), by_row)
    rows = maps_by_target({"own": method}, images[:1], [0, 2])
    assert [row["own"]["conv3"].lt(0).any().item() for row in rows] == [True, True]
    assert maps_by_layer({"own": method}, images[:1], 0)["own"]["conv3"].lt(0).any()
    assert maps_by_class({"own": method}, images[:1], {"zero": 0})["zero"]["own"].lt(0).any()


def test_an_attribute_per_target_of_another_kind_is_not_taken_by_measures(small_net, images):
    class Fast(cea.NormGrad):
        def attribute_per_target(self, inputs, targets, additional_forward_args=None, attribute_to_layer_input=False):
            return torch.zeros(len(inputs), 2, 1, 3, 3)

    plain, fast = (cls(small_net, small_net.conv3) for cls in (cea.NormGrad, Fast))
    expected = class_sensitivity(plain, images, small_net)
    torch.testing.assert_close(class_sensitivity(fast, images, small_net), expected)
    combined = cea.LayerCombination(Fast(small_net, [small_net.conv1, small_net.conv3]))
    both = combined.attribute_per_target(images, [0, 2])
    assert torch.equal(both[:, 1], combined.attribute(images, 2))


def test_combinations_of_overridden_methods_and_overridden_combinations(small_net, images):
    class Squared(cea.NormGrad):
        def attribute(self, *args, **kwargs):
            return [m.square() + torch.arange(m.shape[-1]) for m in super().attribute(*args, **kwargs)]

    class Minus(cea.LayerCombination):
        def attribute(self, *args, **kwargs):
            return -super().attribute(*args, **kwargs)

    class Joined(cea.LayerCombination):
        def joined(self, inputs, maps):
            return -super().joined(inputs, maps)

    layers = [small_net.conv1, small_net.conv3]
    plain = cea.NormGrad(small_net, layers)
    for method in (cea.LayerCombination(Squared(small_net, layers)), Minus(plain), Joined(plain)):
        expected = [method.attribute(images, target) for target in (0, 2)]
        assert not torch.allclose(expected[0], cea.LayerCombination(plain).attribute(images, 0))
        assert torch.equal(method.attribute_per_target(images, [0, 2]), torch.stack(expected, 1))
        found = cea.attribute_together_per_target({"own": method, "plain": plain}, images, [0, 2])
        assert all(torch.equal(maps["own"], wanted) for maps, wanted in zip(found, expected))


def test_meta_saliency_asks_attribute(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    x = torch.cat([images, images[:1]])
    for make in (Minus, on_the_object):
        method = make(net, net[0])
        together, one_by_one = (
            cea.MetaSaliency(method, vectorized=vectorized).attribute(x, target=1) for vectorized in (True, False)
        )
        assert (together <= 0).all()
        assert torch.equal(together, one_by_one)


def test_adapters_ask_attribute(small_net, images):
    method = Minus(small_net, small_net.conv3)
    assert (as_input_attribution(method).attribute(images, target=0)[0] <= 0).all()


def test_a_target_of_0_reaches_a_wrapped_method_that_takes_any_keywords(small_net, images):
    layers = [small_net.conv1, small_net.conv3]
    plain = cea.NormGrad(small_net, layers)
    any_keywords = cea.NormGrad(small_net, layers)
    any_keywords.attribute = lambda inputs, **kwargs: plain.attribute(inputs, **kwargs)
    for target in (0, torch.tensor([0, 1, 2])):
        got = cea.LayerCombination(any_keywords).attribute(images, target)
        assert torch.equal(got, cea.LayerCombination(plain).attribute(images, target))
    activation = cea.LayerCombination(LayerActivation(small_net, layers))
    assert activation.attribute(images).shape == (3, 1, 12, 12)
    for target in (0, torch.tensor([0, 1, 2])):
        with pytest.raises(ValueError, match="target is given"):
            activation.attribute(images, target)


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


@pytest.mark.parametrize("make", MADE)
@pytest.mark.parametrize("bound", [False, True])
def test_measures_ask_attribute(small_net, images, make, bound):
    method = make(small_net, small_net.conv3)
    explainer = method.attribute if bound else method
    by_hand = lambda inputs, target: method.attribute(inputs, target=target)  # noqa: E731
    got = class_sensitivity(explainer, images, small_net)
    torch.testing.assert_close(got, class_sensitivity(by_hand, images, small_net))
    if make is not a_method_of_another_object or not bound:  # which is its owner's, and may share the pass
        assert per_target_of(explainer) is None
