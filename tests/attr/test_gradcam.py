"""GradCAM, its positive relatives and GradCAM++: literal references, Captum, and the faults of popular libraries."""

import captum.attr as captum_attr
import pytest
import torch
import torchvision
from captum.attr import NoiseTunnel
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.metrics import class_sensitivity
from tests.conftest import relative_error
from tests.reference import positive as reference

METHODS = [
    (cea.GradCAM, {}, reference.gradcam),
    (cea.GradCAMPos, {}, lambda x, g: reference.gradcam_pos(x, g, "abs")),
    (cea.GradCAMPos, {"positive": "relu"}, lambda x, g: reference.gradcam_pos(x, g, "relu")),
    (cea.GradMid, {}, lambda x, g: reference.grad_mid(g, "abs")),
    (cea.GradMid, {"positive": "relu"}, lambda x, g: reference.grad_mid(g, "relu")),
    (cea.GradCAMPlusPlus, {}, reference.gradcam_plus_plus),
    (cea.GradCAMPlusPlus, {"normalize_alpha": True}, lambda x, g: reference.gradcam_plus_plus(x, g, True)),
]
MAP_OF = [(cls(lambda x: x, nn.Identity(), **options), expected) for cls, options, expected in METHODS]


@pytest.mark.parametrize("index", range(len(METHODS)))
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    channels=st.integers(1, 3),
    seed=st.integers(0, 2**16),
    rectified=st.booleans(),
)
def test_maps_equal_reference(index, sizes, channels, seed, rectified):
    method, expected = MAP_OF[index]
    generator = torch.Generator().manual_seed(seed)
    x, g = (torch.randn(2, channels, *sizes, dtype=torch.float64, generator=generator) for _ in range(2))
    if rectified:
        x, g = x.clamp(min=0), g.where(torch.rand(g.shape, generator=generator) > 0.3, torch.zeros(()))
    got, want = method.map_of(None, x, g), expected(x, g)
    assert torch.allclose(got, want, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("cls", "options", "expected"), METHODS)
def test_at_a_layer(cls, options, expected, small_net, images):
    small_net, images = small_net.double(), images.double()
    layer = small_net.conv3
    g = captum_attr.LayerGradientXActivation(small_net, layer, multiply_by_inputs=False).attribute(images, 2)
    x = captum_attr.LayerActivation(small_net, layer).attribute(images).detach()
    assert relative_error(cls(small_net, layer, **options).attribute(images, 2), expected(x, g)) < 1e-10


@pytest.mark.parametrize("to_input", [False, True])
def test_gradcam_is_captum_s(small_net, images, to_input):
    for layer in (small_net.conv1, small_net.bn, small_net.conv3):
        got = cea.GradCAM(small_net, layer).attribute(images, [0, 1, 2], attribute_to_layer_input=to_input)
        theirs = captum_attr.LayerGradCam(small_net, layer)
        options = {"relu_attributions": True, "attribute_to_layer_input": to_input}
        assert torch.allclose(got, theirs.attribute(images, [0, 1, 2], **options), rtol=1e-4, atol=1e-8)


def test_gradcam_on_tokens_and_channels_last():
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(32, 8, 2, 2, 8, 16, num_classes=3).eval().double()
    nn.init.normal_(vit.heads.head.weight)
    x, layer = torch.randn(2, 3, 32, 32, dtype=torch.float64), vit.encoder.layers[0]
    on_grid = lambda t: t[:, 1:].transpose(1, 2).reshape(2, 8, 4, 4)  # noqa: E731
    a = on_grid(captum_attr.LayerActivation(vit, layer).attribute(x).detach())
    g = on_grid(captum_attr.LayerGradientXActivation(vit, layer, multiply_by_inputs=False).attribute(x, 1))
    assert relative_error(cea.GradCAM(vit, layer).attribute(x, 1), reference.gradcam(a, g)) < 1e-10
    swin = torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [1, 2], [4, 4], num_classes=3).eval()
    x = torch.randn(1, 3, 64, 64)
    last = captum_attr.LayerActivation(swin, swin.features[3]).attribute(x).detach().permute(0, 3, 1, 2)
    gradient = captum_attr.LayerGradientXActivation(swin, swin.features[3], multiply_by_inputs=False).attribute(x, 1)
    expected = reference.gradcam(last, gradient.permute(0, 3, 1, 2))
    assert torch.allclose(cea.GradCAM(swin, swin.features[3]).attribute(x, 1), expected, rtol=1e-3, atol=1e-7)


