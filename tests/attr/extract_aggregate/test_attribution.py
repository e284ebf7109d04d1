"""The classes: against Captum's own, inside Captum's tools, at every layout and real layer."""

import inspect
import itertools

import captum.attr as captum_attr
import numpy as np
import pytest
import torch
import torchvision
from captum.attr import GradientAttribution, LayerAttribution, NoiseTunnel
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.extract_aggregate.aggregate import AGGREGATES
from tests.conftest import SmallNet, relative_error
from tests.reference import extract_aggregate as reference

NAMED = [cea.NormGrad, cea.SelectiveNormGrad, cea.LinearApproximation, cea.LayerGradient]
LAYER_METHODS = [
    *NAMED,
    cea.GradCAM,
    cea.GradCAMPos,
    cea.GradMid,
    cea.GradCAMPlusPlus,
    cea.ActivityAttribution,
    cea.GuidedBackprop,
    cea.Deconvolution,
    cea.RectGrad,
    cea.RectGradMod,
    cea.LRP,
    cea.ExcitationBackprop,
    cea.ContrastiveExcitationBackprop,
]
WITH_DELTA = (cea.ActivityAttribution, cea.LRP, cea.ExcitationBackprop)


@pytest.mark.parametrize("method", [cea.ExtractAggregate, *LAYER_METHODS])
def test_captum_s_conventions(method, small_net, images):
    made = method(small_net, small_net.conv3)
    assert isinstance(made, LayerAttribution)
    assert isinstance(made, GradientAttribution)
    assert made.layer is small_net.conv3
    assert callable(made.attribute.__wrapped__)
    keywords = list(inspect.signature(made.attribute).parameters)
    assert keywords[:3] == ["inputs", "target", "additional_forward_args"]
    assert {"attribute_to_layer_input", "grad_kwargs"} <= set(keywords)
    assert ("return_convergence_delta" in keywords) == issubclass(method, WITH_DELTA)
    assert made.has_convergence_delta() == (method in WITH_DELTA)
    with pytest.raises(NotImplementedError):
        made.attribute_future()
    maps = made.attribute(images, target=1)
    assert maps.shape == (3, 1, 3, 3)
    assert not maps.requires_grad
    assert LayerAttribution.interpolate(maps, (12, 12)).shape == (3, 1, 12, 12)
    made.layer = small_net.conv1  # as TCAV does
    assert made.attribute(images, target=1).shape == (3, 1, 12, 12)
    made.layer = "conv2"
    assert made.attribute(images, target=1).shape == (3, 1, 12, 12)


def test_names_read_well():
    names = [method.get_name() for method in LAYER_METHODS]
    assert names[:4] == ["NormGrad", "Selective NormGrad", "Linear Approximation", "Layer Gradient"]
    assert names[4:9] == ["GradCAM", "GradCAM Pos", "GradMid", "GradCAM++", "Activity Attribution"]
    assert names[9:13] == ["Guided Backprop", "Deconvolution", "RectGrad", "RectGrad Mod"]
    assert names[13:] == ["LRP", "Excitation Backprop", "Contrastive Excitation Backprop"]
    others = (cea.FullGrad, cea.BiasAttribution, cea.AggregatedActivity, cea.CumulativeGradCAM, cea.CumulativeGradMid)
    assert [method.get_name() for method in others] == [
        "FullGrad",
        "Bias Attribution",
        "Aggregated Activity",
        "Cumulative GradCAM",
        "Cumulative GradMid",
    ]


