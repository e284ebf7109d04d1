"""What a normalisation multiplies its input by, its statistics held fixed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from captum_extract_aggregate._common.tensors import at_least_float32
from captum_extract_aggregate._engine.operations import Call
from captum_extract_aggregate.attr.propagation.interception import normalization_arguments


def batch_norm_constants(call: Call) -> tuple[Tensor, Tensor]:
    """Returns scale and shift per channel."""
    given = normalization_arguments(call)
    scale = torch.rsqrt(at_least_float32(given["running_var"]) + given["eps"])
    if given["weight"] is not None:
        scale = scale * given["weight"]
    centre = given["running_mean"] * scale
    return scale.detach(), (-centre if given["bias"] is None else given["bias"] - centre).detach()


def batch_norm_gain(call: Call) -> Tensor:
    """Returns a BatchNorm's scale, to multiply its input with."""
    return by_channel(batch_norm_constants(call)[0], normalization_arguments(call)["input"])


def by_channel(values: Tensor, x: Tensor) -> Tensor:
    """Returns one number for each channel in the shape that it has beside `x`."""
    return values.reshape(-1, *(1,) * (x.ndim - 2))


def linear_part(call: Call) -> Callable[[Tensor], Tensor] | None:
    """Returns what a normalisation does to its input when what it divides by is held fixed, without its bias; None for
    one that only scales its input."""
    make = _LINEAR_PARTS.get(call.name)
    return None if make is None else make(call)


def _layer_norm(call: Call) -> Callable[[Tensor], Tensor]:
    shape, weight = call.argument(1, "normalized_shape"), call.argument(2, "weight")
    dims, eps = tuple(range(-len(shape), 0)), call.argument(4, "eps", 1e-5)

    def run(x: Tensor) -> Tensor:
        held = torch.rsqrt(x.detach().var(dims, unbiased=False, keepdim=True) + eps)
        centred = (x - x.mean(dims, keepdim=True)) * held
        return centred if weight is None else centred * weight

    return run


def _group_norm(call: Call) -> Callable[[Tensor], Tensor]:
    groups, weight = call.argument(1, "num_groups"), call.argument(2, "weight")
    eps = call.argument(4, "eps", 1e-5)

    def run(x: Tensor) -> Tensor:
        grouped = x.unflatten(1, (groups, -1)).flatten(2)
        held = torch.rsqrt(grouped.detach().var(2, unbiased=False, keepdim=True) + eps)
        centred = ((grouped - grouped.mean(2, keepdim=True)) * held).reshape(x.shape)
        return centred if weight is None else centred * by_channel(weight, x)

    return run


def _instance_norm(call: Call) -> Callable[[Tensor], Tensor]:
    given = normalization_arguments(call)
    own, weight, variance = given["use_input_stats"], given["weight"], given["running_var"]

    def run(x: Tensor) -> Tensor:
        dims = tuple(range(2, x.ndim))
        spread = x.detach().var(dims, unbiased=False, keepdim=True) if own else by_channel(variance, x)
        scaled = (x - x.mean(dims, keepdim=True) if own else x) * torch.rsqrt(spread + given["eps"])
        return scaled if weight is None else scaled * by_channel(weight, x)

    return run


_LINEAR_PARTS = {"layer_norm": _layer_norm, "group_norm": _group_norm, "instance_norm": _instance_norm}