class PiecewiseLinear(nn.Module):
    """A convolution, a ReLU and a linear head: small enough for all second and third derivatives."""

    def __init__(self):
        super().__init__()
        self.conv, self.after, self.head = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 3, 2), nn.Linear(3 * 4, 2)

    def tail(self, a):
        return self.head(self.after(a).relu().flatten(1))

    def forward(self, x):
        return self.tail(self.conv(x).relu())


def derivatives_of_exp_score(net, a):
    """First, second and third derivative of exp(score) by each activation, by repeated differentiation."""
    a = a.clone().requires_grad_()
    (first,) = torch.autograd.grad(net.tail(a)[0, 1].exp(), a, create_graph=True)
    second, third = torch.zeros_like(a), torch.zeros_like(a)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in a.shape)).tolist():
        (row,) = torch.autograd.grad(first[tuple(index)], a, create_graph=True, retain_graph=True)
        second[tuple(index)] = row[tuple(index)]
        third[tuple(index)] = torch.autograd.grad(row[tuple(index)], a, retain_graph=True)[0][tuple(index)]
    return first.detach(), second.detach(), third.detach()


@pytest.mark.parametrize("seed", range(5))
def test_gradcam_plus_plus_is_made_of_the_derivatives_of_exp_score(seed):
    torch.manual_seed(seed)
    net, x = PiecewiseLinear().double(), torch.randn(1, 2, 3, 3, dtype=torch.float64)
    layer = nn.Sequential(net.conv, nn.ReLU())
    a = layer(x).detach()
    first, second, third = derivatives_of_exp_score(net, a)
    denominator = 2 * second + a.sum((2, 3), keepdim=True) * third
    alpha = torch.where(second != 0, second / torch.where(denominator != 0, denominator, 1), 0)
    weights = (alpha * first.relu()).sum((2, 3), keepdim=True)
    expected = (weights * a).sum(1, keepdim=True).relu()
    model = lambda t: net.tail(layer(t))  # noqa: E731
    got = cea.GradCAMPlusPlus(model, layer).attribute(x, 1)
    assert torch.allclose(got * net(x)[0, 1].exp(), expected, rtol=1e-9, atol=1e-14)


def cell(x, g):
    """GradCAM++ of one activation and gradient, `1 x K x 2 x 2`."""
    return cea.GradCAMPlusPlus(lambda t: t, nn.Identity()).map_of(None, x, g)


X = torch.tensor([[[[1.0, 2], [3, 4]], [[4.0, 0], [1, 2]]]], dtype=torch.float64)
G = torch.tensor([[[[0.3, -0.1], [0.2, 0.4]], [[0.1, 0.5], [-0.2, 0.1]]]], dtype=torch.float64)


def test_small_gradients_are_not_swamped_by_a_constant():
    """A popular library divides by 2g^2 + ... + eps: gradients of 1e-5 then lose their alphas."""
    scale = 1e-6
    exact = reference.gradcam_plus_plus(X, G * scale)
    assert torch.allclose(cell(X, G * scale), exact, rtol=1e-9, atol=0)
    assert torch.allclose(cell(X.float(), (G * scale).float()).double(), exact, rtol=1e-5, atol=0)
    g = G * scale
    swamped = g**2 / (2 * g**2 + X.sum((2, 3), keepdim=True) * g**3 + 1e-6)
    faulty = ((swamped * g.relu()).sum((2, 3), keepdim=True) * X).sum(1, keepdim=True).relu()
    assert faulty.max() < exact.max() / 1000


@pytest.mark.parametrize("normalize_alpha", [False, True])
def test_where_the_denominator_vanishes_alpha_is_zero(normalize_alpha):
    x, g = X.clone(), G.clone()
    x[0, 0], g[0, 0, 0, 0] = -0.5, 1.0  # 2 + 1 * -2
    method = cea.GradCAMPlusPlus(lambda t: t, nn.Identity(), normalize_alpha=normalize_alpha)
    expected = reference.gradcam_plus_plus(x, g, normalize_alpha)
    assert expected.isfinite().all()
    assert expected.any()
    assert torch.allclose(method.map_of(None, x, g), expected, rtol=1e-12)


