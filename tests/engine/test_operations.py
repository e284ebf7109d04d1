"""The table of operations, and calls of them."""

import pytest
import torch
import torch.nn.functional as F

from captum_extract_aggregate._engine.operations import OPERATIONS, Call, of_torch, tensors_in


def call(function, *args, **kwargs):
    return Call(function, args, kwargs, OPERATIONS.get(function))


SPELLINGS = {
    "rectifier": [torch.relu, torch.relu_, F.relu, torch.Tensor.relu, torch.Tensor.relu_, F.hardtanh, torch.clamp],
    "linear": [F.conv2d, torch.conv2d, F.linear, torch.Tensor.matmul, torch.Tensor.__matmul__],
    "sum": [torch.add, torch.Tensor.add_, torch.Tensor.__iadd__, torch.Tensor.__rsub__],
    "scale": [torch.mul, torch.Tensor.div_, torch.Tensor.__neg__],
    "winner": [F.max_pool2d, torch.amax],
    "maximum": [torch.max, torch.minimum],
    "routing": [torch.cat, torch.Tensor.view, torch.Tensor.__getitem__, torch.Tensor.T.__get__],
    "smooth": [torch.sigmoid, F.softmax, torch.exp],
    "normalization": [F.batch_norm, torch.layer_norm],
    "hiding": [torch.rnn_relu],
}


@pytest.mark.parametrize("kind", SPELLINGS)
def test_every_spelling_of_a_function_is_of_its_kind(kind):
    for function in SPELLINGS[kind]:
        assert OPERATIONS.get(function) == kind, function


def test_of_others_nothing_is_known():
    assert OPERATIONS.get(torch.sin) is None
    assert OPERATIONS.get(print) is None


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.relu_, "relu"),
        (torch.Tensor.add_, "add"),
        (torch.Tensor.__iadd__, "iadd"),
        (torch.linalg.vector_norm, "vector_norm"),
        (F.conv2d, "conv2d"),
    ],
)
def test_a_call_s_name(function, name):
    assert call(function).name == name


@pytest.mark.parametrize("function", [torch.relu_, torch.Tensor.add_, torch.Tensor.__iadd__])
def test_functions_that_overwrite_their_first_argument(function):
    assert call(function).in_place


def test_functions_that_do_not_unless_they_are_told():
    for function in (torch.relu, torch.Tensor.__add__, torch.Tensor.__invert__, F.relu):
        assert not call(function).in_place
    assert call(F.relu, torch.ones(1), inplace=True).in_place
    assert not call(F.relu, torch.ones(1), inplace=False).in_place


def test_a_call_as_a_function_of_some_arguments():
    x, weight, bias = torch.randn(2, 3), torch.randn(4, 3), torch.randn(4)
    of_input = call(F.linear, x, weight, bias=bias).as_function_of(x)
    torch.testing.assert_close(of_input(2 * x), F.linear(2 * x, weight, bias))
    of_both = call(F.linear, x, weight, bias=bias).as_function_of(bias, x)
    torch.testing.assert_close(of_both(3 * bias, x), F.linear(x, weight, 3 * bias))
    squared = call(torch.mul, x, x).as_function_of(x)  # one tensor in two places
    assert torch.equal(squared(x + 1), (x + 1) ** 2)


def test_an_argument_by_its_position_or_its_name():
    assert call(torch.flatten, 0, 1).argument(1, "start_dim") == 1
    assert call(torch.flatten, 0, start_dim=2).argument(1, "start_dim") == 2
    assert call(torch.flatten, 0).argument(1, "start_dim", 3) == 3


def test_operators_of_exported_programs_are_the_functions_they_are_called_by():
    assert of_torch(torch.ops.aten.relu.default) is torch.relu
    assert of_torch(torch.ops.aten.view.default) is torch.Tensor.view
    assert of_torch(print) is print


def test_all_tensors_in_order():
    a, b, c = torch.ones(1), torch.ones(2), torch.ones(3)
    found = tensors_in({"first": (a, [b, "text"]), "last": {"inner": c}, "none": None})
    assert [len(t) for t in found] == [1, 2, 3]
    assert tensors_in(5) == []


def test_every_operator_that_assigns_is_in_place():
    for name in "add sub mul truediv floordiv mod pow and or xor lshift rshift".split():
        assert call(getattr(torch.Tensor, f"__i{name}__")).in_place, name
    for name in ("__invert__", "__index__", "__int__", "__iter__"):
        assert not call(getattr(torch.Tensor, name)).in_place, name
