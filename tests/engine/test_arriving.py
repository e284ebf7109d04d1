"""Gradients that are reduced when they arrive are those that would have been kept."""

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._engine import recording as module
from captum_extract_aggregate._engine.arriving import can_be_met
from captum_extract_aggregate._engine.recording import record
from captum_extract_aggregate._engine.taps import Place
from tests.conftest import SmallNet


class Branches(nn.Module):
    """A layer that runs twice, one that the score does not use, one that runs on constants, and an idle one."""

    def __init__(self, constants=False):
        super().__init__()
        self.conv, self.unused, self.idle = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.of_constants, self.norm, self.head = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 2)
        self.constants = constants

    def forward(self, x):
        y = self.norm(self.conv(self.conv(x).relu_()))
        self.unused(y)
        if self.constants:
            y = y + self.of_constants(torch.ones_like(y))
        return self.head(y.mean((2, 3)))


def network(**kwargs):
    torch.manual_seed(0)
    return Branches(**kwargs).eval()


def places(net, reduce):
    layers = [net.conv, net.norm, net.unused, net.idle]
    return [Place(None, "input"), *(Place(m, value=False, optional=True, reduce=reduce) for m in layers)]


@pytest.mark.parametrize("constants", [False, True])
def test_reduced_gradients_are_those_that_are_kept(constants):
    net, x = network(constants=constants), torch.randn(2, 3, 6, 6)
    kept = places(net, None)
    extra = [Place(net.of_constants, value=False)] * constants  # begins a graph of its own
    expected = list(record(net, x, kept + extra).evidence([0, 1]))
    reduced = places(net, lambda g: g.clone())
    for found, one in zip(record(net, x, reduced + extra).evidence([0, 1]), expected, strict=True):
        assert torch.equal(found.gradients[kept[0]][0], one.gradients[kept[0]][0])
        assert bool(found.reduced) is not constants
        for place, like in zip(reduced[1:], kept[1:]):
            got, wanted = found.reduced.get(place) or found.gradients.get(place, ()), one.gradients.get(like, ())
            assert len(got) == len(wanted)
            assert all(torch.equal(a, b) for a, b in zip(got, wanted))


def test_which_can_be_met():
    net, x = network(), torch.randn(2, 3, 6, 6)
    wanted = places(net, torch.Tensor.sum)
    recording = record(net, x, [*wanted, Place(net.head, value=False, reduce=torch.Tensor.sum)])
    assert set(can_be_met(recording._taps, 2)) < set(wanted)  # the head has no positions
    assert can_be_met(recording._taps, 3) == []
    assert can_be_met({p: t for p, t in recording._taps.items() if p.layer is not None}, 2) == []


@pytest.mark.parametrize("rescale", ["channel_joint", "layer_map", "channel"])
def test_full_grad_is_the_same_either_way(rescale, monkeypatch):
    net, x = network(constants=True), torch.randn(2, 3, 6, 6)
    nets = [net, SmallNet().eval()]
    shapes = [x, torch.randn(2, 3, 8, 8)]
    found = [cea.FullGrad(m, rescale=rescale).attribute(t, target=1) for m, t in zip(nets, shapes)]
    monkeypatch.setattr(module, "can_be_met", lambda taps, batch, image: [])
    kept = [cea.FullGrad(m, rescale=rescale).attribute(t, target=1) for m, t in zip(nets, shapes)]
    assert all(torch.equal(a, b) for a, b in zip(found, kept, strict=True))


@pytest.mark.parametrize("rescale", ["channel_joint", "channel"])
def test_a_gradient_that_is_no_number_is_an_error(rescale):
    net, x = network(), torch.randn(1, 3, 6, 6)
    model = nn.Sequential(net.conv, net.norm, nn.ReLU())
    with pytest.raises(ValueError, match=r"the gradient at .* is NaN or infinite"):
        cea.FullGrad(lambda t: (model(t) * 0).sqrt().sum((2, 3)) + 0, [net.conv, net.norm], rescale=rescale).attribute(
            x, target=0
        )


def test_a_layer_is_missed_once():
    """The graph does not show a layer that ran elsewhere: the forward runs again, with a hook there, and ever after."""
    net, x, forwards = network(), torch.randn(1, 3, 6, 6), []
    net.never = nn.BatchNorm2d(3).eval()
    net.register_forward_pre_hook(lambda *_: forwards.append(1))
    method = cea.FullGrad(net)
    first = method.attribute(x, target=0)
    assert len(forwards) == 3  # one more to see that nobody uses its parameters
    assert torch.equal(method.attribute(x, target=0), first)
    assert len(forwards) == 4


def test_dimensions_that_are_not_the_picture_s_are_looked_at_first():
    net, x = network(), torch.randn(2, 3, 6, 6)
    wanted = places(net, torch.Tensor.sum)
    recording = record(net, x, wanted)
    assert can_be_met(recording._taps, 2, (6, 6)) == can_be_met(recording._taps, 2)
    assert can_be_met(recording._taps, 2, (6, 60)) == []