def test_the_denominator_counts():
    """Another drops the denominator's second term: alphas of 1/2 everywhere."""
    faulty = ((0.5 * G.relu()).sum((2, 3), keepdim=True) * X).sum(1, keepdim=True).relu()
    exact = reference.gradcam_plus_plus(X, G)
    assert torch.allclose(cell(X, G), exact)
    assert not torch.allclose(faulty / faulty.max(), exact / exact.max(), rtol=0.05)


def test_the_denominator_takes_the_sum_of_the_activation():
    """A third takes its mean."""
    alpha = 1 / (2 + G * X.mean((2, 3), keepdim=True))
    faulty = ((alpha * G.relu()).sum((2, 3), keepdim=True) * X).sum(1, keepdim=True).relu()
    exact = reference.gradcam_plus_plus(X, G)
    assert torch.allclose(cell(X, G), exact)
    assert not torch.allclose(faulty / faulty.max(), exact / exact.max(), rtol=0.05)


def activation_and_gradient(net, name, x, target):
    layer = net.get_submodule(name)
    gradient = captum_attr.LayerGradientXActivation(net, layer, multiply_by_inputs=False)
    return captum_attr.LayerActivation(net, layer).attribute(x).detach(), gradient.attribute(x, target)


@pytest.mark.parametrize("positive", ["abs", "relu"])
@pytest.mark.parametrize("cls", [cea.CumulativeGradCAM, cea.CumulativeGradMid])
def test_cumulative_methods_equal_reference(cls, positive, small_net, images):
    """The sum over the layers is one of GradCAM_Pos (Khakzar et al., section 3.1), not of GradCAM."""
    small_net, images = small_net.double(), images[:2].double()
    layers = ["conv1", "relu2", "conv3"]
    pairs = [activation_and_gradient(small_net, name, images, 2) for name in layers]
    expected = reference.cumulative_gradcam if cls is cea.CumulativeGradCAM else reference.cumulative_gradmid
    got = cls(small_net, layers, positive=positive).attribute(images, 2)
    assert relative_error(got, expected(pairs, (12, 12), positive)) < 1e-10


def test_cumulative_gradcam_depends_on_the_class_as_little_as_what_it_is_made_of():
    """Its authors show with it that positive aggregation is blind to the class (.92 in their table 2)."""
    model = cea.load_scene_model("resnet")
    images = torch.stack([image for image, _ in cea.DigitScenes(n=8)])
    assert class_sensitivity(cea.CumulativeGradCAM(model), images, model).mean() > 0.9


@pytest.mark.parametrize("cls", [cea.CumulativeGradCAM, cea.CumulativeGradMid])
def test_cumulative_methods(cls, small_net, images):
    small_net, images = small_net.double(), images.double()
    layers = ["conv1", "relu2", "conv3"]
    single = cea.GradCAMPos if cls is cea.CumulativeGradCAM else cea.GradMid
    expected = sum(reference.psi(m, (12, 12)) for m in single(small_net, layers).attribute(images, 2))
    got = cls(small_net, layers).attribute(images, 2)
    assert got.shape == (3, 1, 12, 12)
    assert relative_error(got, expected) < 1e-10
    per_target = cls(small_net, layers).attribute_per_target(images, [0, 2])
    assert torch.allclose(per_target[:, 1], got)
    assert torch.allclose(cea.attribute_together({"it": cls(small_net, layers)}, images, 2)["it"], got)
    tunnel = NoiseTunnel(cls(small_net, layers)).attribute(images, nt_samples=2, stdevs=0.0, target=2)
    assert torch.allclose(tunnel, got)
    one_layer = cls(small_net, "conv3").attribute(images, 2)
    assert one_layer.shape == (3, 1, 12, 12)


@pytest.mark.parametrize("cls", [cea.GradCAMPos, cea.GradMid, cea.CumulativeGradCAM, cea.CumulativeGradMid])
def test_an_unknown_way_to_be_positive(cls, small_net):
    with pytest.raises(ValueError, match="expected one of 'abs', 'relu'"):
        cls(small_net, "conv3", positive="xyz")


@pytest.mark.parametrize("cls", [cls for cls, _, _ in METHODS] + [cea.CumulativeGradCAM, cea.CumulativeGradMid])
def test_zero_maps_and_negative_only_maps_are_no_nan(cls, small_net, images):
    for factor in (0, -1):
        maps = cls(lambda x, factor=factor: small_net(x).abs() * factor, small_net.conv3).attribute(images, 1)
        assert torch.isfinite(maps).all()
        assert (maps >= 0).all()
