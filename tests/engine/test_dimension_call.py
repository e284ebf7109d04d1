"""Calls of operations, and the rules that are found by an operation's name."""

import pytest
import torch

from captum_extract_aggregate._engine.dimension_call import Call, channels, dims_after
from captum_extract_aggregate._engine.labels import Labels
from captum_extract_aggregate._engine.parts import kinds_of


def called(x, output, *args, known=True, **kwargs):
    labels = Labels(len(x))
    return Call(labels, None, (x, *args), kwargs, [x], [labels.of_input(0, x) if known else None], [output])


X = torch.zeros(2, 3, 4)


def test_an_operation_of_which_there_is_no_rule_works_entry_by_entry():
    (dims,) = dims_after("sin", called(X, X.sin()))
    assert [kinds_of(dim) for dim in dims] == [{"batch"}, {"unknown"}, {"unknown"}]


def test_where_its_output_cannot_be_a_broadcast_nothing_is_known():
    assert dims_after("something", called(X, torch.zeros(2, 7))) == [None]


def test_of_unknown_tensors_nothing_follows():
    assert dims_after("conv1d", called(X, X, known=False)) == [None]


@pytest.mark.parametrize(("args", "kwargs"), [((-1,), {}), ((2,), {}), ((), {"dim": -1}), ((), {"axis": 2})])
def test_the_argument_dim_is_counted_from_the_front(args, kwargs):
    assert called(X, X, *args, **kwargs).dim(3) == 2


def test_a_dimension_of_one_channel_has_no_parts():
    assert channels(1) == ()
    assert kinds_of(channels(5)) == {"channel"}
