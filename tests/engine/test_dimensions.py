"""What the operations of a forward tell of a tensor's dimensions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from captum_extract_aggregate._engine.dimensions import Watch
from tests.engine.cases import kinds


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: torch.rot90(x, 1, (1, 2)),
        lambda x: F.conv1d(x, torch.ones(4, 4, 1)).gather(2, torch.zeros(4, 4, 4, dtype=torch.long)),
        lambda x: F.conv1d(x, torch.ones(4, 4, 1)) + F.layer_norm(x, (4,)),  # contradictory
        lambda x: F.conv1d(F.layer_norm(x, (4,)), torch.ones(4, 4, 1)),  # along the channels?
        lambda x: F.linear(F.linear(x, torch.ones(4, 4)).mT, torch.ones(4, 4)),  # which of the two makes channels?
        lambda x: torch.ones(4, 4, 4),
    ],
)
def test_what_is_not_told_is_not_known(operation):
    x = torch.randn(4, 4, 4)
    with Watch([x], 4) as watch:
        y = operation(x)
    assert kinds(y, watch) is None


def test_a_watched_forward_gives_what_any_other_gives():
    x, conv = torch.randn(2, 3, 8, 8), nn.Conv2d(3, 4, 3)
    with Watch([x], 2):
        watched = conv(x).relu_().flatten(2).transpose(1, 2)
    assert torch.equal(watched, conv(x).relu_().flatten(2).transpose(1, 2))
