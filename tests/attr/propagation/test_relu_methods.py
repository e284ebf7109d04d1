"""Guided backprop, deconvolution and RectGrad: where there is no ReLU, the gradient is the definition."""

import warnings

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import captum_extract_aggregate as cea
from tests.attr.propagation.cases import TARGET, made, network, pictures
from tests.conftest import relative_error


class Spectral(nn.Module):
    def forward(self, x):
        z = torch.stft(x.flatten(1), 8, return_complex=True, window=torch.hann_window(8))
        return (z.abs() ** 2 + 1e-6).log().mean(2)


class Last(nn.Module):
    """The last output of a recurrent layer."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x):
        return self.rnn(x.flatten(2))[0][:, -1]


def _fake_quantised(y):
    y = torch.fake_quantize_per_tensor_affine(y, 0.05, 0, -128, 127)
    return torch.fake_quantize_per_channel_affine(
        y, torch.ones(4) / 20, torch.zeros(4, dtype=torch.int32), 1, -128, 127
    )


WITHOUT_RELUS = {
    **{
        f"{act.__name__}": made(act())
        for act in (nn.SiLU, nn.GELU, nn.Hardswish, nn.Mish, nn.ELU, nn.SELU, nn.Softplus)
    },
    "in place": made(lambda y: F.silu(y, inplace=True)),
    "shrinks": made(lambda y: F.softshrink(y) + F.tanhshrink(y)),
    "fake quantisation": made(_fake_quantised),
    "magnitude": made(lambda y: torch.fft.rfft2(y).abs()),
    "spectrogram": Spectral(),
    **{cls.__name__: Last(cls(64, 5, batch_first=True)) for cls in (nn.LSTM, nn.GRU, nn.RNN)},
}


@pytest.mark.parametrize("name", WITHOUT_RELUS)
def test_gated_methods_are_the_gradient_without_relus(name):
    net, x = WITHOUT_RELUS[name].double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    gradient = captum.attr.Saliency(net).attribute(x, target=0, abs=False)
    for method in (cea.GuidedBackprop, cea.Deconvolution):
        assert relative_error(method(net).attribute(x, target=0), gradient) < 1e-6
    assert relative_error(cea.RectGrad(net).attribute(x, target=0), gradient * x) < 1e-6


def test_against_captum_on_relu_modules():
    net = network("vgg11")
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    x = pictures(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guided = captum.attr.GuidedBackprop(net).attribute(x, target=TARGET)
        deconvolution = captum.attr.Deconvolution(net).attribute(x, target=TARGET)
    assert relative_error(cea.GuidedBackprop(net).attribute(x, target=TARGET), guided) < 1e-12
    assert relative_error(cea.Deconvolution(net).attribute(x, target=TARGET), deconvolution) < 1e-12
    functional = network("cifar resnet20")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        blind = captum.attr.GuidedBackprop(functional).attribute(x, target=TARGET)
    assert relative_error(blind, captum.attr.Saliency(functional).attribute(x, target=TARGET, abs=False)) < 1e-12
    assert relative_error(cea.GuidedBackprop(functional).attribute(x, target=TARGET), blind) > 0.1
