"""What a normalisation multiplies its input by, its statistics held fixed."""

from __future__ import annotations

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
    shift = -given["running_mean"] * scale
    return scale.detach(), (shift if given["bias"] is None else shift + given["bias"]).detach()


def batch_norm_gain(call: Call) -> Tensor:
    """Returns a BatchNorm's scale, to multiply its input with."""
    return _by_channel(batch_norm_constants(call)[0], normalization_arguments(call)["input"])


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * (x.ndim - 2))


def _layer_norm_gain(call: Call) -> Tensor:
    x, shape, weight = at_least_float32(call.args[0]), call.argument(1, "normalized_shape"), call.argument(2, "weight")
    dims = tuple(range(-len(shape), 0))
    gain = torch.rsqrt(x.var(dims, unbiased=False, keepdim=True) + call.argument(4, "eps", 1e-5))
    return gain if weight is None else gain * weight


def _group_norm_gain(call: Call) -> Tensor:
    x, groups, weight = at_least_float32(call.args[0]), call.argument(1, "num_groups"), call.argument(2, "weight")
    variance = x.unflatten(1, (groups, -1)).flatten(2).var(2, unbiased=False)
    gain = torch.rsqrt(variance + call.argument(4, "eps", 1e-5)).repeat_interleave(x.shape[1] // groups, 1)
    gain = gain.reshape(*gain.shape, *(1,) * (x.ndim - 2))
    return gain if weight is None else gain * _by_channel(weight, x)


def _instance_norm_gain(call: Call) -> Tensor:
    given = normalization_arguments(call)
    x, weight = at_least_float32(given["input"]), given["weight"]
    if given["use_input_stats"]:
        variance = x.flatten(2).var(2, unbiased=False).reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
    else:
        variance = _by_channel(given["running_var"], x)
    gain = torch.rsqrt(variance + given["eps"])
    return gain if weight is None else gain * _by_channel(weight, x)


GAINS = {"layer_norm": _layer_norm_gain, "group_norm": _group_norm_gain, "instance_norm": _instance_norm_gain}
