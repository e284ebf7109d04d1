"""A network without its biases: a copy, or the network itself for a while.

Source: Grabska-Barwinska, Measuring and improving the quality of visual explanations (2020), section 3.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

_CONVOLUTIONS_AND_LINEAR = (nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear)
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def bias_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the model that is a bias, by name: parameters, and the running means of normalisations.

    A tensor that several layers share is listed once. Raises ValueError for biases that cannot be taken away.
    """
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        for part in _parts(name, module):
            t = getattr(module, part, None)
            if isinstance(t, Tensor) and not any(t is other for other in found.values()):
                found[f"{name}.{part}".lstrip(".")] = t
    return found


def _parts(name: str, module: nn.Module) -> tuple[str, ...]:
    """Which attributes of a layer are biases."""
    if isinstance(module, nn.MultiheadAttention):
        parts: tuple[str, ...] = ("in_proj_bias",)
    elif isinstance(module, _CONVOLUTIONS_AND_LINEAR):
        parts = ("bias",)
    elif isinstance(module, _NORMS) or _is_frozen_norm(module):
        parts = ("bias", "running_mean")
    else:
        return ()
    layer = f"layer {name!r} ({type(module).__name__})"
    if any(nn.utils.parametrize.is_parametrized(module, part) for part in parts):
        raise ValueError(
            f"{layer} has a parametrised bias, which has no value of its own to remove; expected a plain one: "
            "torch.nn.utils.parametrize.remove_parametrizations"
        )
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
        raise ValueError(
            f"{layer} has no running mean (track_running_stats=False) but subtracts each batch's own, which is not "
            "the network's to remove; expected running statistics"
        )
    if any(nn.parameter.is_lazy(t) for name, t in module.named_parameters(recurse=False) if name in parts):
        raise ValueError(f"{layer} has not run yet, so its bias has no size; expected a model that has run once")
    return parts


def _is_frozen_norm(module: nn.Module) -> bool:
    """Such as torchvision's FrozenBatchNorm2d, whose numbers are all buffers."""
    return all(getattr(module, name, None) is not None for name in ("running_mean", "running_var", "eps"))


def count_biases(model: nn.Module) -> int:
    """How many biases there are: a normalisation's bias and running mean act as one per channel."""
    tensors = bias_tensors(model)
    normed = {name.removesuffix("running_mean") + "bias" for name in tensors if name.endswith("running_mean")}
    return sum(t.numel() for name, t in tensors.items() if not (name in normed and name.endswith("bias")))


def remove_biases(model: nn.Module) -> nn.Module:
    r"""A copy of the model without biases; the model itself is left alone.

    Zero become the biases of convolutions, linear layers and attention's projections, and of normalisations
    :math:`\gamma (x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta` both :math:`\beta` and the running mean :math:`\mu`.
    The running variance stays. Numbers that a model adds without one of these layers (a position embedding, say) stay.

    Args:
        model: any `torch.nn.Module`.

    Raises:
        TypeError: for something else.
        ValueError: for a bias that cannot be taken away: parametrised, or the batch's own mean.

    Example:
        >>> import torch
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> bare = cea.bias_study.remove_biases(model)
        >>> x = cea.DigitScenes(1)[0][0][None]
        >>> with torch.no_grad():  # without biases (and with ReLUs) twice the input gives twice the output
        ...     [torch.allclose(network(2 * x), 2 * network(x), atol=1e-4) for network in (bare, model)]
        [True, False]

    Source: Grabska-Barwinska (2020), section 3.
    """
    _check(model)
    bias_tensors(model)  # our error before anything is copied
    bare = copy.deepcopy(model)
    with torch.no_grad():
        for t in bias_tensors(bare).values():
            t.zero_()
    return bare


@contextlib.contextmanager
def biases_scaled(model: nn.Module, scale: float) -> Iterator[nn.Module]:
    """Within, every bias of the model (as in `remove_biases`) is `scale` times what it was.

    Afterwards, also after an exception, the very same tensors with the same bits are back.

    Args:
        model: any `torch.nn.Module`; the context gives it back.
        scale: a finite number: 0 removes the biases, 1 leaves them.

    Raises:
        TypeError, ValueError: as `remove_biases`; for a scale that is not finite.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.bias_study import biases_scaled
        >>> model = cea.load_scene_model("vgg")
        >>> before = model.features[0].bias.clone()
        >>> with biases_scaled(model, 0.5):
        ...     bool((model.features[0].bias == 0.5 * before).all())
        True
        >>> bool((model.features[0].bias == before).all())
        True
    """
    _check(model)
    if not math.isfinite(scale):
        raise ValueError(f"scale is {scale!r}; expected a finite number")
    with contextlib.ExitStack() as stack:
        for t in bias_tensors(model).values():
            stack.callback(setattr, t, "data", t.data)
            t.data = t.data * scale if scale else torch.zeros_like(t.data)
        yield model


def biases_removed(model: nn.Module) -> contextlib.AbstractContextManager[nn.Module]:
    """Within, the model has no biases (as `remove_biases`); afterwards it is as it was, bit for bit.

    Args:
        model: any `torch.nn.Module`; the context gives it back.

    Raises:
        TypeError, ValueError: as `remove_biases`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.bias_study import biases_removed
        >>> model = cea.load_scene_model("vgg")
        >>> with biases_removed(model):
        ...     model.features[0].bias.abs().max().item()
        0.0
        >>> model.features[0].bias.abs().max().item() > 0
        True

    Source: Grabska-Barwinska (2020), section 3.
    """
    return biases_scaled(model, 0.0)


def _check(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module, in which biases can be found")
