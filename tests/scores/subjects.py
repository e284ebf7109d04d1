"""Models with outputs of other kinds, each beside a module that gives the same scores as a plain tensor."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from captum_extract_aggregate.scores import ClassContrast, Detection, EmbeddingSimilarity, SegmentationRegion
from tests.scores.cases import MASK, NET, Detector, T, full


class Plain(nn.Module):
    """A network whose output is brought to scores by hand; its parts are called `net.` and their name."""

    def __init__(self, net, scores):
        super().__init__()
        self.net, self.scores = net, scores

    def forward(self, *inputs):
        return self.scores(*inputs)


@dataclass
class Subject:
    model: Callable[..., Any]
    plain: nn.Module
    layers: tuple[str, str]
    head: str
    target: int | None = None
    extra: Any = None
    tokens: bool = False


def hugging_face():
    """A classifier whose output holds `logits`."""
    transformers = pytest.importorskip("transformers")
    if not transformers.is_torch_available():
        pytest.skip("this transformers does not work with this PyTorch")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = transformers.ViTConfig(**sizes, image_size=24, patch_size=6, num_labels=4)
    vit = transformers.ViTForImageClassification(config).eval()
    blocks = [name for name, module in vit.named_modules() if type(module).__name__ == "ViTLayer"]
    return Subject(vit, Plain(vit, lambda x: vit(x).logits), tuple(blocks[:2]), "classifier", 1, tokens=True)


def contrast():
    score, difference = ClassContrast(NET, against=1), torch.eye(4)
    difference[1] -= 1
    return Subject(score, Plain(NET, lambda x: NET(x) @ difference), ("box", "vectors"), "fc", 2)


def similarity():
    score = EmbeddingSimilarity(NET.features, T, scale=10.0)
    plain = Plain(NET, lambda x: 10 * normalize(NET.features(x)) @ normalize(T).T)
    return Subject(score, plain, ("box", "vectors"), "vectors", 1)


def region():
    """Each example has a mask of its own."""
    masks = torch.stack([MASK, MASK.roll(5, 0), MASK.roll(9, 1)])
    plain = Plain(NET, lambda x, m: (full(x) * m[:, None]).sum((2, 3)) / m.sum((1, 2))[:, None])
    return Subject(SegmentationRegion(NET.dense), plain, ("box", "vectors"), "vectors", 3, masks)


def detection():
    """Each example has a box and a class of its own; of 1 x 2 scores."""
    net, labels = Detector().eval(), torch.tensor([1, 3, 1])
    plain = Plain(net, lambda x, boxes, labels: net.logits(x).gather(1, (labels // 2)[:, None])[:, 0])
    return Subject(Detection(net), plain, ("body", "head"), "head", None, (net.BOXES[labels // 2], labels))


SUBJECTS = {f.__name__: functools.cache(f) for f in (hugging_face, contrast, similarity, region, detection)}


# For plans and the command line, which take `tests.scores.subjects:FUNCTION`: anew, as each changes its model.


def model_of_hugging_faces():
    return hugging_face().model


def plain_model_of_hugging_faces():
    return hugging_face().plain


def model_of_a_score():
    return copy.deepcopy(similarity().model)


def plain_model_of_a_score():
    return similarity().plain
