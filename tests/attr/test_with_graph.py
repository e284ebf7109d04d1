"""Maps inside a training loss: the gradient equals literal references and finite differences."""

import captum.attr as captum_attr
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import captum_extract_aggregate as cea
from tests.conftest import relative_error

WITH_GRAPH = {
    "GradCAM": cea.GradCAM,
    "GradCAM_Pos": cea.GradCAMPos,
    "GradCAM++": cea.GradCAMPlusPlus,
    "GradMid": cea.GradMid,
    "NormGrad": cea.NormGrad,
    "NormGrad, real layer": lambda net, layer: cea.NormGrad(net, layer, virtual_identity=False),
    "selective": cea.SelectiveNormGrad,
    "linear": cea.LinearApproximation,
    "activity": cea.ActivityAttribution,
    "gradient": cea.LayerGradient,
    "gradient, sum": lambda net, layer: cea.LayerGradient(net, layer, aggregate="sum"),
    "conv3x3, filter_norm": lambda net, layer: cea.ExtractAggregate(
        net, layer, extract="conv3x3", aggregate="filter_norm"
    ),
    "conv3x3, max": lambda net, layer: cea.ExtractAggregate(net, layer, extract="conv3x3", aggregate="max"),
    "depthwise3x3, abs_sum": lambda net, layer: cea.ExtractAggregate(
        net, layer, extract="depthwise3x3", aggregate="abs_sum"
    ),
    "conv1x1, sum_filter": lambda net, layer: cea.ExtractAggregate(
        net, layer, extract="conv1x1", aggregate="sum_filter"
    ),
    "cumulative": cea.CumulativeGradCAM,
}


