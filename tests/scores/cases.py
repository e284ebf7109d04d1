"""A small network, and scores of it beside the same functions written by hand."""

import functools

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, interpolate

import captum_extract_aggregate as cea
from captum_extract_aggregate.scores import (
    ClassContrast,
    EmbeddingDirection,
    EmbeddingSimilarity,
    NearestContrast,
    SegmentationRegion,
    SelectedOutput,
)
from tests.reference.cams import finer_score

X = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Has parts, a buffer and attributes that are called as those of scores are."""

    def __init__(self):
        super().__init__()
        self.box, self.vectors, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3), nn.Linear(5, 4)
        self.register_buffer("mask", torch.ones(5))
        self.pixel = nn.Parameter(torch.linspace(-0.1, 0.1, 5))
        self.config = "the model's"

    def features(self, x, scale=1.0):
        return scale * self.vectors(self.box(x).relu()).relu().mean((2, 3)) * self.mask + self.pixel

    def dense(self, x, scale=1.0):
        return scale * self.vectors(self.box(x).relu())[..., ::2, ::2]

    def forward(self, x, scale=1.0):
        return self.fc(self.features(x, scale))


class Detector(nn.Module):
    """Looks for a thing of class 1 and one of class 3, each at its place; says what it finds as torchvision's do."""

    BOXES, LABELS = torch.tensor([[2.0, 2.0, 12.0, 12.0], [10.0, 8.0, 22.0, 20.0]]), torch.tensor([1, 3])

    def __init__(self, threshold=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.threshold, self.body, self.head = threshold, nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 3)

    def logits(self, images):
        return 3 * self.head(self.body(images).relu()).mean((2, 3))

    def forward(self, images, scale=1.0):
        found = [(scores, scores > self.threshold) for scores in (scale * self.logits(images)).sigmoid()]
        return [{"boxes": self.BOXES[i], "labels": self.LABELS[i], "scores": scores[i]} for scores, i in found]


torch.manual_seed(0)
NET = Net().eval()
T = torch.randn(2, 5)
MASK = torch.zeros(24, 24)
MASK[3:9, 4:8] = 1


def full(x):
    return interpolate(NET.dense(x), (24, 24), mode="bilinear", align_corners=False)


SCORES = {
    "an output": (SelectedOutput(NET), NET, 2),
    "similarity": (EmbeddingSimilarity(NET.features, T[1]), lambda x: cosine_similarity(NET.features(x), T[1:]), None),
    "similarities": (
        EmbeddingSimilarity(NET.features, T, scale=10.0),
        lambda x: 10 * cosine_similarity(NET.features(x)[:, None], T[None], 2),
        0,
    ),
    "a partial": (
        EmbeddingDirection(functools.partial(NET.features, scale=3.0), T[0]),
        lambda x: NET.features(x, 3.0) @ T[0],
        None,
    ),
    "directions": (EmbeddingDirection(NET.features, T), lambda x: NET.features(x) @ T.T, 1),
    "against one": (ClassContrast(NET, against=1), lambda x: NET(x)[:, 2] - NET(x)[:, 1], 2),
    "against two": (ClassContrast(NET, against=[0, 3]), lambda x: NET(x)[:, 2] - NET(x)[:, [0, 3]].mean(1), 2),
    "log-odds": (ClassContrast(NET), lambda x: torch.logit(NET(x).softmax(1)), 2),
    "against the nearest": (
        NearestContrast(NET, gamma=0.5, references=2),
        lambda x: torch.stack([finer_score(z, 2, 0.5, 2) for z in NET(x)]),
        2,
    ),
    "a pixel": (SegmentationRegion(NET.dense, pixel=(5, 9)), lambda x: full(x)[:, 3, 5, 9], 3),
    "a mask": (SegmentationRegion(NET.dense, mask=MASK > 0), lambda x: full(x)[:, 3, 3:9, 4:8].mean((1, 2)), 3),
}


def says(wrong, told):
    """A mistake is one line of ours, which tells what was expected."""
    with pytest.raises(cea.CaptumExtractAggregateError) as error:
        wrong()
    assert told in str(error.value)
    assert "expected" in str(error.value)
    assert "\n" not in str(error.value)
