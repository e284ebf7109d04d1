"""Activities and biases: literal sums, and completeness at every cut of every network for which it is exact."""

import pytest
import torch
import torchvision
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.biases import bias_of
from tests.attr.exact_networks import NETWORKS, build
from tests.conftest import REAL_DATA, needs_real_data, relative_error
from tests.networks import CifarResNet20, lively

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_completeness_at_every_cut(name, dtype):
    net, side = build(name)
    net, x = net.to(dtype), torch.randn(2, 3, side, side, dtype=dtype, generator=torch.Generator().manual_seed(1))
    scores = net(x)[:, 3].detach()
    layers = list(cea.default_layers(net, x))
    method = cea.ActivityAttribution(net, [None, *layers])
    assert method.has_convergence_delta()
    deltas = method.compute_convergence_delta(x, 3)
    worst = max((delta.abs() / scores.abs()).max().item() for delta in deltas)
    full = (cea.FullGrad(net).compute_convergence_delta(x, 3).abs() / scores.abs()).max().item()
    print(f"{name} {dtype}: worst gap over {len(deltas)} cuts {worst:.1e}, FullGrad {full:.1e}")
    assert worst < TOLERANCE[dtype]
    assert full < TOLERANCE[dtype]
    without = sum(a.sum() for a in method.attribute(x, 3)[:1]) - scores.sum()
    assert abs(without) > 1e-3 * scores.abs().sum()  # the biases do matter


@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("name", [pytest.param("vgg11_bn", marks=pytest.mark.slow), "scene_vgg"])
def test_completeness_at_every_single_layer_on_both_sides(name, to_input):
    """Also at layers that add a bias themselves, and behind the flattening, where there are no positions to map."""
    net, side = build(name)
    net, x = (
        net.double(),
        torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
    )
    leaves = [m for m in net.modules() if next(m.children(), None) is None]
    assert len(leaves) > 15
    method = cea.ActivityAttribution(net, leaves)
    for leaf, delta in zip(leaves, method.compute_convergence_delta(x, 3, attribute_to_layer_input=to_input)):
        assert (delta.abs() / net(x)[:, 3].abs()).max() < 1e-10, leaf


@needs_real_data
def test_completeness_of_trained_networks():
    for net, path, side in (
        (CifarResNet20(), "resnet20-cifar10.pth", 32),
        (torchvision.models.squeezenet1_1(), "squeezenet1_1-imagenet.pth", 224),
    ):
        net.load_state_dict(torch.load(REAL_DATA / "models" / path, weights_only=True))
        net.eval().double()
        x = torch.randn(1, 3, side, side, dtype=torch.float64)
        layers = [None, *cea.default_layers(net, x)]
        for delta in cea.ActivityAttribution(net, layers).compute_convergence_delta(x, 3):
            assert (delta.abs() / net(x)[:, 3].abs()).max() < 1e-10


def test_bias_attribution_by_hand():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3, groups=1), nn.BatchNorm2d(4)
    deep = nn.Conv2d(4, 4, 3, groups=4)
    net = lively(nn.Sequential(conv, norm, nn.ReLU(), deep, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())).double()
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    implicit = norm.bias - norm.weight * norm.running_mean / torch.sqrt(norm.running_var + norm.eps)
    assert torch.allclose(bias_of(norm), implicit)
    assert torch.allclose(norm(torch.zeros(1, 4, 1, 1, dtype=torch.float64)).flatten(), implicit)
    z = norm(conv(x))
    for layer, tensor, rest, bias in (
        (conv, conv(x), net[1:], conv.bias),
        (norm, z, net[2:], implicit),
        (deep, deep(z.relu()), net[4:], deep.bias),
    ):
        leaf = tensor.detach().requires_grad_()
        (g,) = torch.autograd.grad(rest(leaf)[:, 2].sum(), leaf)
        expected = sum(bias[k] * g[:, k] for k in range(4)).unsqueeze(1).detach()
        assert relative_error(cea.BiasAttribution(net, layer).attribute(x, 2), expected) < 1e-12
    assert list(cea.bias_layers(net)) == ["0", "1", "3"]


