"""Shares of sums and averages, by hand: by the rules of linear operations too, whose weights then are 1."""

import pytest
import torch
import torch.nn.functional as F

from captum_extract_aggregate.attr.propagation.lrp_rules import AlphaBeta, Epsilon, Flat, Gamma, Linear, ZPlus
from captum_extract_aggregate.attr.propagation.shares import (
    gamma_average,
    gamma_shares,
    part_average,
    part_shares,
    parts_of_sums,
    rule_average,
    rule_shares,
)

generator = torch.Generator().manual_seed(0)
X, Y = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64, generator=generator).unbind()
R = torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=generator)
POOL = Linear(lambda t, weight, bias: F.avg_pool2d(t, 2))


@pytest.mark.parametrize("gamma", [0.0, 0.25])
def test_gamma(gamma):
    """The rule of weights that are 1 is the rule of sums and averages."""
    rule = Gamma(gamma, 0.0) if gamma else Epsilon(0.0)
    expected = gamma_shares([X, Y], gamma, 0.0)
    torch.testing.assert_close(rule_shares([X, Y], [None, None], rule), expected)
    torch.testing.assert_close(rule_average(R, X, POOL, rule), gamma_average(R, X, POOL, gamma, 0.0))


def test_z_plus():
    parts = parts_of_sums("positive", "drop")
    torch.testing.assert_close(rule_shares([X, Y], [None, None], ZPlus()), part_shares([X, Y], [None, None], parts))
    torch.testing.assert_close(rule_average(R, X, POOL, ZPlus()), part_average(R, X, POOL, parts))


BY_HAND = {
    Epsilon(0.0): [1.5, -0.5],
    Epsilon(2.0): [0.75, -0.25],
    Gamma(1.0, 0.0): [1.2, -0.2],
    AlphaBeta(2, 1, 0.0): [2, -1],
    ZPlus(): [1, 0],
    Flat(): [0.5, 0.5],
}


@pytest.mark.parametrize("rule", BY_HAND)
def test_by_hand(rule):
    """3 and -1: what they get of R = 1 at their sum."""
    shares = rule_shares([torch.tensor([3.0]), torch.tensor([-1.0])], [None, None], rule)
    assert [float(share) for share in shares] == pytest.approx(BY_HAND[rule])


def test_constants_take_nothing_where_biases_take_nothing():
    constant = [torch.tensor([True, True]), torch.tensor([True, False])]
    addends = [torch.tensor([1.0, 1.0]), torch.tensor([3.0, 3.0])]
    assert [t.tolist() for t in rule_shares(addends, constant, ZPlus())] == [[0.25, 1], [0.75, 0]]
    assert [t.tolist() for t in rule_shares(addends, constant, Epsilon(0.0))] == [[0.25, 0.25], [0.75, 0.75]]
