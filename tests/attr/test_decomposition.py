"""Activities and biases: literal sums, and completeness at every cut of every network for which it is exact."""

import warnings

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.biases import bias_of
from tests.conftest import REAL_DATA, needs_real_data, relative_error
from tests.networks import CifarResNet20, lively, vgg11

NETWORKS = {
    "vgg11": (vgg11, 64),
    "vgg11_bn": (lambda: vgg11(batch_norm=True), 64),
    "resnet18": (torchvision.models.resnet18, 64),
    "resnet50": (torchvision.models.resnet50, 64),
    "squeezenet1_1": (torchvision.models.squeezenet1_1, 96),
    "cifar_resnet20": (CifarResNet20, 32),
    "scene_vgg": (lambda: cea.load_scene_model("vgg"), 96),
    "scene_resnet": (lambda: cea.load_scene_model("resnet"), 96),
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def build(name):
    torch.manual_seed(0)
    make, side = NETWORKS[name]
    net = make()
    return (net if name.startswith("scene") else lively(net)), side


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


def reference_full_grad(net, x, target, layer_map=False, include_input=True):
    """By the definition, for one example: every bias layer's output kept by a hook, one term at a time."""
    kept, handles = [], []
    for module in net.modules():
        bias = bias_of(module)
        if bias is not None and not isinstance(module, nn.Linear):
            handles.append(module.register_forward_hook(lambda m, a, out, bias=bias: kept.append((bias, out))))
    x = x.clone().requires_grad_()
    f = net(x)[0, target]
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(f, [x, *(out for _, out in kept)])
    terms = [(x * gradients[0]).detach()] if include_input else []
    terms += [bias[None, :, None, None] * g for (bias, _), g in zip(kept, gradients[1:])]
    total = torch.zeros(1, 1, *x.shape[2:], dtype=x.dtype)
    for term in terms:
        term = (term.sum(1, keepdim=True) if layer_map else term).abs()
        term = term - term.min()
        term = term / (term.max() + 1e-6)
        for channel in range(term.shape[1]):
            single = term[:, channel : channel + 1]
            total += F.interpolate(single, x.shape[2:], mode="bilinear", align_corners=True)
    return total


@pytest.mark.parametrize("rescale", ["channel_joint", "layer_map"])
@pytest.mark.parametrize("include_input", [True, False])
def test_full_grad_equals_reference(rescale, include_input):
    net, side = build("cifar_resnet20")
    net, x = net.double(), torch.randn(2, 3, side, side, dtype=torch.float64)
    got = cea.FullGrad(net, rescale=rescale, include_input=include_input).attribute(x, [4, 7])
    assert got.shape == (2, 1, side, side)
    for i, target in enumerate((4, 7)):
        want = reference_full_grad(net, x[i : i + 1], target, rescale == "layer_map", include_input)
        assert relative_error(got[i : i + 1], want) < 1e-10
    centred = cea.FullGrad(net, rescale=rescale, align_corners=False).attribute(x, 4)
    assert not torch.allclose(centred, cea.FullGrad(net, rescale=rescale).attribute(x, 4))
    per_target = cea.FullGrad(net, rescale=rescale, include_input=include_input).attribute_per_target(x, [4, 7])
    assert torch.allclose(per_target[0, 0], got[0])
    assert torch.allclose(per_target[1, 1], got[1])


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


def test_auxiliary_heads_that_do_not_run_are_left_out():
    net = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=True).eval()
    x = torch.randn(1, 3, 96, 96)
    assert torch.isfinite(cea.FullGrad(net).attribute(x, 3)).all()
    scores = net(x)[:, 3]
    assert (cea.FullGrad(net).compute_convergence_delta(x, 3).abs() / scores.abs()).max() < 1e-3


def test_frozen_batch_norm_adds_a_bias_too():
    norm = torchvision.ops.FrozenBatchNorm2d(4)
    for name in ("weight", "bias", "running_mean"):
        getattr(norm, name).normal_()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    assert list(cea.bias_layers(net)) == ["0", "1"]
    assert cea.FullGrad(net).compute_convergence_delta(x, 1).abs().max() < 1e-12
    assert cea.BiasAttribution(net, "1").attribute(x, 1).shape == (2, 1, 4, 4)


