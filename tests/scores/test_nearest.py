"""A class against those nearest to it."""

import pytest
import torch
from torch import nn

from captum_extract_aggregate.scores import NearestContrast
from tests.reference.cams import finer_score
from tests.scores.cases import NET, X, says


def test_the_call_gives_every_class_s_contrast():
    found = NearestContrast(NET, gamma=1.0, references=2)(X)
    for contrasts, z in zip(found, NET(X)):
        torch.testing.assert_close(contrasts, torch.stack([finer_score(z, c, 1.0, 2) for c in range(4)]))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: NearestContrast(NET, gamma="much"), "gamma is 'much'"),
        (lambda: NearestContrast(NET, references=0), "references is 0"),
        (lambda: NearestContrast(NET.dense)(X), "expected N x classes, two or more"),
        (lambda: NearestContrast(nn.Linear(3, 1))(torch.ones(2, 3)), "(2, 1); expected N x classes, two or more"),
    ],
)
def test_mistakes(wrong, told):
    says(wrong, told)
