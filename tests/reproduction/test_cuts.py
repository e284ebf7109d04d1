"""Layers that nothing bypasses: which they are, and that the decomposition is complete there."""

import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.reproduction.cuts import Cut, cuts_of
from tests.networks import lively


def test_a_vgg_s_are_its_convolutions():
    model = cea.load_scene_model("vgg")
    found = cuts_of(model, torch.randn(1, 3, 96, 96))
    convolutions = [i for i, m in enumerate(model.features) if isinstance(m, nn.Conv2d)]
    assert [cut.layer for cut in found] == [f"features.{i}" for i in convolutions]
    assert all(cut.bias == cut.layer for cut in found)


def test_a_resnet_s_are_its_stem_and_its_blocks():
    model = lively(cea.load_scene_model("resnet"))
    found = cuts_of(model, torch.randn(1, 3, 96, 96))
    assert found == (
        Cut("bn1", "bn1", (96, 96)),
        Cut("layer1", "layer1.bn2", (96, 96)),
        Cut("layer2", "layer2.bn2", (48, 48)),
        Cut("layer3", "layer3.bn2", (24, 24)),
        Cut("layer4", "layer4.bn2", (12, 12)),
    )


def test_activities_and_biases_add_up_there():
    model = cea.load_scene_model("resnet").double()
    x = cea.DigitScenes(n=1)[0][0][None].double()
    layers = [cut.layer for cut in cuts_of(model, x)]
    gaps = cea.ActivityAttribution(model, layers).compute_convergence_delta(x, target=3)
    assert max(float(gap.abs()) for gap in gaps) < 1e-10


class _NormAndReLU(nn.BatchNorm2d):
    """As timm's: the ReLU is a part of the normalisation."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


def test_a_normalisation_that_holds_its_relu_is_the_cut_behind_its_convolution():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), _NormAndReLU(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert [cut.layer for cut in cuts_of(lively(net.eval()), torch.randn(1, 3, 8, 8))] == ["1"]
