"""Where an image lies among texts, images and directions (the maps: test_base.py and test_hugging_face.py)."""

import pytest

from captum_extract_aggregate.scores import EmbeddingSimilarity
from tests.scores.cases import NET, T, X, says


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: EmbeddingSimilarity(NET.features, T[:, :4])(X), "4 numbers, and the model's embedding 5"),
        (lambda: EmbeddingSimilarity(NET.dense, T)(X), "expected embeddings"),
    ],
)
def test_mistakes(wrong, told):
    says(wrong, told)
