"""What detectors say of a box."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models import detection

import captum_extract_aggregate as cea
from captum_extract_aggregate.metrics import parameter_randomization, pixel_removal
from captum_extract_aggregate.scores import Detection
from tests.scores.cases import NET, Detector, X, says

DETECTORS = {
    "ssdlite320_mobilenet_v3_large": ("backbone.features.0.6", {"score_thresh": 0.0}),
    "fasterrcnn_mobilenet_v3_large_320_fpn": ("backbone.body.6", {"box_score_thresh": 0.0, "min_size": 96}),
    "retinanet_resnet50_fpn": ("backbone.body.layer2", {"score_thresh": 0.0, "min_size": 96}),
    "fcos_resnet50_fpn": ("backbone.body.layer2", {"score_thresh": 0.0, "min_size": 96}),
}


@pytest.mark.slow  # the small detector below goes the same way
@pytest.mark.parametrize("name", DETECTORS)
def test_a_detection_of_torchvisions(name):
    layer, options = DETECTORS[name]
    torch.manual_seed(0)
    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=4, **options).eval()
    if name.startswith("fcos"):  # whose boxes are empty before it is trained
        nn.init.constant_(model.head.regression_head.bbox_reg.bias, 2.0)
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


AT = {"box": (9, 9, 20, 20), "label": 3}


def test_the_box_that_overlaps_most_of_the_class():
    model = Detector()
    logits = model.logits(X)
    torch.testing.assert_close(Detection(model, box=(0, 0, 9, 9), label=1)(X), logits[:, 0])
    torch.testing.assert_close(Detection(model, **AT)(X), logits[:, 1])


def test_where_nothing_is_found():
    model = Detector(threshold=0.5)
    nn.init.constant_(model.head.bias, -9.0)
    images, detection = X.clone().requires_grad_(), Detection(model, **AT, missing=-4.0)
    with pytest.raises(ValueError, match=r"finds nothing of class 3 .* or missing="):
        Detection(model, **AT)(X)
    assert detection(images).tolist() == [-4.0] * 3
    assert not torch.autograd.grad(detection(images).sum(), images)[0].any()
    assert not cea.NormGrad(detection, "body").attribute(X).any()


def test_measures_that_make_a_detector_find_nothing():
    model = Detector(threshold=0.5)  # bright pictures are full of what it looks for
    for parameter in model.parameters():
        parameter.data = parameter.abs() if parameter.ndim > 1 else torch.full_like(parameter, -0.1)
    detection = Detection(model, **AT, missing=-5.0)
    method = cea.NormGrad(detection, "body")

    def silence(layer):
        nn.init.constant_(layer.bias, -9.0)

    found = parameter_randomization(method, detection, X, layers=["head"], init=silence)
    assert found.undefined().tolist() == [3]
    assert pixel_removal(detection, X, method.attribute(X), step=64).flipped.all()


def test_a_probability_that_is_rounded_to_one():
    model = Detector()
    nn.init.constant_(model.head.bias, 9.0)
    with pytest.raises(ValueError, match=r"0 or 1 in torch\.float32, .* double precision"):
        Detection(model, **AT)(X)
    torch.testing.assert_close(
        Detection(model.double(), **AT)(X.double()), model.logits(X.double())[:, 1], rtol=1e-4, atol=0
    )


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: Detection(NET, box=(1, 2, 3, 4)), "only one of box and label"),
        (lambda: Detection(NET, box=(3, 2, 1, 4), label=1), "box is (3, 2, 1, 4); expected (x1, y1, x2, y2)"),
        (lambda: Detection(NET, box=(1, 2, 3), label=1), "box is (1, 2, 3); expected (x1, y1, x2, y2)"),
        (lambda: Detection(NET, box=torch.ones(2, 4), label=1), "box is [[1.0"),
        (lambda: Detection(NET, box="1 2 3 4", label=1), "box is '1 2 3 4'"),
        (lambda: Detection(NET, box=(1, 2, 3, 4), label=1.0), "label is a float"),
        (lambda: Detection(NET, missing=float("inf")), "missing is inf"),
        (lambda: Detection(NET, missing="no"), "missing is 'no'"),
        (
            lambda: Detection(Detector())(X, X[:, 0, 0, :4]),
            "got 2 inputs; expected those of the model, and 2 of its",
        ),
        (lambda: Detection(Detector())(X, torch.ones(2, 4), torch.ones(3)), "no boxes 3 x 4 and labels 3"),
        (lambda: Detection(NET, box=(1, 2, 3, 4), label=1)(X), "what a detector finds"),
    ],
)
def test_mistakes(wrong, told):
    says(wrong, told)