def test_layers_without_a_bias_are_refused(small_net):
    for layer in ("relu1", None):
        with pytest.raises(ValueError, match="adds no bias"):
            cea.BiasAttribution(small_net, layer).attribute(torch.randn(1, 3, 8, 8), 1)
    with pytest.raises(ValueError, match="adds no bias"):
        cea.FullGrad(small_net, ["conv1", "pool"])
    with pytest.raises(ValueError, match="layer's output"):
        cea.BiasAttribution(small_net, "conv1").attribute(torch.randn(1, 3, 8, 8), 1, attribute_to_layer_input=True)
    with pytest.raises(ValueError, match="no bias anywhere"):
        cea.FullGrad(nn.Sequential(nn.Conv2d(3, 2, 1, bias=False)))
    with pytest.raises(TypeError, match="expected the model itself"):
        cea.FullGrad(lambda x: small_net(x))
    assert bias_of(nn.ReLU()) is None
    assert bias_of(nn.BatchNorm2d(3, affine=False)) is not None
    assert bias_of(nn.LayerNorm(3, elementwise_affine=False)) is None


def test_wrong_options(small_net):
    with pytest.raises(ValueError, match="'channel_joint', 'layer_map'"):
        cea.FullGrad(small_net, rescale="xyz")
    for l0 in (3, -4, 1.0, True):
        with pytest.raises(ValueError, match="one of the 3 layers"):
            cea.AggregatedActivity(small_net, ["conv1", "conv2", "conv3"], l0=l0)


def test_aggregated_activity(small_net, images):
    from tests.reference.positive import psi

    small_net, images = small_net.double(), images.double()
    layers = ["conv1", "relu2", "conv3"]
    single = cea.ActivityAttribution(small_net, [None, *layers]).attribute(images, 2)
    scaled = [psi(m, (12, 12)) for m in single]
    for options, chosen in (
        ({}, scaled[1:]),
        ({"l0": 1}, scaled[2:]),
        ({"l0": -2}, scaled[2:]),
        ({"l0": -1, "include_input": True}, [scaled[0], scaled[3]]),
    ):
        got = cea.AggregatedActivity(small_net, layers, **options).attribute(images, 2)
        assert relative_error(got, sum(chosen)) < 1e-10
    assert cea.AggregatedActivity(cea.load_scene_model("vgg")).attribute(torch.randn(1, 3, 96, 96), 1).shape == (
        1,
        1,
        96,
        96,
    )


def test_activity_attribution_is_the_linear_approximation(small_net, images):
    for layer in ("conv1", "conv3"):
        got = cea.ActivityAttribution(small_net, layer).attribute(images, 1)
        assert torch.equal(got, cea.LinearApproximation(small_net, layer).attribute(images, 1))


def test_maps_are_per_example_and_zero_maps_are_no_nan(small_net, images):
    for method in (cea.FullGrad(small_net), cea.AggregatedActivity(small_net, ["conv1", "conv3"])):
        batch = method.attribute(images, [0, 1, 2])
        for i in range(3):
            assert torch.allclose(method.attribute(images[i : i + 1], i), batch[i : i + 1], rtol=1e-4, atol=1e-6)
    zero = cea.FullGrad(nn.Sequential(small_net, nn.Linear(5, 5, bias=False)))
    zero.forward_func[1].weight.data.zero_()
    maps = zero.attribute(images, 1)
    assert torch.isfinite(maps).all()
    assert maps.abs().max() == 0


def test_frozen_batch_norm_adds_a_bias_too():
    norm = torchvision.ops.FrozenBatchNorm2d(4)
    for name in ("weight", "bias", "running_mean"):
        getattr(norm, name).normal_()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    assert list(cea.bias_layers(net)) == ["0", "1"]
    assert cea.FullGrad(net).compute_convergence_delta(x, 1).abs().max() < 1e-12
    assert cea.BiasAttribution(net, "1").attribute(x, 1).shape == (2, 1, 4, 4)


def test_layer_norm_over_positions():
    net = nn.Sequential(nn.LayerNorm((3, 6, 6)), nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.normal_(net[0].bias)
    x = torch.randn(2, 3, 6, 6)
    assert cea.BiasAttribution(net, "0").attribute(x, 1).shape == (2, 1, 6, 6)
    assert cea.FullGrad(net).attribute(x, 1).shape == (2, 1, 6, 6)
    assert torch.isfinite(cea.FullGrad(net).compute_convergence_delta(x, 1)).all()
