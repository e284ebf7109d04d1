"""Networks whose layers arrange their outputs in ways of their own, and their maps arranged by hand."""

import contextlib
import re

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea


class Wrapped(nn.Module):
    """A forward and the modules it uses."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.run = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.run(self, x)


def identity(t):
    return t


def channels_last(t):
    return t.movedim(-1, 1)


def is_map_of(net, layer, x, arrange, **kwargs):
    """Whether the linear approximation at a layer is that of its output, arranged by hand."""
    net.eval()
    seen = []
    with contextlib.ExitStack() as stack:
        if layer is None:
            x = x.clone().requires_grad_()
            seen.append(x)
        else:
            hook = net.get_submodule(layer).register_forward_hook(lambda module, args, out: seen.append(out))
            stack.callback(hook.remove)
        scores = net(x)[:, 1]
    out = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    (g,) = torch.autograd.grad(scores.sum(), out)
    expected = arrange((out * g).detach()).sum(1, keepdim=True)
    got = cea.LinearApproximation(net, layer, **kwargs).attribute(x.detach(), 1)
    assert isinstance(got, torch.Tensor)
    assert got.shape == expected.shape
    assert expected.abs().max() > 0
    return torch.allclose(got, expected, rtol=1e-4, atol=1e-6)


class Views(nn.Module):
    """Views of an object, folded into the batch of one encoder; their scores' maximum."""

    def __init__(self, views_first=False):
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 6, 3, 2, 1), nn.GroupNorm(2, 6), nn.Conv2d(6, 8, 3, 2, 1)
        self.views_first, self.fc = views_first, nn.Linear(8, 3)

    def forward(self, x):
        x = x.transpose(0, 1) if self.views_first else x
        features = self.last(self.norm(self.conv(x.flatten(0, 1))).relu()).relu().mean((2, 3))
        return self.fc(features.unflatten(0, x.shape[:2]).mean(0 if self.views_first else 1))


def named_layout(model, layer, x):
    """The layout that the error names."""
    with pytest.raises(ValueError, match="layout=lambda t: ") as caught:
        cea.NormGrad(model, layer).attribute(x, 1)
    code = re.search(r"layout=(lambda t: [^;]*\))", str(caught.value)).group(1)
    while code.count("(") < code.count(")"):
        code = code[:-1]
    return eval(code)


def of_convolution(arrange, back, dims=2):
    """A module of a convolution alone, which arranges its output by functions."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    inner = Wrapped(lambda s, x: arrange(s.c(x)), c=conv(3, 4, 4, 4))
    return Wrapped(lambda s, x: s.fc(back(s.inner(x)).flatten(2).mean(2)), inner=inner, fc=nn.Linear(4, 3))


PICTURE = (3, 16, 16)
