"""Maps of all methods, and which method it was that could not make one."""

import pytest
import torch
from captum.attr import LayerGradCam, LayerIntegratedGradients
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.explanation.maps import maps_of


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


def test_each_class_has_its_own_maps():
    net, x = network(), torch.randn(1, 3, 8, 8)
    methods = {"linear": cea.LinearApproximation(net, "0"), "Captum's": LayerGradCam(net, net[0])}
    found = maps_of(methods, x, [0, 2])
    for target, own in zip((0, 2), found):
        for name, method in methods.items():
            torch.testing.assert_close(own[name]["0"], method.attribute(x, target=target)[0].detach())


def test_the_method_that_cannot_is_named():
    """Whatever another library raises is one line; our own errors stay what they are."""

    class Failing(LayerIntegratedGradients):
        def attribute(self, *args, **kwargs):
            raise RuntimeError("out of luck")

    net, x = network(), torch.randn(1, 3, 8, 8)
    methods = {"linear": cea.LinearApproximation(net, "0"), "unlucky": Failing(net, net[0])}
    with pytest.raises(ValueError, match=r"method 'unlucky' cannot explain this model: .*out of luck"):
        maps_of(methods, x, [1])
    with pytest.raises(ValueError, match="target"):
        maps_of({"linear": methods["linear"]}, x, [7])
