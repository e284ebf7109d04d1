"""Batches of a data loader, outputs of a network, and whether they are right."""

import math
import types

import pytest
import torch
from torch import nn

from captum_extract_aggregate.bias_study import batches, bias_report
from captum_extract_aggregate.bias_study.batches import hits
from tests.bias_study.networks import images, network
from tests.reference import bias_study as reference


def test_several_classes_unknown_ones_and_ties():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.0, 0.2, 0.3], [1.0, 0.0, 0.0, 0.2, 0.0, 0.0]], dtype=torch.float64)
    several = torch.tensor([[0, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0]])
    assert hits(scores, several, 1)[0] == 0
    assert hits(scores, several, 2)[0] == 1
    assert hits(scores, several, 1)[1].isnan()  # no class is there
    assert hits(scores, torch.tensor([-1, 3]), 1)[0].isnan()
    assert hits(scores, torch.tensor([-1, 3]), 2)[1] == 1
    assert hits(scores, None, 1).isnan().all()
    assert hits(scores * math.nan, torch.tensor([0, 0]), 1).isnan().all()
    tied = torch.tensor([[0.5, 0.7, 0.7, 0.7, 0.5, 0.5]], dtype=torch.float64)
    for classes in range(6):  # of equal scores the first classes come first
        for k in (1, 2, 3, 5):
            assert hits(tied, torch.tensor([classes]), k) == reference.top_k_right(tied[0], {classes}, k)
    for k in (1, 2, 3):
        for classes in ({2, 4}, {0}, {1, 5}):
            there = torch.zeros(1, 6)
            there[0, list(classes)] = 1
            assert hits(scores[:1], there, k) == reference.top_k_right(scores[0], classes, k)


@pytest.mark.parametrize(
    ("batch", "error", "said"),
    [
        ([1, 2], TypeError, "dataloader gives int as inputs"),
        (torch.zeros(2, 3, 12, 12, dtype=torch.long), TypeError, "torch.int64"),
        ((images(2), [1, 2]), TypeError, "a list as labels of 2 inputs"),
        ((images(2), torch.zeros(3, dtype=torch.long)), TypeError, r"a tensor \(3,\) as labels of 2 inputs"),
        ((images(2), torch.zeros(2)), TypeError, "labels of torch.float32; expected whole numbers"),
        ((images(2), torch.tensor([0, 5])), ValueError, "the label 5, but the model has 5 classes"),
        ((images(2), torch.zeros(2, 7)), ValueError, "7 labels an image; expected 5"),
        ((images(2), torch.full((2, 5), 0.2)), ValueError, "expected zeros and ones"),
    ],
)
def test_wrong_batches(batch, error, said):
    with pytest.raises(error, match=said):
        bias_report(network(), [batch], show_progress=False)


def test_scores_stay_in_float32_on_apple_s_devices():
    class Apples(torch.Tensor):
        @property
        def device(self):
            return types.SimpleNamespace(type="mps")

    class Net(nn.Module):
        def forward(self, x):
            return x.sum((2, 3)).half().as_subclass(Apples)

    x = torch.rand(2, 3, 4, 4)
    assert batches.outputs_of(Net(), x).dtype == torch.float32
    assert batches.outputs_of(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), x).dtype == torch.float64
