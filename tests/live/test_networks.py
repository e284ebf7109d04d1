"""Models of the page: which can be named, and at which layers a method goes."""

import pytest
import torch

from captum_extract_aggregate import default_layers
from captum_extract_aggregate.insights.offered import INPUT
from captum_extract_aggregate.live.networks import Networks
from tests.live.given import EVIL, gallery, networks, subject


def test_models_are_built_once_when_first_asked_for():
    built = []

    def build():
        built.append(1)
        return subject()

    found = Networks({"tiny": (build, False)})
    assert found.names() == {"tiny": False}
    assert not built
    assert found["tiny"] is found["tiny"]
    assert built == [1]
    with pytest.raises(ValueError, match="model is 'os:getcwd', which is unknown"):
        found["os:getcwd"]


def test_what_a_model_sees():
    network, scenes = networks()[EVIL], networks()["scene-resnet"]
    photo, scene = gallery().all()[:2]
    assert network.see(photo).x.shape == (1, 3, 32, 32)
    assert network.see(scene).x.shape == (1, 3, 32, 32)
    assert torch.equal(scenes.see(scene).x[0], scene.scene)
    scores = network.scores(network.see(photo).x)
    assert [name for _, name, _ in network.ranked(scores)] == [
        network.called(i) for i in scores.argsort(descending=True)
    ]


def test_layers():
    network = networks()["scene-resnet"]
    x = network.see(gallery().all()[1]).x
    names = {layer: name for name, layer in network.model.named_modules()}
    called = lambda name, layer="": [names.get(m) for m in network.layers(name, layer, x)]  # noqa: E731
    assert called("gradcam") == ["layer4"]
    assert called("normgrad") == ["layer3"]  # behind it nothing of the class may be left
    assert called("linear-approximation", "layer2") == ["layer2"]
    assert called("linear-approximation", INPUT) == [None]
    assert called("normgrad-combined") == list(default_layers(network.model, x))
    assert network.usual("gradcam", x) == ["layer4"]
    assert "conv1" in network.others or len(network.others) > 4
    with pytest.raises(ValueError, match="did you mean 'layer"):
        network.layers("gradcam", "layer5", x)
    with pytest.raises(ValueError, match="attention"):
        network.layers("legrad", "", x)
