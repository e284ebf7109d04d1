"""Do the attributions add up to the score?"""

import captum.attr
import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate.metrics import completeness_gap
from tests.conftest import SmallNet
from tests.reference import metrics as reference


def test_completeness_gap():
    torch.manual_seed(0)
    net, x = SmallNet().eval().double(), torch.randn(3, 3, 12, 12, dtype=torch.float64)
    attributions = cea.LRP(net, gamma=float("inf")).attribute(x, target=1)
    assert completeness_gap(net, x, attributions, target=1).max() < 1e-10
    gradient = captum.attr.InputXGradient(net).attribute(x, target=[1, 0, 2])
    got = completeness_gap(net, (x,), (gradient,), target=[1, 0, 2])
    scores = net(x).detach()[range(3), [1, 0, 2]]
    expected = [reference.completeness_gap(float(f), [a.detach().numpy()]) for f, a in zip(scores, gradient)]
    assert got.tolist() == pytest.approx(expected, rel=1e-8)
    assert (got > 1e-3).all()  # the biases
    with pytest.raises(ValueError, match="for 3 examples"):
        completeness_gap(net, x, gradient[:2], target=1)
    with pytest.raises(ValueError, match="out of range"):
        completeness_gap(net, x, gradient, target=9)
