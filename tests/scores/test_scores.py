"""Scores beyond classes: the same maps as of a function written by hand, the model's names, and the model as it was."""

import copy
import functools

import captum.attr
import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, interpolate
from torchvision.models import detection, segmentation

import captum_extract_aggregate as cea
from captum_extract_aggregate.metrics import parameter_randomization
from captum_extract_aggregate.scores import (
    ClassContrast,
    Detection,
    EmbeddingDirection,
    EmbeddingSimilarity,
    Score,
    SegmentationRegion,
    SelectedOutput,
)

X = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Has parts, a buffer and attributes that are called as those of scores are."""

    def __init__(self):
        super().__init__()
        self.box, self.vectors, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3), nn.Linear(5, 4)
        self.register_buffer("mask", torch.ones(5))
        self.pixel = nn.Parameter(torch.zeros(5))
        self.config = "the model's"

    def features(self, x, scale=1.0):
        return scale * self.vectors(self.box(x).relu()).relu().mean((2, 3)) * self.mask + self.pixel

    def dense(self, x):
        return self.vectors(self.box(x).relu())[..., ::2, ::2]

    def forward(self, x):
        return self.fc(self.features(x))


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
    "a pixel": (SegmentationRegion(NET.dense, pixel=(5, 9)), lambda x: full(x)[:, 3, 5, 9], 3),
    "a mask": (SegmentationRegion(NET.dense, mask=MASK > 0), lambda x: full(x)[:, 3, 3:9, 4:8].mean((1, 2)), 3),
}


@pytest.mark.parametrize("name", SCORES)
def test_the_maps_are_those_of_a_function_by_hand(name):
    score, by_hand, target = SCORES[name]
    of_hand = None if by_hand(X).ndim == 1 else target
    torch.testing.assert_close(
        score(X) if target is None else score(X)[:, target], by_hand(X) if of_hand is None else by_hand(X)[:, of_hand]
    )
    before = copy.deepcopy(NET.state_dict())
    found = cea.LinearApproximation(score, "box").attribute(X, target=target)
    if name in ("against one", "against two"):  # by hand the network runs twice
        one = cea.LinearApproximation(NET, "box").attribute
        others = [1] if name == "against one" else [0, 3]
        expected = one(X, target=2) - sum(one(X, target=c) for c in others) / len(others)
    else:
        expected = cea.LinearApproximation(by_hand, NET.box).attribute(X, target=of_hand)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    alone = torch.cat([cea.LinearApproximation(score, "box").attribute(x[None], target=target) for x in X])
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-7)
    assert all(torch.equal(value, before[key]) for key, value in NET.state_dict().items())
    assert NET.state_dict().keys() == before.keys()


@pytest.mark.parametrize("name", SCORES)
def test_everything_works_through_a_score(name):
    score, _, target = SCORES[name]
    assert [n for n, _ in score.named_modules()] == [n for n, _ in NET.named_modules()]
    assert score.config == "the model's"
    saliency = captum.attr.Saliency(score).attribute(X, target=target)
    assert saliency.shape == X.shape
    assert cea.FullGrad(score).attribute(X, target=target).shape == (3, 1, 24, 24)
    method = cea.NormGrad(score, "box")
    stepped = cea.MetaSaliency(method, lr=0.1).attribute(X, target=target)
    assert not torch.equal(stepped, method.attribute(X, target=target))
    result = parameter_randomization(method, score, X, target=target, layers=["vectors", "box"])
    assert result.stages == ("vectors", "box")


def test_a_score_is_copied_with_its_model():
    score = EmbeddingSimilarity(NET.features, T)
    other = copy.deepcopy(score)
    with torch.no_grad():
        other.box.weight.zero_()
    assert bool(NET.box.weight.any())
    assert not torch.equal(other(X), score(X))


def test_the_mode_is_the_models():
    net = Net().eval()
    score = SelectedOutput(net)
    assert not score.training
    score.train()
    assert net.training
    assert net.box.training
    net.eval()
    assert not score.training


def test_a_score_of_a_score():
    inner = SelectedOutput(NET)
    found = cea.NormGrad(ClassContrast(inner, against=1), "box").attribute(X, target=2)
    assert torch.equal(found, cea.NormGrad(ClassContrast(NET, against=1), "box").attribute(X, target=2))


def test_a_mask_for_each_example():
    masks = torch.stack([MASK, MASK.roll(5, 0), MASK.roll(9, 1)]) > 0
    found = cea.NormGrad(SegmentationRegion(NET.dense), "box").attribute(X, 3, masks)
    alone = [cea.NormGrad(SegmentationRegion(NET.dense, mask=m), "box").attribute(x[None], 3) for x, m in zip(X, masks)]
    torch.testing.assert_close(found, torch.cat(alone))


def test_log_odds_of_a_certain_class():
    z = torch.tensor([[60.0, 0.0, 1.0]], requires_grad=True)
    odds = ClassContrast(nn.Identity())(z)
    torch.testing.assert_close(odds[0, 0], 60 - torch.tensor([0.0, 1.0]).logsumexp(0))
    assert torch.isfinite(torch.autograd.grad(odds[0, 0], z)[0]).all()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: SelectedOutput(lambda x: x), "model is a function"),
        (lambda: SelectedOutput(NET, output=1.5), "output is a float"),
        (lambda: EmbeddingSimilarity(NET.features, T[:, :4])(X), "4 numbers, and the model's embedding 5"),
        (lambda: EmbeddingSimilarity(NET.dense, T)(X), "expected embeddings"),
        (lambda: ClassContrast(NET, against=[])(X), "against is"),
        (lambda: ClassContrast(NET, against=7)(X), "against holds 7"),
        (lambda: SegmentationRegion(NET.dense, pixel=(1, 2), mask=MASK), "both given"),
        (lambda: SegmentationRegion(NET.dense, pixel=(24, 2))(X), "pixel is"),
        (lambda: SegmentationRegion(NET.dense, mask=MASK * 0)(X), "mask is empty"),
        (lambda: SegmentationRegion(NET.dense, mask=MASK[:9])(X), "mask is (1, 9, 24)"),
        (lambda: SegmentationRegion(NET.dense)(X), "expected those of the model, and 1 of its own"),
        (lambda: SegmentationRegion(NET, mask=MASK)(X), "of a segmentation"),
        (lambda: Detection(NET, box=(1, 2, 3, 4)), "only one of box and label"),
        (lambda: Detection(NET, box=(3, 2, 1, 4), label=1), "x1 < x2"),
        (lambda: Detection(NET, box=(1, 2, 3, 4), label=1)(X), "what a detector finds"),
    ],
)
def test_mistakes(wrong, told):
    with pytest.raises(cea.CaptumExtractAggregateError) as error:
        wrong()
    assert told in str(error.value)
    assert "expected" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_base_is_for_scores_of_ones_own():
    class Total(Score):
        def score(self, output, inputs, *own):
            return output.sum(1)

    found = cea.LinearApproximation(Total(NET), "box").attribute(X)
    torch.testing.assert_close(
        found, sum(cea.LinearApproximation(NET, "box").attribute(X, target=c) for c in range(4)), rtol=1e-4, atol=1e-6
    )


DETECTORS = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": ("backbone.body.6", {"box_score_thresh": 0.0, "min_size": 96}),
    "retinanet_resnet50_fpn": ("backbone.body.layer2", {"score_thresh": 0.0, "min_size": 96}),
    "ssdlite320_mobilenet_v3_large": ("backbone.features.0.6", {"score_thresh": 0.0}),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detection_of_torchvisions(name):
    layer, options = DETECTORS[name]
    torch.manual_seed(0)
    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=4, **options).eval()
    x = torch.rand(2, 3, 96, 96)
    before = copy.deepcopy(model.state_dict())
    found = model(x)
    chosen = [int(((o["boxes"][:, 2:] - o["boxes"][:, :2]) > 4).all(1).nonzero()[0]) for o in found]
    boxes = torch.stack([o["boxes"][i].detach() for o, i in zip(found, chosen)])
    labels = torch.stack([o["labels"][i] for o, i in zip(found, chosen)])
    said = torch.stack([torch.logit(o["scores"][i]) for o, i in zip(found, chosen)])
    torch.testing.assert_close(Detection(model)(x, boxes, labels), said)
    maps = cea.GradCAM(Detection(model), layer).attribute(x, additional_forward_args=(boxes, labels))

    def by_hand(images):
        return torch.stack([torch.logit(o["scores"][i]) for o, i in zip(model(images), chosen)])

    torch.testing.assert_close(maps, cea.GradCAM(by_hand, model.get_submodule(layer)).attribute(x))
    one = Detection(model, box=boxes[0], label=int(labels[0]))
    torch.testing.assert_close(cea.GradCAM(one, layer).attribute(x[:1]), maps[:1], rtol=1e-3, atol=1e-9)
    with pytest.raises(ValueError, match="finds nothing of class 9"):
        Detection(model, box=boxes[0], label=9)(x)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert len(cea.default_layers(one, x[:1])) > 2


def test_torchvisions_segmentation():
    torch.manual_seed(0)
    build = segmentation.lraspp_mobilenet_v3_large
    model = build(weights=None, weights_backbone=None, num_classes=4).eval()
    x = torch.rand(1, 3, 64, 96)
    target = (2, 10, 20)
    found = cea.GradCAM(model, "backbone.6").attribute(x, target=target)
    by_hand = cea.GradCAM(lambda x: model(x)["out"], model.backbone["6"]).attribute(x, target=target)
    assert torch.equal(found, by_hand)
    of_pixel = cea.GradCAM(SegmentationRegion(model, pixel=(10, 20)), "backbone.6").attribute(x, target=2)
    torch.testing.assert_close(of_pixel, found)
    assert len(cea.default_layers(model, x)) > 2
