"""How R passes sums, averages and the other steps of the relevance methods."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import captum_extract_aggregate as cea
from captum_extract_aggregate._common import chunks
from captum_extract_aggregate.attr.propagation import relevance_steps
from captum_extract_aggregate.attr.propagation.relevance_steps import finite
from captum_extract_aggregate.attr.propagation.shares import part_shares, parts_of_sums
from captum_extract_aggregate.rules import AlphaBeta, Flat, Gamma, WSquare, ZBox, ZPlus
from tests.attr.propagation.cases import Variant
from tests.conftest import relative_error
from tests.networks import lively


@pytest.mark.parametrize("gamma", [0, 0.25, float("inf")])
def test_operations_on_nothing(gamma):
    """An empty slice of the channels, as pruned networks have them."""

    def split(net, y):
        none = y[:, y.shape[1] :]
        return torch.cat([y, none + none, F.linear(none, torch.eye(y.shape[-1]))], 1)

    net, x = Variant(split).eval(), torch.randn(1, 3, 6, 6)
    plain = Variant(lambda net, y: y).eval()
    plain.load_state_dict(net.state_dict())
    got, expected = (cea.LRP(each, gamma=gamma).attribute(x, target=1) for each in (net, plain))
    torch.testing.assert_close(got, expected)


def test_infinite_addends_take_nothing():
    """Padding with minus infinity, in front of a maximum say."""
    addends = [torch.tensor([1.0, 2, 0, -1]), torch.tensor([-torch.inf, 1, 0, -3])]
    spread = part_shares([finite(t) for t in addends], [None, None], parts_of_sums("positive", "spread"))
    assert torch.allclose(spread[0], torch.tensor([1, 2 / 3, 0.5, 0.25]))
    assert torch.allclose(spread[1], torch.tensor([0, 1 / 3, 0.5, 0.75]))
    signed = part_shares([finite(t) for t in addends], [None, None], parts_of_sums("signed", "drop"))
    assert torch.allclose(signed[0], torch.tensor([0, 2 / 3, 0, 0.25]))


OVERWRITTEN = {
    "in place": lambda net, y: net.conv2(y).relu_(),
    "a part": lambda net, y: (lambda t: (t[:, :1].mul_(0.5), t)[1])(net.conv2(y)).relu(),
    "later": lambda net, y: (lambda t: t.relu() + t.mul_(0.5))(net.conv2(y)),
}


@pytest.mark.parametrize("gamma", [0, 0.25])
@pytest.mark.parametrize("how", OVERWRITTEN)
def test_the_forward_s_product_is_taken_as_it_was(gamma, how):
    """Whatever overwrites it afterwards: as for a network that overwrites nothing."""
    apart = {
        "in place": lambda net, y: net.conv2(y).relu(),
        "a part": lambda net, y: (lambda t: torch.cat([t[:, :1] * 0.5, t[:, 1:]], 1))(net.conv2(y)).relu(),
        "later": lambda net, y: (lambda t: t.relu() + t * 0.5)(net.conv2(y)),
    }
    net, x = lively(Variant(OVERWRITTEN[how])).double(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    plain = Variant(apart[how]).double().eval()
    plain.load_state_dict(net.state_dict())
    got, expected = (cea.LRP(each, gamma=gamma).attribute(x, target=1) for each in (net, plain))
    assert relative_error(got, expected) < 1e-12


@pytest.mark.parametrize(
    "rule", [ZPlus(), ZPlus("spread"), AlphaBeta(), AlphaBeta(1, 0, bias=True), Gamma(0.25)], ids=str
)
def test_a_large_linear_layer_goes_a_few_outputs_at_a_time(rule, monkeypatch):
    net = lively(torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.ReLU(), torch.nn.Linear(10, 4))).double()
    x = torch.randn(3, 6, dtype=torch.float64)
    method = cea.LRP(net, rules={torch.nn.Linear: rule})
    expected = method.attribute(x, target=1)
    monkeypatch.setattr(chunks, "_CHUNK", 12)
    assert relative_error(method.attribute(x, target=1), expected) < 1e-12


@pytest.mark.parametrize(
    "rule", [ZPlus(), ZPlus("spread"), AlphaBeta(), Gamma(0.25), ZBox(-3, 3), Flat(), WSquare()], ids=str
)
@pytest.mark.parametrize("groups", [1, 2])
def test_terms_of_one_sum_are_one_operation(rule, groups, monkeypatch):
    """Where the operation can be joined (one group), and the same where it cannot."""
    conv = torch.nn.Conv2d(4, 6, 3, padding=1, groups=groups)
    net = lively(torch.nn.Sequential(conv, torch.nn.Flatten(), torch.nn.Linear(96, 3))).double()
    x = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    method = cea.LRP(net, rules={"0": rule})
    expected = method.attribute(x, target=1)
    weighted = relevance_steps.weighted
    monkeypatch.setattr(
        "captum_extract_aggregate.attr.propagation.relevance_interception.weighted",
        lambda call: replace(weighted(call), channels=None),
    )
    assert relative_error(method.attribute(x, target=1), expected) < 1e-12
