"""Which keys and values the rules of LRP take."""

import pytest
import torch
from torch import nn

from captum_extract_aggregate.attr.propagation.lrp_rules import Flat
from captum_extract_aggregate.attr.propagation.rule_keys import check_rule, not_a_mapping


def own(relevance, output, x):
    return relevance


RIGHT = [("conv1", Flat()), (nn.Conv2d, Flat()), (nn.ReLU(), "identity"), (torch.sin, "gradient"), (torch.sin, own)]
WRONG = [
    (3, Flat(), "has the key 3; expected a layer type"),
    (torch.Tensor, Flat(), "has the key <class 'torch.Tensor'>"),
    (torch.sin, Flat(), "holds Flat for the function"),
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


def test_rules_are_a_mapping():
    with pytest.raises(TypeError, match="rules is a list; expected a mapping"):
        not_a_mapping([Flat()])