@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel(small_net, images, nt_type):
    torch.manual_seed(0)
    tunnel = NoiseTunnel(cea.NormGrad(small_net, small_net.conv3))
    got = tunnel.attribute(images, nt_type=nt_type, nt_samples=4, stdevs=0.1, target=[0, 1, 2])
    assert got.shape == (3, 1, 3, 3)
    torch.manual_seed(0)
    noisy = torch.normal(images.repeat_interleave(4, 0), 0.1)
    maps = cea.NormGrad(small_net, small_net.conv3).attribute(noisy, torch.tensor([0, 1, 2]).repeat_interleave(4))
    by_hand = {
        "smoothgrad": maps.view(3, 4, 1, 3, 3).mean(1),
        "smoothgrad_sq": maps.square().view(3, 4, 1, 3, 3).mean(1),
    }
    if nt_type in by_hand:
        assert torch.allclose(got, by_hand[nt_type], rtol=1e-4, atol=1e-7)
    at_input = NoiseTunnel(cea.LayerGradient(small_net)).attribute(images, nt_type=nt_type, nt_samples=2, target=1)
    assert at_input.shape == (3, 1, 12, 12)


def test_noise_tunnel_with_a_list_of_layers_says_why_not(small_net, images):
    with pytest.raises(ValueError, match="one method and tunnel per layer"):
        NoiseTunnel(cea.NormGrad(small_net, ["conv1", "conv3"])).attribute(images, target=1)


def test_tcav_s_reassignment_of_the_layer(small_net, images, tmp_path):
    from captum.concept import TCAV

    tcav = TCAV(
        small_net, ["conv3"], layer_attr_method=cea.LinearApproximation(small_net, None), save_path=str(tmp_path)
    )
    assert isinstance(tcav.layer_attr_method, cea.LinearApproximation)
    tcav.layer_attr_method.layer = small_net.conv3
    entry = tcav.layer_attr_method.attribute.__wrapped__
    maps = entry(tcav.layer_attr_method, images, target=1, additional_forward_args=None)
    assert torch.equal(maps, cea.LinearApproximation(small_net, small_net.conv3).attribute(images, 1))


@pytest.mark.parametrize("to_input", [False, True])
def test_linear_approximation_is_gradient_x_activation(small_net, images, to_input):
    small_net, images = small_net.double(), images.double()
    for layer in (small_net.conv1, small_net.bn, small_net.conv3):
        got = cea.LinearApproximation(small_net, layer).attribute(images, 2, attribute_to_layer_input=to_input)
        theirs = captum_attr.LayerGradientXActivation(small_net, layer)
        expected = theirs.attribute(images, 2, attribute_to_layer_input=to_input).sum(1, keepdim=True)
        assert relative_error(got, expected) < 1e-12


def test_gradient_at_the_input_is_saliency(small_net, images):
    small_net, images = small_net.double(), images.double()
    for target in (0, [4, 3, 2], torch.tensor([1, 1, 0]), torch.tensor(3), np.int64(2)):
        got = cea.LayerGradient(small_net).attribute(images, target)
        plain = int(target) if isinstance(target, np.integer) else target
        expected = captum_attr.Saliency(small_net).attribute(images.clone(), plain).amax(1, keepdim=True)
        assert torch.allclose(got, expected, rtol=1e-12)
    signed = cea.LayerGradient(small_net, aggregate="sum").attribute((images,), 0)
    assert isinstance(signed, tuple)
    gradient = captum_attr.Saliency(small_net).attribute(images.clone(), 0, abs=False)
    assert torch.allclose(signed[0], gradient.sum(1, keepdim=True))


@pytest.mark.parametrize("target", [(1, 2), [(0, 1), (1, 2), (1, 0)]])
def test_targets_of_outputs_with_several_dimensions(small_net, images, target):
    model = lambda x: small_net(x)[:, :4].view(-1, 2, 2).repeat(1, 1, 2)  # noqa: E731
    got = cea.LinearApproximation(model, small_net.conv3).attribute(images, target)
    theirs = captum_attr.LayerGradientXActivation(model, small_net.conv3).attribute(images, target)
    assert relative_error(got, theirs.sum(1, keepdim=True)) < 1e-6
    assert cea.NormGrad(model, small_net.conv3).attribute_per_target(images, [(0, 1), (1, 3)]).shape == (3, 2, 1, 3, 3)