def test_normalisation_fused_with_its_activation_is_announced():
    timm = pytest.importorskip("timm")
    net = nn.Sequential(nn.Conv2d(3, 4, 3), timm.layers.BatchNormAct2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    x = torch.randn(1, 3, 6, 6)
    assert list(cea.bias_layers(net)) == ["0"]
    with pytest.raises(ValueError, match="adds no bias"):
        cea.BiasAttribution(net, "1").attribute(x, 1)
    with pytest.warns(UserWarning, match="fused with what follows"):
        cea.FullGrad(net).attribute(x, 1)


def test_full_grad_of_a_picture_and_a_vector():
    conv, head = nn.Conv2d(3, 4, 3), nn.Linear(6, 2)
    model = Both(conv, head).double()
    x, v = torch.randn(2, 3, 6, 6, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    with_input = cea.FullGrad(model).attribute((x, v), 1)
    without = cea.FullGrad(model, include_input=False).attribute((x, v), 1)
    assert not torch.allclose(with_input, without)
    assert cea.FullGrad(model).compute_convergence_delta((x, v), 1).abs().max() < 1e-12
    with pytest.raises(ValueError, match="layer's output"):
        cea.FullGrad(model).attribute((x, v), 1, attribute_to_layer_input=True)


class Both(nn.Module):
    def __init__(self, conv, head):
        super().__init__()
        self.conv, self.head = conv, head

    def forward(self, x, v):
        return self.head(torch.cat([self.conv(x).relu().mean((2, 3)), v], 1))


def test_layer_norm_over_positions():
    net = nn.Sequential(nn.LayerNorm((3, 6, 6)), nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.normal_(net[0].bias)
    x = torch.randn(2, 3, 6, 6)
    assert cea.BiasAttribution(net, "0").attribute(x, 1).shape == (2, 1, 6, 6)
    assert cea.FullGrad(net).attribute(x, 1).shape == (2, 1, 6, 6)
    assert torch.isfinite(cea.FullGrad(net).compute_convergence_delta(x, 1)).all()


def test_delta_with_the_maps(small_net, images):
    for method in (cea.ActivityAttribution(small_net, "relu2"), cea.FullGrad(small_net)):
        maps, delta = method.attribute(images, 1, return_convergence_delta=True)
        assert torch.equal(maps, method.attribute(images, 1))
        assert torch.equal(delta, method.compute_convergence_delta(images, 1))
        from captum.attr import NoiseTunnel

        smooth, deltas = NoiseTunnel(method).attribute(
            images, nt_samples=2, stdevs=0.0, target=1, return_convergence_delta=True
        )
        assert torch.allclose(smooth, maps, rtol=1e-4, atol=1e-6)
        assert deltas.shape == (6,)


class Uncalled(nn.Module):
    """Uses the parameters of a layer without calling it, where a hook cannot meet them; another layer is idle."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.idle = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Conv2d(4, 5, 3)

    def forward(self, x):
        return F.conv2d(self.a(x).relu(), self.b.weight, self.b.bias).mean((2, 3))


def test_full_grad_says_which_biases_it_cannot_meet():
    torch.manual_seed(0)
    net, x = Uncalled().double().eval(), torch.rand(2, 3, 9, 9, dtype=torch.float64)
    with pytest.warns(UserWarning, match=r"uses without calling them.*: 'b'$"):
        map_ = cea.FullGrad(net).attribute(x, 1)
    delta = cea.FullGrad(net).compute_convergence_delta(x, 1)
    torch.testing.assert_close(delta, -net.b.bias[1].detach().expand(2))
    with warnings.catch_warnings():  # once for a layer, and no more forwards
        warnings.simplefilter("error")
        assert torch.equal(cea.FullGrad(net).attribute(x, 1), map_)
    attending = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Flatten(2), _Turned(), attending, nn.Flatten(), nn.Linear(392, 4)
    ).eval()
    with pytest.warns(UserWarning, match="out_proj"):
        cea.FullGrad(model).attribute(x.float(), 1)


class _Turned(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


class Views(nn.Linear):
    """A layer that holds another, and returns a view."""

    def __init__(self):
        super().__init__(4, 4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        y = super().forward(self.dropout(x))
        return y.view(y.shape)


@pytest.mark.parametrize("make", [Views, lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))])
@pytest.mark.parametrize("include_input", [False, True])
def test_fullgrad_where_biased_views_are_overwritten(make, include_input):
    def net(in_place):
        torch.manual_seed(0)

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.patches, self.linear = nn.Conv2d(3, 4, 2, 2), make()
                self.relu, self.head = nn.ReLU(in_place), nn.Linear(4, 3)

            def forward(self, x):
                tokens = self.patches(x).flatten(2).transpose(1, 2).contiguous()
                return self.head(self.relu(self.linear(tokens)).mean(1))

        return Net().double().eval()

    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, overwriting = (cea.FullGrad(net(in_place), include_input=include_input) for in_place in (False, True))
    for _ in range(2):
        torch.testing.assert_close(overwriting.attribute(x, 1), plain.attribute(x, 1), rtol=1e-12, atol=1e-12)
    assert overwriting.compute_convergence_delta(x, 1).abs().max() < 1e-12
