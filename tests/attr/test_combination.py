"""Combining layers, and the weights that data give them."""

import warnings

import captum.attr as captum_attr
import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.combination import combine_maps
from tests.conftest import relative_error

LAYERS = ["conv1", "relu2", "conv3"]


def scaled(m, size=(12, 12)):
    m = torch.nn.functional.interpolate(m, size, mode="bilinear", align_corners=False)
    rows = []
    for single in m:
        spread = single.max() - single.min()
        rows.append((single - single.min()) / spread if spread > 0 else single * 0)
    return torch.stack(rows)


@pytest.mark.parametrize("mode", ["sum", "product"])
@pytest.mark.parametrize(
    ("weights", "gamma"),
    [
        ("uniform", [1 / 3] * 3),
        ("linear", [1 / 6, 2 / 6, 3 / 6]),
        ([0.2, 0, 0.6], [0.25, 0, 0.75]),
        (np.array([1, 2, 1]), [0.25, 0.5, 0.25]),
        ({"conv3": 1, "conv1": 3, "relu2": 0}, [0.75, 0, 0.25]),
    ],
)
def test_combination_equals_the_definition(small_net, images, mode, weights, gamma):
    small_net, images = small_net.double(), images.double()
    for method in (cea.NormGrad(small_net, LAYERS), cea.LinearApproximation(small_net, LAYERS)):
        maps = [scaled(m) for m in method.attribute(images, [0, 1, 2])]
        if mode == "sum":
            expected = sum(g * m for g, m in zip(gamma, maps))
        else:
            expected = torch.ones_like(maps[0])
            for g, m in zip(gamma, maps):
                expected = expected * m**g
        combination = cea.LayerCombination(method, weights=weights, mode=mode)
        got = combination.attribute(images, [0, 1, 2])
        assert got.shape == (3, 1, 12, 12)
        assert relative_error(got, expected) < 1e-10
        assert not got.requires_grad
        per_target = combination.attribute_per_target(images, [0, 1])
        assert torch.allclose(per_target[:1, 0], got[:1])


def test_captum_s_layer_methods_are_looped_over(small_net, images):
    layers = [small_net.get_submodule(name) for name in LAYERS]
    method = captum_attr.LayerGradCam(small_net, layers)
    combination = cea.LayerCombination(method, weights="linear", mode="sum")
    got = combination.attribute(images, 1, relu_attributions=True)
    maps = [
        scaled(captum_attr.LayerGradCam(small_net, la).attribute(images, 1, relu_attributions=True)) for la in layers
    ]
    assert relative_error(got, sum((j + 1) / 6 * m.detach() for j, m in enumerate(maps))) < 1e-5
    assert method.layer == layers
    assert combination.attribute_per_target(images, [0, 1]).shape == (3, 2, 1, 12, 12)
    with pytest.raises((AssertionError, IndexError)):
        combination.attribute(images, 99)
    assert method.layer == layers  # also after an exception


def test_captum_s_methods_that_explain_no_target(small_net, images):
    layers = [small_net.get_submodule(name) for name in LAYERS]
    combination = cea.LayerCombination(captum_attr.LayerActivation(small_net, layers))
    assert combination.attribute(images).shape == (3, 1, 12, 12)
    with pytest.raises(ValueError, match="expected it left out"):
        combination.attribute(images, 1)
    with_input = cea.LayerCombination(cea.NormGrad(small_net, [None, "conv3"]))
    assert torch.equal(with_input.attribute((images,), 1), with_input.attribute(images, 1))


def test_noise_tunnel_and_together(small_net, images):
    combination = cea.LayerCombination(cea.NormGrad(small_net, LAYERS))
    plain = combination.attribute(images, 1)
    assert torch.allclose(
        NoiseTunnel(combination).attribute(images, nt_samples=2, stdevs=0.0, target=1), plain, atol=1e-6
    )
    assert torch.equal(cea.attribute_together({"it": combination}, images, 1)["it"], plain)
    assert plain.min() >= 0
    assert plain.max() <= 1


