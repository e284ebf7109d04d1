"""One call, with a network or a name, and any picture."""

import copy

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.explanation.subject import preprocess, subject_of

PIXELS = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return torchvision.models.squeezenet1_1(weights=None, num_classes=1000).eval()


def test_a_network_and_a_picture(net):
    """The maps of the classes themselves, at the usual layers, on the usual input; the network stays as it was."""
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = cea.explain(net, PIXELS)
    x = preprocess(Image.fromarray(PIXELS), subject_of(net, ""))
    layers = list(cea.default_layers(net, x))
    assert found.layers == layers
    assert found.target == int(net(x).argmax())
    assert list(found.maps["gradcam"]) == layers[-1:]
    assert list(found.maps["normgrad"]) == layers[:-1]
    assert list(found.maps["linear-approximation"]) == layers
    expected = cea.LinearApproximation(net, layers).attribute(x, target=found.target)
    for layer, map_ in zip(layers, expected):
        assert torch.allclose(found.maps["linear-approximation"][layer], map_[0], rtol=1e-4, atol=1e-6)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert found.name_of(281).startswith("tabby")  # torchvision's thousand outputs are ImageNet's
    assert "SqueezeNet: class " in found.title


def test_layers_methods_and_classes_by_name(net):
    found = cea.explain(
        net, PIXELS, target="Tabby", methods=["GradCAM", "captum:LayerGradCam"], layers="features.4,features.7", size=64
    )
    assert found.target == 281
    assert found.x.shape == (1, 3, 64, 64)
    assert {method: list(maps) for method, maps in found.maps.items()} == {
        name: ["features.4", "features.7"] for name in ("GradCAM", "captum:LayerGradCam")
    }
    alone = cea.explain(net, PIXELS, 281, methods="gradcam", layers="features.4,features.7", size=64).maps["gradcam"]
    assert all(torch.equal(m, found.maps["GradCAM"][layer]) for layer, m in alone.items())


def test_a_fine_tuned_network_with_names_of_its_own():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    names = ["cat", "dog"]
    found = cea.explain(net, PIXELS, "dog", class_names=names, layers="0", size=32, mean=0.5, std=(0.5, 0.5, 0.5))
    assert found.title.startswith("Sequential: class dog (1), score ")
    assert found.x.min() >= -1
    with pytest.raises(ValueError, match="class-names is a list of 3 names, but the model gives 2 scores"):
        cea.explain(net, PIXELS, class_names=["cat", "dog", "ant"], layers="0", size=32)


@pytest.mark.parametrize("target", [1, "1", np.int64(1), torch.tensor(1), torch.tensor([1])])
def test_every_spelling_of_an_index(net, target):
    assert cea.explain(net, PIXELS, target, layers="features.12", methods="gradcam", size=64).target == 1


def test_a_network_in_train_mode_stays_as_it_is():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=r"in train mode.*call model.eval\(\) first"):
        cea.explain(net, PIXELS, layers="0", size=32)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    net[1] = nn.Dropout(0.5)
    with pytest.warns(UserWarning, match="draws random numbers"):
        found = cea.explain(net, PIXELS, layers="0", size=32)
    with pytest.warns(UserWarning, match="draws random numbers"):
        assert "gradcam" in found.maps


class CastsItself(nn.Module):
    """Takes pictures in single precision, and computes in half."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        self.net.bfloat16()

    def forward(self, x):
        assert x.dtype == torch.float32
        return self.net((x / 3).bfloat16())


def test_a_picture_comes_in_the_precision_of_the_network():
    assert cea.explain(CastsItself().eval(), PIXELS, layers="net.0", size=32).x.dtype == torch.float32
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    found = cea.explain(net.eval().bfloat16(), PIXELS, layers="0", size=32)
    assert found.x.dtype == torch.bfloat16
    assert found.maps["normgrad"]["0"].isfinite().all()
    assert "bfloat16" not in repr(found)
    assert found.figure().axes


def test_what_a_timm_network_is_evaluated_on():
    timm = pytest.importorskip("timm")
    subject = subject_of(timm.create_model("tf_efficientnet_lite0"), "")
    assert (subject.size, subject.resize, subject.mean, subject.std) == (224, 256, (0.5,) * 3, (0.5,) * 3)
    assert subject.classes[285] == "Egyptian cat"
    assert subject_of(timm.create_model("resnet18", num_classes=3), "").classes == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "model is 'Sequential', but there is no picture to explain; expected an IMAGE"),
        ({"image": PIXELS, "target": "cat"}, "target is 'cat', but the names .* an index up to 1, or class_names="),
        ({"image": PIXELS, "target": "cat", "class_names": ["cow", "ant"]}, "target is 'cat', which is unknown"),
        ({"image": PIXELS, "target": torch.tensor([0, 1])}, r"target is a torch.int64 tensor \(2,\); expected one"),
        ({"image": PIXELS, "target": 7}, r"target is '7' \(index 7\); expected 0 to 1"),
        ({"image": PIXELS, "weights": "DEFAULT"}, "weights is 'DEFAULT', but the model is a network with its own"),
        ({"image": PIXELS, "methods": []}, r"methods is \[\]; expected at least one of"),
        ({"image": PIXELS, "methods": [cea.NormGrad]}, "holds something else than names; expected strings"),
        ({"image": PIXELS, "methods": "normgard"}, "did you mean 'normgrad'"),
        ({"image": PIXELS, "layers": ["7"]}, "7"),
        ({"image": PIXELS, "size": 4}, "size is 4; expected 8 to"),
        ({"image": PIXELS, "std": -1}, "std is -1; expected positive numbers"),
    ],
)
def test_wrong_uses(arguments, told):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    with pytest.raises((ValueError, TypeError), match=told):
        cea.explain(net, **{"layers": "0"} | arguments)
    with pytest.raises(TypeError, match=r"model is a int; expected a torch.nn.Module, or a model's name"):
        cea.explain(3, PIXELS)
