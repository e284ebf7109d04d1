"""The bias that a layer adds, whatever it is called: a parameter, or implied by running statistics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._engine.layer_channels import is_layer_norm_2d

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def bias_of(module: nn.Module) -> Tensor | None:
    """Returns what the layer adds, detached: one number per channel (or the shape of a LayerNorm); None if it adds
    nothing.

    A convolution's, linear layer's or normalisation's `bias`; for a normalisation with running statistics (BatchNorm
    in eval mode, torchvision's FrozenBatchNorm2d) `beta - gamma * mean / sqrt(variance + eps)`, which it adds even
    without a `bias`. None also for normalisations that hold further layers (see `fused_norms`).
    """
    return _bias(module) if adds_bias(module) else None


def _bias(module: nn.Module) -> Tensor:
    if not _has_running_statistics(module):
        return module.bias.detach()  # type: ignore[union-attr, operator]
    return _shift(*_constants(module))


def biases_of(layers: Iterable[nn.Module]) -> dict[nn.Module, Tensor]:
    """Returns what layers add that add a bias, BatchNorms of one kind computed together: by itself each takes eight
    small operations, and a network has fifty."""
    found: dict[nn.Module, Tensor] = {}
    kinds: dict[Any, list[tuple[nn.Module, list[Tensor]]]] = {}
    for layer in layers:
        if _has_running_statistics(layer) and _are_lists(constants := _constants(layer)[:-1]):
            kinds.setdefault((layer.eps, *((t.dtype, t.device) for t in constants)), []).append((layer, constants))
        else:
            found[layer] = _bias(layer)
    for (eps, *_), same in kinds.items():
        mean, variance, weight, bias = (torch.cat(ts) for ts in zip(*(constants for _, constants in same)))
        shifts = _shift(mean, variance, weight, bias, eps).split([len(constants[0]) for _, constants in same])
        found |= zip((layer for layer, _ in same), shifts)
    return found


def _constants(module: nn.Module) -> list[Any]:
    """Returns running mean and variance, weight and bias (None in place of what it has not), and epsilon."""
    return [getattr(module, name, None) for name in ("running_mean", "running_var", "weight", "bias", "eps")]


def _are_lists(tensors: Sequence[Any]) -> bool:
    """Tells whether all are plain lists of as many numbers."""
    plain = all(type(t) in (Tensor, nn.Parameter) and t.ndim == 1 for t in tensors)
    return plain and len(set(map(len, tensors))) == 1


@torch.no_grad()
def _shift(mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    centre = mean * (variance + eps).rsqrt()
    centre = centre if weight is None else centre * weight
    return (-centre if bias is None else bias - centre).detach()


def adds_bias(module: nn.Module) -> bool:
    """Tells whether `bias_of` gives something."""
    if _has_running_statistics(module):
        return not _is_fused(module)
    if not isinstance(module, (nn.modules.conv._ConvNd, nn.Linear, *_NORMS)) or _is_fused(module):
        return False
    return isinstance(getattr(module, "bias", None), Tensor)


def biased(module: nn.Module, g: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns `b * g` element by element, for a gradient `g` at the output of a layer that adds a bias, in its own
    layout. `bias`: what it adds, where that is known."""
    bias = (_bias(module) if bias is None else bias).to(g.dtype)
    channels_last = bias.ndim > 1 or (isinstance(module, (nn.Linear, nn.LayerNorm)) and not is_layer_norm_2d(module))
    return g * (bias if channels_last else bias.reshape(-1, *(1,) * (g.ndim - 2)))


def bias_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Returns every layer of the model that adds a bias, by name, in the order in which they were defined.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> list(cea.bias_layers(cea.load_scene_model("resnet")))[:2]  # convolutions without biases, then BatchNorm
        ['bn1', 'layer1.bn1']
    """
    return {name: module for name, module in model.named_modules() if adds_bias(module)}


def fused_norms(model: nn.Module) -> list[str]:
    """Returns names of normalisations that hold further layers, such as timm's BatchNormAct2d with its activation.

    At their output the bias can no longer be told, so they are left out of `bias_layers`.
    """
    return [name for name, module in model.named_modules() if _is_fused(module)]


def _is_fused(module: nn.Module) -> bool:
    return isinstance(module, _NORMS) and any(not isinstance(child, nn.Identity) for child in module.children())


def _has_running_statistics(module: nn.Module) -> bool:
    names = ("running_mean", "running_var", "eps")
    return all(getattr(module, name, None) is not None for name in names)


def check_bias(layer: nn.Module | None, to_input: bool) -> None:
    """Raises our error for a layer that adds no bias, and for the side at which none acts."""
    if layer is None or not adds_bias(layer):
        raise InvalidValueError(
            f"layer is or holds {'the input' if layer is None else type(layer).__name__}, which adds no bias; expected "
            "a convolution, linear layer or normalisation that does (bias_layers(model) lists them)"
        )
    if to_input:
        raise InvalidValueError(
            "attribute_to_layer_input is True, but a bias acts at the layer's output; expected "
            "attribute_to_layer_input=False"
        )