class Smooth(nn.Module):
    """With tanh, second derivatives matter; in-place functions overwrite what layers give."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.conv2 = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.conv2(self.conv1(x).tanh_()).tanh_()
        return self.head(x.square().mean((2, 3)))


@pytest.fixture
def net():
    return Smooth().double().eval()


@pytest.fixture
def x():
    return torch.randn(2, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def loss_of(map_):
    """Of no symmetry, so that every position and example counts differently."""
    weights = torch.linspace(-1, 2, map_.numel(), dtype=map_.dtype).reshape(map_.shape)
    return (weights * map_).sum() + map_.square().mean()


@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("name", WITH_GRAPH)
def test_it_is_the_map_and_its_gradient_is_that_of_finite_differences(net, x, name, to_input):
    if to_input and "real" in name:
        pytest.skip("takes the layer's input by definition")
    method = WITH_GRAPH[name](net, net.conv2)
    target = [1, 2]
    map_ = method.attribute_with_graph(x, target, attribute_to_layer_input=to_input)
    plain = method.attribute(x, target, attribute_to_layer_input=to_input)
    assert relative_error(map_.detach(), plain) < 1e-12
    assert not plain.requires_grad
    loss_of(map_).backward()
    for p in net.parameters():  # along a random direction, as `attribute` sees it
        direction = torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(2))
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                p.add_(direction, alpha=step)
                values.append(loss_of(method.attribute(x, target, attribute_to_layer_input=to_input)))
                p.sub_(direction, alpha=step)
        expected = (values[0] - values[1]) / 2e-6
        got = torch.zeros(()) if p.grad is None else (p.grad * direction).sum()
        assert abs(got - expected) < 1e-5 * max(1, abs(expected))


def test_gradcam_equals_a_literal_reference_of_second_order(net, x):
    a = net.conv1(x).tanh()
    a = net.conv2(a)
    (g,) = torch.autograd.grad(net.head(a.tanh().square().mean((2, 3)))[:, 1].sum(), a, create_graph=True)
    expected = (g.mean((2, 3), keepdim=True) * a).sum(1, keepdim=True).relu()
    wanted = torch.autograd.grad(loss_of(expected), [net.conv1.weight, net.head.weight], retain_graph=True)
    first_order = torch.autograd.grad(
        loss_of((g.detach().mean((2, 3), keepdim=True) * a).sum(1, keepdim=True).relu()), net.conv1.weight
    )
    map_ = cea.GradCAM(net, net.conv2).attribute_with_graph(x, 1)
    got = torch.autograd.grad(loss_of(map_), [net.conv1.weight, net.head.weight])
    assert all(relative_error(*pair) < 1e-12 for pair in zip(got, wanted))
    assert relative_error(got[0], first_order[0]) > 0.01


def test_captum_s_graph_is_that_of_the_activations_alone(net, x):
    captums = captum_attr.LayerGradCam(net, net.conv2).attribute(x, target=1, relu_attributions=True)
    ours = cea.GradCAM(net, net.conv2).attribute_with_graph(x, 1)
    torch.testing.assert_close(ours, captums)
    assert captums.requires_grad
    (theirs,) = torch.autograd.grad(loss_of(captums), net.conv1.weight)
    (own,) = torch.autograd.grad(loss_of(ours), net.conv1.weight)
    assert relative_error(own, theirs) > 0.01


def test_several_layers_and_the_input(net, x):
    x.requires_grad_()
    maps = cea.LinearApproximation(net, [None, "conv1", "conv2"]).attribute_with_graph(x, 1)
    plain = cea.LinearApproximation(net, [None, "conv1", "conv2"]).attribute(x, 1)
    assert all(torch.allclose(a, b) for a, b in zip(maps, plain))
    sum(map(loss_of, maps)).backward()
    assert x.grad.any()
    with_input = cea.LayerGradient(net).attribute_with_graph((x.detach(),), 1)
    assert isinstance(with_input, tuple)
    assert not x.detach().requires_grad


def test_a_model_is_trained_by_its_map():
    """Guided attention: nothing of the class in the upper half."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(4))
    model = nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).train()
    x = torch.randn(8, 1, 8, 8)
    method, optimizer = cea.GradCAM(model, net), torch.optim.Adam(model.parameters(), 0.02)
    shares = []
    for _ in range(30):
        map_ = method.attribute_with_graph(x, 1)
        share = map_[:, :, :4].sum() / map_.sum()
        loss = share + F.cross_entropy(model(x), torch.ones(8).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shares.append(share.item())
    assert shares[-1] < shares[0] - 0.01
    assert all(p.requires_grad and p.grad is not None for p in model.parameters())
    assert not net._forward_hooks


def test_where_a_map_is_zero_its_gradient_is_finite(net, x):
    class Cut(nn.Module):
        def forward(self, x):
            return torch.cat([x[..., :3] * 0, x[..., 3:]], -1)

    cut = nn.Sequential(net.conv1, Cut(), nn.ReLU())
    model = lambda x: net.head(cut(x).mean((2, 3)))  # noqa: E731
    for make in (cea.NormGrad, cea.SelectiveNormGrad):
        map_ = make(model, cut[1], layout="channels_first").attribute_with_graph(x, 1)
        assert (map_[..., :3] == 0).all()
        map_.sum().backward()
        assert net.conv1.weight.grad.isfinite().all()


def test_what_has_no_graph_says_so(net, x):
    method = cea.GradCAM(net, net.conv2)
    with torch.no_grad(), pytest.raises(ValueError, match="gradients are off"):
        method.attribute_with_graph(x, 1)

    class Own(cea.GradCAM):
        def attribute(self, *args, **kwargs):
            return super().attribute(*args, **kwargs)

    for other in (cea.LRP(net), cea.GuidedBackprop(net), cea.BiasAttribution(net, net.conv1), Own(net, net.conv2)):
        with pytest.raises(NotImplementedError, match=f"{type(other).__name__} has no maps with a graph"):
            other.attribute_with_graph(x, 1)
    with pytest.raises(ValueError, match="never ran"):
        cea.GradCAM(net, nn.Conv2d(2, 2, 1)).attribute_with_graph(x, 1)
    with pytest.raises(ValueError, match="score"):
        cea.GradCAM(lambda x: net(x).sum(0, keepdim=True), net.conv2).attribute_with_graph(x, 1)
    with pytest.raises(ValueError, match="out of range"):
        method.attribute_with_graph(x, 9)
    with pytest.raises(ValueError, match="does not depend on"):
        cea.GradCAM(lambda x: net(x).detach(), net.conv2).attribute_with_graph(x, 1)
    assert not net.conv2._forward_hooks
