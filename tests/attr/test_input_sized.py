"""Methods that make one input-sized map from several layers."""

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea


@pytest.mark.parametrize("cls", [cea.CumulativeGradCAM, cea.CumulativeGradMid])
def test_cumulative_methods_find_their_layers(cls):
    net = cea.load_scene_model("vgg")
    image, target = cea.DigitScenes(1)[0]
    method = cls(net)
    assert method.layer == list(cea.default_layers(net).values())
    m = method.attribute(image[None], int(target["labels"][0]))
    assert m.shape == (1, 1, 96, 96)
    assert m.min() >= 0
    assert m.max() <= 4
    with pytest.raises(TypeError, match="expected a layer"):
        cls(lambda x: net(x))


def test_a_network_whose_input_is_not_known_needs_its_layers_named():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.head = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), nn.Linear(4 * 8 * 20, 2)

        def forward(self, x):
            return self.head(self.features(x).flatten(1))

    net, x = Wide().eval(), torch.randn(1, 3, 12, 24)
    with pytest.raises(ValueError, match=r"layer is None, and default_layers could not .*; expected layer=, such"):
        cea.CumulativeGradCAM(net)
    layers = list(cea.default_layers(net, x).values())
    assert cea.CumulativeGradCAM(net, layers).attribute(x, 0).shape == (1, 1, 12, 24)


def test_cumulative_methods_need_positions_like_the_input_s():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.Conv1d(4, 4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    with pytest.raises(ValueError, match="position dimensions"):
        cea.CumulativeGradMid(net, [net[0], net[2]]).attribute(torch.randn(1, 3, 8, 8), 1)
