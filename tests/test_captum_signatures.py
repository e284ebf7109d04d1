"""Whoever swaps Captum's class for ours keeps the call: names, order and defaults are its own."""

import inspect

import captum.attr as captums
import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea

COUNTERPARTS = {
    cea.GradCAM: captums.LayerGradCam,
    cea.GradCAMPlusPlus: captums.LayerGradCam,
    cea.LayerCAM: captums.LayerGradCam,
    cea.XGradCAM: captums.LayerGradCam,
    cea.LinearApproximation: captums.LayerGradientXActivation,
    cea.LayerGradient: captums.LayerGradientXActivation,
    cea.GuidedBackprop: captums.GuidedBackprop,
    cea.GuidedGradCAM: captums.GuidedGradCam,
    cea.Deconvolution: captums.Deconvolution,
    cea.LRP: captums.LayerLRP,
}
# Captum has nothing of the kind: these are called as any of its layer methods is.
WITHOUT_COUNTERPART = [
    cea.ExtractAggregate,
    cea.NormGrad,
    cea.SelectiveNormGrad,
    cea.HiResCAM,
    cea.ElementWiseGradCAM,
    cea.GradCAMPos,
    cea.GradMid,
    cea.ActivityAttribution,
    cea.BiasAttribution,
    cea.LeGrad,
    cea.GradientWeightedAttention,
    cea.AttentionRollout,
    cea.RectGrad,
    cea.RectGradMod,
    cea.ExcitationBackprop,
    cea.ContrastiveExcitationBackprop,
    cea.CumulativeGradCAM,
    cea.CumulativeGradMid,
    cea.AggregatedActivity,
    cea.FullGrad,
]
AROUND = (cea.LayerCombination, cea.MetaSaliency, cea.LibraGrad, cea.FinerCAM, cea.ClassCompetition)
WRAPPERS = dict.fromkeys(AROUND, captums.NoiseTunnel)
# It combines layers, and so takes what a combination takes.
COMBINED = [cea.RefineCAM]
ALL = [*COUNTERPARTS, *WITHOUT_COUNTERPART, *COMBINED]
# Where a default is not Captum's: the published form is ours (docs/troubleshooting.md).
RECTIFIED = (cea.GradCAM, cea.GradCAMPlusPlus, cea.LayerCAM, cea.XGradCAM)
OTHER_DEFAULT = {(ours, "relu_attributions") for ours in RECTIFIED}
OTHER_DEFAULT |= {(cea.LayerGradient, "multiply_by_inputs")}


def parameters(function):
    return {n: p for n, p in inspect.signature(function).parameters.items() if n != "self"}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 3)
    ).eval()


def images():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_no_class_is_left_out():
    public = {getattr(cea, name) for name in cea.__all__}
    methods = {c for c in public if isinstance(c, type) and issubclass(c, captums.Attribution)}
    assert methods - {cea.CaptureAttribution} == {*ALL, *WRAPPERS}


@pytest.mark.parametrize("ours", ALL)
def test_first_three_then_names(ours):
    given = parameters(ours.__init__)
    first = "model" if "model" in given else "forward_func"
    assert list(given)[:3] == [first, "layer", "device_ids"]
    assert given["device_ids"].default is None
    assert {p.kind for p in list(given.values())[3:]} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("ours", WRAPPERS)
def test_wrappers_take_the_method_then_names(ours):
    given = parameters(ours.__init__)
    assert next(iter(given)) == next(iter(parameters(WRAPPERS[ours].__init__))) == "attribution_method"
    assert {p.kind for p in list(given.values())[1:]} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("ours", COUNTERPARTS)
