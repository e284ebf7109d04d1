"""The forward runs as the caller's would under autocast; the backward and the maps' arithmetic do not."""

import captum.attr as captum_attr
import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate import metrics
from tests.conftest import relative_error
from tests.networks import Attending, lively, vgg11

METHODS = {
    "NormGrad": lambda net: cea.NormGrad(net, "conv2"),
    "real layer": lambda net: cea.NormGrad(net, "conv2", virtual_identity=False),
    "input side": lambda net: cea.LinearApproximation(net, "conv3"),
    "GradCAM++": lambda net: cea.GradCAMPlusPlus(net, "conv2"),
    "bias": lambda net: cea.BiasAttribution(net, "conv2"),
    "activity": lambda net: cea.ActivityAttribution(net, "conv2"),
    "FullGrad": cea.FullGrad,
    "AggregatedActivity": lambda net: cea.AggregatedActivity(net, ["conv1", "conv3"]),
    "guided": cea.GuidedBackprop,
    "RectGrad": lambda net: cea.RectGrad(net, "conv2", percentile=50),
    "LRP": cea.LRP,
    "LRP gamma": lambda net: cea.LRP(net, gamma=0.25),
    "excitation": lambda net: cea.ExcitationBackprop(net, "conv2"),
    "combination": lambda net: cea.LayerCombination(cea.NormGrad(net, ["conv1", "conv2"])),
    "meta-saliency": lambda net: cea.MetaSaliency(cea.NormGrad(net, "conv2")),
    "meta-saliency of Captum's": lambda net: cea.MetaSaliency(captum_attr.LayerGradCam(net, net.conv2)),
}


@pytest.fixture
def net(small_net):
    small_net.dtypes = []
    small_net.conv3.register_forward_hook(lambda m, i, o: small_net.dtypes.append(o.dtype))
    return small_net


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_the_forward_that_the_caller_would_run(name, net, images):
    method = METHODS[name](net)
    expected = method.attribute(images, target=1)
    assert set(net.dtypes) == {torch.float32}
    net.dtypes.clear()
    with torch.autocast("cpu", torch.bfloat16):
        got = method.attribute(images, target=1)
        assert torch.ones(1, 1).mm(torch.ones(1, 1)).dtype == torch.bfloat16  # still as the caller has it
    assert set(net.dtypes) == {torch.bfloat16}
    assert got.dtype == (torch.bfloat16 if "Captum" in name else torch.float32)  # Captum's is the activation's
    assert relative_error(got, expected) > 0
    got = got.float()
    assert torch.corrcoef(torch.stack([got.flatten(), expected.flatten()]))[0, 1] > 0.98


@pytest.mark.parametrize("name", ["NormGrad", "FullGrad", "guided", "LRP", "LRP gamma", "excitation"])
def test_weights_in_half_precision_and_inputs_in_single(name, net, images):
    expected = METHODS[name](net).attribute(images, target=1)
    net.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        got = METHODS[name](net).attribute(images, target=1)
    assert got.dtype == torch.float32
    assert torch.corrcoef(torch.stack([got.flatten(), expected.flatten()]))[0, 1] > 0.98


@pytest.mark.parametrize("method", [cea.ActivityAttribution, cea.LRP, cea.ExcitationBackprop])
def test_convergence_deltas_are_of_the_same_forward(method, net, images):
    with torch.autocast("cpu", torch.bfloat16):
        delta = method(net, "conv3").compute_convergence_delta(images, target=1)
        score = net(images)[:, 1]
    assert set(net.dtypes) == {torch.bfloat16}
    assert delta.isfinite().all()
    if method is cea.ActivityAttribution:  # complete to the precision of the forward
        assert (delta.abs() < 0.1 * score.float().abs() + 0.05).all()


@pytest.mark.parametrize("batch_norm", [False, True])
def test_lrp_is_as_good_as_the_gradient_of_the_same_forward(batch_norm):
    """Where a sum nearly cancels, shares of other digits than the forward's have little to do with it.

    LRP-0 of rectifiers is gradient times input.
    """
    torch.manual_seed(0)
    net = lively(vgg11(batch_norm)).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        relevance = cea.LRP(net).attribute(x, target=1)
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(net(leaf)[:, 1].sum(), leaf)
    assert torch.corrcoef(torch.stack([relevance.flatten(), (gradient * x).flatten()]))[0, 1] > 0.999


def test_the_maps_arithmetic_is_not_rounded(net, images):
    """NormGrad from what a literal pass captures under autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        got = cea.NormGrad(net, "conv2").attribute(images, target=1)
    kept = []
    handle = net.conv2.register_forward_hook(lambda m, i, o: kept.append(o.requires_grad_()))
    for p in net.parameters():
        p.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        score = net(images)[:, 1].sum()
    handle.remove()
    (g,) = torch.autograd.grad(score, kept)
    x = kept[0].detach().float()
    torch.testing.assert_close(got, x.norm(dim=1, keepdim=True) * g.float().norm(dim=1, keepdim=True))


def test_steps_and_randomisation_are_not_undone_by_autocast_s_copies_of_the_weights(net, images):
    """Autocast keeps half-precision copies of weights for as long as it lasts."""
    captums = captum_attr.LayerGradCam(net, net.conv2)
    with torch.autocast("cpu", torch.bfloat16):
        plain = captums.attribute(images, target=1)  # which makes the copies
        stepped = cea.MetaSaliency(captums, lr=0.5).attribute(images, target=1)
        afterwards = captums.attribute(images, target=1)
        similar = metrics.parameter_randomization(captums, net, images, 1, layers=["fc", "conv3"])
    alone = cea.MetaSaliency(captums, lr=0.5).attribute(images, target=1)
    assert relative_error(stepped.detach(), plain.detach()) > 2 * relative_error(stepped.detach(), alone.detach())
    assert torch.equal(plain, afterwards)
    assert similar.mean()[-1] < 0.95


def test_transformers_under_autocast(images):
    torch.manual_seed(0)
    model = Attending().eval()
    expected = cea.NormGrad(model, "encoder").attribute(images, target=1)
    with torch.autocast("cpu", torch.bfloat16):
        got = cea.NormGrad(model, "encoder").attribute(images, target=1)
    assert 0 < relative_error(got, expected) < 0.1
