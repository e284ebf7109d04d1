"""Rules of `LRP(rules={...})` for non-linear operations: they hold for one object alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.rules import Epsilon


class Gated(nn.Module):
    """A sigmoid, which LRP passes unchanged by itself, spelled in several ways."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.gate = function

    def forward(self, x):
        return self.fc(self.gate(self.conv(x)).mean((2, 3)))


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def relevance(net, **arguments):
    return cea.LRP(net, **arguments).attribute(X, target=1)


@pytest.mark.parametrize("spelled", [torch.sigmoid, F.sigmoid, torch.Tensor.sigmoid, nn.Sigmoid(), torch.special.expit])
def test_a_function_by_any_spelling(spelled):
    net = Gated(spelled)
    by_gradient = relevance(Gated(torch.sigmoid), rules={torch.sigmoid: "gradient"})
    known = spelled is not torch.special.expit
    by_itself = relevance(net) if known else None
    key = torch.sigmoid if known else torch.special.expit
    assert torch.equal(relevance(net, rules={key: "gradient"}), by_gradient)
    if known:  # the rule was of that object alone
        assert torch.equal(relevance(net), by_itself)
        assert torch.equal(relevance(net, rules={key: "identity"}), by_itself)
        assert not torch.equal(by_itself, by_gradient)
    else:
        with pytest.raises(ValueError, match="no rule for"):
            relevance(net)


def test_a_layer_by_type_name_and_object():
    net = Gated(nn.Sigmoid())
    by_function = relevance(net, rules={torch.sigmoid: "gradient"})
    for key in (nn.Sigmoid, "gate", net.gate):
        assert torch.equal(relevance(net, rules={key: "gradient"}), by_function)
    assert not torch.equal(relevance(net, rules={nn.Sigmoid: "identity"}), by_function)


def test_a_rule_of_one_s_own_equals_the_registered_one():
    def half(quantity, output, x):
        return quantity / 2

    net = Gated(torch.sigmoid)
    cea.register_operation(torch.sigmoid, half, overwrite=True)
    try:
        registered = relevance(net)
    finally:
        cea.unregister_operation(torch.sigmoid)
    assert torch.equal(relevance(net, rules={torch.sigmoid: half}), registered)
    assert torch.allclose(registered * 2, relevance(net, rules={torch.sigmoid: "identity"}))


def test_what_is_known_is_exchanged_too():
    net = Gated(nn.ReLU())
    zero = relevance(net, rules={nn.ReLU: lambda quantity, output, x: torch.zeros_like(x)})
    assert not zero.any()
    assert relevance(net).any()


def test_functions_win_over_layers_and_layers_over_types():
    net = Gated(nn.Sigmoid())
    gradient, identity = (relevance(net, rules={nn.Sigmoid: how}) for how in ("gradient", "identity"))
    assert torch.equal(relevance(net, rules={nn.Sigmoid: "identity", "gate": "gradient"}), gradient)
    assert torch.equal(relevance(net, rules={nn.Sigmoid: "gradient", torch.sigmoid: "identity"}), identity)


def test_linear_rules_stay_for_linear_operations():
    net = Gated(nn.Sigmoid())
    rules = {"conv": Epsilon(1e-3), nn.Sigmoid: "identity"}
    assert torch.isfinite(relevance(net, rules=rules)).all()


@pytest.mark.parametrize(
    ("rules", "error", "told"),
    [
        ({torch.sigmoid: "identiy"}, ValueError, "did you mean 'identity'"),
        ({torch.sigmoid: Epsilon(1e-3)}, TypeError, "rules holds Epsilon for the function"),
        ({torch.sigmoid: 3}, TypeError, "rules holds int"),
        ({int: "identity"}, TypeError, "rules has the key"),
        ({"conv": "identity", torch.sigmoid: "identity"}, ValueError, "no non-linear operation follows"),
    ],
)
def test_mistakes(rules, error, told):
    with pytest.raises(error, match=told):
        relevance(Gated(nn.Sigmoid()), rules=rules)
