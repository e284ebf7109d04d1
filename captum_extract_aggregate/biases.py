"""The bias that a layer adds, whatever it is called: a parameter, or implied by running statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from captum_extract_aggregate.layout import is_layer_norm_2d

_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)


def bias_of(module: nn.Module) -> Tensor | None:
    """What the layer adds to each channel, `K`, detached; None if it adds nothing.

    A convolution's, linear layer's or normalisation's `bias`; for a normalisation with running statistics (BatchNorm
    in eval mode) `beta - gamma * mean / sqrt(variance + eps)`, which it adds even without a `bias`.
    """
    if not isinstance(module, (*_CHANNELS_FIRST, *_CHANNELS_LAST)):
        return None
    bias: Tensor | None = module.bias if isinstance(module.bias, Tensor) else None
    if not isinstance(module, nn.modules.batchnorm._NormBase) or module.running_mean is None:
        return None if bias is None else bias.detach()
    assert module.running_var is not None
    with torch.no_grad():
        shift = -module.running_mean * (module.running_var + module.eps).rsqrt()
        shift = shift if module.weight is None else shift * module.weight
        return (shift if bias is None else shift + bias).detach()


def channel_dimension(module: nn.Module) -> int:
    """Where the layer's channels are in its output."""
    return 1 if isinstance(module, _CHANNELS_FIRST) or is_layer_norm_2d(module) else -1


def bias_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every layer of the model that adds a bias, by name, in the order in which they were defined.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> list(cea.bias_layers(cea.load_scene_model("resnet")))[:2]  # convolutions without biases, then BatchNorm
        ['bn1', 'layer1.bn1']
    """
    return {name: module for name, module in model.named_modules() if bias_of(module) is not None}
