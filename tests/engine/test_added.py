"""What a call adds, brought to the input's positions from wherever a network keeps them."""

import torch

from captum_extract_aggregate._engine.added import Added
from captum_extract_aggregate._engine.parts import Part


def _added(values, dims):
    return Added("it", frozenset(), dims, values)


def test_windows_beside_examples():
    x = torch.randn(2, 3, 4, 6)  # in windows of 2 x 3
    windows = x.reshape(2, 3, 2, 2, 2, 3).permute(0, 2, 4, 3, 5, 1).reshape(8, 6, 3)
    height, width = [[Part("axis", n, (a, i)) for i, n in enumerate(of)] for a, of in ((2, (2, 2)), (3, (2, 3)))]
    dims = ((Part("batch", 2), height[0], width[0]), (height[1], width[1]), (Part("channel", 3),))
    assert torch.equal(_added(windows, dims).placed(2), x)


def test_tokens_before_examples_behind_a_class_token():
    x = torch.randn(2, 3, 2, 2)
    inner = (Part("axis", 2, (2,)), Part("axis", 2, (3,)))
    dims = ((Part("axis", 5, (2,), inner, 1), Part("batch", 2)), (Part("channel", 3),))
    tokens = torch.cat([torch.ones(1, 2, 3), x.flatten(2).permute(2, 0, 1)])
    assert torch.equal(_added(tokens.reshape(10, 3), dims).placed(2), x)


def test_what_has_no_position():
    batch, channels, axis = (Part("batch", 2),), (Part("channel", 3),), (Part("axis", 4, (2,)),)
    assert _added(torch.ones(2, 3), (batch, channels)).placed(2) is None
    assert _added(torch.ones(2, 4, 4), (batch, axis, axis)).placed(2) is None  # attention weights
    assert _added(torch.ones(2, 4), (batch, (Part("unknown", 4, (2,)),))).placed(2) is None
    assert _added(torch.ones(2, 3), None).placed(2) is None


def test_copies_of_examples_are_no_examples():
    channels, height, width = (Part("channel", 3),), (Part("axis", 4, (2,)),), (Part("axis", 6, (3,)),)
    values = torch.ones(8, 3, 4, 6)
    assert _added(values, ((Part("batch", 8),), channels, height, width)).placed(2) is None
    assert _added(values, ((Part("batch", 8),), channels, height, width)).placed(8) is not None
