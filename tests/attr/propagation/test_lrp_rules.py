"""Rules for single layers, and their numbers."""

import math

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.propagation.lrp_rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    WSquare,
    ZBox,
)
from tests.attr.propagation.cases import TARGET, network, pictures
from tests.conftest import SmallNet, relative_error


def one_layer(layer, rule, x):
    net = nn.Sequential(layer, nn.Flatten()).double()
    return cea.LRP(net, rules={"0": rule}).attribute(x, target=0)


def test_rules_of_a_first_layer():
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 1, 3).double()
    w, b = layer.weight.detach()[0], layer.bias.detach()
    x = torch.rand(1, 2, 3, 3, dtype=torch.float64) * 2 - 1
    logit = (w * x).sum() + b
    flat = torch.full_like(x, 1 / 18) * logit
    assert relative_error(one_layer(layer, Flat(), x), flat) < 1e-12
    assert relative_error(one_layer(layer, WSquare(), x), w**2 / (w**2).sum() * logit) < 1e-12
    z = x * w + w.clamp(min=0) - w.clamp(max=0)  # low = -1, high = 1
    assert relative_error(one_layer(layer, ZBox(-1, 1), x), z / z.sum() * logit) < 1e-8
    bounds = ZBox(-torch.ones(2, 1, 1), torch.ones(2, 1, 1))
    assert relative_error(one_layer(layer, bounds, x), z / z.sum() * logit) < 1e-8
    contributions = x * w
    up, down = contributions.clamp(min=0), contributions.clamp(max=0)
    alpha_beta = (2 * up / up.sum() - down / down.sum()) * logit
    assert relative_error(one_layer(layer, AlphaBeta(2, 1), x), alpha_beta) < 1e-8
    assert relative_error(one_layer(layer, Epsilon(0.5), x), x * w / (logit + 0.5 * logit.sign()) * logit) < 1e-12


def test_composite_names_win_over_types_and_inner_over_outer():
    net = network("vgg11")
    x = pictures(net)

    def with_rules(rules):
        return cea.LRP(net, rules=rules).attribute(x, target=TARGET)

    everywhere = with_rules({nn.Conv2d: Gamma(0.3)})
    assert torch.equal(everywhere, with_rules({"features": Gamma(0.3)}))
    assert torch.equal(everywhere, with_rules({net.features: Gamma(0.3)}))
    mixed = with_rules({nn.Conv2d: Gamma(0.3), "features.0": Flat()})
    assert torch.equal(mixed, with_rules({"features": Gamma(0.3), "features.0": Flat(), nn.Conv2d: WSquare()}))
    assert not torch.equal(mixed, everywhere)


NUMBERS = {
    "epsilon": lambda net, v: cea.LRP(net, epsilon=v),
    "stabilizer": lambda net, v: cea.LRP(net, stabilizer=math.nan if v is None else v),
    "gamma": lambda net, v: cea.LRP(net, gamma=v if v != math.inf else math.nan),
    "percentile": lambda net, v: cea.RectGrad(net, percentile=v),
    "Epsilon": lambda net, v: Epsilon(v),
    "Gamma": lambda net, v: Gamma(v),
    "Gamma's epsilon": lambda net, v: Gamma(1, v),
    "alpha": lambda net, v: AlphaBeta(v, 1),
    "beta": lambda net, v: AlphaBeta(2, v),
    "AlphaBeta's epsilon": lambda net, v: AlphaBeta(2, 1, v),
    "ZBox's epsilon": lambda net, v: ZBox(0, 1, v),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_finite_and_not_negative(name):
    for value in (math.inf, math.nan, -1, -math.inf, True, None, "1"):
        with pytest.raises(ValueError, match=r"expected a .*number that is not negative"):
            NUMBERS[name](SmallNet(), value)
    for low, high in [(math.nan, 1), (-math.inf, 1), (0, math.inf), (torch.tensor([0.0, math.nan]), 1)]:
        with pytest.raises(ValueError, match="is not finite"):
            ZBox(low, high)
