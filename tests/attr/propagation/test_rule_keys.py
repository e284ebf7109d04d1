"""Which keys and values the rules of LRP take."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from captum_extract_aggregate.attr.propagation.lrp_rules import Flat
from captum_extract_aggregate.attr.propagation.rule_keys import check_rule, found_key, not_a_mapping


def own(relevance, output, x):
    return relevance


RIGHT = [
    ("conv1", Flat()),
    (nn.Conv2d, Flat()),
    (nn.ReLU(), "identity"),
    (torch.sin, "gradient"),
    (torch.sin, own),
    (torch.add, Flat()),
    (F.avg_pool2d, Flat()),
    (torch.matmul, Flat()),
    (("conv1", torch.add), Flat()),
    ((nn.Conv2d, torch.sin), "gradient"),
]
WRONG = [
    (3, Flat(), "has the key 3; expected a layer type"),
    (torch.Tensor, Flat(), "has the key <class 'torch.Tensor'>"),
    (torch.sin, Flat(), "holds Flat for the function torch.sin; expected a layer, or a linear function"),
    (("conv1", torch.sin), Flat(), "holds Flat for the function torch.sin"),
    ((torch.add, "conv1"), Flat(), "or a pair of a layer and a function"),
    (("conv1", "conv2"), Flat(), "or a pair of a layer and a function"),
    (("conv1", torch.add, torch.sub), Flat(), "or a pair of a layer and a function"),
    ((nn.Conv2d, torch.Tensor), "identity", "or a pair of a layer and a function"),
    ("conv1", Flat, "holds Flat for 'conv1'; expected a rule of"),
    ("conv1", "identiti", "is 'identiti', which is unknown; did you mean 'identity'"),
    ("conv1", 0.25, "holds float for 'conv1'"),
]


@pytest.mark.parametrize(("key", "rule"), RIGHT)
def test_what_is_taken(key, rule):
    assert check_rule(key, rule) is None


@pytest.mark.parametrize(("key", "rule", "said"), WRONG)
def test_what_is_not(key, rule, said):
    with pytest.raises((TypeError, ValueError)) as error:
        check_rule(key, rule)
    assert said in str(error.value)


def test_names_are_looked_up():
    net = nn.Sequential(nn.ReLU())
    assert found_key("0", net) is net[0]
    assert found_key(("0", torch.add), net) == (net[0], torch.add)
    assert found_key((nn.ReLU, torch.add), net) == (nn.ReLU, torch.add)
    assert found_key(torch.add, net) is torch.add
    with pytest.raises(ValueError, match="which is unknown"):
        found_key(("1", torch.add), net)


def test_rules_are_a_mapping():
    with pytest.raises(TypeError, match="rules is a list; expected a mapping"):
        not_a_mapping([Flat()])
