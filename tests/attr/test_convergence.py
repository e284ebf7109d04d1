"""Does a decomposition add up? The score against the activities at a cut and the biases behind it."""

import warnings

import pytest
import torch
import torchvision
from torch import nn

import captum_extract_aggregate as cea
from tests.networks import Tables, lively


def test_a_layer_that_branches_bypass_is_no_cut():
    net = lively(torchvision.models.resnet18()).double()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    method = cea.ActivityAttribution(net, ["layer2.0.conv1", "layer2.0", "layer3.1.bn2"])
    with pytest.warns(UserWarning, match="bypassed"):
        branch, block, other = method.compute_convergence_delta(x, 3)
    assert branch.isnan().all()
    assert other.isnan().all()
    assert block.abs() < 1e-10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        at_input = cea.ActivityAttribution(net, "layer2").compute_convergence_delta(x, 3, attribute_to_layer_input=True)
    assert at_input.abs() < 1e-10


@pytest.mark.parametrize(
    "make", [torchvision.models.efficientnet_b0, torchvision.models.convnext_tiny, lambda: torchvision.models.swin_t()]
)
def test_networks_that_are_not_piecewise_linear_report_their_gap(make):
    torch.manual_seed(0)
    net, x = lively(make()), torch.randn(1, 3, 64, 64)
    layer = list(cea.default_layers(net))[1]
    delta = cea.ActivityAttribution(net, layer).compute_convergence_delta(x, 3)
    assert torch.isfinite(delta).all()
    assert delta.abs() > 1e-4
    assert torch.isfinite(cea.FullGrad(net).compute_convergence_delta(x, 3)).all()
    assert cea.FullGrad(net).attribute(x, 3).shape == (1, 1, 64, 64)


class SharedReLU(nn.Module):
    """The same ReLU inside and at the end of a residual block."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.relu, self.head = nn.ReLU(), nn.Linear(3, 2)

    def forward(self, x):
        y = self.conv2(self.relu(self.conv1(x)))
        return self.head(self.relu(y + x).mean((2, 3)))


def test_only_the_chosen_call_of_a_shared_layer_is_severed():
    torch.manual_seed(0)
    net, x = SharedReLU().double(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    for call, is_cut in ((0, False), (1, True), (-2, False), (-1, True)):
        method = cea.ActivityAttribution(net, "relu", call=call)
        if is_cut:
            assert method.compute_convergence_delta(x, 1).abs().max() < 1e-12
        else:
            with pytest.warns(UserWarning, match="bypassed"):
                assert method.compute_convergence_delta(x, 1).isnan().all()


class Branches(nn.Module):
    """Two branches, each with its own output; layers called by keyword."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3)
        self.head1, self.head2 = nn.Linear(2, 1), nn.Linear(2, 1)

    def forward(self, x, shift=None):
        x = x if shift is None else x + shift
        outs = []
        for conv, head in ((self.conv1, self.head1), (self.conv2, self.head2)):
            outs.append(head(conv(input=x).relu().mean((2, 3))))
        return torch.cat(outs, 1) if shift is None else torch.cat(outs, 1) + shift.mean((1, 2, 3))[:, None]


def test_what_bypasses_a_layer_depends_on_the_target_and_on_all_arguments():
    torch.manual_seed(0)
    net, x = Branches().double(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    method = cea.ActivityAttribution(net, "conv1")
    assert method.compute_convergence_delta(x, 0).abs().max() < 1e-12
    by_keyword = method.compute_convergence_delta(x[:1], 0, attribute_to_layer_input=True)
    assert by_keyword.abs().max() < 1e-12
    with pytest.warns(UserWarning, match="bypassed"):
        assert method.compute_convergence_delta(x, 0, (torch.ones_like(x),)).isnan().all()


def test_biases_of_layers_that_run_several_times():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.conv(self.conv(x).relu()).relu().mean((2, 3)))

    torch.manual_seed(0)
    net, x = Twice().double(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    assert cea.FullGrad(net).compute_convergence_delta(x, 1).abs().max() < 1e-12
    assert cea.FullGrad(net).attribute(x, 1).shape == (2, 1, 6, 6)
    for call in (0, 1):
        delta = cea.ActivityAttribution(net, "conv", call=call).compute_convergence_delta(x, 1)
        assert delta.abs().max() < 1e-12


def test_tables_of_positions_are_no_example_s():
    """Half of a table's biases would go to either of two examples."""
    torch.manual_seed(0)
    net, x = Tables().double().eval(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    method = cea.ActivityAttribution(net, "patches")
    deltas = method.compute_convergence_delta(x, 1)
    alone = torch.cat([method.compute_convergence_delta(x[i : i + 1], 1) for i in range(2)])
    torch.testing.assert_close(deltas, alone, rtol=1e-9, atol=1e-12)
