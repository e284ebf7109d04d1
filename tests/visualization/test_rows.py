"""Maps by row and column."""

import pytest
import torch
from captum.attr import InputXGradient, LayerGradCam, Saliency

import captum_extract_aggregate as cea
from captum_extract_aggregate.visualization.rows import class_title, maps_by_class, maps_by_layer, maps_by_stage
from tests.conftest import SmallNet
from tests.networks import lively


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return lively(SmallNet())


@pytest.fixture(scope="module")
def x():
    return torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def methods(net):
    return {
        "NormGrad": cea.NormGrad(net, ["conv1", net.conv3]),
        "one": cea.SelectiveNormGrad(net, ["conv3"]),
        "Captum's": LayerGradCam(net, net.conv3),
        "input": InputXGradient(net),
        "cumulative": cea.CumulativeGradCAM(net, ["conv1", "conv3"]),
    }


def test_by_layer(net, x, methods):
    rows = maps_by_layer(methods, x, 2)
    assert {row: list(own) for row, own in rows.items()} == {
        "NormGrad": ["conv1", "conv3"],
        "one": ["conv3"],
        "Captum's": ["conv3"],
        "input": ["input"],
        "cumulative": ["all layers"],
    }
    for name, method in methods.items():
        maps = method.attribute(x, target=2)
        for own, wanted in zip(rows[name].values(), maps if isinstance(maps, list) else [maps]):
            torch.testing.assert_close(own, wanted[0])


def test_by_class(x, methods):
    rows = maps_by_class(methods, x, {"best": 1, "worst": 4})
    assert list(rows) == ["best", "worst"]
    assert list(rows["best"]) == ["NormGrad, conv1", "NormGrad, conv3", "one", "Captum's", "input", "cumulative"]
    for row, target in (("best", 1), ("worst", 4)):
        torch.testing.assert_close(rows[row]["Captum's"], methods["Captum's"].attribute(x, target=target)[0])
        torch.testing.assert_close(rows[row]["NormGrad, conv3"], methods["NormGrad"].attribute(x, target=target)[1][0])


def test_by_stage(net, x, methods):
    before = {name: t.clone() for name, t in net.state_dict().items()}
    rows = maps_by_stage(methods, net, x, 2, layers=["fc", "conv3"])
    assert list(rows) == ["NormGrad, conv1", "NormGrad, conv3", "one", "Captum's", "input", "cumulative"]
    assert all(list(own) == ["as trained", "fc", "conv3"] for own in rows.values())
    torch.testing.assert_close(rows["one"]["as trained"], maps_by_layer(methods, x, 2)["one"]["conv3"])
    assert not torch.allclose(rows["one"]["as trained"], rows["one"]["fc"])
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    again = maps_by_stage(methods, net, x, 2, layers=["fc", "conv3"])
    assert torch.equal(rows["one"]["conv3"], again["one"]["conv3"])


def test_titles():
    scores = torch.tensor([[1.0, -2.5]])
    assert class_title(scores, 1) == "class 1, score -2.50"
    assert class_title(scores[0], 0, ["cat"]) == "cat, score 1.00"


@pytest.mark.parametrize("inputs", [torch.zeros(2, 3, 12, 12), "picture", (torch.zeros(1, 3, 12, 12),)])
def test_more_than_one_image_is_an_error(net, inputs):
    with pytest.raises(TypeError, match="expected one image, 1 x C x H x W"):
        maps_by_layer({"saliency": Saliency(net)}, inputs, 0)


def test_layers_of_a_function_keep_their_maps():
    model, x = cea.load_scene_model("resnet"), cea.DigitScenes(1)[0][0][None]
    methods = {
        "NormGrad": cea.NormGrad(lambda z: model(z), [model.layer1, model.layer2]),
        "linear": cea.LinearApproximation(lambda z: model(z), model.layer3),
    }
    assert list(maps_by_layer({"linear": methods["linear"]}, x, 5)["linear"]) == ["_ResidualBlock"]
    rows = maps_by_layer(methods, x, 5)
    assert {row: list(maps) for row, maps in rows.items()} == {
        "NormGrad": ["_ResidualBlock 1", "_ResidualBlock 2"],
        "linear": ["_ResidualBlock 3"],
    }
    assert list(maps_by_class(methods, x, {"five": 5})["five"]) == [
        "NormGrad, _ResidualBlock 1",
        "NormGrad, _ResidualBlock 2",
        "linear",
    ]
