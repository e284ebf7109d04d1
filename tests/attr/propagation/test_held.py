"""Marks on tensors: held, or out of an activation."""

import torch

from captum_extract_aggregate.attr.propagation.held import hold, is_activated, is_held, mark_activated, unmark_activated


def test_only_what_has_no_gradient_is_held():
    constant, signal, index = torch.ones(2), torch.ones(2, requires_grad=True), torch.ones(2, dtype=torch.long)
    hold([constant, (signal, index)])
    assert is_held(constant)
    assert not is_held(signal)
    assert not is_held(index)
    assert not is_held(torch.ones(2))


def test_a_held_tensor_that_takes_a_gradient_is_held_no_more():
    t = torch.ones(2)
    hold(t)
    assert not is_held(t.requires_grad_())


def test_the_mark_of_an_activation_goes():
    t = torch.ones(2)
    mark_activated([t])
    assert is_activated(t)
    unmark_activated([t, torch.ones(1)])
    assert not is_activated(t)
