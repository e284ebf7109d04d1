"""What only the relevance methods ask of a network: weights that stay, norms behind one layer, sums that are kept."""

import math

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import captum_extract_aggregate as cea
from tests.attr.propagation.cases import Variant, batch_norm
from tests.conftest import relative_error


class SharedBeforeNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), batch_norm(4), nn.Linear(4, 3)

    def forward(self, x):
        y = self.conv(x)
        return self.head((self.norm(y) + y).relu().mean((2, 3)))


def test_shared_before_a_norm():
    x = torch.randn(1, 3, 8, 8)
    net = SharedBeforeNorm().eval()
    # The norm is then an affine operation of its own: LRP-0 is gradient x input, as for every network of ReLUs.
    expected = captum.attr.InputXGradient(net).attribute(x, target=0)
    assert relative_error(cea.LRP(net).attribute(x, target=0), expected) < 1e-4
    assert cea.LRP(net, gamma=math.inf, lost="spread").compute_convergence_delta(x, target=0).abs() < 1e-5


def test_weights_that_change_after_use():
    def overwrites(net, y):
        w = net.conv2.weight.clone()
        z = F.conv2d(y, w, padding=1).relu()
        w.zero_()
        return z

    with pytest.raises(ValueError, match="overwrites the weights"):
        cea.ExcitationBackprop(Variant(overwrites).eval()).attribute(torch.randn(1, 3, 6, 6), target=1)


def test_overlapping_folds_keep_the_sum():
    def folded(net, y):
        return F.fold(F.unfold(y.relu(), 3, padding=1), y.shape[2:], 3, padding=1)

    net = Variant(folded).double().eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    method = cea.ExcitationBackprop(net, lost="spread")
    assert method.compute_convergence_delta(x, target=1).abs().max() < 1e-10
