"""What a layer adds, where it adds it: for an input of zeros it gives nothing else."""

import pytest
import torch
import torchvision
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.biases import adds_bias, bias_of, biased, biases_of
from tests.conftest import relative_error

N, K = 3, 4  # as many channels as there are rows, columns and tokens: a wrong layout is no error then


class UntiedConv(nn.Conv2d):
    """A bias for each channel and position."""

    def __init__(self):
        super().__init__(K, K, 3, padding=1, bias=False)
        self.bias = nn.Parameter(torch.randn(K, K, K))

    def forward(self, x):
        return self._conv_forward(x, self.weight, None) + self.bias


class UntiedConv1d(nn.Conv1d):
    """The same of one dimension."""

    def __init__(self):
        super().__init__(K, K, 3, padding=1, bias=False)
        self.bias = nn.Parameter(torch.randn(K, K))

    def forward(self, x):
        return self._conv_forward(x, self.weight, None) + self.bias


class UntiedLinear(nn.Linear):
    """A bias for each token and feature."""

    def __init__(self):
        super().__init__(K, K, bias=False)
        self.bias = nn.Parameter(torch.randn(K, K))

    def forward(self, x):
        return x @ self.weight.T + self.bias


class ToldWhere(nn.LayerNorm):
    """As in Hugging Face's ConvNeXts: told by an argument where the channels are."""

    data_format = "channels_first"

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ShapedNorm(nn.Module):
    """Running statistics of any shape that the input's can be broadcast to."""

    def __init__(self, *shape):
        super().__init__()
        self.eps = 1e-3
        self.weight, self.bias = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(shape))
        self.register_buffer("running_mean", torch.randn(shape))
        self.register_buffer("running_var", torch.rand(shape) + 0.5)

    def forward(self, x):
        return (x - self.running_mean) * (self.running_var + self.eps).rsqrt() * self.weight + self.bias


LAYERS = {
    "convolution": (lambda: nn.Conv2d(K, K, 3, padding=1), (K, K, K)),
    "convolution, 1-D": (lambda: nn.Conv1d(K, K, 3, padding=1), (K, K)),
    "convolution, 3-D": (lambda: nn.Conv3d(K, K, 1), (K, K, K, K)),
    "convolution with a bias for each position": (UntiedConv, (K, K, K)),
    "convolution, 1-D, with a bias for each position": (UntiedConv1d, (K, K)),
    "linear layer": (lambda: nn.Linear(K, K), (K,)),
    "linear layer over tokens": (lambda: nn.Linear(K, K), (K, K)),
    "linear layer over a grid": (lambda: nn.Linear(K, K), (K, K, K)),
    "linear layer with a bias for each token": (UntiedLinear, (K, K)),
    "batch norm": (lambda: nn.BatchNorm2d(K), (K, K, K)),
    "batch norm without weights": (lambda: nn.BatchNorm2d(K, affine=False), (K, K, K)),
    "frozen batch norm": (lambda: torchvision.ops.FrozenBatchNorm2d(K), (K, K, K)),
    "statistics 1 x K x 1 x 1": (lambda: ShapedNorm(1, K, 1, 1), (K, K, K)),
    "statistics K x H x W": (lambda: ShapedNorm(K, K, K), (K, K, K)),
    "layer norm over features": (lambda: nn.LayerNorm(K), (K, K)),
    "layer norm over a row": (lambda: nn.LayerNorm(K), (K, K, K)),
    "layer norm over two dimensions": (lambda: nn.LayerNorm((K, K)), (K, K, K)),
    "layer norm over all": (lambda: nn.LayerNorm((K, K, K)), (K, K, K)),
    "layer norm over channels": (lambda: torchvision.models.convnext.LayerNorm2d(K), (K, K, K)),
    "layer norm that is told where channels are": (lambda: ToldWhere(K), (K, K, K)),
    "group norm": (lambda: nn.GroupNorm(2, K), (K, K, K)),
}


def made(name):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make().double().eval()
    for key, t in layer.state_dict().items():
        t.copy_(torch.rand(t.shape) + 0.5 if key == "running_var" else torch.randn(t.shape))
    return layer, shape


@pytest.mark.parametrize("name", LAYERS)
def test_where_a_layer_adds_its_bias(name):
    layer, shape = made(name)
    g = torch.randn(N, *shape, dtype=torch.float64)
    added = layer(torch.zeros(N, *shape, dtype=torch.float64)).detach()
    assert adds_bias(layer)
    assert relative_error(biased(layer, g), g * added) < 1e-12
    assert not bias_of(layer).requires_grad
    assert biased(layer, g.float()).dtype == torch.float32


@pytest.mark.parametrize("name", [name for name, (_, shape) in LAYERS.items() if len(shape) == 3])
def test_bias_attribution_of_every_layout(name):
    layer, shape = made(name)
    x = torch.randn(N, *shape, dtype=torch.float64)
    net = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.Linear(K**3, 2).double()).eval()
    layout = "channels_last" if "grid" in name else "channels_first"
    got = cea.BiasAttribution(net, layer, layout=layout).attribute(x, 1)
    z = layer(x).detach().requires_grad_()
    (g,) = torch.autograd.grad(net[1:](z)[:, 1].sum(), z)
    terms = g * layer(torch.zeros_like(x)).detach()
    assert relative_error(got, terms.sum(3 if "grid" in name else 1).unsqueeze(1)) < 1e-12


def broadcasting(statistics, gains):
    """Running statistics and gains of different lengths, one of which is 1."""
    norm = ShapedNorm(statistics)
    norm.weight, norm.bias = nn.Parameter(torch.randn(gains)), nn.Parameter(torch.randn(gains))
    return norm


def test_looking_at_a_bias_computes_no_weight():
    """One that is computed anew each time may change the model in train mode."""
    layer = torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)).train()
    u = layer.parametrizations.weight[0]._u.clone()
    bias_of(layer), biases_of([layer]), biased(layer, torch.ones(1, 4, 2, 2))
    assert torch.equal(u, layer.parametrizations.weight[0]._u)


def test_together_they_are_what_each_is_by_itself():
    """BatchNorms of one kind are computed together, of another kind, or unlike those, by themselves."""
    norms = [nn.BatchNorm2d(3), nn.BatchNorm2d(5), nn.BatchNorm1d(4), nn.BatchNorm2d(2, eps=0.1)]
    norms += [nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(4).double(), ShapedNorm(4, 1, 1)]
    norms += [torchvision.ops.FrozenBatchNorm2d(6), torchvision.ops.FrozenBatchNorm2d(2)]
    norms += [broadcasting(1, 4), broadcasting(4, 1), broadcasting(1, 4)]
    for norm in norms:
        for t in (*norm.parameters(), *norm.buffers()):
            if t.is_floating_point():
                t.data = torch.rand_like(t) + 0.5
    layers = [*norms, nn.Conv2d(3, 2, 1), nn.Linear(3, 2), UntiedConv()]
    found = biases_of(layers)
    assert found.keys() == set(layers)
    for layer in layers:
        torch.testing.assert_close(found[layer], bias_of(layer))
        assert not found[layer].requires_grad
