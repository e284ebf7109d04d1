"""Models on which something fails at a chosen moment, and everything that must be as it was afterwards."""

import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from tests.conftest import SmallNet


class InjectedError(Exception):
    """The fault."""


def snapshot(net, x):
    """Everything that must come back, as comparable values; tensors by identity, version and bytes."""
    tensors = [*net.parameters(), *net.buffers(), x]
    return {
        "bytes": [t.detach().numpy().tobytes() for t in tensors],
        "identity": [(id(t), t.data_ptr(), t._version) for t in tensors],
        "grad": [None if t.grad is None else t.grad.numpy().tobytes() for t in tensors],
        "requires_grad": [t.requires_grad for t in tensors],
        "training": [m.training for m in net.modules()],
        "in_place": [getattr(m, "inplace", None) for m in net.modules()],
        "hooks": [(list(m._forward_hooks), list(m._forward_pre_hooks), list(m._backward_hooks)) for m in net.modules()],
        "global_hooks": (
            list(nn.modules.module._global_forward_hooks),
            list(nn.modules.module._global_forward_pre_hooks),
            list(nn.modules.module._global_backward_hooks),
        ),
        "random": torch.get_rng_state().numpy().tobytes(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), _get_current_function_mode_stack()),
    }


def arm(net, stage, error):
    """Makes `net` fail at a stage, through a user's own hooks, as a user's code would."""

    def fail(*args):
        torch.rand(3)  # the fault also draws random numbers
        raise error

    if stage == "before the forward":
        return net.register_forward_pre_hook(fail)
    if stage == "between the layers":
        return net.bn.register_forward_hook(fail)
    if stage == "before our hook":
        return net.conv3.register_forward_hook(fail, prepend=True)
    if stage == "after the forward":
        return net.register_forward_hook(fail)
    if stage == "in the backward":
        return net.fc.register_full_backward_hook(fail)
    raise AssertionError(stage)


STAGES = ["before the forward", "between the layers", "before our hook", "after the forward", "in the backward"]


def prepared():
    torch.manual_seed(0)
    net = SmallNet().eval()
    net.conv1.weight.requires_grad_(False)
    net.pool.train()  # mixed flags
    x = torch.randn(2, 3, 8, 8)
    net(x).sum().backward()  # gradients of the user's own
    return net, x
