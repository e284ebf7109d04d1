"""Where features end: what passes a layer by, what nothing tells, and the model as it was."""

import copy

import pytest
import torch
from torch import nn

from captum_extract_aggregate._engine.feature_end import feature_end


class Residual(nn.Module):
    """Something passes `body` by, and what joins them has no name; the pooling is functional."""

    def __init__(self):
        super().__init__()
        self.stem, self.body, self.fc = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.fc((x + self.body(x).relu_()).mean((2, 3)))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_residual_is_no_end(frozen):
    model = Residual().eval().requires_grad_(not frozen)
    before = copy.deepcopy(model.state_dict())
    assert feature_end(model, model, torch.rand(1, 3, 16, 16), 2) is model.stem
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


def test_a_pooling_to_a_fixed_size_belongs_to_the_head():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2))
    assert feature_end(model, model, torch.rand(1, 3, 16, 16), 2) is model[0]
    with pytest.raises(ValueError, match="no layer whose resolution is that of a grid of 2 x 2"):
        feature_end(model[1:], model[1:], torch.rand(1, 4, 16, 16), 2)