def test_grid_at_a_layer_equals_reference(small_net, images):
    small_net, images = small_net.double(), images.double()
    gradient_x = captum_attr.LayerGradientXActivation(small_net, small_net.conv3, multiply_by_inputs=False)
    g = gradient_x.attribute(images, 2)
    x = captum_attr.LayerActivation(small_net, small_net.conv3).attribute(images).detach()
    for extract, how in itertools.product(["bias", "scaling", "conv1x1", "conv3x3", "depthwise3x3"], AGGREGATES):
        got = cea.ExtractAggregate(small_net, small_net.conv3, extract=extract, aggregate=how).attribute(images, 2)
        want = reference.aggregate(reference.virtual_summands(extract, x, g), how, 2)
        assert relative_error(got[:, 0], want) < 1e-10, (extract, how)


@pytest.mark.parametrize("name", ["conv1", "conv2", "bn", "conv3"])
def test_real_layers_sum_to_the_parameters_gradients(small_net, images, name):
    small_net, images = small_net.double(), images.double()
    layer = small_net.get_submodule(name)

    def total(rows):  # one number per row that keeps every entry in the sum: a fixed random projection
        return (rows * probe).flatten(1).sum(1)

    for extract, parameter in (("layer", layer.weight), ("layer_bias", layer.bias)):
        probe = torch.randn(parameter.shape, dtype=torch.float64)
        maps = cea.ExtractAggregate(small_net, layer, extract=extract, aggregate=total).attribute(images, 2)
        for i in range(len(images)):
            (gradient,) = torch.autograd.grad(small_net(images[i : i + 1])[0, 2], parameter)
            assert torch.allclose(maps[i].sum(), (gradient * probe).sum(), rtol=1e-10)


def test_real_layers_inside_transformers():
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(32, 8, 2, 2, 8, 16, num_classes=3).eval().double()
    nn.init.normal_(vit.heads.head.weight)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    block = vit.encoder.layers[0]
    for layer in (block.mlp[0], block.mlp[3], block.ln_2, vit.conv_proj):
        got = cea.ExtractAggregate(vit, layer, extract="layer", aggregate="norm").attribute(x, 1)
        assert got.shape == (2, 1, 4, 4)
        # All tokens, as a plain sequence: now the law holds for the whole layer.
        layout = "channels_first" if layer is vit.conv_proj else "channels_last"
        probe = torch.randn(layer.weight.shape, dtype=torch.float64)
        maps = cea.ExtractAggregate(
            vit,
            layer,
            extract="layer",
            aggregate=lambda rows, probe=probe: (rows * probe).flatten(1).sum(1),
            layout=layout,
        ).attribute(x, 1)
        for i in range(2):
            (gradient,) = torch.autograd.grad(vit(x[i : i + 1])[0, 1], layer.weight)
            assert torch.allclose(maps[i].sum(), (gradient * probe).sum(), rtol=1e-8)


@pytest.mark.parametrize("method", LAYER_METHODS)
def test_layouts_are_the_same_network_written_differently(method):
    """A network of positionwise layers gives the same map channels first, channels last and as tokens."""

    class Net(nn.Module):
        def __init__(self, layout):
            super().__init__()
            self.layout = layout
            self.first, self.act, self.second = nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3)

        def forward(self, x):  # N C H W
            x = x.movedim(1, -1)
            x = x.flatten(1, 2) if self.layout == "tokens" else x
            y = self.act(self.first(x))
            return self.second(y).relu().flatten(1, -2).mean(1)

    class ChannelsFirst(Net):
        def forward(self, x):
            conv = lambda layer, t: nn.functional.conv2d(t, layer.weight[..., None, None], layer.bias)  # noqa: E731
            return conv(self.second, self.act(conv(self.first, x))).relu().mean((2, 3))

    nets = [Net("last"), Net("tokens"), ChannelsFirst("first")]
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
    x = torch.randn(2, 5, 6, 4)
    maps = [method(net, net.act).attribute(x, 1) for net in nets[:2]]
    maps.append(method(nets[2], nets[2].act, layout="channels_first").attribute(x, 1))
    for got in maps[1:]:
        assert torch.allclose(got, maps[0], rtol=1e-5, atol=1e-7)


