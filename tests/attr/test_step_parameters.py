"""Which parameters take meta-saliency's step."""

import pytest
import torch
from torch import nn

from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate.attr.step_parameters import checked_model, chosen_parameters, differentiate_only


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def test_all_by_name_by_pattern_or_themselves_each_once(net):
    first, second = net
    assert chosen_parameters(net, None) == [first.weight, first.bias, second.weight, second.bias]
    assert [id(p) for p in chosen_parameters(net, ["1.*", "1.bias"])] == [id(second.weight), id(second.bias)]
    assert [id(p) for p in chosen_parameters(net, [first.bias, "0.bias"])] == [id(first.bias)]


@pytest.mark.parametrize(
    ("wanted", "match"),
    [
        (["2.weight"], "parameters"),
        ([torch.zeros(2)], r"shape \(2,\) that is no parameter"),
        ("0.weight", "expected a list"),
        ([3], "expected names, patterns or parameters"),
        ([], "no parameters are chosen"),
    ],
)
def test_others_are_refused(net, wanted, match):
    with pytest.raises((TypeError, ValueError), match=match):
        chosen_parameters(net, wanted)


def test_a_model_has_to_be_found():
    with pytest.raises(TypeError, match="expected model="):
        checked_model(lambda x: x)
    linear = nn.Linear(1, 1)
    assert checked_model(linear) is linear


def test_flags_are_set_for_the_step_and_come_back(net):
    net[0].bias.requires_grad_(False)
    with Undo() as undo, undo:
        differentiate_only([net[0].bias], net, undo)
        assert [p.requires_grad for p in net.parameters()] == [False, True, False, False]
    assert [p.requires_grad for p in net.parameters()] == [True, False, True, True]
