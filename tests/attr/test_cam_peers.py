"""Other libraries' CAMs: equal where they follow the formula, and where they do not, how far they are from it."""

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._common.tensors import min_max, upsample
from tests.reference import cams as reference

SIZE = (16, 16)


def network(act=nn.ReLU, inplace=False):
    """Convolutions of stride 1 and 2, whose maps are as large as their peers' windows take them."""
    torch.manual_seed(3)
    options = {"inplace": True} if inplace else {}
    convs = [nn.Conv2d(3, 5, 3, padding=1), act(**options), nn.Conv2d(5, 8, 3, 2, 1), act(**options)]
    return nn.Sequential(*convs, nn.Conv2d(8, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(512, 6)).eval()


X = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def grad_cam():
    """Makes a map of grad-cam's: rectified, from 0 to 1, at the input's size."""
    peer = pytest.importorskip("pytorch_grad_cam")

    def maps(name, net, layers, target, **options):
        with getattr(peer, name)(net, layers, **options) as cam:
            return torch.from_numpy(cam(X, [lambda output: output[target]]))[:, None]

    return maps


@pytest.fixture
def torchcam():
    """Makes a map of torchcam's: from 0 to 1, at the layer's size."""
    peer = pytest.importorskip("torchcam.methods")

    def maps(name, net, layers, target, **options):
        with getattr(peer, name)(net, layers, **options) as cam:
            return cam(class_idx=target, scores=net(X))[0][:, None].detach()

    return maps


def close(theirs, ours, tolerance=2e-4):
    return (theirs - ours).abs().max() < tolerance


EQUAL = {
    "HiResCAM": cea.HiResCAM,
    "GradCAMElementWise": cea.ElementWiseGradCAM,
    "LayerCAM": cea.LayerCAM,
    "XGradCAM": cea.XGradCAM,
}


@pytest.mark.parametrize("name", EQUAL)
@pytest.mark.parametrize("layer", [1, 3])
def test_grad_cam_is_the_same(grad_cam, name, layer):
    net = network()
    theirs, ours = grad_cam(name, net, [net[layer]], 2), EQUAL[name](net, net[layer]).attribute(X, 2)
    assert close(theirs, min_max(upsample(min_max(ours), SIZE)), 2e-3)  # OpenCV interpolates in other steps


@pytest.mark.parametrize("name", ["LayerCAM", "XGradCAM"])
@pytest.mark.parametrize("layer", [1, 3])
def test_torchcam_is_the_same(torchcam, name, layer):
    net = network()
    assert close(torchcam(name, net, net[layer], 2), min_max(EQUAL[name](net, net[layer]).attribute(X, 2)))


def test_refinecam_is_grad_cams():
    """But for the product's own scaling to [0, 1]. (Where gradients are small, its GradCAM++ is another.)"""
    net, peer = network(), pytest.importorskip("pytorch_grad_cam")
    cam = peer.RefineCAM(net, [net[1], net[3]])
    theirs = torch.from_numpy(cam(X, [lambda output: output[2]]))[:, None]
    assert close(theirs, min_max(cea.RefineCAM(net, [net[1], net[3]]).attribute(X, 2)), 5e-3)


def test_refinecam_of_torchcam_scales_before_it_upsamples(torchcam):
    """So that a coarse layer's map, upsampled, no longer reaches from 0 to 1, and weighs otherwise."""
    net, layercam = network(), pytest.importorskip("torchcam.methods").LayerCAM
    layers = [net[1], net[3]]
    theirs = torchcam("RefineCAM", net, layers, 2, base_method=layercam)
    fine, coarse = map(min_max, cea.LayerCAM(net, layers).attribute(X, 2))
    assert close(theirs, min_max(fine * upsample(coarse, SIZE)))
    ours = min_max(cea.LayerCombination(cea.LayerCAM(net, layers)).attribute(X, 2) ** 2)
    assert close(theirs, ours, 0.1)
    assert not close(theirs, ours, 0.01)


@pytest.mark.parametrize(("gamma", "references"), [(0.6, 3), (1.0, 2)])
def test_finercam_is_torchcams(torchcam, gamma, references):
    net = network()
    options = {"gamma": gamma, "num_references": references}
    for name, cls in (("GradCAM", cea.GradCAM), ("LayerCAM", cea.LayerCAM)):
        base = getattr(pytest.importorskip("torchcam.methods"), name)
        theirs = torchcam("FinerCAM", net, net[3], 2, base_method=base, **options)
        ours = cea.FinerCAM(cls(net, net[3]), gamma=gamma, references=references).attribute(X, 2)
        assert close(theirs, min_max(ours))


def test_finercam_of_grad_cam_weighs_by_probabilities_that_it_differentiates(grad_cam):
    """It takes its own target, the likeliest class, and the softmax of the references as weights, with a gradient."""
    peer = pytest.importorskip("pytorch_grad_cam")
    net = network()
    with torch.no_grad():
        net[7].weight *= 20  # probabilities that matter
    target = int(net(X).argmax())
    theirs = torch.from_numpy(peer.FinerCAM(net, [net[3]])(X, None, alpha=1))[:, None]

    def weighed(x):
        z = net(x)
        others = [d for d in (z[0] - z[0, target]).abs().argsort().tolist() if d != target][:3]
        weights = z.softmax(1)[:, others]
        return (weights * (z[:, [target]] - z[:, others])).sum(1) / weights.sum(1)

    as_theirs = cea.GradCAM(weighed, net[3]).attribute(X)
    assert close(theirs, min_max(upsample(min_max(as_theirs), SIZE)), 5e-3)
    ours = cea.FinerCAM(cea.GradCAM(net, net[3]), gamma=1.0).attribute(X, target)
    assert not close(theirs, min_max(upsample(min_max(ours), SIZE)), 5e-2)


def test_xgradcam_in_front_of_an_in_place_relu(grad_cam, torchcam):
    """Peers keep the layer's very output, which the ReLU overwrites; ours is the map of the same network without."""
    net, plain = network(inplace=True), network()
    ours = cea.XGradCAM(net, net[2]).attribute(X, 2)
    assert torch.equal(ours, cea.XGradCAM(plain, plain[2]).attribute(X, 2))
    for given, is_same in ((plain, True), (net, False)):
        assert close(torchcam("XGradCAM", given, given[2], 2), min_max(ours), 0.01) == is_same
        full = min_max(upsample(min_max(ours), SIZE))
        assert close(grad_cam("XGradCAM", given, [given[2]], 2), full, 0.01) == is_same


def test_the_outer_positive_part_of_layercam(grad_cam, torchcam):
    """grad-cam and torchcam have it too; without it signed activations give another map."""
    net = network(nn.GELU)
    ours = cea.LayerCAM(net, net[1]).attribute(X, 2)
    signed = cea.LayerCAM(net, net[1]).attribute(X, 2, relu_attributions=False)
    assert close(torchcam("LayerCAM", net, net[1], 2), min_max(ours))
    assert close(grad_cam("LayerCAM", net, [net[1]], 2), min_max(ours), 2e-3)
    assert not close(min_max(signed), min_max(ours), 1e-2)


def test_a_dead_channel():
    """Both add a constant to the sum instead; where it is 0, so is what they divide, but for signed activations."""
    x = torch.tensor([[[[1.0, -1.0]], [[2.0, 1.0]]]])
    g = torch.tensor([[[[1.0, 1.0]], [[0.5, 0.5]]]])
    ours = cea.XGradCAM(lambda t: t, nn.Identity()).map_of(None, x, g)
    assert torch.equal(ours, torch.tensor([[[[1.0, 0.5]]]]))
    torch.testing.assert_close(ours, reference.xgradcam(x, g))
