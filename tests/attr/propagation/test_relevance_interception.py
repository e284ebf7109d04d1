"""What only the relevance methods ask of a network: weights that stay, norms behind one layer, sums that are kept."""

import math

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.rules import Flat, Gamma
from tests.attr.propagation.cases import Variant, batch_norm, made
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


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), batch_norm(4)

    def forward(self, y):
        y = y + self.norm(self.conv(y)).relu()
        y += 1
        return y


class Blocks(nn.Module):
    """Two blocks with a residual sum each, and an average."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = Block(), Block()
        self.pool, self.head = nn.AvgPool2d(2), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.pool(self.second(self.first(x))).amax((2, 3)))


def explained(**arguments):
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return cea.LRP(Blocks().double().eval(), **arguments).attribute(x, target=1)


def test_a_rule_of_sums_by_function_block_and_type():
    """All sums at once are the sums of each block; one block's alone are another map."""
    rule = Flat()
    everywhere = explained(rules={torch.add: rule})
    assert relative_error(explained(rules={(Block, torch.add): rule}), everywhere) < 1e-12
    each = {("first", torch.add): rule, ("second", torch.add): rule}
    assert relative_error(explained(rules=each), everywhere) < 1e-12
    first = explained(rules={("first", torch.add): rule})
    assert min(relative_error(first, other) for other in (everywhere, explained())) > 1e-3
    assert relative_error(explained(rules={"first": rule}), explained()) > 1e-3  # of its convolution
    assert relative_error(explained(rules={"first": rule, ("first", torch.add): rule}), first) > 1e-3


def test_a_rule_of_averages_by_layer_type_and_function():
    by_layer = explained(rules={"pool": Flat()})
    for key in (nn.AvgPool2d, F.avg_pool2d, ("pool", F.avg_pool2d), (Blocks, F.avg_pool2d)):
        assert torch.equal(explained(rules={key: Flat()}), by_layer)
    assert relative_error(by_layer, explained()) > 1e-3
    shared_out = explained(rules={"pool": lambda R, output, x: F.interpolate(R / 4, scale_factor=2.0)})  # noqa: N803
    assert relative_error(by_layer, shared_out) < 1e-12
    assert relative_error(explained(rules={"pool": "gradient"}), shared_out) < 1e-12


def test_the_rules_of_sums_and_averages_are_those_of_the_whole_network():
    """What `gamma` gives everywhere, given by function."""
    gamma = Gamma(0.25)
    own = {nn.Conv2d: gamma, nn.Linear: gamma, torch.add: gamma, nn.AvgPool2d: gamma}
    assert relative_error(explained(rules=own), explained(gamma=0.25)) < 1e-6


@pytest.mark.parametrize("key", ["second.norm", ("pool", torch.add), ("first", torch.sub)])
def test_a_rule_where_nothing_of_its_kind_runs(key):
    with pytest.raises(ValueError, match=r"in which no .* ran; expected layers that hold some"):
        explained(rules={key: Flat()})


def bicubic(y):
    return F.interpolate(y, size=(5, 7), mode="bicubic")


def test_a_bicubic_resize():
    """Weights of both signs: LRP shares out by contributions whatever gamma is; the z+ rule has none for it."""
    net, x = made(bicubic).double(), torch.randn(1, 3, 8, 8, dtype=torch.float64)
    expected = captum.attr.InputXGradient(net).attribute(x, target=0)
    assert relative_error(cea.LRP(net).attribute(x, target=0), expected) < 1e-6
    assert cea.LRP(net, gamma=0.25).attribute(x, target=0).isfinite().all()
    refusing = cea.ExcitationBackprop(net), cea.LRP(net, gamma=math.inf), cea.LRP(net, rules={F.interpolate: Flat()})
    for refused in refusing:
        with pytest.raises(ValueError, match="bicubic"):
            refused.attribute(x, target=0)
