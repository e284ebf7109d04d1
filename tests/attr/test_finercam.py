"""FinerCAM: the literal contrast, around any method, in one pass, and the plain method where gamma is 0."""

import captum.attr
import pytest
import torch
from captum.attr import NoiseTunnel
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.scores import NearestContrast
from tests.conftest import relative_error
from tests.faults import prepared, snapshot
from tests.networks import runs_of
from tests.reference.cams import finer_score

TARGETS = [0, 3, 2]


def literal(method_of, net, x, gamma=0.6, references=3):
    """The map of a function that gives the contrasted score of each example, one example at a time."""
    maps = []
    for single, target in zip(x, TARGETS):
        contrasted = lambda t, target=target: torch.stack(  # noqa: E731
            [finer_score(z, target, gamma, references) for z in net(t)]
        )
        maps.append(method_of(contrasted).attribute(single[None]))
    return torch.cat(maps)


MADE = {
    "GradCAM": lambda f, net: cea.GradCAM(f, net.conv3),
    "guided": lambda f, net: cea.GuidedBackprop(f),
    "Captum's GradCAM": lambda f, net: captum.attr.LayerGradCam(f, net.conv3),
    "Captum's saliency": lambda f, net: captum.attr.Saliency(f),
}
CASES = [*((name, 0.6, 3) for name in MADE), ("GradCAM", 1.0, 2), ("Captum's GradCAM", 0.5, 99)]


@pytest.mark.parametrize(("name", "gamma", "references"), CASES)
def test_it_is_the_method_of_the_contrasted_score(small_net, images, name, gamma, references):
    net, x, make = small_net.double(), images.double(), MADE[name]
    expected = literal(lambda f: make(f, net), net, x, gamma, references)
    for forward_func in (net, lambda t: net(t)) if "GradCAM" in name else (net,):
        found = cea.FinerCAM(make(forward_func, net), gamma=gamma, references=references).attribute(x, target=TARGETS)
        assert relative_error(found.detach(), expected.detach()) < 1e-8


def test_of_gamma_0_it_is_the_method(small_net, images):
    x = images[:1]
    for method in (cea.LRP(small_net, "conv3"), cea.LayerCombination(cea.GradCAM(small_net, ["bn", "conv3"]))):
        torch.testing.assert_close(cea.FinerCAM(method, gamma=0.0).attribute(x, 1), method.attribute(x, 1))


def test_around_and_within_other_wrappers(small_net, images):
    net, x = small_net.double(), images.double()
    gradcam = cea.GradCAM(net, ["bn", "conv3"])
    combined = cea.FinerCAM(cea.LayerCombination(gradcam)).attribute(x, TARGETS)
    assert torch.equal(combined, cea.LayerCombination(cea.FinerCAM(gradcam)).attribute(x, TARGETS))
    assert torch.equal(
        combined, cea.LayerCombination(cea.GradCAM(NearestContrast(net), ["bn", "conv3"])).attribute(x, TARGETS)
    )
    one = cea.GradCAM(net, "conv3")
    stepped = cea.FinerCAM(cea.MetaSaliency(one, lr=0.1)).attribute(x, target=TARGETS)
    assert torch.equal(stepped, cea.MetaSaliency(cea.FinerCAM(one), lr=0.1).attribute(x, target=TARGETS))
    assert not torch.allclose(stepped, cea.FinerCAM(one).attribute(x, TARGETS))
    options = {"target": TARGETS, "nt_samples": 2, "stdevs": 0.0}
    expected = cea.FinerCAM(one).attribute(x, TARGETS)
    assert relative_error(cea.FinerCAM(NoiseTunnel(one)).attribute(x, **options), expected) < 1e-12
    assert relative_error(NoiseTunnel(cea.FinerCAM(one)).attribute(x, **options), expected) < 1e-12
    for balanced in (cea.FinerCAM(cea.LibraGrad(one)), cea.LibraGrad(cea.FinerCAM(one))):  # ReLUs: nothing to balance
        assert relative_error(balanced.attribute(x, TARGETS), expected) < 1e-12
    saliency = cea.FinerCAM(cea.LibraGrad(captum.attr.Saliency(net))).attribute(x, TARGETS)
    assert relative_error(saliency, cea.FinerCAM(captum.attr.Saliency(net)).attribute(x, TARGETS)) < 1e-12


