"""Guided GradCAM: the literal product, Captum's where that can, tokens, functional ReLUs, several inputs."""

import captum.attr
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import captum_extract_aggregate as cea
from tests.conftest import relative_error
from tests.networks import runs_of
from tests.reference.cams import guided_gradcam


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_it_is_the_product(small_net, images, mode):
    net, x, layers = small_net.double(), images.double(), ["bn", "conv3"]
    guided = cea.GuidedBackprop(net).attribute(x, [0, 1, 2])
    found = cea.GuidedGradCAM(net, layers).attribute(x, [0, 1, 2], interpolate_mode=mode)
    for got, gradcam in zip(found, cea.GradCAM(net, layers).attribute(x, [0, 1, 2])):
        assert relative_error(got, guided_gradcam(guided, gradcam, mode)) < 1e-12


def test_it_is_captums_where_relus_are_modules():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3))
    x = torch.randn(2, 3, 8, 8)
    for call in ({}, {"interpolate_mode": "bicubic"}, {"attribute_to_layer_input": True}):
        expected = captum.attr.GuidedGradCam(net, net[2]).attribute(x.clone(), [0, 2], **call).detach()
        torch.testing.assert_close(cea.GuidedGradCAM(net, net[2]).attribute(x, [0, 2], **call), expected)


class Twofold(nn.Module):
    """Sees a picture, with a functional ReLU, and some numbers."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(6, 3)

    def forward(self, x, more=None):
        y = F.relu(self.conv(x)).square().mean((2, 3))
        return self.fc(torch.cat([y, y[:, :2] if more is None else more.relu()], 1))


def test_functional_relus_and_several_inputs():
    torch.manual_seed(0)
    net, x, more = Twofold(), torch.randn(2, 3, 6, 6), torch.randn(2, 2)
    with pytest.warns(UserWarning, match=r"input of shape \(2, 2\) gets an empty attribution"):
        of_picture, of_numbers = cea.GuidedGradCAM(net, "conv").attribute((x, more), 1)
    guided = cea.GuidedBackprop(net).attribute((x, more), 1)[0]
    expected = guided_gradcam(guided, cea.GradCAM(net, "conv").attribute((x, more), 1), "nearest")
    torch.testing.assert_close(of_picture, expected)
    assert of_numbers.numel() == 0
    x = torch.randn(2, 3, 16, 16)
    last = lambda t: net(t.movedim(-1, 1))  # noqa: E731
    channels_last = cea.GuidedGradCAM(last, net.conv).attribute(x.movedim(1, -1), 1)
    torch.testing.assert_close(channels_last.movedim(-1, 1), cea.GuidedGradCAM(net, "conv").attribute(x, 1))


def test_on_tokens():
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(32, 8, 2, 2, 8, 16, num_classes=3).eval()
    nn.init.normal_(vit.heads.head.weight)
    x, layer = torch.randn(2, 3, 32, 32), vit.encoder.layers[0]
    expected = guided_gradcam(
        cea.GuidedBackprop(vit).attribute(x, 1), cea.GradCAM(vit, layer).attribute(x, 1), "nearest"
    )
    torch.testing.assert_close(cea.GuidedGradCAM(vit, layer).attribute(x, 1), expected)


def test_at_the_input_each_has_its_own_map():
    torch.manual_seed(0)
    net, x, y = nn.Conv2d(3, 4, 3), torch.randn(1, 3, 6, 6), torch.randn(1, 3, 8, 8)
    both = lambda a, b: net(a).relu().mean((2, 3)) + net(b).relu().mean((2, 3))  # noqa: E731
    found = cea.GuidedGradCAM(both, None).attribute((x, y), 1)
    maps = cea.GradCAM(both, None).attribute((x, y), 1)
    for got, guided, map_ in zip(found, cea.GuidedBackprop(both).attribute((x, y), 1), maps):
        torch.testing.assert_close(got, guided * map_)


def test_two_forwards_whatever_there_is_to_explain(small_net, images):
    runs = runs_of(small_net)
    cea.GuidedGradCAM(small_net, ["bn", "conv3"]).attribute_per_target(images, [0, 1, 2])
    assert len(runs) == 2


class Halves(nn.Module):
    def forward(self, x):
        return x[..., :4], x[..., 4:]


def test_a_layer_of_two_tensors_is_an_error():
    halves = Halves()
    model = lambda x: sum(t.mean((2, 3)) for t in halves(x.relu()))  # noqa: E731
    with pytest.raises(cea.InvalidTypeError, match="gives 2 tensors, hence maps; expected a layer that gives one"):
        cea.GuidedGradCAM(model, halves, layout="channels_first").attribute(torch.randn(1, 3, 8, 8), 1)


def test_mistakes(small_net, images):
    method = cea.GuidedGradCAM(small_net, "conv3")
    with pytest.raises(cea.InvalidValueError, match=r"interpolate_mode is 'bilnear'.*'bilinear'"):
        method.attribute(images, 1, interpolate_mode="bilnear")
    with pytest.raises(cea.InvalidValueError, match="interpolate_mode is 'trilinear', and the layer has 2 position"):
        method.attribute(images, 1, interpolate_mode="trilinear")
    with pytest.raises(cea.InvalidTypeError, match="has rules of its own for the backward pass"):
        cea.LibraGrad(method)
    with pytest.raises(NotImplementedError):
        method.attribute_with_graph(images, 1)
