"""How R passes sums, averages and the other steps of the relevance methods."""

import pytest
import torch
import torch.nn.functional as F

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.propagation.relevance_steps import finite
from captum_extract_aggregate.attr.propagation.shares import part_shares, parts_of_sums
from tests.attr.propagation.cases import Variant


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
