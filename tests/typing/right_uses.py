"""Right uses, which both type checkers accept; `assert_type` says what each of them sees."""

import torch
from captum.attr import NoiseTunnel
from torch import Tensor, nn
from typing_extensions import assert_type

import captum_extract_aggregate as cea

net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
x = torch.zeros(1, 3, 8, 8)

assert_type(cea.NormGrad(net, net[0]).attribute(x, target=1), Tensor)
assert_type(cea.NormGrad(net, "0").attribute(x, 1), Tensor)
assert_type(cea.NormGrad(net, [net[0], net[1]]).attribute(x, target=1), list[Tensor])
assert_type(cea.SelectiveNormGrad(net, ["0", "1"]).attribute(x, target=[1]), list[Tensor])
assert_type(cea.NormGrad(net, ["0", net[1]]).attribute(x, target=1), list[Tensor])
assert_type(cea.NormGrad(net, cea.default_layers(net)).attribute(x, target=1), list[Tensor])
assert_type(cea.NormGrad(net, list(cea.default_layers(net).values())).attribute(x, target=1), list[Tensor])
assert_type(cea.GradCAM(net, "0").attribute(x, target=1, relu_attributions=False), Tensor)
assert_type(cea.GradCAM(net, ["0"]).attribute(x, target=1, attr_dim_summation=False), list[Tensor])
assert_type(cea.GuidedBackprop(model=net).attribute(x, target=1), Tensor)
assert_type(cea.GuidedBackprop(net).attribute((x, x), target=1), tuple[Tensor, ...])
assert_type(cea.LRP(net, ["0"]).attribute(x, 1), list[Tensor])
assert_type(cea.LRP(net, "0").attribute(x, 1), Tensor)
assert_type(cea.ActivityAttribution(net, "0").attribute(x, 1), Tensor)
assert_type(cea.FullGrad(net).attribute(x, target=1), Tensor)
assert_type(cea.AggregatedActivity(net, ["0", "1"], l0=-1).attribute(x, target=1), Tensor)
assert_type(cea.LayerCombination(cea.NormGrad(net, ["0", "1"]), weights="linear").attribute(x, target=1), Tensor)
relevance, delta = cea.LRP(net).attribute(x, 1, return_convergence_delta=True)
NoiseTunnel(cea.NormGrad(net, "0")).attribute(x, target=1)
cea.MetaSaliency(cea.NormGrad(net, "0"), lr=0.01).attribute(x, target=1)
cea.ExtractAggregate(net, "0", extract="conv3x3", aggregate="filter_norm", layout="channels_first")
cea.ExtractAggregate(net, "0", aggregate=lambda rows: rows.flatten(1).amax(1))


def of_a_module(model: nn.Module) -> Tensor:
    return cea.NormGrad(model, model.layer3).attribute(x, target=1)
