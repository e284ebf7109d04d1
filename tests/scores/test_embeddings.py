"""Where an image lies among texts, images and directions (the maps: test_base.py and test_hugging_face.py)."""

import pytest
import torch
from torch import nn

from captum_extract_aggregate.scores import EmbeddingSimilarity
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
