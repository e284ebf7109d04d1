"""Marks beside tensors: held, or out of an activation."""

import captum.attr
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.propagation.held import Marks


def test_only_what_has_no_gradient_is_held():
    constant, signal, index = torch.ones(2), torch.ones(2, requires_grad=True), torch.ones(2, dtype=torch.long)
    marks = Marks()
    marks.hold([constant, (signal, index)])
    assert marks.is_held(constant)
    assert not marks.is_held(signal)
    assert not marks.is_held(index)
    assert not marks.is_held(torch.ones(2))
    assert not Marks().is_held(constant)


def test_a_held_tensor_that_takes_a_gradient_is_held_no_more():
    t, marks = torch.ones(2), Marks()
    marks.hold(t)
    assert not marks.is_held(t.requires_grad_())


def test_the_mark_of_an_activation_goes():
    t, marks = torch.ones(2), Marks()
    marks.mark_activated([t])
    assert marks.is_activated(t)
    marks.unmark_activated([t, torch.ones(1)])
    assert not marks.is_activated(t)


class Constant(nn.Module):
    """A constant of the type of what is held, which is added to the signal, too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("constant", torch.tensor([1.0, 2.0, 3.0]))
        self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        y = self.first(x)
        weights = y.softmax(-1)
        return self.last(self.constant.to(weights) * weights * y + self.constant.expand_as(weights))


def test_nothing_is_left_on_the_model_and_its_constants_are_not_held():
    torch.manual_seed(0)
    model, x = Constant(), torch.randn(2, 4)
    method = cea.LibraGrad(cea.ActivityAttribution(model, None))
    assert method.compute_convergence_delta(x, target=1).abs().max() < 1e-5
    cea.LibraGrad(captum.attr.InputXGradient(model)).attribute(x, target=1)
    assert not model.constant.__dict__
