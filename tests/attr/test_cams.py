"""CAMs that are cells of the grid, or weigh activations by other means: literal references, tokens, laws."""

import captum.attr
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate._engine.taps import Place
from tests.conftest import relative_error
from tests.reference import cams as reference

METHODS = {
    cea.HiResCAM: reference.hirescam,
    cea.ElementWiseGradCAM: reference.element_wise_gradcam,
    cea.LayerCAM: reference.layercam,
    cea.XGradCAM: reference.xgradcam,
}
AT = Place(nn.Identity(), "output")


def map_of(cls, x, g):
    """The map of an activation and a gradient."""
    evidence = Evidence(torch.zeros(len(x)), {AT: (x,)}, {AT: (g,)}, {AT: (0,)}, (x,), ())
    (found,) = cls(lambda t: t, AT.layer, layout="channels_first").maps_at((AT,), evidence)
    return found


@pytest.mark.parametrize("cls", METHODS)
@settings(max_examples=8)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    channels=st.integers(1, 3),
    seed=st.integers(0, 2**16),
    rectified=st.booleans(),
)
def test_maps_equal_reference(cls, sizes, channels, seed, rectified):
    generator = torch.Generator().manual_seed(seed)
    x, g = (torch.randn(2, channels, *sizes, dtype=torch.float64, generator=generator) for _ in range(2))
    x = x.clamp(min=0) if rectified else x
    x[0, 0] = 0  # a dead channel
    torch.testing.assert_close(map_of(cls, x, g), METHODS[cls](x, g), rtol=1e-8, atol=1e-12)


def test_at_layers_of_a_network(small_net, images):
    net, images, targets = small_net.double(), images.double(), [0, 1, 2]
    found = cea.attribute_together({cls: cls(net, ["bn", "conv3"]) for cls in METHODS}, images, targets)
    for i, layer in enumerate((net.bn, net.conv3)):
        g = captum.attr.LayerGradientXActivation(net, layer, multiply_by_inputs=False).attribute(images, targets)
        x = captum.attr.LayerActivation(net, layer).attribute(images).detach()
        for cls, literal in METHODS.items():
            assert relative_error(found[cls][i], literal(x, g)) < 1e-8


def test_on_tokens():
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(32, 8, 2, 2, 8, 16, num_classes=3).eval().double()
    nn.init.normal_(vit.heads.head.weight)
    layer, x = vit.encoder.layers[0], torch.randn(2, 3, 32, 32, dtype=torch.float64)
    on_grid = lambda t: t[:, 1:].transpose(1, 2).reshape(2, 8, 4, 4)  # noqa: E731
    a = on_grid(captum.attr.LayerActivation(vit, layer).attribute(x).detach())
    g = on_grid(captum.attr.LayerGradientXActivation(vit, layer, multiply_by_inputs=False).attribute(x, 1))
    found = cea.attribute_together({cls: cls(vit, layer) for cls in METHODS}, x, 1)
    for cls, literal in METHODS.items():
        assert relative_error(found[cls], literal(a, g)) < 1e-8


def test_what_they_are_of_each_other(small_net, images):
    linear = cea.LinearApproximation(small_net, "conv3").attribute(images, 1)
    assert torch.equal(cea.HiResCAM(small_net, "conv3").attribute(images, 1), linear.relu())
    (behind_a_relu,) = (net := nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 2)))[1:2]
    layer, elements = (cls(net, behind_a_relu).attribute(images, 1) for cls in (cea.LayerCAM, cea.ElementWiseGradCAM))
    assert torch.allclose(layer, elements, rtol=1e-5, atol=1e-8)
    signed = cea.XGradCAM(small_net, "relu2").attribute(images, 1, relu_attributions=False)
    whole = cea.LinearApproximation(small_net, "relu2").attribute(images, 1)
    assert torch.allclose(signed.sum((1, 2, 3)), whole.sum((1, 2, 3)), rtol=1e-4)


def test_the_outer_positive_part_of_layercam_matters_on_signed_activations(small_net, images):
    signed = cea.LayerCAM(small_net, "bn").attribute(images, 1, relu_attributions=False)
    assert (signed < 0).any()
    assert torch.equal(cea.LayerCAM(small_net, "bn").attribute(images, 1), signed.relu())


def test_a_dead_channel_counts_0_with_a_graph_too(small_net, images):
    with torch.no_grad():
        small_net.conv1.weight[0].zero_()
        small_net.conv1.bias[0] = -1.0
    method = cea.XGradCAM(small_net, "relu1")
    map_ = method.attribute_with_graph(images, 1)
    assert torch.equal(map_.detach(), method.attribute(images, 1))
    map_.sum().backward()
    assert torch.isfinite(small_net.conv2.weight.grad).all()