def test_methods_share_a_forward_and_targets_do(small_net, images):
    runs, layers = runs_of(small_net), ["bn", "conv3"]
    gradcam = cea.GradCAM(small_net, layers)
    methods = {"gradcam": cea.FinerCAM(gradcam), "layercam": cea.FinerCAM(cea.LayerCAM(small_net, layers))}
    found = cea.attribute_together(methods, images, TARGETS)
    assert len(runs) == 1
    for name, method in methods.items():
        for together, alone in zip(found[name], method.attribute(images, TARGETS)):
            assert torch.equal(together, alone)
    runs.clear()
    per_target = methods["gradcam"].attribute_per_target(images, [1, 4])
    assert len(runs) == 1
    torch.testing.assert_close(per_target[1][:, 1], methods["gradcam"].attribute(images, 4)[1])
    stronger = cea.attribute_together({**methods, "all": cea.FinerCAM(gradcam, gamma=1.0)}, images, 1)
    assert not torch.equal(stronger["gradcam"][1], stronger["all"][1])


def test_a_subclass_of_ones_own_is_asked_by_its_attribute(small_net, images):
    class Doubled(cea.GradCAM):
        def attribute(self, *args, **kwargs):
            return 2 * super().attribute(*args, **kwargs)

    expected = 2 * cea.FinerCAM(cea.GradCAM(small_net, "conv3")).attribute(images, 1)
    method = cea.FinerCAM(Doubled(small_net, "conv3"))
    assert torch.equal(method.attribute(images, 1), expected)
    assert torch.equal(cea.attribute_together({"": method}, images, 1)[""], expected)


def test_the_delta_is_that_of_the_contrasted_score(small_net, images):
    bent = nn.Sequential(small_net, nn.Tanh()).eval()  # no piecewise linear network, whose deltas are 0
    activity = cea.ActivityAttribution(bent, small_net.conv3)
    method = cea.FinerCAM(activity)
    assert method.has_convergence_delta()
    found = method.compute_convergence_delta(images, 1)
    expected = cea.ActivityAttribution(NearestContrast(bent), small_net.conv3).compute_convergence_delta(images, 1)
    assert torch.equal(found, expected)
    assert not torch.allclose(found, activity.compute_convergence_delta(images, 1))


@pytest.mark.parametrize("make", [cea.GradCAM, captum.attr.LayerGradCam])
def test_a_fault_leaves_nothing_behind(make):
    net, x = prepared()
    before = snapshot(net, x)
    method = cea.FinerCAM(make(net, net.conv3))
    method.attribute(x, target=1)
    assert snapshot(net, x) == before

    def fail(*_):
        raise KeyboardInterrupt

    handle = net.fc.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        method.attribute(x, target=1)
    handle.remove()
    assert snapshot(net, x) == before


def test_mistakes(small_net, images):
    gradcam = cea.GradCAM(small_net, "conv3")
    with pytest.raises(cea.InvalidTypeError, match="attribution_method is a str; expected an attribution object"):
        cea.FinerCAM("gradcam")
    for gamma in (-1, True, "much", float("nan"), float("inf")):
        with pytest.raises(cea.InvalidValueError, match=r"gamma is .*expected a number of at least 0"):
            cea.FinerCAM(gradcam, gamma=gamma)
    for references in (0, -1, 1.5, None, True):
        with pytest.raises(cea.CaptumExtractAggregateError, match=r"references is .*expected a whole number"):
            cea.FinerCAM(gradcam, references=references)
    with pytest.raises(cea.InvalidValueError, match="expected N x classes, two or more"):
        cea.FinerCAM(cea.GradCAM(lambda t: small_net(t)[:, 0], small_net.conv3)).attribute(images)
    with pytest.raises(NotImplementedError):
        cea.FinerCAM(gradcam).attribute_with_graph(images, 1)

    class Blind(captum.attr.Attribution):
        def attribute(self, inputs, target=None):
            return inputs

    with pytest.raises(cea.InvalidTypeError, match="Blind, which does not call its forward_func"):
        cea.FinerCAM(Blind(nn.Identity())).attribute(images)