@pytest.mark.parametrize("of", ["__init__", "attribute"])
def test_what_captum_takes_is_taken(ours, of):
    own, captum = parameters(getattr(ours, of)), parameters(getattr(COUNTERPARTS[ours], of))
    assert set(captum) <= set(own)
    for name, parameter in captum.items():
        if parameter.default is not parameter.empty and (ours, name) not in OTHER_DEFAULT:
            assert own[name].default == parameter.default, name
    by_position = [n for n, p in own.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    captums_order = [n for n, p in captum.items() if p.kind is p.POSITIONAL_OR_KEYWORD and n in by_position]
    assert captums_order == [n for n in by_position if n in captums_order]
    if of == "attribute":
        assert by_position[: len(captums_order)] == captums_order


@pytest.mark.parametrize("ours", WITHOUT_COUNTERPART)
def test_other_attributes_are_called_as_layer_methods(ours):
    first = ["inputs", "target", "additional_forward_args", "attribute_to_layer_input", "grad_kwargs"]
    assert list(parameters(ours.attribute))[:5] == first


@pytest.mark.parametrize("ours", ALL)
@pytest.mark.parametrize("name", ["multiply_by_inputs", "baselines", "relu_attributions", "n_steps", "verbose", "abs"])
def test_what_cannot_be_taken_is_our_error(ours, name):
    for of, call in (
        ("__init__", lambda: ours(network(), "2", **{name: 1})),
        ("attribute", lambda: ours(network(), "2").attribute(images(), 1, **{name: 1})),
    ):
        if name in parameters(getattr(ours, of)):
            continue
        with pytest.raises(cea.InvalidTypeError, match=name) as error:
            call()
        assert "\n" not in str(error.value)


def test_errors_name_the_nearest_argument_and_the_cure():
    net, x = network(), images()
    with pytest.raises(cea.InvalidTypeError, match=r"NormGrad.attribute is 'targt'.*'target'"):
        cea.NormGrad(net, "2").attribute(x, targt=1)
    with pytest.raises(cea.InvalidTypeError, match=r"ExtractAggregate is 'agregate'.*'aggregate'"):
        cea.ExtractAggregate(net, "2", agregate="norm")
    with pytest.raises(cea.InvalidTypeError, match=r"4 arguments by position; expected at most 3.*by name: extract="):
        cea.ExtractAggregate(net, "2", "conv1x1", "norm")
    with pytest.raises(cea.InvalidTypeError, match=r"device_ids is 'conv1x1'.*by name"):
        cea.ExtractAggregate(net, "2", "conv1x1")
    with pytest.raises(cea.InvalidTypeError, match="compute_convergence_delta makes the maps itself"):
        cea.LRP(net).compute_convergence_delta(attributions=x, output=net(x))
    for grad_kwargs, match in (({"create_graph": True}, "attribute_with_graph"), ({"grad_outputs": x}, "grad_outputs")):
        with pytest.raises(cea.InvalidValueError, match=match):
            cea.NormGrad(net, "2").attribute(x, 1, grad_kwargs=grad_kwargs)
    with pytest.raises(cea.InvalidTypeError, match="grad_kwargs is a list"):
        cea.NormGrad(net, "2").attribute(x, 1, grad_kwargs=[])


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("summed", [False, True])
def test_gradcam_is_captums_with_its_options(relu, summed):
    net, x = network(), images()
    method = cea.GradCAM(net, net[2])
    options = {"relu_attributions": relu, "attr_dim_summation": summed}
    expected = captums.LayerGradCam(net, net[2]).attribute(x, 1, None, False, relu, summed).detach()
    plain = method.attribute(x, 1)
    assert torch.allclose(method.attribute(x, 1, **options), expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(method.attribute(x, 1, None, False, relu, summed, None), method.attribute(x, 1, **options))
    assert torch.equal(method.attribute(x, 1), plain)  # a call's options are its own
    (first, _) = cea.GradCAM(net, [net[2], net[0]]).attribute(x, 1, **options)
    assert torch.equal(first, method.attribute(x, 1, **options))
    unsummed = cea.GradCAMPlusPlus(net, net[2]).attribute(x, 1, relu_attributions=False, attr_dim_summation=False)
    whole = cea.GradCAMPlusPlus(net, net[2]).attribute(x, 1)
    assert torch.allclose(unsummed.sum(1, keepdim=True).relu(), whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("multiply", [False, True])
def test_linear_approximation_multiplies_as_captum_does(multiply):
    net, x = network(), images()
    captum = captums.LayerGradientXActivation(net, net[2], multiply_by_inputs=multiply)
    ours = cea.LinearApproximation(net, net[2], multiply_by_inputs=multiply)
    assert ours.multiplies_by_inputs == captum.multiplies_by_inputs == multiply
    expected = captum.attribute(x, 1).detach().sum(1, keepdim=True)
    assert torch.allclose(ours.attribute(x, 1), expected, rtol=1e-5, atol=1e-7)
    if not multiply:
        assert torch.equal(cea.LayerGradient(net, net[2], aggregate="sum").attribute(x, 1), ours.attribute(x, 1))
    with pytest.raises(cea.InvalidValueError, match="LinearApproximation"):
        cea.LayerGradient(net, net[2], multiply_by_inputs=True)


@pytest.mark.parametrize("name", ["GuidedBackprop", "Deconvolution", "LRP"])
def test_by_captums_name_of_the_network(name):
    net, x = network(), images()
    by_name = getattr(cea, name)(model=net).attribute(x, target=1)
    assert torch.equal(by_name, getattr(cea, name)(net).attribute(x, 1))
    assert torch.equal(by_name, getattr(cea, name)(forward_func=net).attribute(x, 1))
    if name != "LRP":
        assert torch.allclose(by_name, getattr(captums, name)(net).attribute(x, 1), rtol=1e-5, atol=1e-7)


def test_lrp_is_called_as_captums():
    net, x = network(), images()
    relevance, delta = cea.LRP(model=net).attribute(x, 1, None, True, verbose=False)
    assert torch.equal(relevance, cea.LRP(net).attribute(x, 1))
    assert delta.shape == (2,)
    at_input = cea.LRP(net, net[2]).attribute(x, 1, None, False, True)
    assert torch.equal(at_input, cea.LRP(net, net[2]).attribute(x, 1, attribute_to_layer_input=True))
    with pytest.raises(cea.InvalidValueError, match="verbose"):
        cea.LRP(net).attribute(x, 1, verbose=True)
