"""One clear line for what this package, or Captum, cannot do."""

import json

import captum.attr
import pytest
import torch
from captum.concept import TCAV, Concept
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.by_name import make_method

RAW = {"what": "accuracy", "images": 3, "raw": {"conv1": 0.5, "conv3": 1}}
WRONG_FILES = {
    "not JSON": (b"conv1: 0.5", "it is no JSON"),
    "empty": (b"", "it is no JSON"),
    "not UTF-8": (b'{"what": "\xff\xfe"}', "it is no JSON"),
    "three thousand brackets": (b"[" * 3000 + b"]" * 3000, "no file that LayerWeights.save wrote"),
    "a list": (b"[1, 2]", "lacks 'raw'"),
    "null": (b"null", "lacks 'raw'"),
    "other keys": (b'{"conv1": 0.5}', "lacks 'raw'"),
    "a list of values": (json.dumps(RAW | {"raw": [1, 2]}).encode(), "lacks 'raw'"),
    "no number of images": (json.dumps(RAW | {"images": "many"}).encode(), "lacks 'raw', 'what' or 'images'"),
    "text for a value": (json.dumps(RAW | {"raw": {"conv1": "much"}}).encode(), "raw value of 'conv1' is 'much'"),
    "not a number": (json.dumps(RAW | {"raw": {"conv1": float("nan")}}).encode(), "raw value of 'conv1' is nan"),
    "infinite": (json.dumps(RAW | {"raw": {"conv1": float("inf")}}).encode(), "raw value of 'conv1' is inf"),
    "negative": (json.dumps(RAW | {"raw": {"conv1": -1, "conv3": 2}}).encode(), "raw value of 'conv1' is -1"),
    "true": (json.dumps(RAW | {"raw": {"conv1": True}}).encode(), "raw value of 'conv1' is True"),
    "no layers": (json.dumps(RAW | {"raw": {}}).encode(), "every layer's accuracy is 0"),
}


@pytest.mark.parametrize(("content", "why"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_layer_weights_from_a_wrong_file(tmp_path, content, why):
    (tmp_path / "weights.json").write_bytes(content)
    with pytest.raises(ValueError, match=why) as error:
        cea.LayerWeights.load(tmp_path / "weights.json")
    assert "weights.json" in str(error.value) or why.startswith("every")


def test_layer_weights_from_what_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "missing.json"):
        with pytest.raises(OSError, match=str(path)):
            cea.LayerWeights.load(path)
    (tmp_path / "right.json").write_text(json.dumps(RAW))
    assert cea.LayerWeights.load(tmp_path / "right.json")["conv3"] == pytest.approx(2 / 3)


def test_captum_s_classes_that_need_more_than_their_name(small_net, images):
    for name, needed in {
        "NoiseTunnel": "attribution_method",
        "GradientShap": "baselines",
        "LayerDeepLiftShap": "baselines",
        "Occlusion": "sliding_window_shapes",
        "NeuronGradient": "neuron_selector",
    }.items():
        with pytest.raises(ValueError, match=rf"'captum:{name}', which needs more .*{needed}.*captum:Saliency"):
            make_method(f"captum:{name}", small_net, [small_net.conv3])
    for name in ("LayerAttribution", "GradientAttribution", "ClassSummarizer", "visualization", "Nothing"):
        with pytest.raises(ValueError, match=rf"'captum:{name}', which is unknown"):
            make_method(f"captum:{name}", small_net, [small_net.conv3])
    assert make_method("captum:Saliency", small_net, []).attribute(images, target=1).shape == images.shape


class Reused(nn.Module):
    """One ReLU module that runs twice, which Captum's DeepLift does not take."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.relu, self.head = (
            nn.Conv2d(3, 4, 3),
            nn.Conv2d(4, 4, 3),
            nn.ReLU(),
            nn.Linear(4, 3),
        )

    def forward(self, x):
        return self.head(self.relu(self.conv2(self.relu(self.conv1(x)))).mean((2, 3)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["DeepLift", "LayerDeepLift"])
def test_a_model_that_captum_s_class_refuses(images, name):
    net = Reused().eval()
    methods = {"ours": cea.NormGrad(net, net.conv1), "theirs": make_method(f"captum:{name}", net, [net.conv1])}
    with pytest.raises(ValueError, match=rf"^Captum's {name} does not explain this model: .*; expected another method"):
        cea.attribute_together(methods, images, 1)


def test_errors_of_others_methods_stay_theirs(small_net, images):
    class Own(captum.attr.Saliency):
        def attribute(self, inputs, target=None):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        cea.attribute_together({"own": Own(small_net)}, images, 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [cea.LinearApproximation, cea.GradCAM])
def test_tcav_is_refused_in_one_line(small_net, images, tmp_path, make):
    def concept(i):
        data = torch.utils.data.DataLoader(images + i, batch_size=3)
        return Concept(i, f"concept {i}", data)

    tcav = TCAV(small_net, ["conv3"], layer_attr_method=make(small_net, None), save_path=str(tmp_path))
    with pytest.raises(ValueError, match=rf"layer_attr_method is a {make.__name__}, .*LayerGradientXActivation"):
        tcav.interpret(images, [[concept(0), concept(1)]], target=1)
    tcav = TCAV(small_net, ["conv3"], save_path=str(tmp_path / "theirs"))
    assert tcav.interpret(images, [[concept(0), concept(1)]], target=1)
