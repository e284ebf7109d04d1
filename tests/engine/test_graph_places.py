"""Outputs of layers found in the graph are those that hooks meet."""

import pytest
import torch
import torchvision
from torch import nn

from captum_extract_aggregate._engine.graph_places import may_be_told, outputs_of


def edges(model, x):
    """Where hooks meet each layer's outputs, and of which shape they are."""
    met, handles = {}, []
    for layer in model.modules():
        if may_be_told(layer):
            hook = layer.register_forward_hook(lambda m, _, out: met.setdefault(m, []).append((out.grad_fn, out.shape)))
            handles.append(hook)
    output = model(x)
    for handle in handles:
        handle.remove()
    return met, output


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.rest = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, affine=False), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.rest(self.norm(self.conv(self.norm(x))))


NETWORKS = {
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(weights=None),
    "one layer twice": Twice,
    "one dimension": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(inplace=True)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_hooks_meet_is_found(name):
    torch.manual_seed(0)
    model = NETWORKS[name]().eval().requires_grad_(False)
    met, output = edges(model, torch.randn(2, 3, 32, 32, requires_grad=True))
    found = outputs_of(met, output)
    assert found.keys() == met.keys()
    for layer, calls in met.items():
        assert [(edge.node, like.shape) for edge, like in found[layer]] == calls


def test_what_is_not_told():
    x = torch.randn(2, 3, 5, 5, requires_grad=True)
    hooked, norm = nn.BatchNorm2d(3).eval(), nn.BatchNorm2d(3).eval().requires_grad_(False)
    hooked.register_forward_hook(lambda m, a, out: out * 2)

    class Own(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) * 2

    others = [hooked, Own(3), nn.BatchNorm2d(3, track_running_stats=False), nn.Conv2d(3, 3, 1)]
    assert not any(map(may_be_told, others))
    assert may_be_told(norm)
    mean, variance = norm.running_mean, norm.running_var
    for called in (
        nn.functional.batch_norm(x, mean, variance),
        nn.functional.batch_norm(x, mean, variance, norm.weight, norm.bias, eps=0.1),
        nn.functional.batch_norm(x, mean.clone(), variance, norm.weight, norm.bias),
    ):
        assert outputs_of([norm], called) == {}
    overwritten = x * 2
    output = norm(overwritten)
    assert list(outputs_of([norm], output)) == [norm]
    overwritten.add_(1)
    assert outputs_of([norm], output) == {}