def test_vit_tokens_where_captum_gives_nonsense():
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(32, 8, 2, 2, 8, 16, num_classes=3).eval()
    nn.init.normal_(vit.heads.head.weight)
    x = torch.randn(2, 3, 32, 32)
    layer = vit.encoder.layers[0]
    nonsense = captum_attr.LayerGradCam(vit, layer).attribute(x, 1)
    assert nonsense.shape == (2, 1, 8)  # tokens summed, channels left
    got = cea.LinearApproximation(vit, layer).attribute(x, 1)
    expected = captum_attr.LayerGradientXActivation(vit, layer).attribute(x, 1).sum(-1)[:, 1:].view(2, 1, 4, 4)
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-7)
    last = cea.NormGrad(vit, vit.encoder.layers[1]).attribute(x, 1)
    assert last.abs().max() == 0  # only the class token reaches the score, so default_layers leaves it out
    assert list(cea.default_layers(vit)) == ["encoder.layers.encoder_layer_0"]


@pytest.mark.parametrize("dims", [1, 3])
def test_one_and_three_spatial_dimensions(dims):
    conv = nn.Conv1d if dims == 1 else nn.Conv3d
    net = nn.Sequential(conv(2, 4, 3, padding=1), nn.ReLU(), conv(4, 3, 3), nn.Flatten(2)).eval()
    model = lambda x: net(x).mean(-1)  # noqa: E731
    x = torch.randn(2, 2, *(6, 5, 4)[:dims])
    for layer, to_input in ((net[0], False), (net[1], False), (net[2], True)):
        for method in LAYER_METHODS:
            got = method(model, layer).attribute(x, 1, attribute_to_layer_input=to_input)
            assert got.shape == (2, 1, *x.shape[2:])
    assert (
        cea.ExtractAggregate(model, net[2], extract="layer", aggregate="filter_norm").attribute(x, 1).shape[2]
        == x.shape[2] - 2
    )


@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100))
def test_maps_scale_with_the_score(seed, scale):
    """Every closed form is homogeneous in the gradient: a law that no single reference value shows."""
    torch.manual_seed(seed)
    net, x = SmallNet().eval().double(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    for how in AGGREGATES:
        plain = cea.ExtractAggregate(net, net.conv2, extract="conv3x3", aggregate=how).attribute(x, 0)
        scaled = cea.ExtractAggregate(lambda t: net(t) * scale, net.conv2, extract="conv3x3", aggregate=how).attribute(
            x, 0
        )
        assert torch.allclose(scaled, plain * scale, rtol=1e-9, atol=1e-14)


def test_zero_gradient_gives_a_zero_map(small_net, images):
    maps = cea.NormGrad(lambda x: small_net(x) * 0, small_net.conv3).attribute(images, 1)
    assert maps.abs().max() == 0


def test_saturated_probabilities_do_not_vanish(small_net, images):
    """float32 softmax of an unlikely class: gradients near 1e-25, whose squares are zero in float32."""
    probability = lambda x: (small_net(x) - torch.tensor([0.0, 55, 0, 0, 0])).softmax(1)  # noqa: E731
    maps = cea.NormGrad(probability, small_net.conv3).attribute(images, 1)
    exact = cea.NormGrad(lambda x: probability(x.float()).double(), small_net.conv3).attribute(images.double(), 1)
    assert maps.max() > 0
    assert maps.max() < 1e-20
    assert torch.allclose(maps.double() / exact, torch.ones_like(exact), rtol=1e-4)
