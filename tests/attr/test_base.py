"""What every method has from its base: who is asked for a map, and what is said of maps that tell no class."""

import functools

import pytest
import torch
from captum.attr import LayerActivation
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.base import CaptureAttribution
from captum_extract_aggregate.metrics import as_input_attribution, class_sensitivity
from captum_extract_aggregate.metrics.explanations import per_target_of
from captum_extract_aggregate.visualization.rows import maps_by_class, maps_by_layer, maps_by_target


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
