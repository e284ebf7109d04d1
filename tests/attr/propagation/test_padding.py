"""Padding takes no relevance, however it is written."""

import math

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.propagation.lrp_rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    WSquare,
    ZBox,
    ZPlus,
)
from tests.attr.propagation.cases import METHODS, batch_norm
from tests.conftest import relative_error


def _bordered(y):
    buffer = y.new_zeros(*y.shape[:2], y.shape[2] + 2, y.shape[3] + 2)
    buffer[:, :, 1:-1, 1:-1] = y
    return buffer


def _copied(y):
    buffer = y.new_zeros(*y.shape[:2], y.shape[2] + 2, y.shape[3] + 2)
    buffer.narrow(2, 1, y.shape[2])[..., 1:-1].copy_(y)
    return buffer


def _between_zeros(y):
    side = y.new_zeros(*y.shape[:3], 1)
    y = torch.cat([side, y, side], 3)
    side = y.new_zeros(*y.shape[:2], 1, y.shape[3])
    return torch.concat((side, y, side), 2)


def _overwritten(y):
    y = F.pad(y, (1, 1, 1, 1), mode="replicate").clone()
    for edge in (0, -1):
        y[:, :, edge] = 0
        y[..., edge] = 0
    return y


def _as_columns(net, y):
    """The convolution as a product with patches."""
    columns = F.unfold(y, 3, padding=1, stride=2)
    z = (columns.mT @ net.conv.weight.flatten(1).T + net.conv.bias).mT
    return z.unflatten(2, (y.shape[2] // 2, -1))


PADDED = {
    "F.pad": lambda y: F.pad(y, (1, 1, 1, 1)),
    "ZeroPad2d": nn.ZeroPad2d(1),
    "ConstantPad2d": nn.ConstantPad2d(1, 0.0),
    "constant_pad_nd": lambda y: torch.constant_pad_nd(y, (1, 1, 1, 1)),
    "a buffer": _bordered,
    "copied into a buffer": _copied,
    "cat": _between_zeros,
    "overwritten": _overwritten,
    "more, then cropped": lambda y: F.pad(y, (2, 3, 2, 2))[..., 1:-1, 1:-2],
    "one side after the other": lambda y: F.pad(F.pad(y, (1, 1)), (0, 0, 1, 1)),
    "channels last": lambda y: F.pad(y.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).permute(0, 3, 1, 2).contiguous(),
    "before the ReLU": lambda y: F.pad(y, (1, 1, 1, 1)).relu_(),
}


OF_PADDING = {
    **METHODS,
    "spread": lambda *args: cea.ExcitationBackprop(*args, lost="spread"),
    "positive, spread": lambda *args: cea.ExcitationBackprop(*args, sums="positive", lost="spread"),
    **{
        f"{rule}": lambda *args, rule=rule: cea.LRP(*args, rules={nn.Conv2d: rule})
        for rule in (Flat(), WSquare(), ZBox(-1, 2), AlphaBeta(2, 1), Gamma(0.3), ZPlus("spread"), Epsilon(0.1))
    },
}


class Padded(nn.Module):
    def __init__(self, pad=None, inner=None):
        super().__init__()
        torch.manual_seed(0)
        self.pad, self.inner = pad, inner
        self.first, self.norm = nn.Conv2d(2, 8, 3, padding=1), batch_norm(8)
        self.conv, self.head = nn.Conv2d(8, 8, 3, 2, 0 if pad else 1), nn.Linear(8, 4)

    def forward(self, x):
        y = self.norm(self.first(x)).relu()
        y = self.inner(self, y) if self.inner else self.conv(self.pad(y) if self.pad else y)
        return self.head(y.relu().mean((2, 3)))


def relevance_of_networks(method, *nets):
    torch.manual_seed(3)
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    return [
        [OF_PADDING[method](net.double().eval(), at).attribute(x, target=1) for at in (None, "first")] for net in nets
    ]


@pytest.mark.parametrize("method", OF_PADDING)
def test_padding_takes_none_however_it_is_written(method):
    (expected,) = relevance_of_networks(method, Padded())
    assert all(map_.any() for map_ in expected)
    for spelling, pad in PADDED.items():
        (got,) = relevance_of_networks(method, Padded(pad))
        assert all(relative_error(a, b) < 1e-9 for a, b in zip(got, expected)), spelling
    if method in METHODS and method != "lrp":  # else the rule is one for convolutions, or divides the bias
        (got,) = relevance_of_networks(method, Padded(inner=_as_columns))
        assert all(relative_error(a, b) < 1e-6 for a, b in zip(got, expected))


POOLED = {
    "average": (lambda n, y: F.avg_pool2d(y, 3, 2, 1), lambda n, y: F.avg_pool2d(F.pad(y, (1, 1, 1, 1)), 3, 2)),
    "maximum": (
        lambda n, y: n.norm(F.max_pool2d(y, 3, 2, 1)),
        lambda n, y: n.norm(F.max_pool2d(F.pad(y, (1, 1, 1, 1)), 3, 2)),
    ),
    "maximum beside -inf": (
        lambda n, y: n.norm(F.max_pool2d(y - 1, 3, 2, 1)),
        lambda n, y: n.norm(F.max_pool2d(F.pad(y - 1, (1, 1, 1, 1), value=-math.inf), 3, 2)),
    ),
    "shortcut": (
        lambda n, y: n.norm(torch.cat([y[:, :4], y[:, 4:] + y[:, :4]], 1)),
        lambda n, y: n.norm(y + F.pad(y[:, :4], (0, 0, 0, 0, 4, 0))),
    ),
}


@pytest.mark.parametrize("case", POOLED)
def test_padding_of_pools_and_sums(case):
    """Behind a ReLU, whose zeros tie with padding, and in front of a BatchNorm, which lets zeros have relevance."""
    for method in ("excitation", "contrastive", "spread", "positive, spread", "lrp infinity"):
        inside, outside = (Padded(inner=part) for part in POOLED[case])
        expected, got = relevance_of_networks(method, inside, outside)
        assert all(relative_error(a, b) < 1e-9 for a, b in zip(got, expected)), method


def test_constants_are_biases():
    """Padding with another number, and channels of constants: where biases play no part, neither do they."""

    def coordinates(net, y):
        return F.conv2d(
            torch.cat([y, torch.ones_like(y[:, :1])], 1), torch.cat([net.conv.weight, torch.ones(8, 1, 3, 3)], 1)
        )

    def without(net, y):
        return F.conv2d(y, net.conv.weight) + 9

    for method in ("excitation", "spread", "lrp infinity"):
        expected, got = relevance_of_networks(method, Padded(inner=without), Padded(inner=coordinates))
        assert all(relative_error(a, b) < 1e-9 for a, b in zip(got, expected)), method
    for method in ("excitation", "lrp infinity"):
        net, ones = Padded(nn.ConstantPad2d(1, 1.0)), Padded(lambda y: 1 - F.pad(1 - y, (1, 1, 1, 1)))
        expected, got = relevance_of_networks(method, net, ones)
        assert all(relative_error(a, b) < 1e-9 for a, b in zip(got, expected)), method
    (gradient_times_input,) = relevance_of_networks("lrp 0", Padded(nn.ConstantPad2d(1, 1.0)))
    x_gradient = captum.attr.InputXGradient(Padded(nn.ConstantPad2d(1, 1.0)).double().eval())
    torch.manual_seed(3)
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    assert relative_error(gradient_times_input[0], x_gradient.attribute(x, target=1)) < 1e-5


@pytest.mark.parametrize("size", [32, 33])
def test_padding_as_tensorflow_does_it(size):
    """timm's `tf_*` networks pad by F.pad where strides ask for it; with an odd size `padding=` says the same."""
    layers = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    same, plain = layers.Conv2dSame(3, 6, 3, stride=2), nn.Conv2d(3, 6, 3, stride=2, padding=1)
    plain.load_state_dict(same.state_dict())
    pad = nn.Identity() if size % 2 else nn.ZeroPad2d((0, 1, 0, 1))
    if not size % 2:
        plain.padding = (0, 0)
    nets = [nn.Sequential(c, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)) for c in (same, plain)]
    nets[1][4].load_state_dict(nets[0][4].state_dict())
    nets[1].insert(0, pad)
    x = torch.randn(1, 3, size, size, dtype=torch.float64)
    for make in (cea.ExcitationBackprop, lambda n: cea.LRP(n, rules={nn.Conv2d: Flat()})):
        got, expected = (make(net.double().eval()).attribute(x, target=1) for net in nets)
        assert relative_error(got, expected) < 1e-9
