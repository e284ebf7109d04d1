"""Which rule a call finds: pairs before functions before layers; inner layers and modules win."""

import pytest
import torch
from torch import Tensor, nn

from captum_extract_aggregate.attr.propagation.keyed_rules import KeyedRules

INNER, OUTER = nn.ReLU(), nn.Sequential(nn.Conv2d(3, 4, 3))


def running():
    return [INNER, OUTER]


def test_a_pair_wins_over_a_function_alone():
    rules = KeyedRules({torch.add: "function", (nn.Sequential, torch.add): "pair of a type", torch.sub: "another"})
    assert rules.of_function(torch.add, running) == "pair of a type"
    assert rules.of_function(torch.add, lambda: [INNER]) == "function"
    rules = KeyedRules({(nn.Sequential, torch.add): "of a type", (OUTER, torch.add): "of a module"})
    assert rules.of_function(torch.add, running) == "of a module"
    assert rules.of_function(torch.mul, running) is None


def test_inner_layers_and_modules_win():
    both = {OUTER: "outer", INNER: "inner", nn.ReLU: "inner type"}
    assert KeyedRules(both).of_layer(running) == "inner"
    assert KeyedRules({nn.ReLU: "inner type", OUTER: "outer"}).of_layer(running) == "outer"
    assert KeyedRules({nn.Sequential: "outer type", nn.ReLU: "inner type"}).of_layer(running) == "inner type"
    assert KeyedRules({nn.Linear: "elsewhere", torch.add: "function"}).of_layer(running) is None


SPELLINGS = {
    torch.add: [Tensor.__add__, Tensor.__iadd__, Tensor.__radd__, Tensor.add_],
    torch.sub: [Tensor.__sub__, Tensor.__isub__, Tensor.__rsub__, torch.subtract, torch.rsub],
    torch.mul: [Tensor.__mul__, Tensor.__imul__, Tensor.__rmul__, torch.multiply],
    torch.div: [Tensor.__truediv__, Tensor.__itruediv__, torch.divide, torch.true_divide],
    torch.matmul: [Tensor.__matmul__, Tensor.__rmatmul__],
}


@pytest.mark.parametrize("function", SPELLINGS)
def test_a_function_by_any_spelling(function):
    rules = KeyedRules({function: "found"})
    assert {rules.of_function(spelled, running) for spelled in SPELLINGS[function]} == {"found"}


def test_modules_that_nothing_ran_in_are_told():
    rules = KeyedRules({OUTER: "a", (OUTER, torch.add): "b", nn.Linear: "types are not told", torch.sub: "nor these"})
    assert rules.unused == {(OUTER, None), (OUTER, "add")}
    rules.of_layer(running)
    assert rules.unused == {(OUTER, "add")}
    rules.of_function(torch.add, running)
    assert rules.unused == set()