class Pooled(torch.nn.Module):
    """Global pooling behind the last layer, where the gradient is the same at every position."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Conv2d(3, 64, 3), torch.nn.Conv2d(64, 512, 3, 2)
        self.fc = torch.nn.Linear(512, 4)

    def forward(self, x):
        return self.fc(self.b(self.a(x).relu()).mean((2, 3)))


@pytest.mark.parametrize("name", ["LayerGradient", "GradMid", "GuidedBackprop"])
@pytest.mark.parametrize("weights", ["uniform", [1, 3]])
def test_a_constant_layer_is_the_factor_1_and_adds_0(name, weights):
    torch.manual_seed(0)
    net, x = Pooled().eval(), torch.randn(2, 3, 17, 17)
    method = getattr(cea, name)(net, ["a", "b"])
    first, second = method.attribute(x, 1)
    assert second.flatten(1).std(1).max() < 1e-6 * second.abs().max()  # constant but for rounding
    gamma = 1 / 2 if weights == "uniform" else 1 / 4
    for mode, expected in (("product", scaled(first, (17, 17)) ** gamma), ("sum", gamma * scaled(first, (17, 17)))):
        combination = cea.LayerCombination(method, weights=weights, mode=mode)
        with pytest.warns(UserWarning, match=r"the map of 'b' \(for 2 of 2 examples\) has one value all over"):
            got = combination.attribute(x, 1)
        torch.testing.assert_close(got, expected)
        assert got.flatten(1).amax(1).min() > 0
        with pytest.warns(UserWarning, match="'b'"):
            per_target = combination.attribute_per_target(x, [1, 2])
        torch.testing.assert_close(per_target[:, 0], got)


def test_constant_for_one_example_alone():
    """Layers' maps are looked at per example, and what has no weight is not spoken of."""
    x = torch.randn(3, 1, 4, 4)
    first, second = torch.rand(3, 1, 4, 4), torch.rand(3, 1, 4, 4)
    second[1] = 0.3
    for mode in ("product", "sum"):
        with pytest.warns(UserWarning, match="1 of 3"):
            got = combine_maps([first, second], x.shape[2:], (0.5, 0.5), mode, ["a", "b"])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            others = combine_maps([first[[0, 2]], second[[0, 2]]], x.shape[2:], (0.5, 0.5), mode, ["a", "b"])
            combine_maps([first, second], x.shape[2:], (1, 0), mode, ["a", "b"])
        assert torch.equal(got[[0, 2]], others)
        alone = scaled(first[1:2], (4, 4))
        torch.testing.assert_close(got[1:2], alone**0.5 if mode == "product" else alone / 2)


def test_where_all_maps_are_constant_the_product_is_1_and_the_sum_0(small_net, images):
    nothing = cea.NormGrad(lambda x: small_net(x) * 0, [small_net.conv1, small_net.conv3])
    for mode, value in (("product", 1), ("sum", 0)):
        with pytest.warns(UserWarning, match="says nothing about positions"):
            got = cea.LayerCombination(nothing, mode=mode).attribute(images, 1)
        assert torch.equal(got, torch.full_like(got, value))


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((lambda net: net,), TypeError, "expected a layer method"),
        ((lambda net: cea.NormGrad(net, "conv1"),), ValueError, "built on a list of layers"),
        ((lambda net: cea.CumulativeGradCAM(net, LAYERS),), ValueError, "built on a list of layers"),
        ((lambda net: cea.NormGrad(net, LAYERS), "even"), ValueError, "expected one of 'uniform', 'linear'"),
        ((lambda net: cea.NormGrad(net, LAYERS), [1, 2]), ValueError, "2 numbers for 3 layers"),
        ((lambda net: cea.NormGrad(net, LAYERS), [1, 2, -1]), ValueError, "at least 0"),
        ((lambda net: cea.NormGrad(net, LAYERS), [0, 0, 0]), ValueError, "one above"),
        ((lambda net: cea.NormGrad(net, LAYERS), 3), TypeError, "a number for each layer"),
        ((lambda net: cea.NormGrad(net, LAYERS), None), TypeError, "a number for each layer"),
        ((lambda net: cea.NormGrad(net, LAYERS), ["a", "b", "c"]), TypeError, "a number for each layer"),
        ((lambda net: captum_attr.LayerGradCam(net, []),), ValueError, "built on a list of layers"),
        ((lambda net: cea.NormGrad(net, LAYERS), {"conv1": 1, "conv2": 1, "conv3": 1}), ValueError, "2 of them"),
        ((lambda net: cea.NormGrad(net, LAYERS), "uniform", "max"), ValueError, "expected one of 'product', 'sum'"),
    ],
)
def test_mistakes(small_net, arguments, error, match):
    with pytest.raises(error, match=match):
        cea.LayerCombination(arguments[0](small_net), **dict(zip(("weights", "mode"), arguments[1:])))
