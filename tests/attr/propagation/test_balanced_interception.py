"""Which calls a balanced pass understands, what it says of others, and what the ledger is told."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.propagation.balanced_interception import BalancedInterception


@pytest.fixture
def x():
    t = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return t.requires_grad_()


def test_a_function_that_is_not_understood_is_named(x):
    with BalancedInterception("it"), pytest.raises(ValueError, match=r"it cannot balance torch\.sin"):
        torch.sin(x)


def test_or_its_plain_gradient_is_taken_with_a_warning(x):
    with BalancedInterception("it", "gradient"), pytest.warns(UserWarning, match=r"plain gradient of torch\.sin"):
        output = torch.sin(x)
    (g,) = torch.autograd.grad(output.sum(), x)
    torch.testing.assert_close(g, x.detach().cos())


def test_a_signal_and_what_is_held_are_no_summands(x):
    with BalancedInterception("it"), pytest.raises(ValueError, match="of a signal and what gates or normalises"):
        x + x.softmax(1)


def test_a_score_that_is_held_is_refused(x):
    interception = BalancedInterception("it")
    with interception:
        output = x.softmax(1)
    with pytest.raises(ValueError, match="expected the logit in front of it"):
        interception.check(output)


def test_the_product_of_an_activation_and_a_signal_goes_to_the_signal(x):
    with BalancedInterception("it"):
        output = F.silu(x[:, :2]) * x[:, 2:]
    (g,) = torch.autograd.grad(output.sum(), x)
    expected = torch.cat([torch.zeros(2, 2, dtype=x.dtype), F.silu(x[:, :2]).detach()], 1)
    torch.testing.assert_close(g, expected)


@pytest.mark.parametrize(
    ("function", "adds"),
    [
        (lambda x: F.linear(x, torch.ones(3, 4, dtype=x.dtype), torch.arange(3, dtype=x.dtype)), 2 * (0 + 1 + 2)),
        (lambda x: x + 5, 2 * 4 * 5),
        (lambda x: torch.cat([x, torch.ones(2, 1, dtype=x.dtype)], 1), 2),
        (lambda x: F.layer_norm(x, (4,), bias=torch.ones(4, dtype=x.dtype)), 2 * 4),
        (lambda x: F.pad(x, (1, 1), value=3.0), 2 * 2 * 3),
        (lambda x: 3 * x.relu(), 0),
        (lambda x: x.clone().add_(5), 2 * 4 * 5),
    ],
)
def test_the_ledger_is_told_what_functions_give_of_nothing(function, adds, x):
    found = []
    with BalancedInterception("it", ledger=lambda call, output: lambda values: found.append(float(values.sum()))):
        output = function(x)
    assert found == []
    (g,) = torch.autograd.grad(output.sum(), x)
    assert sum(found) == pytest.approx(adds)
    assert (x * g).sum().item() + adds == pytest.approx(output.sum().item())


class Transposed(nn.Module):
    """A BatchNorm whose gradient comes transposed: tokens of the picture, as in EfficientFormer."""

    def __init__(self):
        super().__init__()
        self.norm, self.act, self.head = nn.BatchNorm2d(5), nn.GELU(), nn.Linear(5, 5)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x):
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        return (tokens + self.head(self.act(tokens))).mean(1)


def test_one_example_behind_a_batch_norm_is_what_it_is_in_a_batch():
    torch.manual_seed(0)
    model, x = Transposed().double().eval(), torch.randn(2, 5, 7, 7, dtype=torch.float64)
    method = cea.LibraGrad(cea.ActivityAttribution(model, None))
    assert method.compute_convergence_delta(x[:1], target=1).abs().max() < 1e-12
    torch.testing.assert_close(method.attribute(x[:1], target=1), method.attribute(x, target=1)[:1])
