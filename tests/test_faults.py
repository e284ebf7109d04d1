"""Whatever happens inside, the model, its flags, hooks and gradients and the random state are as before."""

import itertools

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from tests.faults import STAGES, InjectedError, arm, prepared, snapshot


@pytest.mark.parametrize(("stage", "error"), list(itertools.product(STAGES, [InjectedError(), KeyboardInterrupt()])))
@pytest.mark.parametrize("through_a_function", [False, True])
def test_faults_in_the_model(stage, error, through_a_function):
    net, x = prepared()
    model = (lambda t: net(t)) if through_a_function else net
    methods = {
        "norm": cea.NormGrad(model, [net.conv1, net.conv3]),
        "real": cea.NormGrad(model, net.conv2, virtual_identity=False),
        "input": cea.LayerGradient(model),
        "plus plus": cea.GradCAMPlusPlus(model, net.conv3),
        "guided": cea.GuidedBackprop(model, net.conv1),
        "rectgrad": cea.RectGrad(model),
        "relevance": cea.LRP(model, [net.conv1, net.conv3], rules={nn.Conv2d: cea.rules.Gamma(0.3)}),
        "excitation": cea.ExcitationBackprop(model),
        "contrastive": cea.ContrastiveExcitationBackprop(model, net.conv1, contrast_layer=net.relu2),
        "aggregated": cea.AggregatedActivity(model, [net.conv1, net.conv3], include_input=True),
        "combined": cea.LayerCombination(cea.NormGrad(model, [net.conv1, net.conv3])),
        "balanced": cea.LibraGrad(cea.NormGrad(model, [net.conv1, net.conv3])),
        "guided GradCAM": cea.GuidedGradCAM(model, [net.conv1, net.conv3]),
        "nearest": cea.FinerCAM(cea.LayerCAM(model, [net.conv1, net.conv3])),
        "competing": cea.ClassCompetition(cea.NormGrad(model, [net.conv1, net.conv3])),
    }
    if not through_a_function:
        methods["full"] = cea.FullGrad(net)
    handle = arm(net, stage, error)
    before = snapshot(net, x)
    for run in (
        *(lambda m=m: m.attribute(x, 1) for m in methods.values()),
        lambda: methods["norm"].attribute_per_target(x, [0, 1]),
        lambda: methods["norm"].attribute(x, 1, attribute_to_layer_input=True),
        lambda: cea.attribute_together(methods, x, 1),
    ):
        with pytest.raises(type(error)):
            run()
        assert snapshot(net, x) == before
    handle.remove()
    maps = methods["norm"].attribute(x, 1)
    assert all(torch.isfinite(m).all() for m in maps)


@pytest.mark.parametrize("layout", [lambda t: 1 / 0, lambda t: t.flatten(0, 1)])
def test_faults_in_a_user_s_layout_or_aggregate(layout):
    net, x = prepared()
    before = snapshot(net, x)
    with pytest.raises((ZeroDivisionError, ValueError)):
        cea.NormGrad(net, net.conv3, layout=layout).attribute(x, 1)
    assert snapshot(net, x) == before
    with pytest.raises(ZeroDivisionError):
        cea.ExtractAggregate(net, net.conv3, extract="conv1x1", aggregate=lambda rows: 1 / 0).attribute(x, 1)
    assert snapshot(net, x) == before


def test_our_own_errors_leave_no_trace():
    net, x = prepared()
    before = snapshot(net, x)
    for run in (
        lambda: cea.NormGrad(net, nn.ReLU()).attribute(x, 1),  # never runs
        lambda: cea.NormGrad(net, net.fc).attribute(x, 1),  # no positions
        lambda: cea.NormGrad(net, net.conv3).attribute(x, 99),  # no such class
        lambda: cea.NormGrad(net, net.conv3).attribute(x),  # no target
        lambda: cea.NormGrad(net, net.conv3, call=4).attribute(x, 1),
        lambda: cea.LRP(lambda t: net(t).softmax(1)).attribute(x, 1),
        lambda: cea.ExcitationBackprop(lambda t: net(t.erfc())).attribute(x, 1),
        lambda: cea.ContrastiveExcitationBackprop(net, contrast_layer=net.fc).attribute(x, 1),
    ):
        with pytest.raises(ValueError, match=r"expected|never ran"):
            run()
        assert snapshot(net, x) == before


def test_success_leaves_no_trace():
    net, x = prepared()
    before = snapshot(net, x)
    cea.NormGrad(net, ["conv1", "conv3"]).attribute_per_target(x, [0, 1, 2])
    cea.NormGrad(net, "conv2", virtual_identity=False).attribute(x, 1)
    cea.LayerGradient(net).attribute(x, 1)
    cea.LinearApproximation(net, "conv3").attribute(x, 1, attribute_to_layer_input=True)
    cea.GuidedBackprop(net).attribute(x, 1)
    cea.LRP(net, "conv1").attribute_per_target(x, [0, 1, 2])
    cea.ContrastiveExcitationBackprop(net).attribute(x, 1)
    assert snapshot(net, x) == before


def test_a_model_that_overwrites_its_input_does_not_touch_the_user_s():
    conv = nn.Conv2d(3, 2, 3)
    model = lambda t: conv(t.mul_(2).relu_()).mean((2, 3))  # noqa: E731
    x = torch.randn(1, 3, 6, 6)
    kept = x.clone()
    for method in (cea.NormGrad(model, conv), cea.LayerGradient(model)):
        method.attribute(x, 1)
        assert torch.equal(x, kept)
    assert not x.requires_grad
    with_gradient = x.clone().requires_grad_()
    cea.LayerGradient(model).attribute(with_gradient, 1)
    assert with_gradient.grad is None
    assert with_gradient.requires_grad
