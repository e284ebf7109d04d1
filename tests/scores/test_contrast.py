"""A class against others."""

import pytest
import torch
from torch import nn

from captum_extract_aggregate.scores import ClassContrast
from tests.scores.cases import NET, X, says


def test_log_odds_of_a_certain_class():
    z = torch.tensor([[60.0, 0.0, 1.0]], requires_grad=True)
    odds = ClassContrast(nn.Identity())(z)
    torch.testing.assert_close(odds[0, 0], 60 - torch.tensor([0.0, 1.0]).logsumexp(0))
    assert torch.isfinite(torch.autograd.grad(odds[0, 0], z)[0]).all()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: ClassContrast(NET, against=[])(X), "against is"),
        (lambda: ClassContrast(NET, against=7)(X), "against holds 7"),
        (lambda: ClassContrast(NET, against="dog"), "against is 'dog'; expected a class index"),
        (lambda: ClassContrast(NET.dense)(X), "expected N x classes, two or more"),
    ],
)
def test_mistakes(wrong, told):
    says(wrong, told)
