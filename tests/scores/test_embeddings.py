"""Where an image lies among texts, images and directions (the maps: test_base.py and test_hugging_face.py)."""

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.scores import EmbeddingDirection, EmbeddingSimilarity
from tests.scores.cases import NET, T, X, says


class TwoTowers(nn.Module):
    def encode_image(self, x):
        return x


def test_the_scale_may_be_a_tensor():
    scaled = EmbeddingSimilarity(NET.features, T, scale=torch.tensor(3.0, requires_grad=True))
    torch.testing.assert_close(scaled(X), 3 * EmbeddingSimilarity(NET.features, T)(X))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: EmbeddingSimilarity(NET.features, T[:, :4])(X), "4 numbers, and the model's embedding 5"),
        (lambda: EmbeddingSimilarity(NET.dense, T)(X), "expected embeddings"),
        (lambda: EmbeddingSimilarity(NET.features, "a dog"), "embeddings is a str; expected a tensor, D or M x D"),
        (lambda: EmbeddingSimilarity(NET.features, {"a": T, "b": T}), "embeddings is a dict; expected a tensor"),
        (lambda: EmbeddingSimilarity(NET.features, T[None]), "embeddings is a tensor of torch.float32 (1, 2, 5)"),
        (lambda: EmbeddingSimilarity(NET.features, T, scale="1"), "scale is a str"),
        (
            lambda: EmbeddingSimilarity(TwoTowers(), T),
            "model is a TwoTowers, which takes a text too; expected its method",
        ),
    ],
)
def test_mistakes(wrong, told):
    says(wrong, told)


@pytest.mark.parametrize("texts", [torch.eye(3, 8), torch.ones(8)])
def test_propagation_goes_through_the_likeness(texts):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    direction, x = EmbeddingDirection(encoder, texts), torch.randn(2, 3, 6, 6)
    target = 1 if texts.ndim == 2 else None
    for method in (cea.LRP(direction, None), cea.LibraGrad(cea.ActivityAttribution(direction, None))):
        attributed = method.attribute(x, target=target).flatten(1).sum(1)
        scores = direction(x) if target is None else direction(x)[:, target]
        torch.testing.assert_close(attributed, scores.detach(), atol=1e-5, rtol=1e-4)  # without biases all of it
    likeness = EmbeddingSimilarity(encoder, texts)
    assert cea.LibraGrad(cea.LinearApproximation(likeness, "1")).attribute(x, target=target).shape == (2, 1, 4, 4)
