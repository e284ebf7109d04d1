"""Wrong uses: each gets a ValueError or TypeError that names what was got, what was expected, and the cure."""

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.data.scene_models import build_scene_model
from tests.conftest import SmallNet

NET = SmallNet().eval()
X = torch.randn(2, 3, 8, 8)


def norm_grad(model=NET, layer="conv3", inputs=X, target=1, **attribute):
    return lambda: cea.NormGrad(model, layer).attribute(inputs, target, **attribute)


def extract_aggregate(extract="conv1x1", aggregate="norm", **kwargs):
    return lambda: cea.ExtractAggregate(NET, "conv3", extract=extract, aggregate=aggregate, **kwargs)


class Detached(SmallNet):
    def forward(self, x):
        return super().forward(x).detach()


class Undifferentiated(SmallNet):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


class WithAuxiliaryHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.auxiliary = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

    def forward(self, x):
        y = self.conv(x)
        self.auxiliary(y)
        return y.mean((2, 3))


class Windows(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        windows = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).reshape(-1, 16, 3)
        return self.head(self.inner(windows)).view(len(x), -1, 2).mean(1)


class Unused(nn.Module):
    """Uses a layer's weight without calling the layer, as nn.MultiheadAttention does with its out_proj."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return nn.functional.conv2d(x, self.conv.weight).mean((2, 3))


AUXILIARY, UNUSED, WINDOWS = WithAuxiliaryHead(), Unused(), Windows()
NO_BIAS = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
BATCH_STATISTICS = nn.Sequential(
    nn.BatchNorm2d(3, track_running_stats=False), nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
).eval()
OVER_POSITIONS = nn.Sequential(nn.LayerNorm((3, 8, 8)), nn.AdaptiveAvgPool2d(1), nn.Flatten())

WRONG_USES = {
    # what is built
    "forward_func is no callable": (lambda: cea.NormGrad("resnet18", "conv3"), TypeError, "forward_func is a str"),
    "no such layer": (lambda: cea.NormGrad(NET, "conv33"), ValueError, "did you mean 'conv3'"),
    "no layer at all like it": (lambda: cea.NormGrad(NET, "zzz"), ValueError, "expected one of 'conv1'"),
    "layer is a number": (lambda: cea.NormGrad(NET, 3), TypeError, "layer is a int"),
    "layer is an empty list": (lambda: cea.NormGrad(NET, []), ValueError, "at least one layer"),
    "a name and a function": (lambda: cea.NormGrad(lambda x: NET(x), "conv3"), TypeError, "get_submodule"),
    "unknown extract": (extract_aggregate("conv1x1x1"), ValueError, "did you mean 'conv1x1'"),
    "even window": (extract_aggregate("conv2x2"), ValueError, "odd size"),
    "oblong window": (extract_aggregate("conv3x5"), ValueError, "square window of odd size"),
    "extract is None": (extract_aggregate(None), ValueError, "extract is None"),
    "unknown aggregate": (extract_aggregate("conv1x1", "nrom"), ValueError, "did you mean 'norm'"),
    "unknown layout": (extract_aggregate(layout="NHWC"), ValueError, "expected one of 'auto'"),
    "call is no index": (extract_aggregate(call="last"), TypeError, "call is 'last'"),
    "virtual_identity is a list": (
        lambda: cea.NormGrad(NET, "conv3", virtual_identity=[0]),
        TypeError,
        "virtual_identity is",
    ),
    "real layer without parameters": (
        lambda: cea.NormGrad(NET, "relu1", virtual_identity=False),
        ValueError,
        "ReLU, whose parameters",
    ),
    "real layer that is a block": (
        lambda: cea.NormGrad(nn.Sequential(NET), "0", virtual_identity=False),
        ValueError,
        "SmallNet, whose",
    ),
    "real layer at the input": (
        lambda: cea.NormGrad(NET, None, virtual_identity=False),
        ValueError,
        "the input has no parameters",
    ),
    "bias of a layer without one": (
        lambda: cea.ExtractAggregate(NO_BIAS, "0", extract="layer_bias"),
        ValueError,
        "no bias of its own",
    ),
    "methods together that are a list": (
        lambda: cea.attribute_together([cea.NormGrad(NET, "conv3")], X),
        TypeError,
        "not a mapping",
    ),
    "percentile out of range": (lambda: cea.RectGrad(NET, percentile=101), ValueError, "between 0 and 100"),
    "percentile below 0": (lambda: cea.RectGradMod(NET, percentile=-1), ValueError, "not negative"),
    "gamma below 0": (lambda: cea.LRP(NET, gamma=-0.1), ValueError, "gamma is -0.1"),
    "gamma is NaN": (lambda: cea.LRP(NET, gamma=float("nan")), ValueError, "gamma is nan"),
    "gamma is a string": (lambda: cea.LRP(NET, gamma="inf"), ValueError, "gamma is 'inf'"),
    "epsilon below 0": (lambda: cea.LRP(NET, epsilon=-1), ValueError, "epsilon is -1"),
    "an infinite gamma rule": (lambda: cea.rules.Gamma(float("inf")), ValueError, "ZPlus()"),
    "alpha and beta": (lambda: cea.rules.AlphaBeta(2, 0), ValueError, "expected 1"),
    "rules is a list": (lambda: cea.LRP(NET, rules=[nn.Conv2d]), TypeError, "rules is a list"),
    "rules holds a class": (lambda: cea.LRP(NET, rules={"conv1": cea.rules.ZPlus}), TypeError, "rules holds ZPlus"),
    "rules for a number": (lambda: cea.LRP(NET, rules={1: cea.rules.ZPlus()}), TypeError, "rules has the key 1"),
    "rules for no type of layer": (lambda: cea.LRP(NET, rules={int: cea.rules.Flat()}), TypeError, "a layer type"),
    "rules for an unknown name": (lambda: cea.LRP(NET, rules={"conv9": cea.rules.Flat()}), ValueError, "did you mean"),
    "rules for a layer that holds nothing": (
        lambda: cea.LRP(NET, rules={"relu1": cea.rules.Flat()}).attribute(X, 1),
        ValueError,
        "a rule for a ReLU in which no convolution",
    ),
    "unknown aggregate of a propagated quantity": (
        lambda: cea.GuidedBackprop(NET, "conv1", aggregate="abs_max"),
        ValueError,
        "did you mean 'abs_sum'",
    ),
    "unknown clamp": (lambda: cea.ContrastiveExcitationBackprop(NET, clamp="maps"), ValueError, "did you mean 'map'"),
    "a layer behind the contrast": (
        lambda: cea.ContrastiveExcitationBackprop(NET, "conv3", contrast_layer="conv1").attribute(X, 1),
        ValueError,
        "in front of the contrast layer",
    ),
    "a contrast layer behind the classifier": (
        lambda: cea.ContrastiveExcitationBackprop(NET, "conv1", contrast_layer="fc").attribute(X, 1),
        ValueError,
        "behind the classifier",
    ),
    "a contrast layer that never ran": (
        lambda: cea.ContrastiveExcitationBackprop(NET, contrast_layer=nn.ReLU()).attribute(X, 1),
        ValueError,
        "contrast_layer gave 0 tensors",
    ),
    "two classifiers": (
        lambda: cea.ContrastiveExcitationBackprop(lambda x: NET(x) + NET(x.flip(3))).attribute(X, 1),
        ValueError,
        "2 linear layers or convolutions lead",
    ),
    "relevance of a probability": (
        lambda: cea.LRP(lambda x: NET(x).softmax(1)).attribute(X, 1),
        ValueError,
        "explain a logit",
    ),
    # what is asked for
    "inputs is a list": (norm_grad(inputs=[X]), TypeError, "inputs is or holds a list"),
    "inputs of several targets is a list": (
        lambda: cea.NormGrad(NET, "conv3").attribute_per_target([X], [0]),
        TypeError,
        "inputs is or holds a list",
    ),
    "no inputs at all": (norm_grad(inputs=()), ValueError, "one batch size"),
    "aggregate is a list": (extract_aggregate("conv1x1", ["norm"]), ValueError, "aggregate is ['norm']"),
    "extract is a list": (extract_aggregate(["bias"]), ValueError, "extract is ['bias']"),
    "a huge window": (extract_aggregate("conv999x999"), ValueError, "up to 99"),
    "inputs without positions": (
        lambda: cea.LayerGradient(lambda x, y: NET(x) + y.sum(1, keepdim=True)).attribute((X, torch.ones(2, 1)), 1),
        ValueError,
        "additional_forward_args",
    ),
    "default layers on a list": (lambda: cea.default_layers(NET, [X]), TypeError, "inputs is or holds a list"),
    "scenes of a negative seed": (lambda: cea.DigitScenes(1, -1), ValueError, "0 or more"),
    "inputs is an array": (norm_grad(inputs=X.numpy()), TypeError, "ndarray"),
    "an empty batch": (norm_grad(inputs=X[:0]), ValueError, "at least one example"),
    "batches of different sizes": (norm_grad(inputs=(X, X[:1])), ValueError, "one batch size"),
    "maps at integer inputs": (norm_grad(layer=None, inputs=X.long()), TypeError, "embedding"),
    "NaN in the inputs": (norm_grad(inputs=X * torch.nan), ValueError, "NaN or infinite for example 0, 1"),
    "no target": (norm_grad(target=None), ValueError, "pass target="),
    "target out of range": (norm_grad(target=5), ValueError, "expected 0 to 4"),
    "target far below zero": (norm_grad(target=-6), ValueError, "out of range"),
    "targets out of range": (norm_grad(target=torch.tensor([0, 7])), ValueError, "target 7 is out of range"),
    "too few targets": (norm_grad(target=[1]), ValueError, "1 entries for 2 examples"),
    "too many targets": (norm_grad(target=torch.tensor([0, 1, 2])), ValueError, "3 entries for 2 examples"),
    "a matrix of targets": (norm_grad(target=torch.zeros(2, 2).long()), ValueError, "attribute_per_target"),
    "a one-hot target": (norm_grad(target=torch.eye(5)[:2]), TypeError, "multi-hot"),
    "a class name as target": (norm_grad(target="cat"), TypeError, "target is a str"),
    "a real number as target": (norm_grad(target=1.0), TypeError, "target is a float"),
    "real numbers as targets": (norm_grad(target=[1.0, 0.0]), TypeError, "target holds 1.0"),
    "too long a tuple": (norm_grad(target=(1, 2)), ValueError, "holds 2 indices"),
    "a target for a single score": (
        norm_grad(model=lambda x: NET(x).sum(1), layer=NET.conv3),
        ValueError,
        "leave target out",
    ),
    "one score for the whole batch": (
        norm_grad(model=lambda x: NET(x).sum(), layer=NET.conv3, target=None),
        ValueError,
        "1 score(s) for a batch of 2",
    ),
    "a model that returns several tensors": (
        norm_grad(model=lambda x: dict.fromkeys(("kind", "breed"), NET(x)), layer=NET.conv3),
        TypeError,
        "a dict with kind (2, 5), breed (2, 5), several tensors; expected one that holds the scores",
    ),
    "a segmentation model": (
        norm_grad(model=lambda x: NET.conv1(x), layer=NET.conv1),
        ValueError,
        "pass a target of 3 indices",
    ),
    "targets that are no list": (
        lambda: cea.NormGrad(NET, "conv3").attribute_per_target(X, 3),
        TypeError,
        "non-empty list of T targets",
    ),
    "targets for another batch": (
        lambda: cea.NormGrad(NET, "conv3").attribute_per_target(X, torch.zeros(3, 2).long()),
        ValueError,
        "2 x T",
    ),
    "the input of a real layer": (
        lambda: cea.NormGrad(NET, "conv3", virtual_identity=False).attribute(X, 1, attribute_to_layer_input=True),
        ValueError,
        "by definition",
    ),
    # what the model is
    "BatchNorm in train mode": (norm_grad(model=SmallNet().train()), ValueError, "call model.eval()"),
    "a layer of another model": (norm_grad(layer=SmallNet().conv3), ValueError, "not part of the model"),
    "a layer whose weights alone are used": (norm_grad(UNUSED, "conv"), ValueError, "without calling it"),
    "a layer without positions": (norm_grad(layer="fc"), ValueError, "no positions"),
    "a layer with windows in the batch": (norm_grad(WINDOWS, "inner"), ValueError, "windows or heads"),
    "a layer beside the score": (norm_grad(AUXILIARY, "auxiliary"), ValueError, "auxiliary head"),
    "a model that detaches": (norm_grad(Detached().eval()), ValueError, "neither detaches"),
    "a model under no_grad": (norm_grad(Undifferentiated().eval()), ValueError, "no_grad"),
    "BatchNorm without statistics": (
        lambda: cea.NormGrad(BATCH_STATISTICS, "0", virtual_identity=False).attribute(X, 0),
        ValueError,
        "track_running_stats",
    ),
    "LayerNorm over the positions": (
        lambda: cea.NormGrad(OVER_POSITIONS, "0", virtual_identity=False).attribute(X, 0),
        ValueError,
        "not shared between",
    ),
    # the rest
    "default layers of a function": (lambda: cea.default_layers(lambda x: x), TypeError, "torch.nn.Module"),
    "default layers of a linear model": (
        lambda: cea.default_layers(nn.Sequential(nn.Linear(224, 2))),
        ValueError,
        "no resolution stages",
    ),
    "no such scene model": (lambda: build_scene_model("alexnet"), ValueError, "expected one of"),
    "no such split": (lambda: cea.DigitScenes(split="val"), ValueError, "'train', 'test'"),
    "no scenes": (lambda: cea.DigitScenes(0), ValueError, "at least one scene"),
}


@pytest.mark.parametrize("name", WRONG_USES)
def test_wrong_use(name):
    run, error, match = WRONG_USES[name]
    with pytest.raises(error) as caught:
        run()
    assert match in str(caught.value), str(caught.value)
    assert "expected" in str(caught.value) or "never ran" in str(caught.value) or "did you mean" in str(caught.value)


def test_there_are_many():
    assert len(WRONG_USES) >= 30
