"""One more forward, which shows of what the dimensions at a place are made."""

import torch

import captum_extract_aggregate as cea
from tests.engine.arranged import PICTURE, channels_last, of_convolution


def test_the_model_is_looked_at_without_a_trace():
    net = of_convolution(lambda t: t.permute(0, 2, 3, 1), channels_last)
    net.register_buffer("calls", torch.zeros(()))
    calls = []
    net.register_forward_pre_hook(lambda module, args: calls.append(torch.is_grad_enabled()))
    state = torch.get_rng_state()
    cea.NormGrad(net, "inner").attribute(torch.randn(2, *PICTURE, generator=torch.Generator().manual_seed(0)), 1)
    assert len(calls) == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert not net.inner._forward_hooks
    calls.clear()
    cea.NormGrad(net, "inner.c").attribute(torch.randn(2, *PICTURE), 1)  # no doubt there
    assert len(calls) == 1
