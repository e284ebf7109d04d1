"""`repr(method)` is the call that makes it again."""

import captum.attr as captums
import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.rules import Flat, Gamma, WSquare, ZBox


def channels_last(t):
    return t.movedim(-1, 1)


def best(rows):
    return rows.flatten(1).amax(1)


METHODS = {
    "NormGrad(model, 'conv3')": lambda m: cea.NormGrad(m, m.conv3),
    "NormGrad(model, ['conv2', 'conv3'], virtual_identity=False)": lambda m: cea.NormGrad(
        m, {"b": m.conv2, "c": "conv3"}, virtual_identity=False
    ),
    "ExtractAggregate(model, None, extract='conv3x3', aggregate=best, call=0)": lambda m: cea.ExtractAggregate(
        m, None, extract="conv3x3", aggregate=best, call=0
    ),
    "SelectiveNormGrad(model, 'conv3', layout='channels_first')": lambda m: cea.SelectiveNormGrad(
        m, "conv3", layout="channels_first"
    ),
    "LinearApproximation(model, 'conv3', multiply_by_inputs=False)": lambda m: cea.LinearApproximation(
        m, "conv3", multiply_by_inputs=False
    ),
    "LayerGradient(model)": lambda m: cea.LayerGradient(m),
    "GradCAMPos(model, 'conv3', positive='relu')": lambda m: cea.GradCAMPos(m, "conv3", positive="relu"),
    "GradCAMPlusPlus(model, 'conv3', normalize_alpha=True)": lambda m: cea.GradCAMPlusPlus(
        m, "conv3", normalize_alpha=True
    ),
    "FullGrad(model, rescale='layer_map')": lambda m: cea.FullGrad(m, rescale="layer_map"),
    "AggregatedActivity(model, ['conv1', 'conv2'], l0=-1, size=(12, 12))": lambda m: cea.AggregatedActivity(
        m, ["conv1", "conv2"], l0=-1, size=(12, 12)
    ),
    "GuidedBackprop(model)": lambda m: cea.GuidedBackprop(m),
    "RectGrad(model, 'conv3', percentile=90, aggregate='max')": lambda m: cea.RectGrad(
        m, "conv3", percentile=90, aggregate="max"
    ),
    "LRP(model, 'conv1', gamma=float('inf'), sums='positive')": lambda m: cea.LRP(
        m, "conv1", gamma=float("inf"), sums="positive"
    ),
    "LRP(model, rules={'conv1': ZBox(low=-3, high=torch.tensor([[[2.0]]]), epsilon=1e-09), torch.nn.Linear: Flat(), "
    "'conv3': Gamma(gamma=0.25, epsilon=1e-09)})": lambda m: cea.LRP(
        m, rules={"conv1": ZBox(-3, torch.tensor([[[2.0]]])), nn.Linear: Flat(), m.conv3: Gamma()}
    ),
    "LRP(model, stabilizer=0.1, rules={torch.add: Flat(), ('conv3', torch.nn.functional.conv2d): WSquare()})": (
        lambda m: cea.LRP(m, stabilizer=0.1, rules={torch.add: Flat(), (m.conv3, torch.conv2d): WSquare()})
    ),
    "ContrastiveExcitationBackprop(model, 'conv1', contrast_layer='conv3', clamp='contrast')": lambda m: (
        cea.ContrastiveExcitationBackprop(m, "conv1", contrast_layer=m.conv3, clamp="contrast")
    ),
    "LayerCombination(GradCAM(model, ['conv2', 'conv3']), weights={'conv2': 1, 'conv3': 2.5}, mode='sum')": lambda m: (
        cea.LayerCombination(cea.GradCAM(m, ["conv2", "conv3"]), weights={m.conv2: 1, "conv3": 2.5}, mode="sum")
    ),
    "MetaSaliency(NormGrad(model, 'conv3'), lr=0.01, loss_func='binary_cross_entropy', parameters=['conv1.weight'])": (
        lambda m: cea.MetaSaliency(
            cea.NormGrad(m, "conv3"), lr=0.01, loss_func="binary_cross_entropy", parameters=[m.conv1.weight]
        )
    ),
    "MetaSaliency(LayerGradCam(model, model.get_submodule('conv3')))": lambda m: cea.MetaSaliency(
        captums.LayerGradCam(m, m.conv3)
    ),
}


@pytest.mark.parametrize("text", METHODS)
def test_the_same_object_is_made_again(text, small_net, images):
    method = METHODS[text](small_net)
    assert repr(method) == text
    names = {**vars(captums), **vars(cea.rules), **vars(cea), "torch": torch, "model": small_net, "best": best}
    again = eval(text, names)
    assert repr(again) == text
    for given, made in zip(_listed(method.attribute(images, target=1)), _listed(again.attribute(images, target=1))):
        assert torch.equal(given, made)


def _listed(maps):
    return maps if isinstance(maps, list) else [maps]


def test_functions_go_by_their_names(small_net):
    method = cea.NormGrad(small_net.forward, small_net.conv3, layout=channels_last)
    assert repr(method) == "NormGrad(forward, 'conv3', layout=channels_last)"
    assert repr(cea.NormGrad(lambda x: x, nn.Conv2d(3, 4, 3))) == "NormGrad(<lambda>, <Conv2d>)"
