"""A network without its biases: a copy, or the network itself for a while.

Source: Grabska-Barwinska, Measuring and improving the quality of visual explanations (2020), section 3.
"""

from __future__ import annotations

import contextlib
import copy
import math
import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.claims import claim
from captum_extract_aggregate._engine.model_state import exchange, keep_modes, set_grad_mode

# Names of parameters that are added to something: `bias`, attention's `in_proj_bias`, `q_bias`, LSTM's `bias_ih_l0` ...
_NAME = re.compile(r"(.*_)?bias|bias_[ih]h_.*")


def bias_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Returns every tensor of the model that is a bias, by name: parameters, and the running means of normalisations.

    A tensor that several layers share is listed once. Raises ValueError for biases that cannot be taken away.
    """
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        _check_layer(name, module)
        for part, t in _parts(module):
            if not any(t is other for other in found.values()):
                found[f"{name}.{part}".lstrip(".")] = t
    return found


def _parts(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields a layer's own biases."""
    for name, p in module.named_parameters(recurse=False):
        if _NAME.fullmatch(name) and "position" not in name:
            yield name, p
    buffers = dict(module.named_buffers(recurse=False))
    if {"running_mean", "running_var"} <= buffers.keys():  # a normalisation; a frozen one's bias is a buffer, too
        yield from ((name, buffers[name]) for name in ("bias", "running_mean") if name in buffers)


def batch_norm_scales(model: nn.Module) -> list[Tensor]:
    """Returns the scales (gamma) of the normalisations that have running statistics."""
    found = []
    for module in model.modules():
        scale = getattr(module, "weight", None)
        if isinstance(getattr(module, "running_var", None), Tensor) and isinstance(scale, Tensor):
            found.append(scale)
    return found


def _check_layer(name: str, module: nn.Module) -> None:
    """Raises our error for a layer whose biases cannot be taken away."""
    layer = f"layer {name!r} ({type(module).__name__})"
    own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    if any(nn.parameter.is_lazy(t) for t in own.values()):
        raise InvalidValueError(f"{layer} has not run yet, so its bias has no size; expected a model that has run once")
    computed = isinstance(getattr(module, "bias", None), Tensor) and "bias" not in own
    if computed or "bias_orig" in own:
        raise InvalidValueError(
            f"{layer} has a bias that is computed anew from other numbers (parametrised, pruned or weight-normalised), "
            "so there is none to remove; expected a plain one: torch.nn.utils.parametrize.remove_parametrizations, "
            "torch.nn.utils.prune.remove or torch.nn.utils.remove_weight_norm"
        )
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
        raise InvalidValueError(
            f"{layer} has no running mean (track_running_stats=False) but subtracts each batch's own, which is not "
            "the network's to remove; expected running statistics"
        )


def count_biases(model: nn.Module) -> int:
    """Returns how many biases there are: a normalisation's bias and running mean act as one per channel."""
    tensors = bias_tensors(model)
    normed = {name.removesuffix("running_mean") + "bias" for name in tensors if name.endswith("running_mean")}
    return sum(t.numel() for name, t in tensors.items() if not (name in normed and name.endswith("bias")))


def remove_biases(model: nn.Module) -> nn.Module:
    r"""Returns a copy of the model without biases; the model itself is left alone.

    Zero become the biases of convolutions, linear layers, attention and recurrent layers, and of normalisations
    :math:`\gamma (x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta` both :math:`\beta` and the running mean :math:`\mu`.
    The running variance stays. A layer of one's own counts by its parameters' names: `bias`, or what ends in `_bias`.
    Numbers that a model adds under other names (a position embedding, say) stay.

    Args:
        model: any `torch.nn.Module`.

    Raises:
        TypeError: for something else.
        ValueError: for a bias that cannot be taken away: parametrised, pruned, or the batch's own mean; for a model
            that cannot be copied.

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
    bare = copied(model)
    with Undo() as undo, undo:
        set_grad_mode(undo, False)
        for t in bias_tensors(bare).values():
            t.zero_()
    return bare


def copied(model: nn.Module) -> nn.Module:
    """Returns a deep copy, or our error."""
    try:
        with Undo() as undo, undo:
            keep_modes(undo)  # an interrupt can cut short PyTorch's own
            return copy.deepcopy(model)
    except RuntimeError as error:
        raise InvalidValueError(
            f"the model cannot be copied ({error}); expected one without computed weights: "
            "torch.nn.utils.prune.remove or torch.nn.utils.remove_weight_norm first"
        ) from error


@contextlib.contextmanager
def biases_scaled(model: nn.Module, scale: float) -> Iterator[nn.Module]:
    """Makes every bias of the model (as in `remove_biases`) `scale` times what it was, within the context.

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
    if not isinstance(scale, (int, float)) or not math.isfinite(scale):
        raise InvalidValueError(f"scale is {scale!r}; expected a finite number")
    with Undo() as undo, undo:
        scale_biases(undo, model, scale)
        yield model


def scale_biases(undo: Undo, model: nn.Module, scale: float) -> None:
    """Makes every bias `scale` times what it was, until `undo` brings it back."""
    claim(undo, model)
    for t in bias_tensors(model).values():
        exchange(undo, t, t.data * scale if scale else torch.zeros_like(t.data))


def biases_removed(model: nn.Module) -> contextlib.AbstractContextManager[nn.Module]:
    """Takes the model's biases away within the context (as `remove_biases`) and gives them back, bit for bit.

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
        raise InvalidTypeError(
            f"model is a {type(model).__name__}; expected a torch.nn.Module, in which biases can be found"
        )
