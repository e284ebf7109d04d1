"""Explanations as the measures need them: one map per example, of the input's size."""

import types

import captum.attr
import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate import metrics
from captum_extract_aggregate.metrics.explanations import per_target_of
from captum_extract_aggregate.visualization.figures import overlay
from tests.networks import Strided


class Rows(nn.Module):
    """A sequence of a picture's rows."""

    def __init__(self, channels=4):
        super().__init__()
        self.c, self.fc = nn.Conv1d(3, channels, 3, padding=1), nn.Linear(channels, 3)

    def forward(self, x):
        return self.fc(self.c(x.mean(3)).relu().mean(2))


@pytest.mark.parametrize("channels", [4, 16])  # 16: a layer's K x L is as large as the picture's H x W
def test_a_map_of_rows_is_no_picture(channels):
    net, x = Rows(channels).eval(), torch.randn(2, 3, 16, 16)
    masks = torch.ones(2, 16, 16, dtype=torch.bool)
    for method in (cea.NormGrad(net, "c"), captum.attr.LayerGradientXActivation(net, net.c)):
        maps = method.attribute(x, target=1)
        runs = [
            lambda: metrics.as_input_attribution(method).attribute(x, target=1),  # noqa: B023
            lambda: metrics.class_sensitivity(method, x, net),  # noqa: B023
            lambda: metrics.class_sensitivity(captum.attr.NoiseTunnel(method), x, net),  # noqa: B023
            lambda: metrics.parameter_randomization(method, net, x, 1),  # noqa: B023
        ]
        if maps.shape[1:] != (16, 16):
            runs += [lambda: metrics.pixel_removal(net, x, maps)]  # noqa: B023
            runs += [lambda: metrics.removal_contrast(net, x, maps)]  # noqa: B023
        for run in runs:
            with pytest.raises(ValueError, match="no map with 2 position dimensions"):
                run()
    rows = cea.NormGrad(net, "c").attribute(x, 1)
    with pytest.raises(ValueError, match="the map of a sequence"):
        metrics.pointing_game(rows, masks)
    from matplotlib.figure import Figure

    with pytest.raises(ValueError, match="the map of a sequence"):
        overlay(Figure().subplots(), torch.rand(3, 16, 16), rows[0])
    assert metrics.class_sensitivity(cea.NormGrad(net, "c"), x, net, size=(16,)).shape == (2,)  # said to be rows


def test_a_map_that_is_constant_but_for_rounding_is_undefined():
    net, x = Strided(2, 3, 1).eval(), torch.randn(2, 3, 16, 16)
    noise = lambda inputs, target: 0.3 + 1e-8 * torch.rand(2, 1, 5, 5)  # noqa: E731
    assert metrics.class_sensitivity(noise, x, net).isnan().all()


def test_a_function_bound_to_a_method_is_not_its_attribute(small_net, images):
    def attribute(self, inputs, target=None):
        return torch.zeros(len(inputs), 1, 3, 3).index_fill_(3, torch.tensor(0), 1.0)

    method = cea.NormGrad(small_net, small_net.conv3)
    explainer = types.MethodType(attribute, method)
    assert per_target_of(explainer) is None
    assert per_target_of(method) == per_target_of(method.attribute) == method.attribute_per_target
    assert torch.allclose(metrics.class_sensitivity(explainer, images, small_net), torch.ones(3, dtype=torch.float64))
