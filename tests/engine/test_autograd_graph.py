"""Walking down an autograd graph."""

import torch

from captum_extract_aggregate._engine.autograd_graph import nodes_below


def test_each_node_is_met_once_though_many_paths_lead_to_it():
    x = torch.ones(2, requires_grad=True)
    shared = x.exp()
    top = (shared.sin() + shared.cos()).grad_fn
    met = [node.name().removesuffix("Backward0") for node in nodes_below([top, top, None])]
    assert met[0] == "Add"
    assert sorted(met) == ["Add", "Cos", "Exp", "Sin", "torch::autograd::AccumulateGrad"]


def test_the_walk_ends_where_it_is_not_let_through():
    x = torch.ones(2, requires_grad=True)
    below = x.exp()
    top = below.sin().cos().grad_fn
    met = [node.name() for node in nodes_below([top], lambda node: not node.name().startswith("Sin"))]
    assert met == ["CosBackward0", "SinBackward0"]


def test_nothing_lies_below_nothing():
    assert not list(nodes_below([None]))
